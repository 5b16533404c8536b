//! Attempts under way, by when they began: so that a zone that swallows requests and never answers is noticed after the time in
//! which it should have answered, and not after the time-out. One for each zone in each worker; it counts, and judges nothing.
//!
//! 16 buckets of 100 ms are kept, in 40 bytes. What is older was overdue long ago, or the limit is beyond 1.5 s and waiting for
//! the answer costs little more.

/// Attempts under way in one zone.
#[derive(Debug, Clone, Copy, Default)]
pub struct Overdue {
    begun: [u16; BUCKETS as usize],
    /// The newest bucket.
    newest: Index,
    /// Everything begun before this bucket has been reported, or needs not be.
    swept: Index,
}

/// Number of a bucket since the clock's start; wraps around in 13 years, so that only differences mean anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Index(u32);

const BUCKETS: i32 = 16;
const WIDTH_NS: u64 = 100_000_000;

// === impl Overdue ===

impl Overdue {
    /// An attempt begins.
    pub fn begin(&mut self, now_ns: u64) {
        let now = Index::of(now_ns);
        let ahead = now.after(self.newest);
        if !(-BUCKETS..=BUCKETS).contains(&ahead) {
            // A long pause, or a clock that was set: what was known is of no time that comes again.
            *self = Self { newest: now, swept: now, ..Self::default() };
        }
        for back in 0..ahead.clamp(0, BUCKETS) {
            self.set(now.plus(0_i32.saturating_sub(back)), |_| 0);
            self.newest = now;
        }
        self.set(now, |begun| begun.saturating_add(1));
    }

    /// An attempt ends. Whether it has been reported as overdue.
    pub fn end(&mut self, began_ns: u64) -> bool {
        let began = Index::of(began_ns);
        if (0..BUCKETS).contains(&self.newest.after(began)) {
            self.set(began, |begun| begun.saturating_sub(1));
        }
        self.swept.after(began) > 0
    }

    /// Attempts that have become overdue since this was last asked, given how long an answer may take.
    pub fn sweep(&mut self, now_ns: u64, limit_ns: u64) -> u32 {
        // Only whole buckets whose last moment is past the limit, of those that are kept.
        let until = Index::of(now_ns.saturating_sub(limit_ns));
        let oldest = self.newest.plus(1_i32.saturating_sub(BUCKETS));
        let from = if self.swept.after(oldest) > 0 { self.swept } else { oldest };
        let end = if until.after(self.newest) > 0 { self.newest.plus(1) } else { until };
        let count = (0..end.after(from).max(0)).map(|at| u32::from(self.get(from.plus(at)))).sum();
        if until.after(self.swept) > 0 {
            self.swept = until;
        }
        count
    }

    /// Forgets what is under way: it belongs to a state that is no more.
    pub fn forget(&mut self) {
        *self = Self { newest: self.newest, swept: self.newest.plus(1), ..Self::default() };
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
    fn of(ns: u64) -> Self {
        Self(ns.checked_div(WIDTH_NS).unwrap_or_default() as u32)
    }

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
        overdue.forget();
        assert_eq!(overdue.sweep(1_500 * MS, 60 * MS), 0);
        overdue.begin(1_600 * MS);
        assert_eq!(overdue.sweep(1_900 * MS, 60 * MS), 1);
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
