//! From samples and attempts to the figures of one cell. Arithmetic only.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::lab::{Sample, Timeline};

/// A response later than this counts as slow: far above a healthy one (a few ms), far below the fault of 300 ms.
const SLOW: Duration = Duration::from_millis(200);

/// A zone counts as left when it was not sent anything for this long ...
const QUIET: Duration = Duration::from_millis(500);

/// ... and so long that it should have been sent this many, or a lull at 30 requests a second would do.
const EXPECTED: f64 = 15.0;

/// A relapse is half a second in which more than this share of the requests was lost or slow ...
const RELAPSE: f64 = 0.05;

/// ... and at least this many: one probe among the few requests of a quiet half-second is none.
const RELAPSE_LEAST: usize = 3;

/// When things happened in a trial.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moments {
    /// From here to `onset` all was well.
    pub(super) steady: Instant,
    /// The fault began.
    pub(super) onset: Instant,
    /// The fault ended.
    pub(super) clear: Instant,
    /// The load ended.
    pub(super) end: Instant,
}

/// What a fault cost.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// Requests due while the fault lasted.
    pub requests: usize,
    /// Of these, failed (5xx or no whole response), in percent.
    pub error_percent: f64,
    /// Of these, answered later than 200 ms, in percent.
    pub slow_percent: f64,
    /// Seconds until the zone was not sent anything any more; `None`: never.
    pub left_after: Option<f64>,
    /// Half-seconds after that in which more than 5 % (and 3 or more) were lost or slow again.
    pub relapses: usize,
    /// Requests that failed after the fault had ended.
    pub errors_on_return: usize,
    /// What the zone got back of its former share in the last seconds, in percent.
    pub share_back_percent: f64,
    /// The load generator's own worst lateness in ms: figures mean little where it is not small.
    pub load_late_ms: f64,
}

// === impl Verdict ===

impl Verdict {
    pub(super) fn of(samples: &[Sample], attempts: &Timeline, at: Moments) -> Self {
        let due = |from: Instant, to: Instant| {
            samples.iter().filter(move |sample| (from..to).contains(&sample.due)).collect::<Vec<_>>()
        };
        let fault = due(at.onset, at.clear);
        let left = attempts.quiet_after(at.onset, quiet_window(attempts, at), at.clear);
        let last = at.end.checked_sub((at.end - at.clear) / 5).unwrap_or(at.clear);
        let rate = |from: Instant, to: Instant| {
            attempts.count(from, to) as f64 / (to - from).as_secs_f64().max(f64::EPSILON)
        };
        Self {
            requests: fault.len(),
            error_percent: percent(
                fault.iter().filter(|sample| sample.outcome.failed()).count(),
                fault.len(),
            ),
            slow_percent: percent(fault.iter().filter(|sample| is_slow(sample)).count(), fault.len()),
            left_after: left.map(|left| left.as_secs_f64()),
            relapses: left.map_or(0, |left| relapses(&due(at.onset + left, at.clear), at.onset + left)),
            errors_on_return: due(at.clear, at.end).iter().filter(|sample| sample.outcome.failed()).count(),
            share_back_percent: 100.0 * rate(last, at.end) / rate(at.steady, at.onset).max(f64::EPSILON),
            load_late_ms: samples.iter().map(|sample| sample.late).max().unwrap_or_default().as_secs_f64()
                * 1e3,
        }
    }
}

fn is_slow(sample: &Sample) -> bool {
    !sample.outcome.failed() && sample.latency > SLOW
}

fn quiet_window(attempts: &Timeline, at: Moments) -> Duration {
    let before = attempts.count(at.steady, at.onset) as f64 / (at.onset - at.steady).as_secs_f64();
    QUIET.max(Duration::try_from_secs_f64(EXPECTED / before).unwrap_or(QUIET))
}

fn relapses(samples: &[&Sample], from: Instant) -> usize {
    let mut windows: Vec<(usize, usize)> = Vec::new();
    for sample in samples {
        let window =
            usize::try_from((sample.due - from).as_millis() / QUIET.as_millis()).unwrap_or(usize::MAX);
        if windows.len() <= window {
            windows.resize(window + 1, (0, 0));
        }
        windows[window].0 += 1;
        windows[window].1 += usize::from(sample.outcome.failed() || is_slow(sample));
    }
    let relapse = |&&(all, bad): &&(usize, usize)| bad >= RELAPSE_LEAST && bad as f64 > RELAPSE * all as f64;
    windows.iter().filter(relapse).count()
}

fn percent(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::Outcome;

    /// 100 requests a second from 0 to 12 s; the zone's turn is every second one until it is left.
    fn trial(bad: impl Fn(u64) -> bool, attempted: impl Fn(u64) -> bool) -> Verdict {
        let timeline = Timeline::default();
        let start = Instant::now() + Duration::from_millis(10);
        let mut samples = Vec::new();
        for ms in (0..12_000).step_by(10) {
            let due = start + Duration::from_millis(ms);
            let outcome = Outcome::Status(if bad(ms) { 503 } else { 200 });
            samples.push(Sample { due, late: Duration::ZERO, latency: Duration::ZERO, outcome, zone: None });
            if attempted(ms) {
                timeline.record(due);
            }
        }
        let at = |s| start + Duration::from_secs(s);
        Verdict::of(&samples, &timeline, Moments { steady: at(0), onset: at(2), clear: at(7), end: at(12) })
    }

    #[test]
    fn a_zone_that_is_left_and_comes_back() {
        let fault = 2_000..7_000;
        let verdict = trial(
            |ms| fault.contains(&ms) && ms < 3_000 && ms % 20 == 0,
            |ms| !(3_000..9_000).contains(&ms) && ms % 20 == 0,
        );
        assert_eq!(verdict.requests, 500);
        assert_eq!(verdict.error_percent, 10.0);
        assert!((verdict.left_after.unwrap() - 0.99).abs() < 0.02, "{verdict:?}");
        assert_eq!((verdict.relapses, verdict.errors_on_return), (0, 0));
        assert!((verdict.share_back_percent - 100.0).abs() < 5.0, "{verdict:?}");
    }

    #[test]
    fn a_zone_that_is_never_left_and_one_that_is_taken_back_too_early() {
        let never = trial(|ms| (2_000..7_000).contains(&ms) && ms % 20 == 0, |ms| ms % 20 == 0);
        assert_eq!((never.left_after, never.error_percent, never.relapses), (None, 50.0, 0));

        let sent = |ms: u64| ms < 2_200 || (4_000..4_500).contains(&ms) || ms >= 7_000;
        let early = trial(|ms| (2_000..7_500).contains(&ms) && sent(ms), sent);
        assert!(early.left_after.unwrap() < 0.25, "{early:?}");
        assert!((1..=2).contains(&early.relapses), "{early:?}");
        assert_eq!(early.errors_on_return, 50);
    }
}
