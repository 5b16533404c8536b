//! Why the machine stands still: of each zone, the guard rail in the way and every window with what it lacks. For
//! `zonebreak explain`; the filter never calls it, so the linker leaves it out of the module. It decides nothing: a property
//! test holds it to what [`super::step`] decides.

use super::{Look, Shifted, Sight, passed};
use crate::{
    breaker::{ServiceState, State, Tuning},
    detector::rates::{WindowAssessment, windows},
    policy::{DetectorKind, Enforcement},
};

/// One zone at one time.
#[derive(Debug, Clone, PartialEq)]
pub struct ZoneAssessment {
    /// What its breaker says.
    pub state: State,
    /// What keeps it from being left, whatever the evidence.
    pub guard: Option<Guard>,
    /// The evidence, shortest window first; none while it is open or half-open, and none with the detector `consecutive`, which
    /// goes by the order of results and not by windows.
    pub windows: Vec<WindowAssessment>,
}

/// A guard rail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// The policy turned the breaker off.
    TurnedOff,
    /// The operator drains the zone wholly, or holds it in use.
    Operator,
    /// It was left without gain, and is held closed until this time, in Unix ms.
    Held {
        /// When it may be left again.
        until: u64,
    },
    /// No other zone can take its load: with endpoints, closed, and left alone by the operator.
    LastZone,
    /// As many zones are away by the breaker's own doing as the policy allows; the index of the first of them.
    OtherAway {
        /// Which.
        zone: usize,
    },
}

/// All zones, in their order; `now` in Unix ms.
pub fn assess(state: &ServiceState, tuning: &Tuning, sights: &[Sight], now: u64) -> Vec<ZoneAssessment> {
    let mut away =
        state.zones.iter().enumerate().filter(|(_, zone)| zone.state != State::Closed).map(|(i, _)| i);
    let first_away = away.next();
    let no_more = first_away.is_some() && away.count().saturating_add(1) >= tuning.max_open;
    let zones = state.zones.iter().zip(sights).enumerate();
    zones
        .map(|(zone, (known, sight))| {
            let look = Look { state, tuning, sights, now, zone };
            let judged = matches!(known.state, State::Closed | State::Ramp)
                && tuning.detector == DetectorKind::Peers
                && tuning.enforcement != Enforcement::Disabled;
            let guard = if tuning.enforcement == Enforcement::Disabled {
                Some(Guard::TurnedOff)
            } else if matches!(sight.shift, Shifted::Whole | Shifted::Held) {
                Some(Guard::Operator)
            } else if let Some(other) = first_away.filter(|_| no_more && known.state == State::Closed) {
                Some(Guard::OtherAway { zone: other })
            } else if known.state == State::Closed
                && known.until > 0
                && !passed(now, known.since, known.until.saturating_sub(known.since))
            {
                Some(Guard::Held { until: known.until })
            } else if !look.others_remain() {
                Some(Guard::LastZone)
            } else {
                None
            };
            let windows = if judged { look.windows(sight) } else { Vec::new() };
            ZoneAssessment { state: known.state, guard, windows }
        })
        .collect()
}

// === impl Look ===

impl Look<'_> {
    fn windows(&self, sight: &Sight) -> Vec<WindowAssessment> {
        let past_ms = self.peers().map(|peer| peer.past_ms).fold(sight.past_ms, u64::min);
        let peers = self.peers().map(|peer| peer.past).sum();
        windows(&sight.past, &peers, past_ms, self.tuning.bar, sight.shifted)
    }
}

// === impl ZoneAssessment ===

impl ZoneAssessment {
    /// The window that is nearest to making the zone be left, or the one it is left on: one that lacks nothing, else the one
    /// with the most evidence.
    pub fn nearest(&self) -> Option<&WindowAssessment> {
        let rank = |one: &WindowAssessment| (one.missing.is_none(), one.evidence.score);
        self.windows.iter().reduce(|best, one| if rank(one) > rank(best) { one } else { best })
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::{
        breaker::{ZoneState, step},
        window::{Counts, Windows},
    };
    use proptest::prelude::*;

    const NOW: u64 = 1_000_000;

    fn sight(ticks: &[(usize, u32, u32)], shift: Shifted, has_endpoints: bool) -> Sight {
        let mut windows = Windows::default();
        let ticks = ticks.iter().flat_map(|(times, n, k)| std::iter::repeat_n((*n, *k), *times));
        for (i, (n, k)) in (0..).zip(ticks) {
            windows.advance(i * 100, i * 100 + 100);
            windows.add(Counts { n, timed: n, fail: k.min(n), ..Counts::default() });
        }
        let past = windows.profile();
        Sight {
            past,
            past_ms: u64::MAX,
            shifted: Some(1.0),
            since: Counts::default(),
            shift,
            has_endpoints,
            run: None,
        }
    }

    proptest! {
        /// A closed zone is left exactly when one has evidence and no guard rail in the way.
        #[test]
        fn it_tells_what_is_decided(
            zones in prop::collection::vec(
                (
                    prop::collection::vec((1_usize..60, 0_u32..12, 0_u32..12), 1..4),
                    prop::sample::select(vec![Shifted::No, Shifted::No, Shifted::Part, Shifted::Whole, Shifted::Held]),
                    prop::bool::weighted(0.9),
                    prop::sample::select(vec![0, 0, 0, NOW - 1, NOW + 1]),
                ),
                1..4,
            ),
            disabled in prop::bool::weighted(0.1),
        ) {
            let enforcement = if disabled { Enforcement::Disabled } else { Enforcement::Enforce };
            let tuning = Tuning { enforcement, ..Tuning::default() };
            let state = ServiceState {
                zones: zones
                    .iter()
                    .map(|(.., until)| ZoneState { since: until.saturating_sub(60_000), until: *until, ..ZoneState::default() })
                    .collect(),
                ..ServiceState::default()
            };
            let sights: Vec<Sight> =
                zones.iter().map(|(ticks, shift, endpoints, _)| sight(ticks, *shift, *endpoints)).collect();
            let told = assess(&state, &tuning, &sights, NOW);
            let left = |zone: &ZoneAssessment| zone.guard.is_none() && zone.nearest().is_some_and(|one| one.missing.is_none());
            match step(&state, &tuning, &sights, NOW) {
                Some(mv) => {
                    prop_assert!(left(&told[mv.zone]));
                    prop_assert_eq!(told[mv.zone].nearest().map(|one| one.evidence), mv.evidence);
                }
                None => prop_assert!(!told.iter().any(left)),
            }
        }
    }

    #[test]
    fn a_zone_waits_for_the_one_that_is_away() {
        let bad = || sight(&[(300, 7, 7)], Shifted::No, true);
        let good = || sight(&[(300, 13, 0)], Shifted::No, true);
        let open = ZoneState { state: State::Open, since: NOW, until: NOW + 5_000, ..ZoneState::default() };
        let state = ServiceState {
            zones: vec![open, ZoneState::default(), ZoneState::default()],
            ..ServiceState::default()
        };
        let told = assess(&state, &Tuning::default(), &[bad(), bad(), good()], NOW);
        assert_eq!((told[0].state, told[0].guard, told[0].windows.len()), (State::Open, None, 0));
        assert_eq!(told[1].guard, Some(Guard::OtherAway { zone: 0 }));
        assert_eq!(told[1].nearest().unwrap().missing, None, "but for that it would be left");
    }
}
