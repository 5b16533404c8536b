//! What is slow: the response times of each zone as one worker saw them, and the limit drawn from them. Measures; it never
//! decides that a zone is slow, only that one answer was.
//!
//! # Where the limit lies
//!
//! *With others to compare with* there is one limit for all zones of a service: **the lowest of the zones' medians, plus
//! what the policy allows over it** (50 ms). One limit, because the detector compares how many answers of each zone lie
//! beyond it, and only the same yardstick makes those shares comparable: where half of all calls take 5 ms and half take
//! 500 ms, each zone's own median jumps between the two, and two yardsticks would make two equal zones look different. The
//! lowest, because then no slow zone can drag the limit up, be it one of two. The median, because "slower by more than 50 ms"
//! is said of a typical call; that a long tail lies beyond the limit everywhere is no harm, since the detector weighs a
//! zone's share of late answers against its peers' share.
//!
//! *Without others* a zone is held against its own longer past: its 95th percentile plus the same allowance. Here the tail
//! does matter, as there is nothing to weigh it against; and with it a fault needs more than 5 % of the remembered answers
//! (some 2 s of traffic) to move the limit, while the detector needs 13 answers.
//!
//! # What is remembered
//!
//! 28 buckets, two for each doubling from 0.5 ms to 4.3 s, interpolated: 56 bytes a zone. All are halved every 30 s, and
//! when one is full. Failed attempts are left out (an instant 503 would make every honest answer look slow), and so are
//! those of a zone that is not closed.

/// Distribution of response times, with the old ones fading.
#[derive(Debug, Clone, Default)]
pub struct Histogram {
    buckets: [u16; BUCKETS],
}

/// What one worker counts as slow in a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Yardstick {
    /// Over this, in ns, in every zone.
    Absolute(u64),
    /// Over what is typical by this, in ns.
    OverPeers(u64),
}

const BUCKETS: usize = 28;
const LAST: usize = BUCKETS.saturating_sub(1);

/// ns are counted in units of 2^19, which is 0.52 ms: below that nothing is told apart.
const UNIT_SHIFT: u32 = 19;

/// Answers that a zone must have remembered before a limit is drawn from them.
const WARM: u32 = 20;

/// How often the histogram is halved, in ms.
pub const HALVING_MS: u64 = 30_000;

/// One zone, as far as its limit goes.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// Its response times.
    pub times: &'a Histogram,
    /// Whether it takes its usual share, so that its times are typical.
    pub usual: bool,
    /// Whether there are others to compare it with.
    pub has_peers: bool,
}

/// Sets the limits of all zones, in ns (`u64::MAX`: nothing is slow).
pub fn limits<'a>(yardstick: Yardstick, zones: impl Iterator<Item = Seen<'a>> + Clone, limits: &mut [u64]) {
    let over = match yardstick {
        Yardstick::Absolute(limit) => return limits.fill(limit),
        Yardstick::OverPeers(over) => over,
    };
    let usual = zones.clone().filter(|zone| zone.usual);
    let lowest = usual.filter_map(|zone| zone.times.quantile(0.5)).min();
    for (zone, limit) in zones.zip(limits) {
        let typical = if zone.has_peers { lowest } else { zone.times.quantile(0.95) };
        *limit = typical.map_or(u64::MAX, |typical| typical.saturating_add(over));
    }
}

// === impl Histogram ===

impl Histogram {
    /// Remembers a response time.
    pub fn record(&mut self, ns: u64) {
        if let Some(count) = self.buckets.get_mut(bucket(ns)) {
            match count.checked_add(1) {
                Some(more) => *count = more,
                None => self.halve(),
            }
        }
    }

    /// Lets everything remembered weigh half.
    pub fn halve(&mut self) {
        for count in &mut self.buckets {
            *count = count.wrapping_shr(1);
        }
    }

    /// The response time that a share of the answers stays below, in ns. `None` with fewer than 20 answers to go by, and where
    /// that time lies beyond what is told apart (streams, long polls): such calls are not judged by time.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let total = self.buckets.iter().map(|count| u32::from(*count)).fold(0, u32::saturating_add);
        if total < WARM {
            return None;
        }
        let wanted = f64::from(total) * share;
        let mut below = 0.0;
        for (i, count) in self.buckets.iter().enumerate() {
            let count = f64::from(*count);
            if below + count >= wanted && count > 0.0 {
                if i == LAST {
                    return None;
                }
                let (from, to) = (lower_bound(i), lower_bound(i.saturating_add(1)));
                let width = to.saturating_sub(from) as f64;
                return Some(from.saturating_add((width * (wanted - below) / count) as u64));
            }
            below += count;
        }
        None
    }
}

fn bucket(ns: u64) -> usize {
    // In half units, so that the highest bit says which doubling and the bit after it which half of that.
    let halves = ns.wrapping_shr(UNIT_SHIFT.saturating_sub(1));
    let index = match halves.checked_ilog2() {
        None | Some(0) => 0,
        Some(log) => {
            let below = log.saturating_sub(1);
            let second = halves.wrapping_shr(below) & 1;
            below.saturating_mul(2).saturating_add(second as u32).saturating_add(1)
        }
    };
    (index as usize).min(LAST)
}

/// The least ns that fall into a bucket.
const fn lower_bound(bucket: usize) -> u64 {
    if bucket == 0 {
        return 0;
    }
    let step = bucket.saturating_sub(1) as u32;
    let base = 1_u64.wrapping_shl(step.wrapping_shr(1).saturating_add(UNIT_SHIFT));
    if step & 1 == 1 { base.saturating_add(base.wrapping_shr(1)) } else { base }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;

    fn of(ms: impl IntoIterator<Item = u64>) -> Histogram {
        let mut histogram = Histogram::default();
        ms.into_iter().for_each(|ms| histogram.record(ms * MS));
        histogram
    }

    fn limits_of(zones: &[(Histogram, bool)]) -> Vec<u64> {
        let mut out = vec![0; zones.len()];
        limits(
            Yardstick::OverPeers(50 * MS),
            zones.iter().map(|(times, has_peers)| Seen { times, usual: true, has_peers: *has_peers }),
            &mut out,
        );
        out.iter().map(|ns| if *ns == u64::MAX { *ns } else { ns / MS }).collect()
    }

    #[test]
    fn the_slow_zone_does_not_move_the_limit() {
        let (fast, slow) = (of((0..500).map(|i| 10 + i % 10)), of((0..500).map(|i| 310 + i % 10)));
        let limits = limits_of(&[(slow.clone(), true), (fast.clone(), true)]);
        assert_eq!(limits[0], limits[1]);
        assert!((60..=72).contains(&limits[0]), "{limits:?}");
    }

    #[test]
    fn without_peers_a_zone_is_held_against_its_own_tail() {
        let own = of((0..1000).map(|i| if i % 50 == 0 { 200 } else { 10 }));
        let limits = limits_of(&[(own, false), (of([1, 2]), false)]);
        assert!((60..=70).contains(&limits[0]), "{limits:?}");
        assert_eq!(limits[1], u64::MAX, "two answers are no past to go by");
    }

    #[test]
    fn a_fault_moves_the_own_limit_later_than_it_is_found() {
        let mut own = of((0..2000).map(|_| 10));
        (0..40).for_each(|_| own.record(310 * MS));
        assert!(own.quantile(0.95).unwrap() < 20 * MS);
    }

    #[test]
    fn halving_forgets_and_a_full_bucket_halves() {
        let mut histogram = of((0..70_000).map(|_| 10));
        assert!((9..=13).contains(&(histogram.quantile(0.5).unwrap() / MS)));
        (0..16).for_each(|_| histogram.halve());
        assert_eq!(histogram.quantile(0.5), None);
    }

    proptest! {
        #[test]
        fn a_time_lies_in_its_bucket(ns in 0_u64..10_000_000_000) {
            let index = bucket(ns);
            prop_assert!(lower_bound(index) <= ns);
            prop_assert!(index == BUCKETS - 1 || ns < lower_bound(index + 1));
        }

        #[test]
        fn quantiles_are_off_by_less_than_half(ms in 1_u64..4_000, share in 0.05..0.95_f64) {
            let got = of(std::iter::repeat_n(ms, 100)).quantile(share).unwrap() as f64 / 1e6;
            prop_assert!(got > ms as f64 * 0.6 - 0.5 && got < ms as f64 * 1.5 + 0.5, "{ms} became {got}");
        }
    }
}
