//! Which requests are sent to a half-open zone on trial. One gate a service in each worker; it admits, and judges nothing.
//!
//! The gate must be narrow where requests are many (a trial may fail, and somebody sent it), and wide enough where they are
//! few that the zone does not stay half-open for ever. So a request is considered
//!
//! - by chance: 1 in 100 (`consecutive`: 1 in 10), at most 5 a second (`consecutive`: 50);
//! - by time: when the last trial is 0.3 s past, and there were 4 other requests since, or it is 2 s past.
//!
//! At 200 requests a second that makes about 3 trials a second, so that 20 take 6 s; at 1 a second every second request is one,
//! and the breaker does not wait for all 20 ([`super::machine`]). A considered request must be idempotent, as a trial that
//! fails may be repeated by its sender. A service that has no such requests (gRPC is all POST) would never come back: when 5 s
//! brought at least 5 considered requests and none was idempotent, any will do.
//!
//! Each worker admits at most the whole number of trials (20 or 100) in any 10 s, so that N workers together send at
//! most N times that many before all of them have heard the verdict; what each may send a second is bounded as above. The
//! bound is by time, and not for good, since trials may end without counting (the client goes away).

use crate::{breaker::Tuning, policy::DetectorKind};

/// Admits trial requests.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gate {
    /// When it was set up, in ms.
    opened: u64,
    /// When the last trial was admitted, in ms.
    last: u64,
    /// Requests since then.
    since_last: u32,
    /// When the current 10 s began, in ms, and trials admitted in them.
    span: u64,
    admitted: u32,
    /// Considered requests that were not idempotent, until one was.
    unfit: u32,
    /// Whether an idempotent request was ever considered.
    fit_seen: bool,
}

/// How wide the gate is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Width {
    /// Requests of which one is considered by chance.
    pub one_in: u32,
    /// Least time between two trials, in ms.
    pub spacing_ms: u64,
    /// Trials in any 10 s.
    pub most: u32,
}

const SPAN_MS: u64 = 10_000;
const FLOOR_MS: u64 = 300;
const FLOOR_REQUESTS: u32 = 4;
const SPARSE_MS: u64 = 2_000;
const UNFIT_MS: u64 = 5_000;
const UNFIT_REQUESTS: u32 = 5;

// === impl Tuning ===

impl Tuning {
    /// How wide the gate of a half-open zone is.
    pub fn gate(&self) -> Width {
        match self.detector {
            DetectorKind::Peers => Width { one_in: 100, spacing_ms: 200, most: self.trials },
            DetectorKind::Consecutive => Width { one_in: 10, spacing_ms: 20, most: self.trials },
        }
    }
}

// === impl Gate ===

impl Gate {
    /// A gate set up at `now` (Unix ms). The first trial comes after 0.3 to 0.6 s, or by chance before; `chance` makes it differ
    /// between workers, so that they do not all knock at once.
    pub fn new(now: u64, chance: u64) -> Self {
        let wait = chance.checked_rem(FLOOR_MS).unwrap_or_default();
        Self { opened: now, last: now.saturating_add(wait), span: now, ..Self::default() }
    }

    /// Whether this request is a trial; `coin` is uniform over `u64`.
    pub fn admit(&mut self, now: u64, coin: u64, width: Width, idempotent: impl FnOnce() -> bool) -> bool {
        self.since_last = self.since_last.saturating_add(1);
        if now.saturating_add(FLOOR_MS) < self.last {
            // The clock was set back: start over from here.
            (self.opened, self.last, self.span) = (now, now, now);
        }
        let quiet = now.saturating_sub(self.last);
        let by_chance = coin.checked_rem(u64::from(width.one_in)) == Some(0) && quiet >= width.spacing_ms;
        let by_time = quiet >= SPARSE_MS || (quiet >= FLOOR_MS && self.since_last > FLOOR_REQUESTS);
        if !by_chance && !by_time {
            return false;
        }
        if now.saturating_sub(self.span) >= SPAN_MS {
            (self.span, self.admitted) = (now, 0);
        }
        if self.admitted >= width.most {
            return false;
        }
        if idempotent() {
            self.fit_seen = true;
        } else {
            self.unfit = self.unfit.saturating_add(1);
            let none_fit = !self.fit_seen && self.unfit > UNFIT_REQUESTS;
            if !none_fit || now.saturating_sub(self.opened) < UNFIT_MS {
                return false;
            }
        }
        self.admitted = self.admitted.saturating_add(1);
        (self.last, self.since_last) = (now, 0);
        true
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::mix::mix;

    const PEERS: Width = Width { one_in: 100, spacing_ms: 200, most: 20 };

    /// Trials admitted in `seconds` at `rps`, and the greatest number in any second.
    fn admitted(rps: u64, seconds: u64, width: Width, idempotent: impl Fn(u64) -> bool) -> (Vec<u64>, usize) {
        let mut gate = Gate::new(0, 0);
        let times: Vec<_> = (1..=rps * seconds)
            .filter(|i| gate.admit(i * 1000 / rps, mix(*i), width, || idempotent(*i)))
            .map(|i| i * 1000 / rps)
            .collect();
        let burst = times.iter().map(|t| times.iter().filter(|u| **u >= *t && **u < t + 1000).count()).max();
        (times, burst.unwrap_or_default())
    }

    #[test]
    fn many_requests_make_few_trials() {
        let (times, burst) = admitted(5_000, 20, PEERS, |_| true);
        assert!(burst <= 5, "{burst} in a second");
        assert!((35..=42).contains(&times.len()), "{} in 20 s", times.len());
        let (times, _) = admitted(200, 7, PEERS, |_| true);
        assert!((19..=25).contains(&times.len()), "{} in 7 s", times.len());
    }

    #[test]
    fn few_requests_make_enough_trials() {
        let (times, _) = admitted(1, 20, PEERS, |_| true);
        assert!((9..=11).contains(&times.len()), "{} of 20", times.len());
        let (times, _) = admitted(10, 10, PEERS, |_| true);
        assert!((12..=20).contains(&times.len()), "{} of 100", times.len());
    }

    #[test]
    fn idempotent_requests_are_preferred_but_not_waited_for_for_ever() {
        let (times, _) = admitted(200, 10, PEERS, |i| i % 20 == 0);
        assert!(!times.is_empty());
        assert!(times.iter().all(|t| (t * 200 / 1000) % 20 == 0), "{times:?}");
        let (times, _) = admitted(200, 10, PEERS, |_| false);
        assert!(times.len() > 5 && times.iter().all(|t| *t >= UNFIT_MS), "{times:?}");
    }

    #[test]
    fn consecutive_has_its_hundred_soon() {
        let width = Width { one_in: 10, spacing_ms: 20, most: 100 };
        let (times, _) = admitted(200, 10, width, |_| true);
        assert!((95..=101).contains(&times.len()), "{}", times.len());
    }

    #[test]
    fn a_clock_set_back_does_not_shut_it() {
        let mut gate = Gate::new(1_000_000, 0);
        let open = |gate: &mut Gate, from: u64| {
            (0..40).filter(|i| gate.admit(from + i * 100, 1, PEERS, || true)).count()
        };
        assert!(open(&mut gate, 1_000_000) > 4);
        assert!(open(&mut gate, 10_000) > 4);
    }
}
