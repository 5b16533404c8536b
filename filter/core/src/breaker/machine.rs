//! The state machine of a service's breaker: from a state and what was seen to the next move. Pure: it looks, and proposes at
//! most one [`Move`] at a time; it changes nothing, holds no clock and knows no worker.
//!
//! ```text
//!             evidence                   time is up                 trials good
//!   CLOSED ---------------> OPEN ------------------> HALF_OPEN ----------------> RAMP
//!     ^  ^                  |  ^                         |                       |  |
//!     |  |   did not help   |  |      trials failed      |       evidence        |  |
//!     |  +------------------+  +-------------------------+<----------------------+  |
//!     +-----------------------------------------------------------------------------+
//!                                   full share again
//! ```
//!
//! # What moves it, and why the constants are what they are
//!
//! **CLOSED to OPEN**: the detector says so ([`crate::detector`]), and the guard rails let it:
//!
//! - one zone at a time is away by the breaker's own doing, or as many as the policy says; one that is half-open or ramping
//!   counts. Two zones that look bad at once are mostly a failure of the service, or will look different once the first is gone;
//! - another zone is left that has endpoints and that the operator does not drain, not even in part: the breaker never loads
//!   what an operator unloads, and never opens the last zone;
//! - zones that the operator drains wholly or holds in use are not the breaker's business.
//!
//! **OPEN to CLOSED** (`no_gain`): 2 s after the move the others' bad share is compared with the zone's before. If it did not
//! fall by a fifth, the move was a mistake: it is undone, and the zone held closed for 60 s. 2 s is the shortest window that
//! holds nothing from before the move; after 10 s what goes wrong elsewhere is news, and no effect of the move.
//!
//! **OPEN to HALF_OPEN**: after 5 s (`consecutive`: 30 s), doubled at each reopening up to 60 s, as any backoff must, with 10 %
//! jitter so that the proxies of a fleet do not knock all at once. The jitter is a hash of service, zone, epoch and a seed in
//! the shared state, so that any worker computes the same. A zone that stayed closed for 60 s starts again from the bottom.
//!
//! **HALF_OPEN**, `peers`: 20 trial requests, of which one may be bad, or as many as the peers' own rate explains (a service
//! that always fails 10 % must be able to come back). The trials are judged as they come in: a bad one among the first two
//! of a service that hardly ever fails is answer enough, so that a knock at a dead zone costs one request. `consecutive`: 100, and one failure reopens, as in gobreaker. Where
//! requests are few nobody waits for the whole number: after 10 s a quarter of them will do if none was bad, after 30 s
//! whatever there is.
//!
//! **RAMP**: from 5 % to 100 % over the policy's time, log-linear: the share doubles in equal times, so that the zone's caches and
//! pools warm up under small load and a mistake is found while it is small. The detector judges it on windows wiped at the
//! start. The end of the ramp closes it.
//!
//! Any state but CLOSED falls back to CLOSED when the other zones go away (`last_zone`), when the operator drains or holds the
//! zone (`operator`), or when the policy turns the breaker off (`turned_off`).

mod assess;

pub use assess::{Guard, ZoneAssessment, assess};

use crate::{
    breaker::{Cause, ServiceState, State, Tuning, ZoneState},
    detector::{Bar, Evidence, Signal, compare, rates},
    mix,
    policy::{DetectorKind, Enforcement},
    stats,
    window::{Counts, Profile, Span},
};

/// What the machine sees of one zone.
#[derive(Debug, Clone, Copy)]
pub struct Sight {
    /// Its recent past.
    pub past: Profile,
    /// How far back that past goes, in ms.
    pub past_ms: u64,
    /// How far attempts have shifted between the service's zones ([`crate::detector::Drift::odds`]); none where the others have no
    /// share of their own.
    pub shifted: Option<f64>,
    /// What was counted since its state began.
    pub since: Counts,
    /// What the operator does with it.
    pub shift: Shifted,
    /// Whether it has endpoints.
    pub has_endpoints: bool,
    /// Evidence of a run of failures (detector `consecutive`).
    pub run: Option<Evidence>,
}

/// What an operator's shift does to a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shifted {
    /// There is none.
    #[default]
    No,
    /// Drained in part.
    Part,
    /// Drained wholly.
    Whole,
    /// Held in use: it keeps 100 %.
    Held,
}

/// What is to change.
#[derive(Debug, Clone, PartialEq)]
pub struct Move {
    /// Index of the zone.
    pub zone: usize,
    /// Its next state.
    pub to: State,
    /// Why.
    pub cause: Cause,
    /// On what evidence.
    pub evidence: Option<Evidence>,
    /// For a move to `Open`: the zone's bad share just before, in permille.
    pub before: u16,
}

/// What the service and its zone are called, as far as jitter needs to know.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    /// The service.
    pub service: &'a str,
    /// The zone.
    pub zone: &'a str,
}

/// When a move is checked for its effect: from and to, in ms after it.
const CHECK_MS: (u64, u64) = (2_000, 10_000);
/// Attempts of the others that the check needs.
const CHECK_LEAST: u32 = 10;
/// A bad share of the others below this is good in any case.
const GOOD_SHARE: f64 = 0.05;
/// How long a zone is held closed after a move that did not help, in ms.
const HOLD_MS: u64 = 60_000;
/// The longest time in the open state, unless the policy's first one is longer, in ms.
const LONGEST_OPEN_MS: u64 = 60_000;
/// Closed this long, a zone is no longer a relapse when it opens, in ms.
const SETTLED_MS: u64 = 60_000;
/// Half-open this long, a quarter of the trials will do; and this long, any number, in ms.
const SOON_MS: u64 = 10_000;
const LATE_MS: u64 = 30_000;
/// Score at which trial requests are bad beyond what the peers explain, in nats: it takes less than a trip, since the cost of
/// waiting once more is small.
const TRIAL_SCORE: f64 = 2.0;
/// The same for a single bad one: it takes one of the first two, at a service that hardly ever fails.
const FIRST_TRIAL_SCORE: f64 = 3.0;
/// Rate of failures that trial requests are held against when nothing else runs: two of twenty are more than that.
const TRIAL_BOUND: f64 = 0.01;
/// Natural logarithm of the share with which a ramp begins, 0.05: a general power costs the module 2 KB.
const RAMP_START_LN: f64 = -2.995_732_273_553_991;
/// A clock that jumped back by more than this, in ms, makes every timer run out rather than hang.
const CLOCK_SLACK_MS: u64 = 1_000;

/// The next move, if there is one.
pub fn step(state: &ServiceState, tuning: &Tuning, sights: &[Sight], now: u64) -> Option<Move> {
    let zones = state.zones.iter().zip(sights).enumerate();
    let away = zones.filter(|(_, (zone, _))| zone.state != State::Closed);
    let moved = away
        .clone()
        .find_map(|(i, (zone, sight))| Look { state, tuning, sights, now, zone: i }.away(zone, sight));
    moved.or_else(|| if away.count() < tuning.max_open { trip(state, tuning, sights, now) } else { None })
}

/// The strongest case for leaving a closed zone.
fn trip(state: &ServiceState, tuning: &Tuning, sights: &[Sight], now: u64) -> Option<Move> {
    if tuning.enforcement == Enforcement::Disabled {
        return None;
    }
    let score = |found: &Move| found.evidence.map_or(0.0, |evidence| evidence.score);
    let mut best: Option<Move> = None;
    for (zone, (known, sight)) in state.zones.iter().zip(sights).enumerate() {
        let look = Look { state, tuning, sights, now, zone };
        let held = known.is_held(now);
        let ours = matches!(sight.shift, Shifted::No | Shifted::Part);
        if known.state == State::Closed
            && ours
            && !held
            && look.others_remain()
            && let Some(found) = look.found(sight)
            && best.as_ref().is_none_or(|best| score(&found) > score(best))
        {
            best = Some(found);
        }
    }
    best
}

/// One zone among the others, at one time.
pub(super) struct Look<'a> {
    pub state: &'a ServiceState,
    pub tuning: &'a Tuning,
    pub sights: &'a [Sight],
    pub now: u64,
    pub zone: usize,
}

// === impl Look ===

impl Look<'_> {
    /// What becomes of a zone that is not closed.
    fn away(&self, zone: &ZoneState, sight: &Sight) -> Option<Move> {
        if self.tuning.enforcement == Enforcement::Disabled {
            return self.close(Cause::TurnedOff, None);
        }
        if matches!(sight.shift, Shifted::Whole | Shifted::Held) {
            return self.close(Cause::Operator, None);
        }
        if !self.others_remain() {
            return self.close(Cause::LastZone, None);
        }
        match zone.state {
            State::Open => self.open(zone),
            State::HalfOpen => self.half_open(zone, sight),
            State::Ramp => match self.found(sight) {
                Some(relapse) => Some(relapse),
                None if passed(self.now, zone.since, self.tuning.ramp_ms) => self.close(Cause::Ramped, None),
                None => None,
            },
            _ => None,
        }
    }

    fn open(&self, zone: &ZoneState) -> Option<Move> {
        if passed(self.now, zone.since, zone.until.saturating_sub(zone.since)) {
            return Some(self.to(State::HalfOpen, Cause::Elapsed, None));
        }
        if !self.tuning.acts() || !zone.awaits_check(self.now) || !passed(self.now, zone.since, CHECK_MS.0) {
            return None;
        }
        let signal = if zone.cause == Cause::Slow { Signal::Slow } else { Signal::Failures };
        let (k, n) = signal.of(&self.peers_sum(Span::Two));
        let share = f64::from(k) / f64::from(n.max(1));
        let before = f64::from(zone.before) / 1000.0;
        let no_gain = n >= CHECK_LEAST && share >= GOOD_SHARE && share >= compare::GAIN * before;
        let evidence = Evidence {
            window_ms: Span::Two.ms(),
            n: zone.evidence.as_ref().map_or(0, |e| e.n),
            k: zone.evidence.as_ref().map_or(0, |e| e.k),
            peer_n: n,
            peer_k: k,
            ..Evidence::default()
        };
        if no_gain { self.close(Cause::NoGain, Some(evidence)) } else { None }
    }

    fn half_open(&self, zone: &ZoneState, sight: &Sight) -> Option<Move> {
        let (trials, needed) = (sight.since, self.tuning.trials);
        let aged = |ms| passed(self.now, zone.since, ms);
        let ten = self.peers_sum(Span::Ten);
        let evidence = |k| Evidence {
            window_ms: u32::try_from(self.now.saturating_sub(zone.since)).unwrap_or(u32::MAX),
            n: trials.n.max(k),
            k,
            peer_n: ten.n,
            peer_k: ten.fail,
            ..Evidence::default()
        };
        let reopen = |k| Some(self.to(State::Open, Cause::TrialsFailed, Some(evidence(k))));
        let ramp = |k| Some(self.to(State::Ramp, Cause::TrialsPassed, Some(evidence(k))));
        let bad = match self.tuning.detector {
            DetectorKind::Consecutive if trials.fail > 0 => return reopen(trials.fail),
            DetectorKind::Consecutive => 0,
            DetectorKind::Peers => {
                let signals = [Signal::Failures, Signal::Slow].into_iter();
                let (k, score) = signals
                    .map(|signal| self.trial_score(&trials, &ten, signal))
                    .fold((0, 0.0), |best, found| if found.1 > best.1 { found } else { best });
                let needed =
                    if k == 1 { FIRST_TRIAL_SCORE } else { TRIAL_SCORE.min(f64::from(k) * 2.0_f64.ln()) };
                if k > 0 && score >= needed {
                    return reopen(k);
                }
                k
            }
        };
        let enough = trials.n >= needed
            || (aged(SOON_MS) && bad == 0 && trials.n >= needed.div_ceil(4))
            || (aged(LATE_MS) && bad == 0 && trials.n >= 1);
        match enough {
            true => ramp(bad),
            // One bad among few, and no more to be had: the doubt goes against the zone.
            false if aged(LATE_MS) && bad > 0 => reopen(bad),
            false => None,
        }
    }

    /// The bad ones among the trials, and how much more they are than the peers' own rate explains, in nats.
    fn trial_score(&self, trials: &Counts, ten: &Counts, signal: Signal) -> (u32, f64) {
        let ((k, n), z) = (signal.of(trials), self.tuning.bar.z);
        let (k2, n2) = signal.of(ten);
        // All of them bad is bad, however high the bound that few peers make.
        let bound = match (rates::are_peers(ten), signal) {
            (true, _) => compare::bound(k2, n2, z).min(0.5),
            (false, Signal::Slow) => 0.5,
            (false, _) => TRIAL_BOUND,
        };
        (k, stats::score(k, n, bound))
    }

    /// Evidence against the zone, as a move to the open state.
    fn found(&self, sight: &Sight) -> Option<Move> {
        let (cause, evidence) = match self.tuning.detector {
            DetectorKind::Consecutive => (Cause::Consecutive, sight.run?),
            DetectorKind::Peers => {
                let (signal, evidence) = self.strongest(sight, self.tuning.bar)?;
                (signal.cause(), evidence)
            }
        };
        let signal = if cause == Cause::Slow { Signal::Slow } else { Signal::Failures };
        let before = bad_share(&sight.past, signal).unwrap_or(1.0);
        let before = (before * 1000.0) as u16;
        Some(Move { before, ..self.to(State::Open, cause, Some(evidence)) })
    }

    pub(super) fn strongest(&self, sight: &Sight, bar: Bar) -> Option<(Signal, Evidence)> {
        // Most of the time nothing is bad enough for any window: then no peers need to be summed.
        if rates::is_quiet(&sight.past) {
            return None;
        }
        let past_ms = self.peers().map(|peer| peer.past_ms).fold(sight.past_ms, u64::min);
        let peers = self.peers().map(|peer| peer.past).sum();
        rates::strongest(&sight.past, &peers, past_ms, bar, sight.shifted)
    }

    /// The zones to compare with: the others that are closed and not drained wholly.
    fn peers(&self) -> impl Iterator<Item = &Sight> + Clone {
        let zones = self.state.zones.iter().zip(self.sights).enumerate();
        zones
            .filter(|(i, (zone, sight))| {
                *i != self.zone && zone.state == State::Closed && sight.shift != Shifted::Whole
            })
            .map(|(_, (_, sight))| sight)
    }

    fn peers_sum(&self, span: Span) -> Counts {
        self.peers().map(|peer| peer.past.of(span)).sum()
    }

    /// Whether another zone can take the load: with endpoints, closed, and left alone by the operator.
    pub(super) fn others_remain(&self) -> bool {
        self.state.zones.iter().zip(self.sights).enumerate().any(|(i, (zone, sight))| {
            i != self.zone
                && zone.state == State::Closed
                && sight.has_endpoints
                && matches!(sight.shift, Shifted::No | Shifted::Held)
        })
    }

    fn to(&self, to: State, cause: Cause, evidence: Option<Evidence>) -> Move {
        Move { zone: self.zone, to, cause, evidence, before: 0 }
    }

    fn close(&self, cause: Cause, evidence: Option<Evidence>) -> Option<Move> {
        Some(self.to(State::Closed, cause, evidence))
    }
}

// === impl ServiceState ===

impl ServiceState {
    /// The state after a move at `now`.
    #[must_use]
    pub fn after(&self, mv: &Move, tuning: &Tuning, names: Names<'_>, now: u64) -> Self {
        let mut next = self.clone();
        next.epoch = self.epoch.saturating_add(1);
        if next.seed == 0 {
            // All workers begin with the same state, so the first move brings the seed.
            next.seed = mix::mix(now) | 1;
        }
        if let Some(zone) = next.zones.get_mut(mv.zone) {
            let relapse = match zone.state {
                State::Closed => zone.reopens > 0 && !passed(now, zone.since, SETTLED_MS),
                _ => true,
            };
            let (until, reopens) = match (mv.to, mv.cause) {
                (State::Open, _) => {
                    // From the first relapse on, each doubles; `reopens` counts openings since the zone was last settled.
                    let reopens = if relapse { zone.reopens.saturating_add(1) } else { 1 };
                    let open = open_ms(tuning, reopens, jitter(next.seed, names, next.epoch));
                    (now.saturating_add(open), reopens)
                }
                (State::Closed, Cause::NoGain) => (now.saturating_add(HOLD_MS), zone.reopens),
                _ => (0, zone.reopens),
            };
            *zone = ZoneState {
                state: mv.to,
                since: now,
                until,
                reopens,
                epoch: next.epoch,
                before: mv.before,
                cause: mv.cause,
                evidence: mv.evidence.map(Box::new),
            };
        }
        next
    }
}

// === impl ZoneState ===

impl ZoneState {
    /// What the zone keeps of its usual share by the breaker's word, 0 to 1.
    pub fn keep(&self, tuning: &Tuning, now: u64) -> f64 {
        match self.state {
            _ if !tuning.acts() => 1.0,
            State::Open | State::HalfOpen => 0.0,
            State::Ramp if passed(now, self.since, tuning.ramp_ms) => 1.0,
            State::Ramp => {
                let part = now.saturating_sub(self.since) as f64 / tuning.ramp_ms.max(1) as f64;
                (RAMP_START_LN * (1.0 - part)).exp()
            }
            _ => 1.0,
        }
    }

    /// Whether it is held closed after a move that did not help.
    pub(super) fn is_held(&self, now: u64) -> bool {
        self.state == State::Closed
            && self.until > 0
            && !passed(now, self.since, self.until.saturating_sub(self.since))
    }

    /// Whether it was left on evidence so recently that it is still to be seen whether that helped.
    pub(crate) fn awaits_check(&self, now: u64) -> bool {
        let moved = matches!(self.cause, Cause::Failures | Cause::Slow | Cause::Connect | Cause::Consecutive);
        self.state == State::Open && moved && !passed(now, self.since, CHECK_MS.1)
    }
}

// === impl Signal ===

impl Signal {
    const fn cause(self) -> Cause {
        match self {
            Self::Failures => Cause::Failures,
            Self::Slow => Cause::Slow,
            Self::Connect => Cause::Connect,
        }
    }
}

/// The bad share of the shortest window that holds enough to tell.
fn bad_share(past: &Profile, signal: Signal) -> Option<f64> {
    let shares = Span::ALL.into_iter().map(|span| signal.of(&past.of(span)));
    shares.into_iter().find(|(_, n)| *n >= 5).map(|(k, n)| f64::from(k.min(n)) / f64::from(n))
}

/// Time in the open state at the `reopens`-th opening, with `jitter` from 0 to 1.
fn open_ms(tuning: &Tuning, reopens: u8, jitter: f64) -> u64 {
    let doublings = u32::from(reopens.saturating_sub(1)).min(16);
    let longest = LONGEST_OPEN_MS.max(tuning.open_ms);
    let plain = tuning.open_ms.saturating_mul(1_u64.wrapping_shl(doublings)).min(longest);
    (plain as f64 * (0.9 + 0.2 * jitter)) as u64
}

fn jitter(seed: u64, names: Names<'_>, epoch: u64) -> f64 {
    let hash = mix::fnv1a(mix::FNV_START, names.service.as_bytes());
    let hash = mix::fnv1a(hash ^ 0xff, names.zone.as_bytes());
    mix::fraction(mix::mix(mix::mix(hash ^ seed).wrapping_add(epoch)))
}

/// Whether `ms` have gone by since `since`; true as well when the clock was set back behind it.
pub(crate) fn passed(now: u64, since: u64, ms: u64) -> bool {
    now.saturating_sub(since) >= ms || now.saturating_add(CLOCK_SLACK_MS) < since
}

#[cfg(test)]
mod tests;
