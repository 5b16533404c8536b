//! The rate detector: is a zone's share of bad attempts more than its peers' share can explain? It sees counts only, knows
//! no states, and trips nothing by itself.
//!
//! # The test
//!
//! Of a zone's `n` attempts in a window, `k` were bad; of its peers' attempts in the same window `k2` of `n2` (leave one out:
//! all other zones that take their usual share). The highest rate `u` that the peers still make plausible is the upper end of
//! Wilson's interval at z standard deviations. The zone is worse than that when all of these hold:
//!
//! - `n * KL(k/n || u) >= 9`: by Chernoff's bound, a zone whose true rate is `u` shows this once in 8,100 looks;
//! - `k >= 3`: no window is so short that one or two requests speak for a zone;
//! - `k/n >= k2/n2 + 0.05` and `k2/n2 <= 0.8 * k/n`: a difference too small to matter is not worth a move, however certain;
//! - `n2 >= 5`: there are peers. `u` is never taken below 0.5 %, as no service is without errors.
//!
//! "The same window" is taken strictly: see [`super::compare`], and [`super::drift`] for a service that fails in ever other ways.
//!
//! And what was must still be: in the shortest window with 10 attempts on both sides the zone must look worse as well. Else the
//! trouble is over, or has become everybody's.
//!
//! Comparing with peers *in the same window* is what tells a broken zone from a broken service: when all zones fail alike,
//! `u` rises with the failures. (Outlier detection by mean and deviation over hosts cannot see a zone at all: with a fraction
//! f of hosts dead, they sit sqrt((1-f)/f) deviations away, which is below Envoy's 1.9 for every f above 21.7 %.)
//!
//! The test is run on five windows and three signals (failures, slow answers, failed connects). Against false alarms
//! from so many looks stand the two margins together, z and the score: simulated over a day, base rates of 0.5 % and 5 %
//! trip nothing where the zones have even shares or 80/10/10.
//!
//! # Without peers
//!
//! A caller that sends everything to its own zone has nobody to compare it with. Then the bound is fixed: for failures the policy's
//! `breaker.absolute` (10 %), at least 5 of them; 50 % for slow answers, whose limit is then drawn from the zone's own past (see [`crate::latency`]).
//! Such a trip may be a mistake (the service may be broken everywhere), so the breaker checks afterwards whether it helped. And it
//! must still be so: the shortest window with 10 attempts must be bad as well, and something bad have come within 10 s.
//!
//! Others that had too few attempts in 10 s to be peers are no strangers: the bound is never below the rate that their last minute
//! makes plausible, by the same interval. At a request every few seconds that decides whether a broken service looks like a broken
//! zone. Where the others have no share of their own, what they get is what failed here and is tried again: then they count as soon as
//! one of those has failed as well.

mod assess;

pub use assess::{Missing, WindowAssessment, windows};

use crate::{
    detector::{
        Evidence,
        compare::{self, Odds, Stretch},
    },
    policy::{BreakerPolicy, Sensitivity},
    stats,
    window::{Counts, Profile, Span},
};

/// What makes an attempt bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Signal {
    /// It failed.
    Failures,
    /// It was slow.
    Slow,
    /// It could not connect.
    Connect,
}

/// How much evidence is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bar {
    /// Standard deviations that the peers' rate may be better than it looks.
    pub z: f64,
    /// Score, in nats.
    pub score: f64,
    /// Rate of failures that a zone without peers may have, 0 to 1.
    pub alone: f64,
}

/// Attempts that show how a zone is doing at present.
const PRESENT: u32 = 10;

/// Bad attempts that speak for a zone, with and without peers.
const LEAST_BAD: u32 = 3;
const LEAST_BAD_ALONE: u32 = 5;

/// Standard deviations that the rate of others too few to be peers may be worse than it looks, whatever the sensitivity.
const FEW_Z: f64 = 3.0;

/// Bad attempts of the peers, as a rate, that are no trouble; and how much must speak against there being no more, in nats.
const WELL: f64 = 0.05;
const DOUBT: f64 = 0.5;

/// Whether these 10 s of the other zones make them peers to compare with.
pub fn are_peers(ten: &Counts) -> bool {
    // Those that never answer are there too.
    ten.timed >= compare::PEERS
}

/// Judges a zone by all windows that reach back no further than `since_ms`, and all signals: the strongest evidence.
///
/// The limit on windows matters for a zone whose counts were wiped when it was taken back: its peers' were not, and a longer
/// window would hold the zone's present against its peers' past. `shifted` is by how much attempts have shifted between the zones of
/// the service ([`super::Drift::odds`]); none where the others have no share of their own.
pub fn strongest(
    zone: &Profile,
    peers: &Profile,
    since_ms: u64,
    bar: Bar,
    shifted: Option<f64>,
) -> Option<(Signal, Evidence)> {
    let compared = are_peers(&peers.of(Span::Ten));
    let mut best: Option<(Signal, Evidence)> = None;
    let now = present(zone, peers);
    let odds = Odds::new(parts(zone, peers), shifted.unwrap_or(1.0));
    let others = peers.of(Span::Sixty);
    for span in Span::ALL.into_iter().filter(|span| *span <= Span::Half || u64::from(span.ms()) <= since_ms) {
        let own = zone.of(span);
        if own.fail < LEAST_BAD && own.slow < LEAST_BAD {
            continue;
        }
        for signal in Signal::ALL {
            let found = match compared {
                true if now.is_some_and(|now| !worse_in(zone, peers, now, signal)) => None,
                true => beside_peers(zone, peers, span, signal, bar, odds),
                false => signal.bound_alone(bar).and_then(|fixed| {
                    let bound = signal.bound_remembered(fixed, &others, shifted.is_some());
                    alone(&own, signal, bound, bar).filter(|_| still(zone, signal, bound))
                }),
            };
            if let Some(evidence) = found
                && best.is_none_or(|(_, best)| evidence.score > best.score)
            {
                best = Some((signal, Evidence { window_ms: span.ms(), ..evidence }));
            }
        }
    }
    best
}

/// Attempts of the zone for each of its peers', in the last minute.
fn parts(zone: &Profile, peers: &Profile) -> f64 {
    let attempts = |past: &Profile| f64::from(past.of(Span::Sixty).attempts());
    attempts(zone) / attempts(peers).max(1.0)
}

/// The shortest window that holds enough of a zone and its peers to say how they are now.
fn present(zone: &Profile, peers: &Profile) -> Option<Span> {
    let attempts = |past: &Profile, span| Signal::Slow.of(&past.of(span)).1;
    Span::ALL.into_iter().find(|span| attempts(zone, *span) >= PRESENT && attempts(peers, *span) >= PRESENT)
}

/// Whether a zone looks worse than its peers in a window, be it by chance.
fn worse_in(zone: &Profile, peers: &Profile, span: Span, signal: Signal) -> bool {
    let rate = |past: &Profile| {
        let (k, n) = signal.of(&past.of(span));
        stats::rate(k, n)
    };
    rate(zone) > 0.0 && rate(peers) <= compare::GAIN * rate(zone)
}

/// The odds to reckon with in a window: others while the peers fare badly themselves, in whatever way, in the window or just before.
fn odds_in(peers: &Profile, span: Span, bar: Bar, odds: Odds) -> Odds {
    let ill = |span| {
        let counts = peers.of(span);
        [Signal::Failures, Signal::Slow].into_iter().any(|signal| {
            let (k, n) = signal.of(&counts);
            stats::score(k, n, WELL) > DOUBT
        })
    };
    if ill(span) || ill(Span::Ten) { odds.in_trouble(bar) } else { odds }
}

/// Judges a zone by one window against its peers.
fn beside_peers(
    zone: &Profile,
    peers: &Profile,
    span: Span,
    signal: Signal,
    bar: Bar,
    odds: Odds,
) -> Option<Evidence> {
    let (own, others) = (zone.of(span), peers.of(span));
    if signal.of(&own).0 < LEAST_BAD {
        return None;
    }
    let stretches = zone.strata(span).into_iter().zip(peers.strata(span)).map(|(zone, peers)| {
        let ((k, n), (peer_k, peer_n)) = (signal.of(&zone), signal.of(&peers));
        Stretch { n, k, peer_n, peer_k }
    });
    let past = signal.of(&peers.of(Span::Sixty).minus(others));
    let found = compare::worse(stretches, past, bar, odds_in(peers, span, bar, odds))?;
    Some(signal.evidence(&own, &others, found.bound, found.score, bar))
}

/// Judges a zone that has no peers by one window.
fn alone(own: &Counts, signal: Signal, bound: f64, bar: Bar) -> Option<Evidence> {
    let (k, n) = signal.of(own);
    let score = stats::score(k, n, bound);
    let speaks = k >= LEAST_BAD_ALONE && score >= bar.score;
    speaks.then(|| signal.evidence(own, &Counts::default(), bound, score, bar))
}

/// Whether a zone that has no peers is still bad.
fn still(zone: &Profile, signal: Signal, bound: f64) -> bool {
    let counts = |span| signal.of(&zone.of(span));
    let present = Span::ALL.into_iter().map(counts).find(|(_, n)| *n >= PRESENT);
    counts(Span::Ten).0 > 0 && present.is_none_or(|(k, n)| stats::rate(k, n) > bound)
}

/// Whether no window holds anything that could be evidence.
pub fn is_quiet(zone: &Profile) -> bool {
    Span::ALL.into_iter().map(|span| zone.of(span)).all(|own| own.fail < LEAST_BAD && own.slow < LEAST_BAD)
}

// === impl Signal ===

impl Signal {
    /// In the order in which they are named when several are equally strong.
    pub const ALL: [Self; 3] = [Self::Failures, Self::Connect, Self::Slow];

    /// Bad attempts, and all attempts of which that is known, in the sense of this signal.
    pub const fn of(self, counts: &Counts) -> (u32, u32) {
        match self {
            Self::Failures => (counts.fail, counts.n),
            Self::Connect => (counts.connect, counts.n),
            Self::Slow => (counts.slow, counts.timed),
        }
    }

    fn evidence(self, own: &Counts, peers: &Counts, bound: f64, score: f64, bar: Bar) -> Evidence {
        let ((k, n), (peer_k, peer_n)) = (self.of(own), self.of(peers));
        Evidence {
            window_ms: 0,
            n,
            k,
            peer_n,
            peer_k,
            bound: bound as f32,
            // An infinite score (the bound rules out what was seen) prints badly and travels no further than this.
            score: score.min(9_999.0) as f32,
            needed: bar.score as f32,
        }
    }

    /// The bound where there are no peers. Connect failures are failures, and need none of their own.
    const fn bound_alone(self, bar: Bar) -> Option<f64> {
        match self {
            Self::Failures => Some(bar.alone),
            Self::Slow => Some(0.5),
            Self::Connect => None,
        }
    }

    /// That bound, raised to what others make plausible that had too few attempts to be peers. `shared` says whether they have a
    /// share of their own.
    fn bound_remembered(self, fixed: f64, others: &Counts, shared: bool) -> f64 {
        match self.of(others) {
            (0, _) if !shared => fixed,
            // None is hardly less than one.
            (k, n) => compare::bound(k, n.max(1), FEW_Z).max(fixed),
        }
    }
}

// === impl Bar ===

impl From<&BreakerPolicy> for Bar {
    fn from(policy: &BreakerPolicy) -> Self {
        let (z, score) = match policy.sensitivity {
            Sensitivity::Fast => (2.0, 9.0),
            Sensitivity::Normal => (3.0, 9.0),
            Sensitivity::Safe => (3.0, 12.0),
        };
        Self { z, score, alone: policy.absolute.fraction() }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::window::Windows;

    const NORMAL: Bar = Bar { z: 3.0, score: 9.0, alone: 0.1 };

    fn failures(k: u32, n: u32) -> Counts {
        Counts { n, timed: n, fail: k, ..Counts::default() }
    }

    /// The past made of what was counted tick by tick, the oldest first.
    fn past(ticks: &[(u32, u32)]) -> Profile {
        let mut windows = Windows::default();
        for (i, (k, n)) in (0..).zip(ticks) {
            windows.advance(i * 100, i * 100 + 100);
            windows.add(failures(*k, *n));
        }
        windows.profile()
    }

    fn ticks(parts: &[((u32, u32), usize)]) -> Profile {
        past(&parts.iter().flat_map(|(tick, times)| vec![*tick; *times]).collect::<Vec<_>>())
    }

    fn judged(zone: &Profile, peers: &Profile) -> Option<(Signal, Evidence)> {
        strongest(zone, peers, u64::MAX, NORMAL, Some(1.0))
    }

    #[test]
    fn a_dead_zone_is_found_in_two_ticks_and_a_gray_one_in_ten() {
        let peers = ticks(&[((0, 13), 300)]);
        let (signal, evidence) = judged(&ticks(&[((0, 7), 298), ((7, 7), 2)]), &peers).unwrap();
        assert_eq!(
            (signal, evidence.window_ms, evidence.n, evidence.k, evidence.peer_n),
            (Signal::Failures, 200, 14, 14, 26)
        );
        assert_eq!(judged(&ticks(&[((0, 7), 299), ((7, 7), 1)]), &peers), None);
        let (_, evidence) = judged(&ticks(&[((0, 7), 290), ((2, 7), 10)]), &peers).unwrap();
        assert_eq!(evidence.window_ms, 2_000);
    }

    #[test]
    fn a_trouble_that_is_over_or_has_become_everybodys_is_no_reason() {
        let peers = ticks(&[((0, 13), 300)]);
        let ill = [((0, 7), 250), ((5, 7), 20)];
        assert!(judged(&ticks(&ill), &peers).is_some());
        assert_eq!(judged(&ticks(&[ill[0], ill[1], ((0, 7), 3)]), &ticks(&[((0, 13), 273)])), None);
        assert_eq!(
            judged(&ticks(&[ill[0], ill[1], ((5, 7), 3)]), &ticks(&[((0, 13), 270), ((10, 13), 3)])),
            None
        );
    }

    #[test]
    fn more_is_asked_while_the_others_fare_badly_too() {
        // A zone at 85 % in the last half second, beside others at 31 %: by itself beyond chance.
        let zone = ticks(&[((0, 13), 295), ((11, 13), 5)]);
        let found = |past: (u32, u32)| judged(&zone, &ticks(&[(past, 295), ((0, 13), 5)]));
        assert!(found((0, 13)).is_some(), "its peers are well");
        let ill = ticks(&[((0, 13), 295), ((4, 13), 5)]);
        assert_eq!(judged(&zone, &ill), None, "the service is in trouble");
        assert!(
            judged(&ticks(&[((0, 13), 295), ((13, 13), 5)]), &ill).is_some(),
            "a dead zone is one all the same"
        );
    }

    #[test]
    fn a_zone_taken_back_is_not_held_against_its_peers_past() {
        // Everything fails now; the peers' past is good, and the zone has none.
        let (zone, peers) = (ticks(&[((0, 0), 270), ((1, 1), 30)]), ticks(&[((0, 13), 270), ((13, 13), 30)]));
        assert_eq!(strongest(&zone, &peers, 3_000, NORMAL, Some(1.0)), None);
    }

    #[test]
    fn connect_failures_and_slow_answers_are_signals_of_their_own() {
        let well = || ticks(&[((0, 13), 300)]);
        let of = |counts: Counts| {
            let mut windows = Windows::default();
            (0..300).for_each(|i| {
                windows.advance(i * 100, i * 100 + 100);
                windows.add(if i < 290 { failures(0, 7) } else { counts });
            });
            judged(&windows.profile(), &well()).map(|(signal, _)| signal)
        };
        assert_eq!(of(Counts { slow: 6, ..failures(0, 7) }), Some(Signal::Slow));
        assert_eq!(
            of(Counts { slow: 7, timed: 7, ..Counts::default() }),
            Some(Signal::Slow),
            "never answered"
        );
        assert_eq!(
            of(Counts { connect: 6, ..failures(6, 7) }),
            Some(Signal::Failures),
            "they are failures too"
        );
    }

    #[test]
    fn without_peers_the_bound_is_generous() {
        let trips = |k, n| alone(&failures(k, n), Signal::Failures, NORMAL.alone, NORMAL).is_some();
        assert!(trips(5, 5));
        assert!(!trips(4, 4));
        assert!(!trips(15, 100));
        assert!(trips(30, 100));
    }

    #[test]
    fn without_peers_what_is_over_is_over() {
        let judged = |zone| strongest(&ticks(zone), &Profile::default(), u64::MAX, NORMAL, None);
        // Nine failures, and nothing for 40 s.
        assert!(judged(&[((0, 0), 200), ((1, 1), 9)]).is_some());
        assert_eq!(judged(&[((0, 0), 100), ((1, 1), 9), ((0, 0), 400)]), None);
        // Three seconds of failures, and well again.
        assert!(judged(&[((0, 7), 200), ((7, 7), 30)]).is_some());
        assert_eq!(judged(&[((0, 7), 200), ((7, 7), 30), ((0, 7), 2)]), None);
    }

    #[test]
    fn a_few_others_are_heard_as_well() {
        // One request in 2 s, in a minute in which everything failed; of the three that others had between them, k did.
        let zone = past(&[(0, 0)].repeat(19).into_iter().chain([(1, 1)]).collect::<Vec<_>>().repeat(15));
        let left = |others: Option<u32>, shared: bool| {
            let others =
                others.map_or(Profile::default(), |k| ticks(&[((0, 0), 240), ((k, 3), 1), ((0, 0), 59)]));
            strongest(&zone, &others, u64::MAX, NORMAL, shared.then_some(1.0)).is_some()
        };
        assert!(left(None, false), "nobody else");
        assert!(left(Some(0), false), "three were tried again, with success");
        assert!(!left(Some(3), false), "in vain");
        assert!(!left(Some(3), true), "the others fail too");
        assert!(!left(Some(0), true) && !left(None, true), "three that went well are no proof, nor are none");
        // A minute of failures at 80/10/10, at 0.6 requests a second and at half of that, while the others are well.
        let sparse = |k: u32, every: usize| {
            let one = [(0, 0)].repeat(every - 1).into_iter().chain([(k, 1)]).collect::<Vec<_>>();
            past(&one.repeat(600 / every))
        };
        let dead = |every| strongest(&sparse(1, every), &sparse(0, every * 4), u64::MAX, NORMAL, Some(1.0));
        assert!(dead(20).is_some() && dead(40).is_none());
        let busy = ticks(&[((1, 1), 300)]);
        assert!(strongest(&busy, &Profile::default(), u64::MAX, NORMAL, Some(1.0)).is_some());
    }

    #[test]
    fn the_evidence_reads_well() {
        let peers = ticks(&[((0, 13), 300)]);
        let (_, evidence) = judged(&ticks(&[((0, 7), 298), ((7, 7), 2)]), &peers).unwrap();
        assert_eq!(
            evidence.to_string(),
            "14 of 14 bad in 200ms, peers 0 of 26, bound 10.3 %, score 31.8 of 9"
        );
    }
}
