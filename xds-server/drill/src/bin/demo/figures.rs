//! Figures from the requests that were sent: how many failed in a stretch of time, when the service was clean again, how
//! late the load itself was. Arithmetic only.

use std::time::{Duration, Instant};

use zonebreak_drill::lab::Sample;

/// How long without a failure counts as recovered.
const CLEAN: Duration = Duration::from_secs(1);

/// A stretch of time, without its end.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// Its first instant.
    pub from: Instant,
    /// Its end.
    pub to: Instant,
}

/// All requests of the demo, by due time.
#[derive(Debug)]
pub struct Requests(Vec<Sample>);

// === impl Window ===

impl Window {
    /// From `from` until now.
    pub fn since(from: Instant) -> Self {
        Self { from, to: Instant::now() }
    }

    /// From the start of this one to the end of the other.
    pub const fn through(self, other: Self) -> Self {
        Self { from: self.from, to: other.to }
    }

    fn contains(&self, sample: &Sample) -> bool {
        (self.from..self.to).contains(&sample.due)
    }
}

// === impl Requests ===

impl Requests {
    /// From samples in any order.
    pub fn new(mut samples: Vec<Sample>) -> Self {
        samples.sort_by_key(|sample| sample.due);
        Self(samples)
    }

    /// Requests due in a window that failed.
    pub fn failed(&self, window: Window) -> u64 {
        let failed = self.within(window).filter(|sample| sample.outcome.failed());
        failed.map(|_| 1_u64).sum()
    }

    /// Time from the start of a window to the start of its first second without a failed request: zero where none failed at
    /// all, `None` where there was no such second.
    pub fn clean_after(&self, window: Window) -> Option<Duration> {
        let mut clean_since = window.from;
        for failure in self.within(window).filter(|sample| sample.outcome.failed()) {
            if failure.due - clean_since >= CLEAN {
                break;
            }
            clean_since = failure.due;
        }
        (window.to.saturating_duration_since(clean_since) >= CLEAN).then(|| clean_since - window.from)
    }

    /// The worst lateness of the load generator itself in a window.
    pub fn late(&self, window: Window) -> Duration {
        self.within(window).map(|sample| sample.late).max().unwrap_or_default()
    }

    fn within(&self, window: Window) -> impl Iterator<Item = &Sample> {
        self.0.iter().filter(move |sample| window.contains(sample))
    }
}

#[cfg(test)]
mod tests {
    use zonebreak_drill::lab::Outcome;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A request every 100 ms for 5 s, those at `failing` (in ms) failed.
    fn requests(failing: &[u32]) -> (Requests, Window) {
        let from = Instant::now();
        let sample = |at: u32| Sample {
            due: from + at * MS,
            late: at / 100 * MS,
            latency: MS,
            outcome: Outcome::Status(if failing.contains(&at) { 503 } else { 200 }),
            zone: None,
        };
        // Out of order, as they come to an end.
        let samples = (0..50).rev().map(|n| sample(n * 100)).collect();
        (Requests::new(samples), Window { from, to: from + 5_000 * MS })
    }

    #[test]
    fn failures_are_counted_in_their_window() {
        let (requests, all) = requests(&[200, 300, 4_900]);
        assert_eq!(requests.failed(all), 3);
        assert_eq!(requests.failed(Window { from: all.from + 300 * MS, to: all.from + 4_900 * MS }), 1);
        assert_eq!(requests.late(Window { from: all.from, to: all.from + 1_000 * MS }), 9 * MS);
    }

    #[test]
    fn the_first_clean_second_ends_the_outage() {
        let clean = |failing: &[u32]| {
            let (requests, all) = requests(failing);
            requests.clean_after(all)
        };
        assert_eq!(clean(&[]), Some(Duration::ZERO));
        assert_eq!(clean(&[0]), Some(Duration::ZERO));
        assert_eq!(clean(&[100, 300, 1_200]), Some(1_200 * MS));
        // A failure after that second is another story.
        assert_eq!(clean(&[100, 1_200]), Some(100 * MS));
        assert_eq!(clean(&[900, 1_800, 2_700, 3_600, 4_500]), None);
    }
}
