//! How near a zone is to being left: every window and every signal with its numbers and the condition that does not hold.
//! For `zonebreak explain`; the filter never calls it, so the linker leaves it out of the module. It decides nothing: a property
//! test holds it to what [`super::strongest`] decides.

use super::{
    LEAST_BAD_ALONE, Signal, are_peers,
    compare::{self, Odds, Stretch},
    odds_in, parts, present, still, worse_in,
};
use crate::{
    detector::{Bar, Evidence},
    stats,
    window::{Counts, Profile, Span},
};

/// One window of one zone, by one signal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WindowAssessment {
    /// What counts as bad.
    pub signal: Signal,
    /// The numbers, of the kind that a transition logs. No peers means that there was nobody to compare with.
    pub evidence: Evidence,
    /// The first condition that does not hold; none when the zone is to be left on this window alone.
    pub missing: Option<Missing>,
}

/// A condition that does not hold, so that the zone is not left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Missing {
    /// Fewer bad attempts than speak for a zone.
    Bad {
        /// How many do.
        needed: u32,
    },
    /// Fewer attempts of the peers than can be compared with.
    Peers {
        /// How many can.
        needed: u32,
    },
    /// Too small a difference to be worth a move: less than 5 percentage points, or less than a fifth.
    Gap,
    /// Not enough evidence: it may be chance.
    Score,
    /// The zone had its attempts when its peers too fared badly.
    Timing,
    /// The trouble is over, or has become everybody's.
    Now {
        /// The window that shows the present, in ms.
        window_ms: u32,
    },
    /// The window reaches back behind the time when the zone was taken back.
    Past,
    /// Without peers, this signal is not judged.
    Alone,
    /// The others had too few attempts to be peers, but those they had make a rate like this plausible.
    Remembered,
    /// There are no peers, and the zone is well again.
    Over,
}

/// Every window and signal, shortest window first; the arguments are those of [`super::strongest`].
pub fn windows(
    zone: &Profile,
    peers: &Profile,
    since_ms: u64,
    bar: Bar,
    shifted: Option<f64>,
) -> Vec<WindowAssessment> {
    let compared = are_peers(&peers.of(Span::Ten));
    let now = present(zone, peers);
    let odds = Odds::new(parts(zone, peers), shifted.unwrap_or(1.0));
    let mut all = Vec::new();
    for span in Span::ALL {
        let past = (span > Span::Half && u64::from(span.ms()) > since_ms).then_some(Missing::Past);
        for signal in Signal::ALL {
            let (evidence, missing) = if compared {
                let over = now.filter(|now| !worse_in(zone, peers, *now, signal));
                let over = over.map(|now| Missing::Now { window_ms: now.ms() });
                let (evidence, missing) = beside(zone, peers, span, signal, bar, odds);
                (evidence, missing.or(over))
            } else {
                alone(zone, &peers.of(Span::Sixty), span, signal, bar, shifted.is_some())
            };
            all.push(WindowAssessment {
                signal,
                evidence: Evidence { window_ms: span.ms(), ..evidence },
                missing: missing.or(past),
            });
        }
    }
    all
}

fn beside(
    zone: &Profile,
    peers: &Profile,
    span: Span,
    signal: Signal,
    bar: Bar,
    odds: Odds,
) -> (Evidence, Option<Missing>) {
    let stretches = zone.strata(span).into_iter().zip(peers.strata(span)).map(|(zone, peers)| {
        let ((k, n), (peer_k, peer_n)) = (signal.of(&zone), signal.of(&peers));
        Stretch { n, k, peer_n, peer_k }
    });
    let (own, others) = (zone.of(span), peers.of(span));
    let past = signal.of(&peers.of(Span::Sixty).minus(others));
    let (found, missing) = compare::assess::weigh(stretches, past, bar, odds_in(peers, span, bar, odds));
    let evidence = signal.evidence(&own, &others, found.bound, found.score, bar);
    (evidence, missing)
}

fn alone(
    zone: &Profile,
    others: &Counts,
    span: Span,
    signal: Signal,
    bar: Bar,
    shared: bool,
) -> (Evidence, Option<Missing>) {
    let own = zone.of(span);
    let evidence = |bound, score| signal.evidence(&own, &Counts::default(), bound, score, bar);
    let Some(fixed) = signal.bound_alone(bar) else {
        return (Evidence { needed: 0.0, ..evidence(0.0, 0.0) }, Some(Missing::Alone));
    };
    let (k, n) = signal.of(&own);
    let bound = signal.bound_remembered(fixed, others, shared);
    let score = stats::score(k, n, bound);
    let missing = if k < LEAST_BAD_ALONE {
        Some(Missing::Bad { needed: LEAST_BAD_ALONE })
    } else if score < bar.score {
        let by_itself = stats::score(k, n, fixed) >= bar.score;
        Some(if by_itself { Missing::Remembered } else { Missing::Score })
    } else {
        (!still(zone, signal, bound)).then_some(Missing::Over)
    };
    (evidence(bound, score), missing)
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::{detector::rates::strongest, window::Windows};
    use proptest::prelude::*;

    const NORMAL: Bar = Bar { z: 3.0, score: 9.0, alone: 0.1 };

    /// A past of stretches, each so many ticks of the same counts: attempts, failures, slow answers, failed connects.
    fn past(stretches: &[(usize, [u32; 4])]) -> Profile {
        let mut windows = Windows::default();
        let ticks = stretches.iter().flat_map(|(times, counts)| std::iter::repeat_n(counts, *times));
        for (i, [n, fail, slow, connect]) in (0..).zip(ticks) {
            windows.advance(i * 100, i * 100 + 100);
            let fail = *fail.min(n);
            windows.add(Counts { n: *n, fail, slow: *slow.min(n), timed: *n, connect: *connect.min(&fail) });
        }
        windows.profile()
    }

    fn stretches() -> impl Strategy<Value = Vec<(usize, [u32; 4])>> {
        prop::collection::vec((1_usize..120, [0_u32..12, 0_u32..12, 0_u32..12, 0_u32..12]), 1..6)
    }

    proptest! {
        /// A zone is left exactly when some window lacks nothing, and then on the strongest of those.
        #[test]
        fn it_tells_what_is_decided(zone in stretches(), peers in stretches(), alone in any::<bool>(), since in 0_u64..70_000, shifted in prop::option::of(1.0..8.0_f64)) {
            let zone = past(&zone);
            let peers = if alone { Profile::default() } else { past(&peers) };
            let found = windows(&zone, &peers, since, NORMAL, shifted).into_iter().filter(|window| window.missing.is_none());
            let most = found.reduce(|best, one| if one.evidence.score > best.evidence.score { one } else { best });
            prop_assert_eq!(most.map(|one| (one.signal, one.evidence)), strongest(&zone, &peers, since, NORMAL, shifted));
        }
    }

    #[test]
    fn each_condition_is_told() {
        let of = |zone: &[(usize, [u32; 4])], peers: &[(usize, [u32; 4])], window_ms: u32| {
            let all = windows(&past(zone), &past(peers), 60_000, NORMAL, Some(1.0));
            let found = all
                .into_iter()
                .find(|one| one.signal == Signal::Failures && one.evidence.window_ms == window_ms);
            found.and_then(|found| found.missing)
        };
        let well = [(300, [13, 0, 0, 0])];
        assert_eq!(of(&[(298, [7, 0, 0, 0]), (2, [7, 7, 0, 0])], &well, 200), None);
        assert_eq!(
            of(&[(299, [7, 0, 0, 0]), (1, [7, 2, 0, 0])], &well, 200),
            Some(Missing::Bad { needed: 3 })
        );
        assert_eq!(of(&[(300, [7, 1, 0, 0])], &[(300, [13, 2, 0, 0])], 10_000), Some(Missing::Gap));
        assert_eq!(of(&[(297, [7, 0, 0, 0]), (3, [7, 2, 0, 0])], &well, 500), Some(Missing::Score));
        let over = of(&[(250, [7, 0, 0, 0]), (40, [7, 5, 0, 0]), (10, [7, 0, 0, 0])], &well, 10_000);
        assert_eq!(over, Some(Missing::Now { window_ms: 200 }));
        let few = of(&[(300, [7, 7, 0, 0])], &[(299, [1, 0, 0, 0]), (1, [0, 0, 0, 0])], 200);
        assert_eq!(few, Some(Missing::Peers { needed: 5 }));
        assert_eq!(of(&[(300, [7, 1, 0, 0])], &[], 10_000), Some(Missing::Score));
        assert_eq!(of(&[(300, [7, 7, 0, 0])], &[], 10_000), None);
    }
}
