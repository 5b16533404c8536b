//! The run detector: failures in a row, as gobreaker counts them, with two questions that a breaker of zones must ask before
//! it believes them. It follows one zone in one worker, in the exact order of results; it knows no time but that it is given.
//!
//! # Why a run alone is not enough
//!
//! Five failures in a row come by themselves whenever a whole service fails: at a failure rate of 60 % every thirteenth
//! attempt ends such a run. Left to itself, a run would then drive the load from zone to zone for nothing. So a run that is long
//! enough is believed only if the other zones did better *while it lasted*:
//!
//! - no quarter of the others' attempts in the last 2 s failed;
//! - with 5 or more attempts of the others since it began: the highest rate they make plausible (Wilson, z = 3) is below 50 %;
//! - with fewer, but where there usually are others: the run waits for them, at most 1 s, and grows or ends meanwhile;
//! - where there are none (all load in one zone), it is believed at once, as gobreaker would.

use crate::{detector::Evidence, stats, window::Counts};

/// Failures in a row of one zone, and what the others did meanwhile.
#[derive(Debug, Clone, Copy, Default)]
pub struct Run {
    /// Failures so far.
    pub length: u32,
    /// When the first of them ended, in ms; wraps around in 49 days.
    began_ms: u32,
    /// How long after that the latest of them ended, in ms.
    lasted_ms: u32,
    /// What the others had counted when it began.
    others_then: Tally,
}

/// Results of a service in one worker, by zone or of all zones together. Wraps around.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Attempts that ended.
    pub n: u32,
    /// Those that failed.
    pub k: u32,
}

/// How long a run waits for the others to be heard.
const PATIENCE_MS: u32 = 1_000;

/// Attempts of the others that can be judged.
const HEARD: u32 = 5;

// === impl Run ===

impl Run {
    /// Counts one result of the zone; `others` is what the other zones have counted by now.
    pub fn count(&mut self, failed: bool, others: Tally, now_ns: u64) {
        let now_ms = now_ns.checked_div(1_000_000).unwrap_or_default() as u32;
        match (failed, self.length) {
            (false, _) => *self = Self::default(),
            (true, 0) => *self = Self { length: 1, began_ms: now_ms, lasted_ms: 0, others_then: others },
            (true, length) => {
                self.length = length.saturating_add(1);
                self.lasted_ms = now_ms.wrapping_sub(self.began_ms);
            }
        }
    }

    /// Attempts that began before `now_ns` have turned out well. A run that began after them goes on.
    pub fn outlast(&mut self, now_ns: u64) {
        let now_ms = now_ns.checked_div(1_000_000).unwrap_or_default() as u32;
        if (now_ms.wrapping_sub(self.began_ms) as i32) > 0 {
            *self = Self::default();
        }
    }

    /// On what evidence the zone should be left, once the run is `needed` long and believed. `others` is what the other zones
    /// have counted by now in this worker; `recent` is what all workers counted of them in 2 s, `None` where there are none.
    pub fn verdict(&self, needed: u32, others: Tally, recent: Option<&Counts>) -> Option<Evidence> {
        if self.length < needed || recent.is_some_and(fail_too) {
            return None;
        }
        let heard = others.since(self.others_then);
        let believed = if heard.n >= HEARD {
            stats::wilson_upper(stats::rate(heard.k, heard.n), f64::from(heard.n), 3.0) < 0.5
        } else {
            recent.is_none() || (self.lasted_ms >= PATIENCE_MS && heard.k == 0)
        };
        believed.then(|| Evidence {
            window_ms: self.lasted_ms,
            n: self.length,
            k: self.length,
            peer_n: heard.n,
            peer_k: heard.k,
            ..Evidence::default()
        })
    }
}

/// Whether a quarter or more of the others' recent attempts failed: then a run of this zone is no news.
fn fail_too(recent: &Counts) -> bool {
    recent.n >= 20 && recent.fail.saturating_mul(4) >= recent.n
}

// === impl Tally ===

impl Tally {
    /// Counts one result.
    pub fn count(&mut self, failed: bool) {
        self.n = self.n.wrapping_add(1);
        self.k = self.k.wrapping_add(u32::from(failed));
    }

    /// Counts so many that did not fail.
    pub fn good(&mut self, count: u32) {
        self.n = self.n.wrapping_add(count);
    }

    /// What was counted after `earlier`.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self { n: self.n.wrapping_sub(earlier.n), k: self.k.wrapping_sub(earlier.k) }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    const MS: u64 = 1_000_000;

    fn run_of(failures: u32, others: Tally) -> Run {
        let mut run = Run::default();
        (0..failures).for_each(|i| run.count(true, others, u64::from(i) * 10 * MS));
        run
    }

    #[test]
    fn a_success_ends_a_run() {
        let mut run = run_of(4, Tally::default());
        run.count(false, Tally::default(), 50 * MS);
        run.count(true, Tally::default(), 60 * MS);
        assert_eq!(run.length, 1);
        assert_eq!(run.verdict(5, Tally::default(), None), None);
    }

    /// An answer that lasts is known to be good later than it came: it ends no run that began since.
    #[test]
    fn an_answer_that_lasted_ends_only_what_began_before_it() {
        let mut run = run_of(4, Tally::default());
        run.outlast(0);
        assert_eq!(run.length, 4);
        run.outlast(50 * MS);
        assert_eq!(run.length, 0);
    }

    #[test]
    fn alone_it_trips_at_once() {
        let evidence = run_of(5, Tally::default()).verdict(5, Tally::default(), None).unwrap();
        assert_eq!((evidence.n, evidence.k, evidence.window_ms), (5, 5, 40));
    }

    #[test]
    fn others_that_fail_too_veto_it() {
        let then = Tally { n: u32::MAX - 3, k: 7 };
        let run = run_of(9, then);
        let healthy = Tally { n: then.n.wrapping_add(10), k: 7 };
        let failing = Tally { n: then.n.wrapping_add(10), k: 12 };
        assert!(run.verdict(5, healthy, Some(&Counts::default())).is_some());
        assert_eq!(run.verdict(5, failing, Some(&Counts::default())), None);
        let recent = Counts { n: 40, fail: 10, ..Counts::default() };
        assert_eq!(run.verdict(5, healthy, Some(&recent)), None);
    }

    #[test]
    fn it_waits_for_others_but_not_for_ever() {
        let mut run = run_of(6, Tally::default());
        let (recent, few) = (Counts::default(), Tally { n: 3, k: 0 });
        assert_eq!(run.verdict(5, few, Some(&recent)), None);
        run.count(true, few, 1_000 * MS);
        assert!(run.verdict(5, few, Some(&recent)).is_some());
        assert_eq!(run.verdict(5, Tally { n: 3, k: 1 }, Some(&recent)), None);
    }
}
