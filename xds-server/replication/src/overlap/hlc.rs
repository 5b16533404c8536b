//! Hybrid logical clocks: times that order writes of two regions though no two clocks agree. A write that knew of another one has
//! the later time, whatever the clocks said; of two that did not, the wall clocks decide. Pure: the wall clock is an argument.
//!
//! A time is 48 bits of milliseconds since 1970 and 16 bits that count what happened within one of them ("Logical Physical
//! Clocks", Kulkarni et al. 2014). A region whose clock is far ahead would drag every other one along and win every conflict for
//! as long: what is heard moves our clock by [`MAX_AHEAD_MS`] at most. It is then [`Clock::after`] alone that keeps a write later
//! than what it overwrites, for that one key.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// How far ahead of ours another clock may be and still be followed, in milliseconds. The usual bound of systems that order by
/// such clocks; machines under NTP are within a few milliseconds of each other.
pub const MAX_AHEAD_MS: u64 = 500;

/// Bits that count within a millisecond.
const COUNTER_BITS: u32 = 16;

/// A time. Displayed as `milliseconds.count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hlc(u64);

/// A region's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Clock {
    last: Hlc,
}

// === impl Hlc ===

impl Hlc {
    /// The time `count` steps into a millisecond. Milliseconds beyond the year 10889 are that year's.
    pub const fn new(ms: u64, count: u16) -> Self {
        let most = u64::MAX >> COUNTER_BITS;
        let ms = if ms > most { most } else { ms };
        Self((ms << COUNTER_BITS) | count as u64)
    }

    /// Milliseconds since 1970.
    pub const fn ms(self) -> u64 {
        self.0 >> COUNTER_BITS
    }

    /// Steps into the millisecond.
    pub const fn count(self) -> u16 {
        (self.0 & 0xffff) as u16
    }

    /// The next one. More than 65,536 in a millisecond run into the next.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.ms(), self.count())
    }
}

impl From<Hlc> for String {
    fn from(time: Hlc) -> Self {
        time.to_string()
    }
}

impl FromStr for Hlc {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('.').and_then(|(ms, count)| {
            let ms = ms.parse::<u64>().ok().filter(|ms| *ms <= u64::MAX >> COUNTER_BITS)?;
            Some(Self::new(ms, count.parse().ok()?))
        });
        parts.ok_or_else(|| format!("a hybrid time looks like 1767225600000.0, unlike {text:?}"))
    }
}

impl TryFrom<String> for Hlc {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

// === impl Clock ===

impl Clock {
    /// The time of something that happens now: later than every other that this gave out or heard and followed.
    pub fn tick(&mut self, now_ms: u64) -> Hlc {
        self.last = self.last.next().max(Hlc::new(now_ms, 0));
        self.last
    }

    /// The time of something that happens now and knew of `known`: later than that too, however far ahead that is. What is too far
    /// ahead does not move the clock.
    pub fn after(&mut self, now_ms: u64, known: Hlc) -> Hlc {
        self.tick(now_ms).max(known.next())
    }

    /// Hears of a time elsewhere. How far that clock is ahead, in milliseconds, when it is too far to be followed.
    pub fn hear(&mut self, now_ms: u64, theirs: Hlc) -> Option<u64> {
        let most = now_ms.saturating_add(MAX_AHEAD_MS);
        self.last = self.last.max(theirs.min(Hlc::new(most, 0)));
        (theirs.ms() > most).then(|| theirs.ms() - now_ms)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_time_reads_back_and_what_is_none_is_refused() {
        let time = Hlc::new(1_767_225_600_000, 7);
        assert_eq!(time.to_string(), "1767225600000.7");
        assert_eq!(time.to_string().parse(), Ok(time));
        for odd in ["", "1", "1.", ".1", "1.65536", "-1.0", "281474976710656.0", "1.0.0"] {
            assert!(odd.parse::<Hlc>().is_err(), "{odd}");
        }
    }

    #[test]
    fn a_clock_that_stands_still_or_goes_back_still_gives_later_times() {
        let mut clock = Clock::default();
        let first = clock.tick(1_000);
        assert_eq!((first.ms(), first.count()), (1_000, 0));
        assert_eq!(clock.tick(1_000), Hlc::new(1_000, 1));
        assert_eq!(clock.tick(10), Hlc::new(1_000, 2));
        assert_eq!(clock.tick(1_001), Hlc::new(1_001, 0));
    }

    #[test]
    fn a_clock_far_ahead_is_followed_no_further_than_the_bound_and_is_told() {
        let mut clock = Clock::default();
        assert_eq!(clock.hear(1_000, Hlc::new(1_500, 9)), None);
        assert_eq!(clock.hear(1_000, Hlc::new(3_600_000, 0)), Some(3_599_000));
        let next = clock.tick(1_000);
        assert!(next > Hlc::new(1_500, 0) && next.ms() == 1_500, "{next}");
        let over = clock.after(1_000, Hlc::new(3_600_000, 0));
        assert_eq!(over, Hlc::new(3_600_000, 1), "what overwrites it is later all the same");
        assert_eq!(clock.tick(1_000).ms(), 1_500, "and drags nothing else along");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Tick,
        After(u64),
        Hear(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let time = 0_u64..4_000;
        prop_oneof![Just(Step::Tick), time.clone().prop_map(Step::After), time.prop_map(Step::Hear)]
    }

    proptest! {
        #[test]
        fn times_only_grow_are_after_what_they_knew_and_never_run_away(
            steps in prop::collection::vec((0_u64..2_000, step()), 1..120),
        ) {
            let (mut clock, mut last, mut latest) = (Clock::default(), Hlc::default(), 0);
            for (now, step) in steps {
                latest = latest.max(now);
                match step {
                    Step::Tick => {
                        let time = clock.tick(now);
                        prop_assert!(time > last);
                        last = time;
                    }
                    Step::After(known) => {
                        let known = Hlc::new(known, 3);
                        let time = clock.after(now, known);
                        prop_assert!(time > known && time > last);
                        last = clock.last;
                    }
                    Step::Hear(theirs) => {
                        let told = clock.hear(now, Hlc::new(theirs, 0));
                        prop_assert_eq!(told.is_some(), theirs > now + MAX_AHEAD_MS);
                        prop_assert!(clock.last >= Hlc::new(theirs.min(now + MAX_AHEAD_MS), 0));
                        last = clock.last;
                    }
                }
                // Never further ahead than the bound of the latest wall clock that it was shown, and the steps since.
                prop_assert!(clock.last.ms() <= latest + MAX_AHEAD_MS, "{}", clock.last);
            }
        }

        #[test]
        fn times_order_as_their_parts_do(a in (0_u64..1 << 48, any::<u16>()), b in (0_u64..1 << 48, any::<u16>())) {
            prop_assert_eq!(Hlc::new(a.0, a.1).cmp(&Hlc::new(b.0, b.1)), a.cmp(&b));
            prop_assert_eq!((Hlc::new(a.0, a.1).ms(), Hlc::new(a.0, a.1).count()), a);
        }
    }
}
