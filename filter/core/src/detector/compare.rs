//! Is a zone worse than its peers over a window, and not merely unlucky in the time of its attempts? Knows counts by stretch of
//! time, and no zones.
//!
//! # Why stretches
//!
//! When a whole service begins to fail, retries send its zones more attempts just then, and some zones more than others: in a
//! proxy that keeps 80 % in its own zone, each of two others gets five times its usual attempts. Over a window such a zone has
//! a greater part of its attempts in bad times, and looks worse than its peers though at no time it was (Simpson's paradox). So
//! a zone that looks worse over the whole window is looked at again:
//!
//! - the peers' rate is taken as it would be if their attempts had been spread over the window as the zone's were (direct
//!   standardisation), and that must be exceeded too;
//! - a trouble may have begun within a stretch, and then even there the zone had its attempts later than its peers. So in the
//!   one stretch where that could explain most, the odds of a bad attempt are taken to be five times the peers' ([`Odds`]);
//! - where the zones' parts of the attempts have been seen to shift ([`super::drift`]), that may be so in every stretch, as often as
//!   the trouble changed its kind, and the odds are taken to be so much greater in all of them.
//!
//! Under both of these together still a quarter of the evidence must be there, at two standard deviations of the peers. Where the peers did not fail, and there were enough
//! of them to say so, this changes nothing.
//!
//! # When the peers are in trouble too
//!
//! Peers that fare badly in any way (see `odds_in` in [`super::rates`]) are the sign of a service in trouble, and then little can be
//! measured: where all zones fail for half a second and are slow for the next, each zone has its own mixture; at 30 requests a
//! second no shift is seen through the noise; and ten looks a second in ever new mixtures find the one by chance that
//! exceeds a quarter. So a shift is then taken for granted ([`Odds::in_trouble`]), and *all* of the evidence must be there
//! under it. It costs a real fault nothing: its peers are well. Nor is a dead zone hidden by a service a fifth of which fails: under
//! odds four times greater that is a half, against which 14 of 14 score 9.7.
//!
//! # What peers are remembered for
//!
//! Where most of the load stays at home, the peers' few attempts in a short window prove little: 0 of 40 may still be 18 %. But they
//! had hundreds in the minute before. As long as nothing in the window speaks against it, that past weighs as much again as
//! two windows of theirs. It is no evidence of how they are *now*, which is all that tells a broken zone from a broken
//! service; so the quarter of the evidence above must be there without it. (At two standard deviations, not three: three would ask
//! more of the few peers in the window than of the window and the past together.)
//!
//! Windows are told in stretches as fine as they are known ([`crate::window::Profile::strata`]): recent ones in tenths of a
//! second.

pub(super) mod assess;

use crate::{detector::Bar, stats};

/// A zone and its peers in one stretch of time, or in several together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stretch {
    /// Attempts of the zone, and bad ones among them.
    pub n: u32,
    /// See `n`.
    pub k: u32,
    /// Attempts of the peers, and bad ones among them.
    pub peer_n: u32,
    /// See `peer_n`.
    pub peer_k: u32,
}

/// What was found: by how much the zone is worse.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Finding {
    /// The highest rate that the peers explain.
    pub bound: f64,
    /// How much the zone's attempts speak against that rate, in nats.
    pub score: f64,
}

/// How many times greater the odds of a bad attempt may be in the zone than in its peers for no other reason than that its attempts
/// were made at worse times.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Odds {
    /// In any one stretch: a trouble began or ended in it.
    pub once: f64,
    /// In all of them: attempts shift to and fro.
    pub throughout: f64,
    /// Part of the evidence that must remain when the odds are taken to be so much greater.
    pub rest: f64,
    /// Standard deviations that the peers' rate may be better than it looks, for that.
    pub z: f64,
}

/// A zone beside a rate of its peers, and how many attempts that rate is worth.
#[derive(Debug, Clone, Copy)]
struct Beside {
    n: u32,
    k: u32,
    peer_rate: f64,
    weight: f64,
}

/// The peers' rate before the window, and how many attempts it counts for beside those in it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Past {
    rate: f64,
    weight: f64,
}

/// No service is so good that its peers' rate is taken to be lower than this.
const LEAST_BOUND: f64 = 0.005;

/// A smaller difference between zones is not worth a move.
const LEAST_GAP: f64 = 0.05;

/// What the bad share must fall to by a move, as a part of what it was. A move that cannot promise that is not made, and one
/// that does not keep it is undone.
pub const GAIN: f64 = 0.8;

/// Bad attempts that speak for a zone.
const LEAST_BAD: u32 = 3;

/// Attempts that make peers.
pub const PEERS: u32 = 5;

/// A stretch in which the peers had few attempts is taken to be like the whole window, as if it held so many more.
const FEW: f64 = 2.0;

/// How much the peers' past may weigh beside the window; how many attempts in the window must bear it out, since fewer may all go
/// well by chance when everything has begun to fail; and how much may speak against it, in nats.
const REMEMBERED: f64 = 2.0;
const SEEN: f64 = 20.0;
const LIKE_BEFORE: f64 = 0.5;

/// What one retry makes of a tenth of the attempts, where 80 % are sent to the own zone and the rest to two others.
const ONCE: f64 = 5.0;

/// Part of the evidence that must remain under such odds, and how lucky the peers may have been for that.
const REST: f64 = 0.25;
const Z: f64 = 2.0;

/// What a shift may do to the odds where it cannot be measured.
const UNSEEN: f64 = 4.0;

/// By how much the zone is worse, if it is; `past` is what the peers did before: bad attempts, and all.
pub fn worse(
    stretches: impl Iterator<Item = Stretch>,
    past: (u32, u32),
    bar: Bar,
    odds: Odds,
) -> Option<Finding> {
    let stretches: Vec<Stretch> = stretches.collect();
    // Nearly always the answer is no by the whole window alone.
    let pooled = Beside::pooled(&stretches);
    let past = pooled.remembered(past);
    pooled.finding(bar, past)?;
    let finding = Beside::standardised(&stretches, 1.0).finding(bar, past)?;
    let begun = Beside::standardised(&stretches, odds.once);
    (begun.score(odds.z, odds.throughout, Past::NONE).score >= bar.score * odds.rest).then_some(finding)
}

/// A rate whose odds are so many times greater.
fn raised(rate: f64, odds: f64) -> f64 {
    odds * rate / (1.0 + (odds - 1.0) * rate)
}

/// The highest rate that `k` of `n` attempts still explain.
pub fn bound(k: u32, n: u32, z: f64) -> f64 {
    stats::wilson_upper(stats::rate(k, n), f64::from(n), z).max(LEAST_BOUND)
}

// === impl Past ===

impl Past {
    const NONE: Self = Self { rate: 0.0, weight: 0.0 };
}

// === impl Odds ===

impl Odds {
    /// `share` is the zone's attempts for each of its peers', in the long run: where all fails and is tried again, that may become
    /// one for one. `shifted` is what [`super::Drift::odds`] says.
    pub fn new(share: f64, shifted: f64) -> Self {
        Self { once: share.max(ONCE), throughout: shifted, rest: REST, z: Z }
    }

    /// The same while the peers fare badly themselves.
    #[must_use]
    pub fn in_trouble(self, bar: Bar) -> Self {
        Self { throughout: self.throughout.max(UNSEEN), rest: 1.0, z: bar.z, ..self }
    }
}

// === impl Beside ===

impl Beside {
    /// The window as a whole.
    fn pooled(stretches: &[Stretch]) -> Self {
        let all = stretches.iter().fold(Stretch::default(), |all, one| all.plus(*one));
        let peer_rate = stats::rate(all.peer_k, all.peer_n);
        Self { n: all.n, k: all.k, peer_rate, weight: f64::from(all.peer_n) }
    }

    /// The window stretch by stretch; the odds of the peers' rate are `odds` times greater in the stretch where that makes most
    /// of it.
    fn standardised(stretches: &[Stretch], odds: f64) -> Self {
        let pooled = Self::pooled(stretches);
        let (mut expected, mut spread, mut most) = (0.0, 0.0, 0.0_f64);
        for stretch in stretches {
            let (n, known) = (f64::from(stretch.n), f64::from(stretch.peer_n) + FEW);
            let rate = (f64::from(stretch.peer_k) + FEW * pooled.peer_rate) / known;
            expected += n * rate;
            spread += n * n / known;
            most = most.max(n * (raised(rate, odds) - rate));
        }
        let n = f64::from(pooled.n);
        let (peer_rate, weight) = if pooled.n == 0 {
            (1.0, 0.0)
        } else {
            ((expected + most) / n, pooled.weight.min(n * n / spread))
        };
        Self { peer_rate, weight, ..pooled }
    }

    /// What the peers' past, bad and all attempts, adds to this window.
    fn remembered(&self, (k, n): (u32, u32)) -> Past {
        let now = (self.peer_rate * self.weight).round() as u32;
        let speaks_against = stats::score(now, self.weight as u32, bound(k, n, 1.0));
        if n == 0 || self.weight < SEEN || speaks_against > LIKE_BEFORE {
            return Past::NONE;
        }
        Past { rate: stats::rate(k, n), weight: f64::from(n).min(self.weight * REMEMBERED) }
    }

    /// What speaks against the highest rate that the peers explain, with odds so many times greater.
    fn score(&self, z: f64, odds: f64, past: Past) -> Finding {
        let weight = self.weight + past.weight;
        let rate = (self.peer_rate * self.weight + past.rate * past.weight) / weight.max(1.0);
        let bound = stats::wilson_upper(rate, weight, z).max(LEAST_BOUND);
        let bound = raised(bound, odds);
        Finding { bound, score: stats::score(self.k, self.n, bound) }
    }

    fn finding(&self, bar: Bar, past: Past) -> Option<Finding> {
        let rate = stats::rate(self.k, self.n);
        let matters = rate - self.peer_rate >= LEAST_GAP && self.peer_rate <= GAIN * rate;
        if self.k < LEAST_BAD || self.weight < f64::from(PEERS) || !matters {
            return None;
        }
        let finding = self.score(bar.z, 1.0, past);
        (finding.score >= bar.score).then_some(finding)
    }
}

// === impl Stretch ===

impl Stretch {
    const fn plus(self, other: Self) -> Self {
        Self {
            n: self.n.saturating_add(other.n),
            k: self.k.saturating_add(other.k),
            peer_n: self.peer_n.saturating_add(other.peer_n),
            peer_k: self.peer_k.saturating_add(other.peer_k),
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use proptest::prelude::*;

    const NORMAL: Bar = Bar { z: 3.0, score: 9.0, alone: 0.1 };
    const STILL: Odds = Odds { once: ONCE, throughout: 1.0, rest: REST, z: Z };

    fn stretch((k, n): (u32, u32), (peer_k, peer_n): (u32, u32)) -> Stretch {
        Stretch { n, k, peer_n, peer_k }
    }

    /// Counts spread evenly over two stretches.
    fn trips((k, n): (u32, u32), (peer_k, peer_n): (u32, u32)) -> bool {
        let half = |part: u32| {
            stretch((part_of(k, part), part_of(n, part)), (part_of(peer_k, part), part_of(peer_n, part)))
        };
        worse([half(0), half(1)].into_iter(), (0, 0), NORMAL, STILL).is_some()
    }

    fn part_of(whole: u32, part: u32) -> u32 {
        if part == 0 { whole / 2 } else { whole - whole / 2 }
    }

    #[test]
    fn a_dead_zone_trips_and_a_dead_service_does_not() {
        assert!(trips((16, 33), (0, 67)));
        assert!(!trips((33, 33), (67, 67)));
        assert!(!trips((25, 33), (40, 67)), "a bad service with one zone by chance worse");
    }

    #[test]
    fn each_condition_is_needed() {
        assert!(trips((4, 4), (0, 400)));
        assert!(!trips((2, 2), (0, 1000)), "two failures do not speak for a zone");
        assert!(!trips((33, 33), (0, 4)), "four attempts are no peers");
        assert!(!trips((600, 10_000), (200, 20_000)), "five points more are needed, however sure");
        assert!(!trips((9_900, 10_000), (18_000, 20_000)), "nor is a tenth less worth a move");
        assert!(!trips((5, 33), (0, 67)), "the peers may have been lucky");
    }

    #[test]
    fn a_zone_is_not_blamed_for_the_time_of_its_attempts() {
        // 20 s of health, then all fails and retries send this zone five times its usual attempts.
        let (well, ill) = (stretch((0, 400), (0, 3_600)), stretch((60, 60), (160, 160)));
        assert!(
            Beside::pooled(&[well, ill]).finding(NORMAL, Past::NONE).is_some(),
            "seen as a whole it would be blamed"
        );
        assert_eq!(worse([well, ill].into_iter(), (0, 0), NORMAL, STILL), None);
        // The same when it began within a stretch, so that even there the zone had its attempts later than its peers.
        let begins = stretch((200, 220), (110, 290));
        assert!(Beside::standardised(&[well, begins, ill], 1.0).finding(NORMAL, Past::NONE).is_some());
        assert_eq!(worse([well, begins, ill].into_iter(), (0, 0), NORMAL, STILL), None);
        // And one that fails while its peers do not is found all the same.
        let (sick, sicker) = (stretch((60, 120), (3, 290)), stretch((60, 60), (2, 160)));
        assert!(worse([well, sick, sicker].into_iter(), (0, 0), NORMAL, STILL).is_some());
    }

    #[test]
    fn a_zone_is_not_blamed_for_attempts_that_shift() {
        // All is slow and all fails by turns, each for half of every stretch. While it fails, retries make one to one of four to one.
        let stretches = || [stretch((80, 180), (20, 120)); 8].into_iter();
        assert!(worse(stretches(), (0, 0), NORMAL, STILL).is_some());
        assert_eq!(worse(stretches(), (0, 0), NORMAL, Odds::new(4.0, 4.0)), None);
        // Peers that are well are peers all the same.
        assert!(
            worse([stretch((80, 180), (1, 120)); 8].into_iter(), (0, 0), NORMAL, Odds::new(4.0, 4.0))
                .is_some()
        );
    }

    #[test]
    fn peers_are_remembered_as_long_as_they_are_as_they_were() {
        // A second of 30 % at home, where each of two peers has a tenth.
        let window = |peer_k| [stretch((24, 80), (peer_k, 20)), stretch((24, 80), (0, 20))].into_iter();
        let found = |peer_k, past| worse(window(peer_k), past, NORMAL, STILL);
        assert_eq!(found(0, (0, 0)), None, "0 of 40 may be 18 %");
        assert!(found(0, (10, 2_000)).is_some());
        assert_eq!(found(0, (600, 2_000)), None, "they were no better");
        assert_eq!(found(3, (10, 2_000)), None, "they are no longer what they were");
    }

    proptest! {
        /// A zone at its peers' rate in each stretch does not trip, whatever the rates and however its attempts are spread.
        #[test]
        fn equal_rates_never_trip(
            stretches in prop::collection::vec((0_u32..50, 0_u32..50, 1_u32..10, 1_u32..10), 1..14),
        ) {
            let equal = stretches.into_iter().map(|(k, n, times, peer_times)| {
                let k = k.min(n);
                stretch((k * times, n * times), (k * peer_times, n * peer_times))
            });
            prop_assert_eq!(worse(equal, (0, 0), NORMAL, STILL), None);
        }

        /// More bad attempts never make a zone look better, more bad peers never make it look worse.
        #[test]
        fn the_whole_window_is_judged_monotonically(n in 3_u32..500, k in 0_u32..500, n2 in 5_u32..500, k2 in 0_u32..500) {
            let found = |k: u32, k2: u32| {
                Beside::pooled(&[stretch((k.min(n), n), (k2.min(n2), n2))]).finding(NORMAL, Past::NONE).is_some()
            };
            if found(k, k2) {
                prop_assert!(found(k + 1, k2) && found(k, k2.min(n2).saturating_sub(1)) && k >= 3);
            }
        }
    }
}
