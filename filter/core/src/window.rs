//! How many attempts went well and badly in the last 0.2, 0.5, 2, 10 and 60 s, in a fixed 204 bytes a zone. Counts; judges
//! nothing.
//!
//! Four rings of buckets side by side, each fed with everything:
//!
//! | window | buckets | covers, with the bucket being filled |
//! |---|---|---|
//! | 0.2 s | the newest 2 of the next | two ticks: a dead zone that takes most of the load, before longer windows forget how well it was |
//! | 0.5 s | 5 of 100 ms | 0.4 to 0.5 s: a dead zone |
//! | 2 s | 5 of 400 ms | 1.6 to 2 s: a third of the requests failing |
//! | 10 s | 5 of 2 s | 8 to 10 s: a tenth failing, or 30 requests a second |
//! | 60 s | 5 of 12 s | 48 to 60 s: a few requests a second |
//!
//! Sums are taken when they are asked for: 20 buckets are read faster than running sums are kept right, nothing can drift, and
//! the detector compares zones stretch by stretch. A bucket holds 16-bit counts; one that is full takes no more, so that what it holds stays a fair sample: the first
//! 65,535 attempts of a zone in its span are more evidence than any test needs.

/// Counters of one zone, summed over all workers of the proxy: they only grow, and start at 0 with the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Attempts answered properly.
    pub ok: u64,
    /// Attempts that failed, with or without a connection.
    pub fail: u64,
    /// Those that were slow: answered properly, but late, or not answered yet and already late.
    pub slow: u64,
    /// Those of `slow` that have ended, and so are in `ok` or in `fail`.
    pub settled: u64,
    /// Those of `fail` that had no connection.
    pub connect: u64,
}

/// Attempts within a span of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Attempts that ended, well or badly.
    pub n: u32,
    /// Those that failed.
    pub fail: u32,
    /// Those that were slow.
    pub slow: u32,
    /// Attempts of which it is known whether they were slow: those that ended in time, and the slow ones, ended or not.
    pub timed: u32,
    /// Those that could not connect.
    pub connect: u32,
}

/// One of the windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Span {
    /// 0.2 s.
    Fifth,
    /// 0.5 s.
    Half,
    /// 2 s.
    Two,
    /// 10 s.
    Ten,
    /// 60 s.
    Sixty,
}

/// The time that windows go by: the sum of the forward steps of the host's clock. A clock set back stands still for once.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock {
    last: Option<u64>,
    elapsed: u64,
}

/// The recent past of one zone.
#[derive(Debug, Clone, Default)]
pub struct Windows {
    rings: [Ring; RINGS],
    /// The time that they have been advanced to, in ticks; wraps around in 13 years.
    at: u32,
}

/// What is in all buckets of one zone, or of several together. The same place stands for the same time in all zones of a
/// service, which go by one clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Profile {
    /// The buckets of each ring, the finest ring first, the newest bucket first.
    rings: [[Counts; BUCKETS]; RINGS],
    /// How many buckets of the next finer ring the newest bucket of each ring spans so far.
    spanned: [u8; RINGS],
}

/// The counters at one time, without what changes too seldom to matter: their lower halves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading([u32; 5]);

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    n: u16,
    fail: u16,
    slow: u16,
    timed: u16,
    connect: u16,
}

#[derive(Debug, Clone, Copy, Default)]
struct Ring([Bucket; BUCKETS]);

/// Width of the finest buckets, in ms.
const TICK_MS: u64 = 100;

/// Width of the buckets of each ring, in ticks. Each is a multiple of the one before, so that edges meet.
const WIDTHS: [u32; RINGS] = [1, 4, 20, 120];
const RINGS: usize = 4;

/// Buckets in a ring.
const BUCKETS: usize = 5;

// === impl Totals ===

impl Totals {
    /// What was added since `earlier`. Counters below what they were have started anew: then all of them counts.
    pub fn since(&self, earlier: Reading) -> Counts {
        let now = Reading::from(*self).0;
        let added = |base: [u32; 5]| {
            let mut added = [0; 5];
            for (added, (now, base)) in added.iter_mut().zip(now.iter().zip(base)) {
                *added = now.wrapping_sub(base);
            }
            added
        };
        let anew = added(earlier.0).iter().any(|added| *added > u32::MAX.wrapping_shr(1));
        let [ok, fail, slow, settled, connect] = added(if anew { [0; 5] } else { earlier.0 });
        let n = ok.saturating_add(fail);
        // Counters are read one after the other, while others add to them: never let one miss what another has, nor count an
        // attempt without a connection that is not among the failed ones yet.
        let timed = n.saturating_sub(settled).saturating_add(slow);
        Counts { n, fail, slow, timed, connect: connect.min(fail) }
    }
}

// === impl Reading ===

impl From<Totals> for Reading {
    fn from(totals: Totals) -> Self {
        let counters = [totals.ok, totals.fail, totals.slow, totals.settled, totals.connect];
        Self(counters.map(|counter| counter as u32))
    }
}

// === impl Counts ===

impl Counts {
    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            n: self.n.saturating_add(other.n),
            fail: self.fail.saturating_add(other.fail),
            slow: self.slow.saturating_add(other.slow),
            timed: self.timed.saturating_add(other.timed),
            connect: self.connect.saturating_add(other.connect),
        }
    }

    /// What is left without the other.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self {
            n: self.n.saturating_sub(other.n),
            fail: self.fail.saturating_sub(other.fail),
            slow: self.slow.saturating_sub(other.slow),
            timed: self.timed.saturating_sub(other.timed),
            connect: self.connect.saturating_sub(other.connect),
        }
    }

    /// The same without what is known of slowness.
    #[must_use]
    pub const fn untimed(self) -> Self {
        Self { slow: 0, timed: 0, ..self }
    }

    /// Attempts that anything is known of, ended or not.
    pub fn attempts(&self) -> u32 {
        self.n.max(self.timed)
    }

    /// Whether nothing at all was counted.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl std::iter::Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), Self::plus)
    }
}

// === impl Span ===

impl Span {
    /// All of them, shortest first.
    pub const ALL: [Self; 5] = [Self::Fifth, Self::Half, Self::Two, Self::Ten, Self::Sixty];

    /// Its length in ms.
    pub const fn ms(self) -> u32 {
        match self {
            Self::Fifth => 200,
            Self::Half => 500,
            Self::Two => 2_000,
            Self::Ten => 10_000,
            Self::Sixty => 60_000,
        }
    }

    /// The ring that it is kept in, and how many of its buckets it takes.
    const fn ring(self) -> usize {
        match self {
            Self::Fifth | Self::Half => 0,
            Self::Two => 1,
            Self::Ten => 2,
            Self::Sixty => 3,
        }
    }

    const fn buckets(self) -> usize {
        match self {
            Self::Fifth => 2,
            _ => BUCKETS,
        }
    }
}

// === impl Clock ===

impl Clock {
    /// Moves to the host's `now` and returns the elapsed time before and after, in ms.
    pub fn advance(&mut self, now: u64) -> (u64, u64) {
        let before = self.elapsed;
        let step = now.saturating_sub(self.last.unwrap_or(now));
        self.last = Some(now);
        self.elapsed = before.saturating_add(step);
        (before, self.elapsed)
    }

    /// The elapsed time, in ms.
    pub const fn elapsed(&self) -> u64 {
        self.elapsed
    }
}

// === impl Windows ===

impl Windows {
    /// Forgets what is too old; `before` and `after` as [`Clock::advance`] returned them.
    pub fn advance(&mut self, before: u64, after: u64) {
        let ticks = |ms: u64| ms.checked_div(TICK_MS).unwrap_or_default();
        let (before, after) = (ticks(before), ticks(after));
        for (ring, width) in self.rings.iter_mut().zip(WIDTHS) {
            let bucket = |at: u64| at.checked_div(width.into()).unwrap_or_default();
            ring.advance(bucket(before), bucket(after));
        }
        self.at = after as u32;
    }

    /// Counts attempts that ended by the time to which the windows have been advanced.
    pub fn add(&mut self, counts: Counts) {
        if !counts.is_empty() {
            for (ring, width) in self.rings.iter_mut().zip(WIDTHS) {
                ring.add(quotient(self.at, width), counts);
            }
        }
    }

    /// What is in all buckets.
    pub fn profile(&self) -> Profile {
        let mut profile = Profile::default();
        let mut finer = 1;
        let places = profile.rings.iter_mut().zip(&mut profile.spanned);
        for (((counts, spanned), ring), width) in places.zip(&self.rings).zip(WIDTHS) {
            *counts = ring.newest_first(quotient(self.at, width));
            let into = self.at.checked_rem(width).unwrap_or_default();
            *spanned = quotient(into, finer).saturating_add(1) as u8;
            finer = width;
        }
        profile
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self { at: self.at, ..Self::default() };
    }
}

const fn quotient(at: u32, width: u32) -> u32 {
    match at.checked_div(width) {
        Some(quotient) => quotient,
        None => 0,
    }
}

// === impl Profile ===

impl Profile {
    /// What is in one window.
    pub fn of(&self, span: Span) -> Counts {
        let ring = self.rings.get(span.ring()).map_or(&[][..], |ring| &ring[..]);
        ring.iter().take(span.buckets()).copied().sum()
    }

    /// What is in one window, stretch by stretch, each as fine as is known: the newest bucket is told in those of the finer rings.
    pub fn strata(&self, span: Span) -> Vec<Counts> {
        let ring = |ring: usize| self.rings.get(ring).map_or(&[][..], |ring| &ring[..]);
        let mut strata: Vec<Counts> = ring(span.ring()).iter().take(span.buckets()).copied().collect();
        for coarse in (1..=span.ring()).rev() {
            let Some(newest) = strata.first().copied() else { break };
            let spanned = self.spanned.get(coarse).copied().unwrap_or_default();
            let finer = ring(coarse.saturating_sub(1)).iter().take(spanned.into()).copied();
            // What the finer ring has forgotten of it already, or nothing.
            let rest = newest.minus(finer.clone().sum());
            strata.splice(..1, finer.chain([rest]));
        }
        strata
    }
}

impl std::iter::Sum for Profile {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), |mut all, part| {
            for (all, part) in all.rings.as_flattened_mut().iter_mut().zip(part.rings.as_flattened()) {
                *all = all.plus(*part);
            }
            Self { spanned: part.spanned, ..all }
        })
    }
}

// === impl Bucket ===

impl Bucket {
    fn take(&mut self, counts: Counts) {
        let fits = |have: u16, more: u32| u16::try_from(u32::from(have).saturating_add(more)).ok();
        let sums = (
            fits(self.n, counts.n),
            fits(self.fail, counts.fail),
            fits(self.slow, counts.slow),
            fits(self.timed, counts.timed),
            fits(self.connect, counts.connect),
        );
        if let (Some(n), Some(fail), Some(slow), Some(timed), Some(connect)) = sums {
            *self = Self { n, fail, slow, timed, connect };
        }
    }

    fn counts(self) -> Counts {
        Counts {
            n: self.n.into(),
            fail: self.fail.into(),
            slow: self.slow.into(),
            timed: self.timed.into(),
            connect: self.connect.into(),
        }
    }
}

// === impl Ring ===

impl Ring {
    fn advance(&mut self, before: u64, after: u64) {
        let passed = after.saturating_sub(before).min(BUCKETS as u64);
        for back in 0..passed {
            if let Some(bucket) = self.0.get_mut(Self::place(after.saturating_sub(back) as u32)) {
                *bucket = Bucket::default();
            }
        }
    }

    fn add(&mut self, newest: u32, counts: Counts) {
        if let Some(bucket) = self.0.get_mut(Self::place(newest)) {
            bucket.take(counts);
        }
    }

    fn newest_first(&self, newest: u32) -> [Counts; BUCKETS] {
        let mut counts = self.0.map(Bucket::counts);
        counts.rotate_left(Self::place(newest.wrapping_add(1)));
        counts.reverse();
        counts
    }

    const fn place(bucket: u32) -> usize {
        // There are buckets.
        match bucket.checked_rem(BUCKETS as u32) {
            Some(place) => place as usize,
            None => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use proptest::prelude::*;

    fn failures(n: u32) -> Counts {
        Counts { n, fail: n, ..Counts::default() }
    }

    #[test]
    fn a_window_forgets_after_its_span() {
        let (mut clock, mut windows) = (Clock::default(), Windows::default());
        clock.advance(1_000_000);
        windows.add(failures(7));
        let mut left = Vec::new();
        for ms in 1..=60_000_u64 {
            let (before, after) = clock.advance(1_000_000 + ms);
            windows.advance(before, after);
            for span in Span::ALL {
                if windows.profile().of(span).n == 0 && !left.contains(&(span, true)) {
                    assert!(
                        ms > u64::from(span.ms()) * 3 / 4 && ms <= u64::from(span.ms()),
                        "{span:?} at {ms}"
                    );
                    left.push((span, true));
                }
            }
        }
        assert_eq!(left.len(), Span::ALL.len());
    }

    #[test]
    fn a_window_is_told_as_finely_as_it_is_known() {
        let mut windows = Windows::default();
        // One attempt at each tick of 15 s, until 3 s into the second bucket of 12 s.
        for tick in 1..=150_u64 {
            windows.advance((tick - 1) * 100, tick * 100);
            windows.add(failures(1));
        }
        let told = |span| windows.profile().strata(span).iter().map(|counts| counts.n).collect::<Vec<_>>();
        assert_eq!(told(Span::Fifth), [1, 1]);
        assert_eq!(told(Span::Half), [1, 1, 1, 1, 1]);
        assert_eq!(told(Span::Two), [1, 1, 1, 0, 4, 4, 4, 4]);
        assert_eq!(told(Span::Ten), [1, 1, 1, 0, 4, 4, 0, 20, 20, 20, 20]);
        assert_eq!(told(Span::Sixty), [1, 1, 1, 0, 4, 4, 0, 20, 0, 119, 0, 0, 0]);
    }

    #[test]
    fn a_clock_set_back_or_far_ahead_harms_nothing() {
        let mut clock = Clock::default();
        clock.advance(50_000);
        assert_eq!(clock.advance(10_000), (0, 0));
        assert_eq!(clock.advance(10_100), (0, 100));
        let mut windows = Windows::default();
        windows.advance(0, 100);
        windows.add(failures(3));
        let (before, after) = clock.advance(u64::MAX);
        windows.advance(before, after);
        assert!(Span::ALL.iter().all(|span| windows.profile().of(*span).is_empty()));
    }

    #[test]
    fn a_full_bucket_keeps_its_rate() {
        let mut windows = Windows::default();
        for _ in 0..100 {
            windows.add(Counts { n: 10_000, fail: 1_000, ..Counts::default() });
        }
        let sum = windows.profile().of(Span::Sixty);
        assert_eq!((sum.n, sum.fail), (60_000, 6_000));
    }

    #[test]
    fn counters_that_start_anew_count_from_zero() {
        let before = Totals { ok: 100, fail: 10, slow: 5, settled: 5, connect: 1 };
        let after = Totals { ok: 103, fail: 12, slow: 9, settled: 7, connect: 2 };
        assert_eq!(after.since(before.into()), Counts { n: 5, fail: 2, slow: 4, timed: 7, connect: 1 });
        let reset = Totals { ok: 200, fail: 1, ..Totals::default() };
        assert_eq!(reset.since(before.into()), Counts { n: 201, fail: 1, timed: 201, ..Counts::default() });
        let huge = Totals { ok: (7 << 32) - 1, ..Totals::default() };
        let more = Totals { ok: huge.ok + 5, ..Totals::default() };
        assert_eq!(more.since(huge.into()), Counts { n: 5, timed: 5, ..Counts::default() });
    }

    proptest! {
        /// Against a plain list of events: no window ever holds one that is older than its span, nor misses a recent one.
        #[test]
        fn windows_agree_with_a_list(steps in prop::collection::vec((0_u64..900, 0_u32..50), 1..200)) {
            let (mut clock, mut windows, mut events) = (Clock::default(), Windows::default(), Vec::new());
            clock.advance(0);
            let mut now = 0;
            for (step, n) in steps {
                now += step;
                let (before, after) = clock.advance(now);
                windows.advance(before, after);
                windows.add(failures(n));
                events.push((now, n));
                let profile = windows.profile();
                for span in Span::ALL {
                    // Told finer, it is the same.
                    prop_assert_eq!(profile.strata(span).into_iter().sum::<Counts>(), profile.of(span));
                }
                for span in Span::ALL {
                    let (ms, got) = (u64::from(span.ms()), windows.profile().of(span).n);
                    let within = |age: u64| events.iter().filter(|(at, _)| now - at < age).map(|(_, n)| n).sum::<u32>();
                    prop_assert!(got <= within(ms) && got >= within(ms / 2), "{span:?}: {got}");
                }
            }
        }
    }
}
