//! What is under way in one zone of one worker, by when it began; it counts, and judges nothing. Attempts, so that a zone that
//! swallows requests and never answers is noticed after the time in which it should have answered, and not after the time-out.
//! And answers, so that a good one counts when it has lasted, and not when a stream ends that may go on for days.
//!
//! 16 buckets are kept, in 40 bytes. What is older was due long ago; or, of attempts, the limit is beyond 1.5 s and waiting for the
//! answer costs little more.

/// Attempts without an answer.
pub type Overdue = UnderWay<100>;

/// Answers without an end: kept for 6.4 s, more than twice as long as they have to last.
pub type Lasting = UnderWay<400>;

/// What began and has not ended, in buckets of so many ms.
#[derive(Debug, Clone, Copy, Default)]
pub struct UnderWay<const WIDTH_MS: u64> {
    begun: [u16; BUCKETS as usize],
    /// The newest bucket.
    newest: Index,
    /// Everything begun before this bucket has been reported, or needs not be.
    swept: Index,
}

/// Number of a bucket since the clock's start; wraps around in 13 years or more, so that only differences mean anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Index(u32);

const BUCKETS: i32 = 16;

// === impl UnderWay ===

impl<const WIDTH_MS: u64> UnderWay<WIDTH_MS> {
    /// One begins.
    pub fn begin(&mut self, now_ns: u64) {
        let now = Self::index(now_ns);
        let ahead = now.after(self.newest);
        if !(1_i32.saturating_sub(BUCKETS)..=BUCKETS).contains(&ahead) {
            // A long pause, or a clock that was set: what was known is of no time that comes again.
            // What was not reported before a pause is not taken for reported after it.
            let swept = if ahead > 0 { self.swept } else { now };
            *self = Self { newest: now, swept, ..Self::default() };
        }
        for back in 0..ahead.clamp(0, BUCKETS) {
            self.set(now.plus(0_i32.saturating_sub(back)), |_| 0);
            self.newest = now;
        }
        self.set(now, |begun| begun.saturating_add(1));
    }

    /// One ends. Whether it has been reported.
    pub fn end(&mut self, began_ns: u64) -> bool {
        let began = Self::index(began_ns);
        if (0..BUCKETS).contains(&self.newest.after(began)) {
            self.set(began, |begun| begun.saturating_sub(1));
        }
        self.swept.after(began) > 0
    }

    /// Reports those that have been under way for longer than `limit_ns` and were not reported before.
    pub fn sweep(&mut self, now_ns: u64, limit_ns: u64) -> u32 {
        // Only whole buckets whose last moment is past the limit, of those that are kept.
        let until = Self::index(now_ns.saturating_sub(limit_ns));
        let end = if until.after(self.newest) > 0 { self.newest.plus(1) } else { until };
        let count = self.unreported(end);
        if until.after(self.swept) > 0 {
            self.swept = until;
        }
        count
    }

    /// Forgets what is under way: it belongs to a state that is no more. How many were never reported.
    pub fn forget(&mut self) -> u32 {
        let count = self.unreported(self.newest.plus(1));
        *self = Self { newest: self.newest, swept: self.newest, ..Self::default() };
        count
    }

    /// Those begun before `end` that were not reported, as far back as the buckets go.
    fn unreported(&self, end: Index) -> u32 {
        let oldest = self.newest.plus(1_i32.saturating_sub(BUCKETS));
        let from = if self.swept.after(oldest) > 0 { self.swept } else { oldest };
        // No more than there are: by a clock that jumps by years, one index may lie anywhere before or behind another.
        (0..end.after(from).clamp(0, BUCKETS)).map(|at| u32::from(self.get(from.plus(at)))).sum()
    }

    fn index(ns: u64) -> Index {
        Index(ns.checked_div(WIDTH_MS.wrapping_mul(1_000_000)).unwrap_or_default() as u32)
    }

    fn get(&self, at: Index) -> u16 {
        self.begun.get(at.slot()).copied().unwrap_or_default()
    }

    fn set(&mut self, at: Index, to: impl FnOnce(u16) -> u16) {
        if let Some(begun) = self.begun.get_mut(at.slot()) {
            *begun = to(*begun);
        }
    }
}

// === impl Index ===

impl Index {
    /// Buckets from `earlier` to this one.
    const fn after(self, earlier: Self) -> i32 {
        self.0.wrapping_sub(earlier.0) as i32
    }

    const fn plus(self, buckets: i32) -> Self {
        Self(self.0.wrapping_add_signed(buckets))
    }

    const fn slot(self) -> usize {
        // BUCKETS is a power of two.
        self.0 as usize & (BUCKETS as usize).saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn what_does_not_answer_is_reported_once() {
        let mut overdue = Overdue::default();
        let start = 1_000_000 * MS;
        (0..10).for_each(|i| overdue.begin(start + i * 10 * MS));
        assert_eq!(overdue.sweep(start + 60 * MS, 60 * MS), 0);
        assert_eq!(overdue.sweep(start + 160 * MS, 60 * MS), 10);
        assert_eq!(overdue.sweep(start + 900 * MS, 60 * MS), 0);
        assert!(overdue.end(start));
        overdue.begin(start + 1_000 * MS);
        assert!(!overdue.end(start + 1_000 * MS));
        assert_eq!(overdue.sweep(start + 2_000 * MS, 60 * MS), 0);
    }

    #[test]
    fn what_was_forgotten_is_not_reported() {
        let mut overdue = Overdue::default();
        overdue.begin(500 * MS);
        assert_eq!(overdue.forget(), 1);
        assert_eq!(overdue.forget(), 0);
        assert_eq!(overdue.sweep(1_500 * MS, 60 * MS), 0);
        overdue.begin(1_540 * MS);
        assert_eq!(overdue.forget(), 1);
        overdue.begin(1_560 * MS);
        assert!(!overdue.end(1_560 * MS), "begun in the same bucket, after it was forgotten");
        overdue.begin(1_600 * MS);
        assert_eq!(overdue.sweep(1_900 * MS, 60 * MS), 1);
    }

    #[test]
    fn what_began_before_a_pause_is_not_taken_for_reported() {
        let (mut overdue, start, limit) = (Overdue::default(), 1_000_000 * MS, 5_000 * MS);
        overdue.begin(start);
        assert_eq!(overdue.sweep(start + 1_000 * MS, limit), 0);
        overdue.begin(start + 2_000 * MS);
        assert!(!overdue.end(start), "nothing was reported yet");
    }

    /// What is counted is bounded by the buckets there are, and so is the time that it takes.
    #[test]
    fn a_clock_that_jumps_by_years_costs_nothing() {
        let year = 365 * 86_400_000 * MS;
        for (from, to) in (0..60).flat_map(|from| (0..60).map(move |to| (from * year, to * year))) {
            let mut overdue = Overdue::default();
            overdue.begin(from);
            overdue.sweep(to, 60 * MS);
            overdue.begin(to);
            assert!(overdue.sweep(from, 60 * MS) <= 2);
            assert!(overdue.forget() <= 2);
        }
    }

    #[test]
    fn a_clock_set_back_starts_over() {
        let mut overdue = Overdue::default();
        overdue.begin(100_000 * MS);
        overdue.sweep(101_000 * MS, 60 * MS);
        overdue.begin(10_000 * MS);
        assert_eq!(overdue.sweep(11_000 * MS, 60 * MS), 1);
    }

    proptest! {
        /// Against a list: nothing is reported before its time, nothing twice, and nothing that ended before the sweep; and what is
        /// under way for 100 ms beyond the limit is reported, if the sweeps come every 100 ms.
        #[test]
        fn reports_agree_with_a_list(durations in prop::collection::vec(1_u64..1_000, 1..200), limit in 20_u64..1_000) {
            let mut overdue = Overdue::default();
            let begun = |i: usize| 5_000 + i as u64 * 7;
            let mut reported = 0;
            for now in 5_000..=begun(durations.len()) + 3_000 {
                for (i, duration) in durations.iter().enumerate() {
                    if begun(i) + duration == now {
                        overdue.end(begun(i) * MS);
                    }
                    if begun(i) == now {
                        overdue.begin(now * MS);
                    }
                }
                if now % 100 == 0 {
                    reported += overdue.sweep(now * MS, limit * MS);
                }
            }
            let longer = |than: u64| durations.iter().filter(|duration| **duration > than).count() as u32;
            prop_assert!(reported <= longer(limit));
            prop_assert!(reported >= longer(limit + 200));
        }
    }
}
