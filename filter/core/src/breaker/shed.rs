//! How much of its load a gray zone keeps while there is some evidence against it, and not enough to leave it. Pure; where the
//! rest goes is decided by shares.
//!
//! # The rule (option `breaker.shed`)
//!
//! Of a zone's n attempts k were bad, and u is the highest rate that its peers still explain (see [`crate::detector::rates`]).
//! Once the score against it is a third of what would open it, the zone keeps
//!
//! ```text
//! 1 - clamp((k/n - u) / (0.5 - u), 0, 1)        but at least 25 %
//! ```
//!
//! of its usual share: all of it at the peers' rate, nothing more to lose at one half. A quarter remains, so that it stays a
//! peer for the others, and the evidence for or against it keeps coming in: three times slower than before, which is the price.
//! A zone that fails altogether is opened as ever, in about the same time, since that takes a handful of attempts.
//!
//! # Why it does not flap
//!
//! The share goes down at once, and by tenths: what is less than a tenth below what it keeps changes nothing. It comes back by a
//! tenth each second, and not before the evidence has been gone for 3 s (a zone at the edge of the evidence gains and loses it
//! from tick to tick).
//!
//! # Guard rails
//!
//! Those of leaving a zone, and stricter, since the evidence is weaker: it needs peers (an absolute rate sheds nothing);
//! no zone is away, none other sheds; no zone is drained or held by the operator; the zone is not held closed after a move
//! that did not help; and what is moved must fit into the others (`least`): a gray zone keeps rather than being cut.
//!
//! All workers read the same counters, so that they come to the same share within a tick or two; it is shared by nothing else.

use crate::{
    breaker::{ServiceState, Shifted, Sight, State, Tuning, machine::Look},
    detector::Bar,
};

/// A zone that sheds load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shed {
    /// Index of the zone.
    pub zone: u8,
    /// What it keeps of its usual share, in tenths: 2 to 9 (2 stands for the floor of a quarter).
    tenths: u8,
    /// When there was last evidence against it, or its share was last raised; Unix ms.
    last: u64,
}

/// Evidence against a zone, short of what opens it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Doubt {
    /// Index of the zone.
    pub zone: usize,
    /// What it should keep, 0 to 1.
    pub keep: f64,
}

/// Part of the score that opens a zone.
const DOUBT: f64 = 1.0 / 3.0;
/// The least that a zone keeps.
const FLOOR: f64 = 0.25;
/// Without evidence for so long, a share begins to come back, in ms.
const CALM_MS: u64 = 3_000;
/// Between two tenths on the way back, in ms.
const STEP_MS: u64 = 1_000;

/// Whether anything may be shed at all.
pub fn is_allowed(state: &ServiceState, tuning: &Tuning, sights: &[Sight]) -> bool {
    let left_alone = sights.iter().all(|sight| sight.shift == Shifted::No);
    let all_closed = state.zones.iter().all(|zone| zone.state == State::Closed);
    tuning.shed && tuning.acts() && left_alone && all_closed
}

/// The zone that there is most evidence against, where anything may be shed.
pub fn doubt(state: &ServiceState, tuning: &Tuning, sights: &[Sight], now: u64) -> Option<Doubt> {
    let bar = Bar { score: tuning.bar.score * DOUBT, ..tuning.bar };
    let zones = state.zones.iter().zip(sights).enumerate().filter_map(|(zone, (known, sight))| {
        let look = Look { state, tuning, sights, now, zone };
        let (_, evidence) =
            look.strongest(sight, bar).filter(|_| look.others_remain() && !known.is_held(now))?;
        (evidence.peer_n > 0).then_some((zone, evidence))
    });
    let (zone, evidence) = zones.max_by(|(_, a), (_, b)| a.score.total_cmp(&b.score))?;
    let (n, k) = (f64::from(evidence.n.max(1)), f64::from(evidence.k));
    Some(Doubt { zone, keep: keep(k / n, f64::from(evidence.bound)) })
}

/// What a zone keeps at a bad share, where its peers explain `bound`: a quarter to 1.
pub fn keep(share: f64, bound: f64) -> f64 {
    let over = share - bound;
    let lost = if bound < 0.5 { over / (0.5 - bound) } else { f64::from(over > 0.0) };
    (1.0 - lost.clamp(0.0, 1.0)).max(FLOOR)
}

// === impl Shed ===

impl Shed {
    /// The next state of affairs, at every tick where shedding [`is_allowed`] (else there is none); `None` when nothing is shed.
    pub fn next(shed: Option<Self>, doubt: Option<Doubt>, now: u64) -> Option<Self> {
        // To the next tenth above; the floor of a quarter is written 2.
        let tenths = |keep: f64| if keep <= FLOOR { 2 } else { ((keep * 10.0).ceil() as u8).clamp(3, 10) };
        let wanted = |doubt: Doubt| tenths(doubt.keep);
        match (shed, doubt) {
            (Some(shed), Some(doubt)) if usize::from(shed.zone) == doubt.zone => {
                Some(Self { tenths: shed.tenths.min(wanted(doubt)), last: now, ..shed })
            }
            // One at a time: another zone waits until this one is back.
            (Some(shed), _) => shed.recover(now),
            (None, Some(doubt)) if wanted(doubt) < 10 => {
                Some(Self { zone: doubt.zone as u8, tenths: wanted(doubt), last: now })
            }
            (None, _) => None,
        }
    }

    /// What the zone keeps, at least `least` (what the others have no room for).
    pub fn keeps(&self, least: f64) -> f64 {
        let keep = if self.tenths <= 2 { FLOOR } else { f64::from(self.tenths) / 10.0 };
        keep.max(least.min(1.0))
    }

    fn recover(self, now: u64) -> Option<Self> {
        let quiet = now.saturating_sub(self.last);
        if quiet < CALM_MS && now >= self.last {
            return Some(self);
        }
        let tenths = self.tenths.saturating_add(1);
        // The next tenth comes a second from now.
        let last = now.saturating_sub(CALM_MS.saturating_sub(STEP_MS));
        (tenths < 10).then_some(Self { tenths, last, ..self })
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_zone_keeps_less_the_more_it_fails() {
        assert_eq!(keep(0.05, 0.05), 1.0);
        assert!((keep(0.275, 0.05) - 0.5).abs() < 1e-9);
        assert_eq!(keep(0.6, 0.05), FLOOR);
        assert_eq!((keep(0.7, 0.6), keep(0.5, 0.6)), (FLOOR, 1.0));
    }

    #[test]
    fn it_goes_down_at_once_and_comes_back_in_steps() {
        let doubt = |keep| Some(Doubt { zone: 1, keep });
        let mut shed = Shed::next(None, doubt(0.55), 1_000);
        assert_eq!(shed.unwrap().keeps(0.0), 0.6);
        shed = Shed::next(shed, doubt(0.8), 1_100);
        assert_eq!(shed.unwrap().keeps(0.0), 0.6, "a lesser doubt does not raise it");
        shed = Shed::next(shed, doubt(0.25), 1_200);
        assert_eq!(shed.unwrap().keeps(0.0), 0.25);
        assert_eq!(shed.unwrap().keeps(0.5), 0.5, "the others have room for a half");
        assert_eq!(Shed::next(shed, Some(Doubt { zone: 0, keep: 0.3 }), 1_300), shed, "one at a time");
        let mut seen = Vec::new();
        for now in (1_300..20_000).step_by(100) {
            shed = Shed::next(shed, None, now);
            seen.push((now, shed.map_or(1.0, |shed| shed.keeps(0.0))));
        }
        seen.dedup_by_key(|(_, keep)| *keep);
        let steps: Vec<_> = seen.iter().map(|(_, keep)| *keep).collect();
        assert_eq!(steps, [0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]);
        assert_eq!((seen[1].0, seen[8].0), (4_200, 11_200));
        assert_eq!(Shed::next(None, doubt(0.95), 0), None, "less than a tenth is not worth it");
    }

    proptest! {
        /// Whatever evidence comes and goes: a share rises by a tenth a second at most, so that it cannot flap faster.
        #[test]
        fn a_share_never_rises_faster_than_a_tenth_a_second(
            doubts in prop::collection::vec(prop::option::of((0_usize..3, 0.0..1.0_f64)), 1..200),
        ) {
            let mut shed = None;
            let mut rises = Vec::new();
            for (tick, doubt) in doubts.into_iter().enumerate() {
                let now = 5_000 + tick as u64 * 100;
                let doubt = doubt.map(|(zone, share)| Doubt { zone, keep: keep(share, 0.1) });
                let next = Shed::next(shed, doubt, now);
                if let Some(was) = shed {
                    let kept = next.filter(|next: &Shed| next.zone == was.zone).map_or(1.0, |next| next.keeps(0.0));
                    prop_assert!(kept - was.keeps(0.0) < 0.1 + 1e-9);
                    if kept > was.keeps(0.0) {
                        rises.push(now);
                    }
                }
                shed = next;
            }
            prop_assert!(rises.windows(2).all(|pair| pair[1] - pair[0] >= STEP_MS));
        }
    }
}
