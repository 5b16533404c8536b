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

pub fn a_global_failure_that_changes_its_kind_trips_nothing() {
    let mut minutes = 0;
    for (retry, rps) in [(false, 200.0), (true, 200.0), (true, 30.0), (false, 30.0)] {
        for weights in [[1, 1, 1], [80, 10, 10]] {
            for spacing_s in [1, 2, 3, 5, 7, 11, 15] {
                for seed in 0..3 {
                    let setup = Setup { retry, rps, ..eventual(&weights, seed) };
                    let trips = trips(setup, spacing_s * 1_000 + seed * 13);
                    let what =
                        format!("{weights:?}, {rps} rps, retry {retry}, every {spacing_s} s, seed {seed}");
                    assert_eq!(trips, Vec::<String>::new(), "{what}");
                    minutes += 1;
                }
            }
        }
    }
    println!("{minutes} minutes without a trip");
}
