//! The counters of one service through the real engine of the filter, and what it saw. Pure: a series in, an explanation out.
//!
//! # Time
//!
//! The filter reads its counters every 100 ms, and so does the replay: between two samples that are further apart it takes the
//! counters to have grown evenly, tick by tick. So a sample that is missing costs precision and nothing else; what is known of
//! every 15 s says nothing about windows below that, and the explanation says so.
//!
//! Counters that fell mean that Envoy was started again, and what its filter had learned was gone: so it is here.
//!
//! # In step with the filter
//!
//! Which requests reach a zone depends on what the filter decided, so a replay that decides otherwise soon explains a traffic
//! that never was. Where the recording tells the filter's states, the replay keeps step with them:
//!
//! - a zone is tried again when the filter tried it: how long it stays open is jittered by a seed that counters do not tell;
//! - whatever else the replay decides from the counters is set beside the filter's own move ([`super::follow`]);
//! - when the two have not agreed for a second, the replay takes the filter's state, and says that it does not see why.
//!
//! With another policy than the filter had (a "what if") nothing is followed; then all after the first move is guesswork, and
//! the explanation says so.

use jiff::Timestamp;
use zonebreak_core::{
    breaker::{Cause, ServiceState, State, Transition, ZoneAssessment, ZoneState, encode},
    config::{CONFIG_VERSION, FilterConfig, Role, ServiceConfig},
    detector::{Signal, WindowAssessment},
    engine::{Engine, Now, ServiceId},
    names::Zone,
    policy::DetectorKind,
    window::Totals,
};

use super::{
    follow::{self, Changes},
    model::{
        Agreement, EvidenceRow, Explanation, Moment, MomentZone, Nearest, PolicyRow, PolicySource,
        TransitionRow, WindowRow, ZoneRow,
    },
    recording::{Reading, Series},
    words,
};

/// How the filter reads its counters, in ms.
const TICK_MS: u64 = 100;

/// Samples further apart than this leave the shortest windows unknown, in ms.
const COARSE_MS: u64 = 500;

/// A hole in a recording that is no hole but two recordings, in ms.
const LONGEST_HOLE_MS: u64 = 24 * 3_600_000;

/// How long the filter and the replay may disagree, in ms.
const PATIENCE_MS: u64 = 1_000;

/// What to replay with.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Zones and policy.
    pub config: ServiceConfig,
    /// Where the policy comes from.
    pub source: PolicySource,
    /// The proxy's own zone.
    pub own_zone: Option<Zone>,
    /// Whether to keep step with the filter's states, where they are recorded.
    pub follow: bool,
    /// Moments to look at, in Unix ms.
    pub moments: Vec<u64>,
}

/// Why there is nothing to explain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// The detector goes by what counters do not hold.
    #[error(
        "the detector `consecutive` goes by the order of results in each worker, which counters do not hold"
    )]
    Consecutive,
    /// A moment outside the recording.
    #[error("{at} is not in the recording, which goes from {from} to {to}")]
    Outside {
        /// The moment.
        at: Timestamp,
        /// First sample.
        from: Timestamp,
        /// Last sample.
        to: Timestamp,
    },
    /// A time that is none.
    #[error("a sample at {at} ms after 1970, which is no time")]
    Time {
        /// In Unix ms.
        at: u64,
    },
    /// Two samples that cannot belong together.
    #[error("nothing was recorded from {from} to {to}: cut the recording there")]
    Hole {
        /// The sample before.
        from: Timestamp,
        /// The sample after.
        to: Timestamp,
    },
}

/// Replays a series.
///
/// # Errors
/// When the detector cannot be replayed, or times make no sense.
pub fn replay(series: &Series, setup: Setup, notes: Vec<String>) -> Result<Explanation, ReplayError> {
    if setup.config.policy.breaker.detector == DetectorKind::Consecutive {
        return Err(ReplayError::Consecutive);
    }
    let mut replay = Replay::new(series, setup, notes)?;
    replay.run()?;
    Ok(replay.explain())
}

/// A replay under way.
struct Replay<'a> {
    series: &'a Series,
    setup: Setup,
    engine: Engine,
    service: ServiceId,
    changes: Changes,
    begin: u64,
    end: u64,
    /// What each zone has counted since the engine began.
    totals: Vec<Totals>,
    /// Whether each zone's state in the filter has been told before.
    known: Vec<bool>,
    /// Since when the filter and the replay disagree about each zone.
    apart: Vec<Option<u64>>,
    notes: Vec<String>,
    transitions: Vec<(u64, Told)>,
    moments: Vec<(u64, Vec<ZoneAssessment>)>,
    nearest: Vec<Option<Near>>,
    sums: Vec<Totals>,
}

/// A transition, and whether the replay made it by itself.
struct Told {
    transition: Transition,
    seen: bool,
    filter_at: Option<u64>,
}

/// When a zone was nearest to being left.
#[derive(Clone)]
struct Near {
    at: u64,
    window: WindowAssessment,
    guard: Option<String>,
}

fn timestamp(ms: u64) -> Result<Timestamp, ReplayError> {
    i64::try_from(ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .ok_or(ReplayError::Time { at: ms })
}

/// For times that have been checked.
fn shown(ms: u64) -> Timestamp {
    timestamp(ms).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// An engine that knows one service and nothing of its past.
fn engine(series: &Series, config: ServiceConfig, own_zone: Option<&Zone>) -> Engine {
    let mut engine = Engine::default();
    configure(&mut engine, series, config, own_zone);
    engine
}

fn configure(engine: &mut Engine, series: &Series, config: ServiceConfig, own_zone: Option<&Zone>) {
    let config = FilterConfig {
        version: CONFIG_VERSION,
        role: Role::Downstream,
        zone: own_zone.cloned(),
        services: [(series.service.clone(), config)].into(),
        debug_header: false,
    };
    engine.configure(&config, own_zone, Now(0));
}

// === impl Replay ===

impl<'a> Replay<'a> {
    fn new(series: &'a Series, setup: Setup, notes: Vec<String>) -> Result<Self, ReplayError> {
        let ends = [series.points.first(), series.points.last()].map(|point| point.map_or(0, |(at, _)| *at));
        let [from, to] = [timestamp(ends[0])?, timestamp(ends[1])?];
        for at in &setup.moments {
            if !(ends[0]..=ends[1]).contains(at) {
                return Err(ReplayError::Outside { at: timestamp(*at)?, from, to });
            }
        }
        let engine = engine(series, setup.config.clone(), setup.own_zone.as_ref());
        let service = engine.services().next().ok_or(ReplayError::Time { at: 0 })?;
        let zones = series.zones.len();
        let follow = setup.follow;
        Ok(Self {
            changes: if follow { Changes::of(series) } else { Changes::default() },
            series,
            setup,
            engine,
            service,
            begin: ends[0],
            end: ends[1],
            totals: vec![Totals::default(); zones],
            known: vec![false; zones],
            apart: vec![None; zones],
            notes,
            transitions: Vec::new(),
            moments: Vec::new(),
            nearest: vec![None; zones],
            sums: vec![Totals::default(); zones],
        })
    }

    fn run(&mut self) -> Result<(), ReplayError> {
        let mut coarse = 0;
        let mut pairs = self.series.points.iter();
        let Some((mut before, mut last)) = pairs.next().map(|(at, readings)| (*at, readings)) else {
            return Ok(());
        };
        self.drain(last);
        self.tick(before, last);
        for (at, readings) in pairs {
            let hole = at.saturating_sub(before);
            if hole > LONGEST_HOLE_MS {
                return Err(ReplayError::Hole { from: timestamp(before)?, to: timestamp(*at)? });
            }
            if *at <= before {
                self.notes.push(format!("the clock was set back at {}", shown(before)));
            }
            coarse = coarse.max(hole);
            if last.iter().zip(readings).any(|(last, now)| fell(last.as_ref(), now.as_ref())) {
                self.restart(before, *at);
            }
            self.drain(readings);
            let steps = (hole + TICK_MS / 2).checked_div(TICK_MS).unwrap_or_default().max(1);
            let start = self.totals.clone();
            let grown: Vec<Totals> =
                last.iter().zip(readings).map(|(last, now)| grown(last.as_ref(), now.as_ref())).collect();
            for (sum, grown) in self.sums.iter_mut().zip(&grown) {
                *sum = plus(sum, grown, 1, 1);
            }
            for step in 1..=steps {
                for ((total, start), grown) in self.totals.iter_mut().zip(&start).zip(&grown) {
                    *total = plus(start, grown, step, steps);
                }
                // Between two samples nobody knows what the filter did.
                let told: &[Option<Reading>] = if step == steps { readings } else { &[] };
                self.tick(before + hole * step / steps, told);
            }
            (before, last) = (*at, readings);
        }
        if coarse > COARSE_MS {
            self.notes.push(format!(
                "samples are up to {} apart: between them the counters are taken to grow evenly, so shorter windows tell little",
                words::span(coarse)
            ));
        }
        Ok(())
    }

    /// Envoy began anew, and so does the engine.
    fn restart(&mut self, before: u64, at: u64) {
        self.notes.push(format!(
            "the counters began anew at {}: Envoy was started again, and its filter knew nothing",
            shown(at)
        ));
        self.engine = engine(self.series, self.setup.config.clone(), self.setup.own_zone.as_ref());
        self.totals.fill(Totals::default());
        self.apart.fill(None);
        // The first reading tells nothing, so it must be one of nothing.
        self.engine.tick(self.service, Now(before), &self.totals);
    }

    /// Takes over the drains that the gauges tell of.
    fn drain(&mut self, readings: &[Option<Reading>]) {
        if readings.iter().all(|reading| follow::state(reading.as_ref()).is_none()) {
            return;
        }
        let shifts = follow::shifts(&self.series.zones, readings);
        if shifts != self.setup.config.shifts {
            self.setup.config.shifts = shifts;
            configure(&mut self.engine, self.series, self.setup.config.clone(), self.setup.own_zone.as_ref());
        }
    }

    /// One tick at `at`, with what the gauges say then.
    fn tick(&mut self, at: u64, readings: &[Option<Reading>]) {
        let now = Now(at);
        let proposal = self.engine.tick(self.service, now, &self.totals);
        self.look(at);
        if let Some(proposal) = proposal {
            let waits = self.setup.follow
                && proposal.transitions.iter().any(|one| {
                    one.cause == Cause::Elapsed
                        && self.recorded(&one.zone, readings).is_some_and(|state| state == State::Open)
                });
            if !waits {
                self.adopt(&proposal.state, at, true);
            }
        }
        if self.setup.follow {
            self.keep_step(at, readings);
        }
    }

    fn recorded(&self, zone: &Zone, readings: &[Option<Reading>]) -> Option<State> {
        let zone = self.series.zones.iter().position(|have| have == zone)?;
        follow::own_state(readings.get(zone)?.as_ref())
    }

    fn adopt(&mut self, state: &[u8], at: u64, seen: bool) {
        // It was encoded a moment ago, so it can be read.
        for transition in self.engine.adopt(self.service, state, Now(at)).unwrap_or_default() {
            self.transitions.push((at, Told { transition, seen, filter_at: None }));
        }
    }

    /// Takes the filter's state of zones about which it and the replay have not agreed for a while.
    fn keep_step(&mut self, at: u64, readings: &[Option<Reading>]) {
        for zone in 0..self.series.zones.len() {
            let Some(theirs) = follow::own_state(readings.get(zone).and_then(Option::as_ref)) else {
                continue;
            };
            // A recording may begin when a zone is away.
            let first = !std::mem::replace(&mut self.known[zone], true);
            let bytes = self.engine.encoded(self.service);
            let Ok(ours) = encode::decode(&bytes) else { continue };
            let name = &self.series.zones[zone];
            let mine = ours.zones.iter().find(|(known, _)| *known == name.as_str());
            let mine = mine.map_or_else(ZoneState::default, |(_, state)| state.clone());
            if mine.state == theirs {
                self.apart[zone] = None;
                continue;
            }
            let tried = mine.state == State::Open && theirs == State::HalfOpen;
            let since = *self.apart[zone].get_or_insert(at);
            if !tried && !first && at.saturating_sub(since) < PATIENCE_MS {
                continue;
            }
            self.apart[zone] = None;
            let mut next = ServiceState { epoch: ours.epoch + 1, seed: ours.seed, zones: Vec::new() };
            for (i, name) in self.series.zones.iter().enumerate() {
                let known = ours.zones.iter().find(|(known, _)| *known == name.as_str());
                let known = known.map_or_else(ZoneState::default, |(_, state)| state.clone());
                next.zones.push(if i == zone {
                    let cause = if tried { Cause::Elapsed } else { mine.cause };
                    // When it is tried again is the filter's word.
                    let until = if theirs == State::Open { at } else { 0 };
                    ZoneState {
                        state: theirs,
                        since: at,
                        until,
                        epoch: next.epoch,
                        cause,
                        evidence: None,
                        ..mine.clone()
                    }
                } else {
                    known
                });
            }
            let state = encode::encode(&next, &self.series.zones);
            if first {
                self.notes.push(format!("{name} is {theirs} as the recording begins: why is not in it"));
                // Nothing was seen to change.
                let _ = self.engine.adopt(self.service, &state, Now(at));
            } else {
                self.adopt(&state, at, tried);
            }
        }
    }

    /// Notes how near each zone is to being left.
    fn look(&mut self, at: u64) {
        let all = self.engine.assess(self.service, Now(at));
        for (near, zone) in self.nearest.iter_mut().zip(&all) {
            let Some(window) = zone.nearest() else { continue };
            let rank = |one: &WindowAssessment| (one.missing.is_none(), one.evidence.score, one.evidence.k);
            if near.as_ref().is_none_or(|near| rank(window) > rank(&near.window)) {
                let guard = zone.guard.map(|guard| words::guard(guard, &self.series.zones));
                *near = Some(Near { at, window: *window, guard });
            }
        }
        // Those asked for since the last tick.
        let from = self.moments.len();
        for wanted in self.setup.moments.get(from..).unwrap_or_default() {
            if *wanted > at && at < self.end {
                break;
            }
            self.moments.push((at, all.clone()));
        }
    }

    fn explain(mut self) -> Explanation {
        for (at, told) in &mut self.transitions {
            let zone =
                self.series.zones.iter().position(|zone| *zone == told.transition.zone).unwrap_or_default();
            told.filter_at = self.changes.find(*at, zone, told.transition.to);
        }
        let explained =
            self.transitions.iter().filter(|(_, told)| told.seen && told.filter_at.is_some()).count();
        let recorded =
            self.series.points.iter().flat_map(|(_, zones)| zones).flatten().any(|one| one.state.is_some());
        let filter = (self.setup.follow && recorded)
            .then_some(Agreement { transitions: self.changes.len(), explained });
        if !self.setup.follow && !self.transitions.is_empty() {
            let first = shown(self.transitions[0].0);
            self.notes.push(format!(
                "what if: the filter had another policy, and from {first} on the traffic is not what this one would have made"
            ));
        }
        let breaker = &self.setup.config.policy.breaker;
        Explanation {
            service: self.series.service.clone(),
            own_zone: self.setup.own_zone.clone(),
            from: shown(self.begin),
            to: shown(self.end),
            samples: self.series.points.len(),
            policy: PolicyRow {
                source: self.setup.source,
                detector: breaker.detector,
                sensitivity: breaker.sensitivity,
                enforcement: breaker.enforcement,
            },
            notes: std::mem::take(&mut self.notes),
            transitions: self.transitions.iter().map(|(at, told)| self.transition(*at, told)).collect(),
            moments: self.moments.iter().map(|(at, zones)| self.moment(*at, zones)).collect(),
            zones: (0..self.series.zones.len()).map(|zone| self.zone(zone)).collect(),
            filter,
        }
    }

    fn transition(&self, at: u64, told: &Told) -> TransitionRow {
        let Told { transition, seen, filter_at } = told;
        let words = if *seen {
            words::transition(transition, false)
        } else if filter_at.is_some() {
            vec!["The filter did so, and the counters alone do not show why.".to_owned()]
        } else {
            vec!["The filter did not do what the replay did; it goes on from the filter's state.".to_owned()]
        };
        TransitionRow {
            at: shown(at),
            offset_ms: at.saturating_sub(self.begin),
            zone: transition.zone.clone(),
            from: transition.from.to_string(),
            to: transition.to.to_string(),
            cause: if *seen { transition.cause.to_string() } else { "unknown".to_owned() },
            evidence: transition.evidence.map(EvidenceRow::from),
            filter_at: filter_at.map(shown),
            words,
        }
    }

    fn moment(&self, at: u64, zones: &[ZoneAssessment]) -> Moment {
        let zone = |(zone, seen): (&Zone, &ZoneAssessment)| MomentZone {
            zone: zone.clone(),
            state: seen.state.to_string(),
            guard: seen.guard.map(|guard| words::guard(guard, &self.series.zones)),
            windows: seen.windows.iter().map(row).collect(),
        };
        Moment {
            at: shown(at),
            offset_ms: at.saturating_sub(self.begin),
            zones: self.series.zones.iter().zip(zones).map(zone).collect(),
        }
    }

    fn zone(&self, zone: usize) -> ZoneRow {
        let name = &self.series.zones[zone];
        let trips = self.transitions.iter().filter(|(_, told)| {
            let Transition { from, to, .. } = told.transition;
            told.transition.zone == *name && to == State::Open && matches!(from, State::Closed | State::Ramp)
        });
        let trips = trips.count();
        let judged = self.nearest[zone].is_some();
        let near = self.nearest[zone].as_ref().filter(|near| trips == 0 && near.window.evidence.k > 0);
        let words = match near {
            _ if trips == 1 => "left once".to_owned(),
            _ if trips > 1 => format!("left {trips} times"),
            Some(near) => {
                let window = words::window(near.window.signal, &near.window.evidence);
                let missing = near.window.missing.map(|missing| words::missing(missing).words);
                let why = missing.or_else(|| near.guard.clone()).unwrap_or_default();
                format!(
                    "never left; nearest at {}: {window}: {why}",
                    offset(near.at.saturating_sub(self.begin))
                )
            }
            None if judged => "never left; no request to it was bad".to_owned(),
            None => "never left; it was not judged".to_owned(),
        };
        ZoneRow {
            zone: name.clone(),
            attempts: self.sums[zone].ok + self.sums[zone].fail,
            failed: self.sums[zone].fail,
            slow: self.sums[zone].slow,
            trips,
            nearest: near.map(|near| Nearest {
                at: shown(near.at),
                offset_ms: near.at.saturating_sub(self.begin),
                window: row(&near.window),
                guard: near.guard.clone(),
            }),
            words,
        }
    }
}

/// Time since the first sample: `+12.300s`.
pub fn offset(ms: u64) -> String {
    format!("+{}.{:03}s", ms / 1_000, ms % 1_000)
}

fn row(window: &WindowAssessment) -> WindowRow {
    let signal = match window.signal {
        Signal::Failures => "failures",
        Signal::Connect => "connect",
        Signal::Slow => "slow",
    };
    WindowRow {
        signal: signal.to_owned(),
        evidence: window.evidence.into(),
        missing: window.missing.map(words::missing),
    }
}

fn counters(totals: &Totals) -> [u64; 5] {
    [totals.ok, totals.fail, totals.slow, totals.settled, totals.connect]
}

fn totals([ok, fail, slow, settled, connect]: [u64; 5]) -> Totals {
    Totals { ok, fail, slow, settled, connect }
}

/// Whether counters are below what they were.
fn fell(last: Option<&Reading>, now: Option<&Reading>) -> bool {
    let (Some(last), Some(now)) = (last, now) else { return false };
    counters(&now.totals()).iter().zip(counters(&last.totals())).any(|(now, last)| *now < last)
}

/// What was counted between two readings: all of it when the counters began anew, nothing when there was no reading before.
fn grown(last: Option<&Reading>, now: Option<&Reading>) -> Totals {
    let (Some(last), Some(now)) = (last, now) else { return Totals::default() };
    if fell(Some(last), Some(now)) {
        return now.totals();
    }
    let (last, now) = (counters(&last.totals()), counters(&now.totals()));
    totals(std::array::from_fn(|i| now[i] - last[i]))
}

/// `step` of `steps` parts of what has grown, on top of where it began.
fn plus(start: &Totals, grown: &Totals, step: u64, steps: u64) -> Totals {
    let (start, grown) = (counters(start), counters(grown));
    totals(std::array::from_fn(|i| {
        start[i] + (u128::from(grown[i]) * u128::from(step) / u128::from(steps)) as u64
    }))
}

#[cfg(test)]
mod tests;
