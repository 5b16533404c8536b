//! The fuzzers' harness on stable: the committed corpus, and some noise.

#[path = "../fuzz/harness/mod.rs"]
mod harness;

use proptest::prelude::*;

fn corpus(target: &str, run: fn(&[u8])) {
    let folder = format!("{}/../../testdata/fuzz/{target}", env!("CARGO_MANIFEST_DIR"));
    let mut files = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        run(&std::fs::read(entry.unwrap().path()).unwrap());
        files += 1;
    }
    assert!(files > 10, "{folder} holds {files} files");
}

#[test]
fn the_corpus_of_requests() {
    corpus("requests", harness::requests);
}

#[test]
fn the_corpus_of_decode() {
    corpus("decode", harness::decode);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn noise(data in proptest::collection::vec(any::<u8>(), 0..400)) {
        harness::requests(&data);
        harness::decode(&data);
    }
}
