//! What is tried: a zone that fails, a healthy service for hours, a service that fails everywhere. All detectors see the same requests.

use crate::{
    detector::{Contender, Detector},
    traffic::{TICKS, Tick, Traffic, ZONES},
};

/// How the load is split over the zones.
pub const SPLITS: [([u32; ZONES], &str); 3] =
    [([1, 1, 1], "even"), ([80, 10, 10], "80/10/10"), ([94, 3, 3], "94/3/3")];

/// Faults of the first zone: share of failures, requests a second.
pub const FAULTS: [(f64, f64); 6] =
    [(1.0, 200.0), (0.3, 200.0), (0.1, 200.0), (1.0, 30.0), (0.3, 30.0), (1.0, 3.0)];

/// Failures in all zones alike: requests a second, and for how long, in seconds. A quiet service takes long to show anything.
pub const GLOBALS: [(f64, u64); 3] = [(200.0, 60), (3.0, 300), (0.5, 600)];

/// Error rates of a healthy service.
pub const BASES: [f64; 2] = [0.005, 0.05];

/// One run.
#[derive(Debug, Clone, Copy)]
pub struct Trial {
    /// Place in [`SPLITS`].
    pub split: usize,
    pub scene: Scene,
    seed: u64,
}

/// What happens in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scene {
    /// A fault, by its place in [`FAULTS`].
    Fault(usize),
    /// An hour of health, by its place in [`BASES`].
    Health(usize),
    /// 60 % failures everywhere, by its place in [`GLOBALS`].
    Global(usize),
}

/// What came of it, for each contender in the order of [`Contender::ALL`]: ticks until it found the fault, `None` if it did not; or the
/// number of times it tripped.
#[derive(Debug)]
pub enum Outcome {
    Found(Vec<Option<u64>>),
    Trips(Vec<u64>),
}

const RPS: f64 = 200.0;
/// A fault that is not found in a minute is missed.
const PATIENCE: u64 = 60 * TICKS;
/// Longest time of health before a fault, less up to 12 s by chance so that it meets the windows' edges anywhere.
const WARM_UP: u64 = 80 * TICKS;

/// Every run there is: so many of each fault and of global failures, and so many hours of health at each base rate.
pub fn all(seeds: u64, hours: u64) -> Vec<Trial> {
    let scenes = |split| {
        let faults = (0..FAULTS.len()).map(|i| (Scene::Fault(i), seeds));
        let health = (0..BASES.len()).map(|i| (Scene::Health(i), hours));
        let globals = (0..GLOBALS.len()).map(|i| (Scene::Global(i), seeds));
        let scenes = faults.chain(health).chain(globals);
        scenes.flat_map(move |(scene, times)| (0..times).map(move |seed| Trial { split, scene, seed }))
    };
    (0..SPLITS.len()).flat_map(scenes).collect()
}

// === impl Trial ===

impl Trial {
    pub fn run(&self) -> Outcome {
        match self.scene {
            Scene::Fault(at) => Outcome::Found(self.fault(FAULTS[at].0, FAULTS[at].1)),
            Scene::Health(at) => Outcome::Trips(self.count(RPS, 3_600 * TICKS, |_| [BASES[at]; ZONES])),
            Scene::Global(at) => {
                let (rps, seconds) = GLOBALS[at];
                let rate = |tick| if tick < 15 * TICKS { BASES[0] } else { 0.6 };
                let trips = self.count(rps, (15 + seconds) * TICKS, |tick| [rate(tick); ZONES]);
                Outcome::Trips(trips.into_iter().map(|trips| trips.min(1)).collect())
            }
        }
    }

    fn traffic(&self, rps: f64) -> Traffic {
        Traffic::new(rps, SPLITS[self.split].0, self.seed)
    }

    fn detectors(&self) -> Vec<Box<dyn Detector>> {
        Contender::ALL.into_iter().map(|contender| contender.build(SPLITS[self.split].0)).collect()
    }

    fn fault(&self, fails: f64, rps: f64) -> Vec<Option<u64>> {
        let (mut traffic, mut tick, mut detectors) = (self.traffic(rps), Tick::default(), self.detectors());
        let warm_up = WARM_UP - (traffic.uniform() * 12.0 * TICKS as f64) as u64;
        // A trip before the fault is none of its finding, and counted elsewhere.
        for _ in 0..warm_up {
            traffic.tick([BASES[0]; ZONES], &mut tick);
            for (detector, contender) in detectors.iter_mut().zip(Contender::ALL) {
                if detector.watch(&tick).is_some() {
                    *detector = contender.build(SPLITS[self.split].0);
                }
            }
        }
        // It begins within a tick.
        let begins = traffic.uniform();
        let mut found = vec![None; detectors.len()];
        for after in 1..=PATIENCE {
            let part = if after == 1 { 1.0 - begins } else { 1.0 };
            traffic.tick([BASES[0] + (fails - BASES[0]) * part, BASES[0], BASES[0]], &mut tick);
            for (detector, found) in detectors.iter_mut().zip(&mut found) {
                if found.is_none() && detector.watch(&tick) == Some(0) {
                    *found = Some(after);
                }
            }
            if found.iter().all(Option::is_some) {
                break;
            }
        }
        found
    }

    /// How often each detector trips any zone; one that does begins afresh.
    fn count(&self, rps: f64, ticks: u64, rates: impl Fn(u64) -> [f64; ZONES]) -> Vec<u64> {
        let (mut traffic, mut tick, mut detectors) = (self.traffic(rps), Tick::default(), self.detectors());
        let mut trips = vec![0; detectors.len()];
        for at in 0..ticks {
            traffic.tick(rates(at), &mut tick);
            for ((detector, contender), trips) in detectors.iter_mut().zip(Contender::ALL).zip(&mut trips) {
                if detector.watch(&tick).is_some() {
                    *trips += 1;
                    *detector = contender.build(SPLITS[self.split].0);
                }
            }
        }
        trips
    }
}
