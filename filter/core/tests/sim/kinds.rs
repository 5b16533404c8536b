//! A service that fails everywhere at once, and in ever other ways: errors, then slowness, then no answer at all. No zone is to
//! blame, whatever the order, so none is left.

use super::{
    rng::Rng,
    scenarios::eventual,
    world::{Health, Setup, World, fails, slow_by},
};

const HEALTHY: Health = fails(0.005);

/// Everything that can be wrong with a whole service, healthy moments among it.
const KINDS: [Health; 8] = [
    fails(1.0),
    fails(0.6),
    fails(0.3),
    slow_by(300.0),
    slow_by(60.0),
    Health { hang: 1.0, ..HEALTHY },
    Health { refuse: 1.0, ..HEALTHY },
    HEALTHY,
];

/// A minute of kinds in an order of chance, `spacing_ms` each. What was left, if anything.
fn trips(setup: Setup, spacing_ms: u64) -> Vec<String> {
    let mut chance = Rng::new(setup.seed ^ spacing_ms);
    let mut world = World::new(setup);
    world.health.fill(HEALTHY);
    world.run(15_000);
    let mut last = HEALTHY;
    for _ in 0..60_000_u64.div_ceil(spacing_ms) {
        let next = loop {
            let next = KINDS[(chance.next() % KINDS.len() as u64) as usize];
            if next != last {
                break next;
            }
        };
        world.health.fill(next);
        last = next;
        world.run(spacing_ms);
    }
    world.trips()
}

/// Shares of the zones.
const SPLITS: [[u32; 3]; 3] = [[1, 1, 1], [80, 10, 10], [94, 3, 3]];

/// Orders of kinds, besides the first three seeds, that once tripped a zone: shares, requests a second, whether retried, seconds of
/// a kind, seed. Each stands for a mechanism: a kind that changes within a tick, a shift too small to be seen, few peers.
const ONCE_TRIPPED: [([u32; 3], f64, bool, u64, u64); 9] = [
    ([1, 1, 1], 200.0, false, 1, 15),
    ([1, 1, 1], 30.0, true, 1, 26),
    ([1, 1, 1], 30.0, true, 3, 44),
    ([80, 10, 10], 200.0, true, 5, 11),
    ([80, 10, 10], 200.0, true, 11, 60),
    ([80, 10, 10], 30.0, true, 1, 56),
    ([80, 10, 10], 30.0, true, 2, 59),
    ([94, 3, 3], 200.0, false, 1, 32),
    ([94, 3, 3], 200.0, true, 5, 26),
];

/// Whether the others have so few requests that now and then there are none in ten seconds to compare with: then a trip is not
/// excluded, and the table tells how often.
fn may_be_alone(weights: [u32; 3], rps: f64) -> bool {
    weights[1] == 3 && rps < 100.0
}

/// Minutes, and those in which something was left.
#[derive(Default)]
struct Tally {
    minutes: u32,
    tripped: u32,
}

/// Three seeds of each kind of minute; `KINDS_SEEDS=N` asks for more, for a table of the rates (`cargo test --release -p
/// zonebreak-core --test simulation kind -- --nocapture`).
pub fn a_global_failure_that_changes_its_kind_trips_nothing() {
    let seeds = std::env::var("KINDS_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(3);
    let mut unexpected = Vec::new();
    let mut minute = |weights: [u32; 3], rps, retry, spacing_s: u64, seed: u64| {
        let setup = Setup { retry, rps, ..eventual(&weights, seed) };
        let trips = trips(setup, spacing_s * 1_000 + seed % 70 * 13);
        if !trips.is_empty() {
            let what =
                format!("{weights:?}, {rps} rps, retry {retry}, every {spacing_s} s, seed {seed}: {trips:?}");
            println!("{what}");
            unexpected.extend((!may_be_alone(weights, rps)).then_some(what));
        }
        !trips.is_empty()
    };
    for (weights, rps, retry, spacing_s, seed) in ONCE_TRIPPED {
        minute(weights, rps, retry, spacing_s, seed);
    }
    for weights in SPLITS {
        for (retry, rps) in [(false, 200.0), (true, 200.0), (false, 30.0), (true, 30.0)] {
            let mut tally = Tally::default();
            for (spacing_s, seed) in
                [1, 2, 3, 5, 7, 11, 15].into_iter().flat_map(|s| (0..seeds).map(move |seed| (s, seed)))
            {
                tally.minutes += 1;
                tally.tripped += u32::from(minute(weights, rps, retry, spacing_s, seed));
            }
            println!(
                "{weights:?}, {rps} rps, retry {retry}: {} of {} minutes tripped",
                tally.tripped, tally.minutes
            );
        }
    }
    assert_eq!(unexpected, Vec::<String>::new());
}
