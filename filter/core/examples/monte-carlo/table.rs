//! The results as Markdown, and whether they are good enough.

use std::{collections::BTreeMap, fmt::Write};

use crate::{
    detector::Contender,
    traffic::TICKS,
    trial::{BASES, FAULTS, GLOBALS, Outcome, SPLITS, Scene, Trial},
};

/// Outcomes by split, scene and contender.
#[derive(Debug, Default)]
pub struct Results {
    found: BTreeMap<(usize, Scene, Contender), Vec<Option<u64>>>,
    trips: BTreeMap<(usize, Scene, Contender), Vec<u64>>,
    runs: usize,
}

/// Whether ours did what it must not.
#[derive(Debug)]
pub enum Verdict {
    Good,
    Bad(String),
}

// === impl Results ===

impl Results {
    pub fn add(&mut self, trial: &Trial, outcome: Outcome) {
        self.runs += 1;
        let key = |contender| (trial.split, trial.scene, contender);
        match outcome {
            Outcome::Found(found) => {
                for (contender, found) in Contender::ALL.into_iter().zip(found) {
                    self.found.entry(key(contender)).or_default().push(found);
                }
            }
            Outcome::Trips(trips) => {
                for (contender, trips) in Contender::ALL.into_iter().zip(trips) {
                    self.trips.entry(key(contender)).or_default().push(trips);
                }
            }
        }
    }

    pub const fn len(&self) -> usize {
        self.runs
    }

    /// Trips, and in how many runs they were counted.
    fn trips(&self, split: usize, scene: Scene, contender: Contender) -> (u64, usize) {
        let runs = self.trips.get(&(split, scene, contender)).map_or(&[][..], Vec::as_slice);
        (runs.iter().sum(), runs.len())
    }

    /// Times to find a fault, sorted, those that missed it last.
    fn times(&self, split: usize, fault: usize, contender: Contender) -> Vec<Option<u64>> {
        let mut times = self.found.get(&(split, Scene::Fault(fault), contender)).cloned().unwrap_or_default();
        times.sort_by_key(|time| time.unwrap_or(u64::MAX));
        times
    }
}

// === impl Verdict ===

impl Verdict {
    /// What is asked of ours, for each 100 minutes of a global failure and each 24 h of health: `normal` and `safe` trip nothing,
    /// and `fast` hardly anything, which is the price of its name.
    pub fn of(results: &Results) -> Self {
        let mut bad = Vec::new();
        for (split, (_, name)) in SPLITS.iter().enumerate() {
            for contender in [Contender::OursFast, Contender::OursNormal, Contender::OursSafe] {
                let scenes = (0..BASES.len()).map(Scene::Health);
                for scene in scenes.chain((0..GLOBALS.len()).map(Scene::Global)) {
                    let (trips, runs) = results.trips(split, scene, contender);
                    let most = ceiling(contender, scene, split, runs);
                    if trips > most {
                        bad.push(format!(
                            "{} tripped {trips} times in {runs} runs of {scene:?}, {name}, at most {most}",
                            contender.name()
                        ));
                    }
                }
            }
        }
        if bad.is_empty() { Self::Good } else { Self::Bad(bad.join("; ")) }
    }
}

/// How often ours may trip in so many runs. `fast` may in 1 of 100 minutes and twice in 24 h; a rate is no excuse for any in fewer
/// runs than that.
fn ceiling(contender: Contender, scene: Scene, split: usize, runs: usize) -> u64 {
    let runs = runs as u64;
    match (contender, scene) {
        (Contender::OursFast, Scene::Global(_)) => runs / 100,
        (Contender::OursFast, _) => 2 * runs / 24,
        // Three in a hundred of the load are too few to tell chance from trouble every time.
        (Contender::OursNormal, Scene::Health(1)) if split == 2 => runs / 24,
        (Contender::OursNormal, Scene::Global(0)) if split == 2 => runs / 400,
        _ => 0,
    }
}

/// The table of one split.
pub fn markdown(split: usize, results: &Results) -> String {
    let mut text = format!("### {} (median / 95th percentile in s)\n\n| detector |", SPLITS[split].1);
    for (fails, rps) in FAULTS {
        let _ = write!(text, " {:.0} %, {rps:.0} rps |", fails * 100.0);
    }
    text.push_str(" missed, in % |");
    for base in BASES {
        let _ = write!(text, " false in 24 h at {:.1} % |", base * 100.0);
    }
    for (rps, _) in GLOBALS {
        let _ = write!(text, " global, {rps} rps |");
    }
    text.push_str("\n|");
    text.push_str(&"---|".repeat(1 + FAULTS.len() + 1 + BASES.len() + GLOBALS.len()));
    for contender in Contender::ALL {
        let _ = write!(text, "\n| {} |", contender.name());
        let mut missed = Vec::new();
        for fault in 0..FAULTS.len() {
            let times = results.times(split, fault, contender);
            let _ = write!(text, " {} / {} |", seconds(&times, 50), seconds(&times, 95));
            let lost = times.iter().filter(|time| time.is_none()).count();
            missed.push(format!("{:.0}", 100.0 * lost as f64 / times.len().max(1) as f64));
        }
        let _ = write!(text, " {} |", missed.join(", "));
        for base in 0..BASES.len() {
            let (trips, hours) = results.trips(split, Scene::Health(base), contender);
            let _ = write!(text, " {:.0} |", trips as f64 * 24.0 / hours.max(1) as f64);
        }
        for global in 0..GLOBALS.len() {
            let (trips, runs) = results.trips(split, Scene::Global(global), contender);
            let _ = write!(text, " {:.1} % |", 100.0 * trips as f64 / runs.max(1) as f64);
        }
    }
    text.push('\n');
    text
}

/// A percentile in seconds, or a dash where the fault was missed.
fn seconds(times: &[Option<u64>], percent: usize) -> String {
    let at = (times.len().saturating_sub(1) * percent).div_ceil(100);
    match times.get(at) {
        Some(Some(ticks)) => format!("{:.1}", *ticks as f64 / TICKS as f64),
        _ => "-".to_owned(),
    }
}
