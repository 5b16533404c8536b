//! The fuzz targets' harness without a fuzzer: over the corpus that fuzzing left behind, and over random bytes. So what a fuzzer found
//! once is looked at by every ordinary run, and a harness that no longer fits is found before the next fuzzing.

#![cfg(not(target_arch = "wasm32"))]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test panics when it fails")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use proptest::{prelude::*, test_runner::RngSeed};

#[path = "../fuzz/harness/mod.rs"]
mod harness;

/// Where the breaker can go, and why.
const WANTED: [&str; 12] = [
    "open failures",
    "open slow",
    "open connect",
    "open consecutive",
    "open trials_failed",
    "half_open elapsed",
    "ramp trials_passed",
    "closed ramped",
    "closed no_gain",
    "closed last_zone",
    "closed operator",
    "closed turned_off",
];

/// The corpus of a target.
fn inputs(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/fuzz").join(target);
    let inputs = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let inputs: Vec<_> = inputs.map(|input| input.unwrap().path()).collect();
    assert!(inputs.len() >= 10, "{} holds {} inputs only", folder.display(), inputs.len());
    inputs
}

/// Runs a target over its corpus, and says which input broke it.
fn corpus(target: &str, run: fn(&[u8])) {
    for input in inputs(target) {
        let bytes = fs::read(&input).unwrap();
        let broken = std::panic::catch_unwind(|| run(&bytes));
        assert!(broken.is_ok(), "{} breaks the target {target}", input.display());
    }
}

#[test]
fn policies_of_the_corpus_are_refused_or_usable() {
    corpus("policy", harness::policy::run);
}

#[test]
fn events_of_the_corpus_break_no_promise() {
    corpus("events", harness::events::run);
}

/// Which of the breaker's moves the corpus brings about: a corpus that brings none would prove nothing.
#[test]
fn the_corpus_of_events_makes_the_breaker_do_all_that_it_can() {
    let mut moves = std::collections::BTreeSet::new();
    for input in inputs("events") {
        moves.extend(harness::events::moves(&fs::read(input).unwrap()));
    }
    for wanted in WANTED {
        assert!(moves.contains(wanted), "nothing leads to {wanted}: {moves:#?}");
    }
}

#[test]
fn shared_states_of_the_corpus_are_refused_or_usable() {
    corpus("shared_state", harness::shared_state::run);
}

proptest! {
    // The same bytes in every run: new ones are scripts/fuzz's to find.
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(20_261), ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn random_events_break_no_promise(bytes in prop::collection::vec(any::<u8>(), 0..3_000)) {
        harness::events::run(&bytes);
    }

    #[test]
    fn random_shared_states_are_refused_or_usable(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        harness::shared_state::run(&bytes);
    }
}
