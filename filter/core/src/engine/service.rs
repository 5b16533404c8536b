//! One service in one worker: puts the pure parts together. Time comes in as an argument; what it decides, others carry out.

mod assess;

use std::num::NonZeroU64;

use crate::{
    breaker::{
        self, Gate, InvalidState, Names, ServiceState, Shed, Shifted, Sight, State, Transition, Tuning,
        ZoneState, encode, shed,
    },
    config::{MAX_ZONES, ServiceConfig},
    deck::Deck,
    detector::{rates, run::Tally},
    engine::{
        bucket::Bucket,
        cell::{Cell, Drain},
        route::{Drill, Route, Rules, Terrain, shifted},
        types::*,
    },
    latency,
    mix::{fraction, mix},
    names::{ServiceName, Zone},
    picker::Act,
    policy::{DetectorKind, Enforcement, Sticky},
    shares,
    throttle::{self, Throttle},
    units::Percent,
    window::{Clock, Counts, Profile, Span, Totals},
};

/// One service.
#[derive(Debug)]
pub(super) struct Service {
    pub name: ServiceName,
    pub zones: Vec<Zone>,
    /// Differs between all that ever had this place and these zones.
    tenant: u32,
    own: Option<u8>,
    rules: Rules,
    tuning: Tuning,
    pub sticky: Option<Box<Sticky>>,
    drill: Option<Box<Drill>>,
    moving: Option<Bucket>,
    throttle: Option<Box<Throttle>>,
    state: ServiceState,
    shed: Option<Shed>,
    /// Weights that lean to the faster zones, where that is asked for.
    leaning: Option<Box<[u32]>>,
    /// The bytes of the state as the workers agreed on it: another worker may have written more than this one knows.
    agreed: Option<Box<[u8]>>,
    cells: Vec<Cell>,
    clock: Clock,
    tally: Tally,
    route: Route,
    gate: Gate,
    deck: Deck,
    requests: u64,
    /// Ticks to come in which slowness says nothing: see [`FROZEN_MS`].
    dazed: u8,
    due: bool,
    /// Every zone has peers to compare it with.
    compared: bool,
}

/// How often a shift of attempts fades, in ms.
const FADING_MS: u64 = 60_000;

/// A failure this long after its attempt began, in ns, that was counted as slow meanwhile, is no news: see
/// [`Service::finish`].
const STALE_NS: u64 = 2_000_000_000;

/// A tick that comes so long after the one before, in ms, shows that the proxy itself stood still (a throttled container, a paused
/// machine). All that was under way looks slow then, in that tick and in the next, in which the last of it ends.
const FROZEN_MS: u64 = 250;
const DAZED_TICKS: u8 = 2;

/// A good answer counts after this time if it goes on for longer, in ns: streams of hours and of days are good from the start, and
/// a zone that serves nothing else must be seen to. Long enough for the usual answer to end, well or badly, before.
const LASTING_NS: u64 = 3_000_000_000;

/// How often limits are drawn anew, in ms.
const LIMITS_MS: u64 = 500;

/// Longest `retry-after`, in seconds.
const LONGEST_RETRY_S: u64 = 30;

// === impl Service ===

impl Service {
    /// A service that nothing is known of yet.
    pub fn new(name: &ServiceName) -> Self {
        Self {
            name: name.clone(),
            zones: Vec::new(),
            tenant: 0,
            own: None,
            rules: Rules::default(),
            tuning: Tuning::default(),
            sticky: None,
            drill: None,
            moving: None,
            throttle: None,
            state: ServiceState::default(),
            shed: None,
            leaning: None,
            agreed: None,
            cells: Vec::new(),
            clock: Clock::default(),
            tally: Tally::default(),
            route: Route::default(),
            gate: Gate::default(),
            deck: Deck::default(),
            requests: 0,
            dazed: 0,
            due: false,
            compared: false,
        }
    }

    /// Which tenant it is.
    pub const fn tenant(&self) -> u32 {
        self.tenant
    }

    /// From here on, what is under way was another's: the service has got another place, or other zones.
    pub fn let_to(&mut self, tenant: u32) {
        self.tenant = tenant;
        self.cells.iter_mut().for_each(Cell::overtake);
    }

    /// Takes a policy for these zones of it, and keeps what is known of those that stay.
    pub fn configure(&mut self, config: &ServiceConfig, zones: Vec<Zone>, own_zone: Option<&Zone>) {
        if self.zones != zones {
            self.rezone(zones);
        }
        for (zone, cell) in self.zones.iter().zip(&mut self.cells) {
            cell.capacity = config.zones.get(zone).copied().unwrap_or_default();
            cell.weight = config.policy.zone_weight(zone, cell.capacity);
            let shift = config.shifts.iter().find(|shift| shift.zone == *zone);
            cell.shift =
                shift.map(|shift| Box::new(Drain { keep: shift.keep_percent, until: shift.expires_at_ms }));
        }
        let policy = &config.policy;
        self.own =
            own_zone.and_then(|own| self.zones.iter().position(|zone| zone == own)).map(|own| own as u8);
        self.rules = Rules::from(policy);
        self.tuning = Tuning::from(&policy.breaker);
        self.sticky = policy.sticky.clone().map(Box::new);
        self.drill = policy.abort.as_ref().map(|abort| Box::new(Drill::new(abort, &self.zones)));
        self.throttle = match policy.spill.as_ref().is_some_and(|spill| spill.adaptive) {
            true => Some(self.throttle.take().unwrap_or_default()),
            false => None,
        };
        let max_rps = policy.spill.as_ref().and_then(|spill| spill.max_rps);
        self.moving = max_rps.map(|rps| match self.moving {
            Some(bucket) if bucket.rate() == rps => bucket,
            _ => Bucket::new(rps),
        });
        self.leaning = None;
        self.lean();
        self.route.expire();
    }

    /// Takes other zones, and keeps what is known of those that stay.
    fn rezone(&mut self, zones: Vec<Zone>) {
        let elapsed = self.clock.elapsed();
        let mut cells = Vec::with_capacity(zones.len());
        let mut states = Vec::with_capacity(zones.len());
        for zone in &zones {
            let known = self.zones.iter().position(|have| have == zone);
            let state = known.and_then(|i| self.state.zones.get_mut(i)).map(std::mem::take);
            let cell = known.and_then(|i| self.cells.get_mut(i)).map(std::mem::take);
            // A zone that joins others has a shorter past than they.
            let wiped = NonZeroU64::new(if self.zones.is_empty() { 0 } else { elapsed.max(1) });
            cells.push(cell.unwrap_or_else(|| Cell { wiped, ..Cell::default() }));
            states.push(state.unwrap_or_default());
        }
        // What the workers agreed on may say more of these zones than was read of it.
        self.agreed = None;
        self.shed = None;
        (self.zones, self.cells, self.state.zones) = (zones, cells, states);
    }

    /// What to do with a request.
    pub fn decide(&mut self, now: u64, coin: Coin, idempotent: impl FnOnce() -> bool) -> Decision<'_> {
        if self.zones.is_empty() {
            return Decision::Pass;
        }
        if !self.route.holds(now) {
            self.reroute(now);
        }
        let coin = match coin {
            Coin::Chance(bits) => self.deck.deal(bits),
            Coin::User(own) => own,
        };
        // Chance of its own for what must not stick to a user: who is failed on purpose, and who tries a zone.
        self.requests = self.requests.wrapping_add(1);
        let chance = mix(coin ^ self.requests.wrapping_mul(0x2545_f491_4f6c_dd1d));
        if let Some((zone, key)) = self.route.trial
            && self.gate.admit(now, chance & 0xffff_ffff, self.tuning.gate(), idempotent)
        {
            let key = key.and_then(|key| self.route.table.key(key));
            return key.map_or(Decision::Pass, |key| Decision::Trial { key, zone: ZoneId(zone) });
        }
        let refuse =
            |status, reason, retry_after_s| Decision::Refuse(Refusal { status, reason, retry_after_s });
        let Some(pick) = self.route.table.draw(coin) else {
            return refuse(503, "no-zone", self.relief(now));
        };
        let hits =
            |number: u64, permille: u16| number.checked_rem(1000).is_some_and(|c| c < u64::from(permille));
        let drill = self.drill.as_deref().filter(|_| self.route.drills(pick.zones));
        if let Some(drill) = drill
            && hits(chance.wrapping_shr(32), self.route.abort)
        {
            return refuse(drill.status, "abort", 1);
        }
        // What a gray zone sheds it could serve as well: that is bounded, but never refused.
        if pick.moved && !self.route.shedding && pick.act != Act::Spill {
            let refusing = self.throttle.as_mut().map_or(0.0, |throttle| throttle.refusing(now));
            if refusing > 0.0 && fraction(mix(chance)) < refusing {
                self.settle(now, false);
                return refuse(503, "overload", throttle::retry_after(refusing));
            }
        }
        if pick.act == Act::Spill
            || (pick.moved && self.moving.as_mut().is_some_and(|bucket| !bucket.take(now)))
        {
            return match self.route.shedding {
                true => Decision::Pass,
                false => refuse(503, "spill", throttle::retry_after(self.route.table.spilled())),
            };
        }
        let (key, reason) = match pick.act {
            Act::Serve { key, reason } => (self.route.table.key(key), Some(reason)),
            Act::Pass | Act::Move | Act::Spill => (None, None),
        };
        match (drill.filter(|_| hits(chance & 0xffff_ffff, self.route.delay)), key, reason) {
            (Some(drill), key, reason) => Decision::Delay { key, reason, ms: drill.delay_ms },
            (None, Some(key), Some(reason)) => Decision::Serve { key, reason },
            (None, ..) => Decision::Pass,
        }
    }

    /// A request that was moved ended, or was not let go.
    pub fn settle(&mut self, now: u64, answered: bool) {
        if let Some(throttle) = &mut self.throttle {
            throttle.count(now, answered);
        }
    }

    /// The zone that a subset key is meant for.
    pub fn chosen(&self, key: Option<&str>) -> Option<ZoneId> {
        let own = self.own.map(ZoneId);
        let key = key.unwrap_or_default();
        if let Some(name) = key.strip_prefix("only-") {
            return self.zones.iter().position(|zone| zone.as_str() == name).map(|zone| ZoneId(zone as u8));
        }
        let name = self.zones.get(own?.index())?.as_str();
        let left = key.strip_prefix("no-").unwrap_or_default();
        own.filter(|_| left.split('+').all(|left| left != name))
    }

    /// Epoch of a zone's state, as an attempt notes it.
    pub fn begin(&mut self, zone: ZoneId, now_ns: u64) -> u64 {
        if let Some(cell) = self.cells.get_mut(zone.index()) {
            cell.overdue.begin(now_ns);
        }
        self.zone_epoch(zone)
    }

    /// Notes that the answer to an attempt begins.
    pub fn answered(&mut self, attempt: &mut Attempt, now_ns: u64) {
        if attempt.epoch == self.zone_epoch(attempt.zone)
            && attempt.answer.is_none()
            && let Some(cell) = self.cells.get_mut(attempt.zone.index())
        {
            attempt.answer = Some(cell.answer(attempt, now_ns));
        }
    }

    /// Notes that an answer is good so far, and goes on. True when it was slow to come, and that is news.
    pub fn goes_on(&mut self, attempt: &mut Attempt) -> bool {
        let known = attempt.epoch == self.zone_epoch(attempt.zone);
        let cell = self.cells.get_mut(attempt.zone.index()).filter(|_| known);
        match cell.zip(attempt.answer.as_mut().filter(|answer| !answer.lasting)) {
            Some((cell, answer)) => cell.lasts(answer, attempt.began_ns),
            None => false,
        }
    }

    /// Counts the end of an attempt.
    pub fn finish(&mut self, attempt: &Attempt, outcome: Outcome, now_ns: u64) -> Bump {
        if attempt.epoch != self.zone_epoch(attempt.zone) {
            return attempt.overtaken();
        }
        let state = self.state.zones.get(attempt.zone.index()).map_or(State::Closed, |zone| zone.state);
        let Some(cell) = self.cells.get_mut(attempt.zone.index()) else { return Bump::default() };
        let answer = attempt.answer.unwrap_or_else(|| cell.answer(attempt, now_ns));
        if cell.lasted(&answer, attempt.began_ns) {
            return Bump::default();
        }
        let Answer { took_ns, told, .. } = answer;
        let failed = match outcome {
            Outcome::Answered if state == State::HalfOpen => false,
            Outcome::Answered | Outcome::Neutral => return Bump::default(),
            Outcome::Ok => false,
            Outcome::Failed | Outcome::ConnectFailed => true,
        };
        if !failed && state == State::Closed {
            cell.times.record(took_ns);
        }
        // What hung in all zones alike fails in all zones, at the time-out, when they may be well again, and is tried again among
        // what goes well now; each zone then has its own mixture of both. It was charged when it was overdue.
        let stale = failed && told && took_ns > STALE_NS;
        if stale && self.compared && self.tuning.detector == DetectorKind::Peers {
            return Bump { late: true, ..Bump::default() };
        }
        self.tally.count(failed);
        cell.tally.count(failed);
        if self.tuning.detector == DetectorKind::Consecutive {
            cell.run.count(failed, self.tally.since(cell.tally), now_ns);
            let trial = failed && state == State::HalfOpen;
            cell.failed_trial |= trial;
            self.due |= trial || cell.run.length >= self.tuning.run;
        }
        let slow = !failed && !told && cell.limit.ns().is_some_and(|limit| took_ns > limit);
        Bump {
            ok: !failed,
            fail: failed,
            slow,
            settled: slow || told,
            connect: outcome == Outcome::ConnectFailed,
            late: false,
        }
    }

    /// What has become of the attempts under way.
    pub fn sweep(&mut self, zone: ZoneId, now_ns: u64) -> Swept {
        let Some(cell) = self.cells.get_mut(zone.index()) else { return Swept::default() };
        let slow = cell.limit.ns().map_or(0, |limit| cell.overdue.sweep(now_ns, limit));
        let [timely, settled] = cell.lasting.each_mut().map(|lasting| lasting.sweep(now_ns, LASTING_NS));
        let ok = timely.saturating_add(settled);
        if ok > 0 {
            self.tally.good(ok);
            cell.tally.good(ok);
            cell.run.outlast(now_ns.saturating_sub(LASTING_NS));
        }
        Swept { ok, slow, settled, late: std::mem::take(&mut cell.overtaken) }
    }

    /// Takes in the counters, and looks whether anything is to change.
    pub fn tick(&mut self, now: u64, totals: &[Totals]) -> Option<Proposal> {
        let (before, after) = self.clock.advance(now);
        if after.saturating_sub(before) > FROZEN_MS {
            self.dazed = DAZED_TICKS;
        }
        let dazed = self.dazed > 0;
        self.dazed = self.dazed.saturating_sub(1);
        for (cell, totals) in self.cells.iter_mut().zip(totals) {
            cell.windows.advance(before, after);
            // The first reading tells nothing: the counters may be older than this worker.
            let counts = cell.last.map_or(Counts::default(), |last| totals.since(last));
            let counts = if dazed { counts.untimed() } else { counts };
            cell.last = Some((*totals).into());
            cell.windows.add(counts);
            cell.since = cell.since.plus(counts);
        }
        let entered = |ms: u64| before.checked_div(ms) != after.checked_div(ms);
        if entered(latency::HALVING_MS) {
            self.cells.iter_mut().for_each(|cell| cell.times.halve());
        }
        if entered(FADING_MS) {
            self.cells.iter_mut().for_each(|cell| cell.drift.fade());
        }
        self.note_drift();
        if entered(LIMITS_MS) || before == 0 {
            self.draw_limits(now);
            self.lean();
        }
        self.doubt(now);
        if !self.route.holds(now) {
            self.reroute(now);
        }
        self.propose(now)
    }

    /// Notes how the attempts are spread over the zones at present.
    fn note_drift(&mut self) {
        let seen = |cell: &Cell| {
            let past = cell.windows.profile();
            [Span::Two, Span::Ten].map(|span| past.of(span).attempts())
        };
        let seen: Vec<[u32; 2]> = self.cells.iter().map(seen).collect();
        let usual = |zone: &ZoneState| zone.state == State::Closed;
        let taking = seen.iter().zip(&self.state.zones).filter(|(_, zone)| usual(zone)).map(|(seen, _)| seen);
        let all = taking
            .fold([0_u32; 2], |[two, ten], seen| [two.saturating_add(seen[0]), ten.saturating_add(seen[1])]);
        for ((cell, zone), seen) in self.cells.iter_mut().zip(&self.state.zones).zip(seen) {
            for (own, all) in seen.into_iter().zip(all) {
                cell.drift.note(own, if usual(zone) { all.saturating_sub(own) } else { all });
            }
        }
    }

    /// By how much attempts have shifted between the zones. Where the others have no share of their own, all that they get is
    /// what is tried again: no shift of theirs hides anything, and to allow for it would be to see nothing.
    fn drifted(&self) -> Option<f64> {
        let shared = self.rules.splits(self.own);
        shared.then(|| self.cells.iter().map(|cell| cell.drift.odds()).fold(1.0, f64::max))
    }

    /// What cannot wait for the next tick.
    pub fn due(&mut self, now: u64) -> Option<Proposal> {
        if std::mem::take(&mut self.due) { self.propose(now) } else { None }
    }

    /// Takes over a state.
    pub fn adopt(&mut self, bytes: &[u8], now: u64) -> Result<Vec<Transition>, InvalidState> {
        if self.agreed.as_deref() == Some(bytes) {
            return Ok(Vec::new());
        }
        let decoded = encode::decode(bytes)?;
        let mut next = ServiceState { epoch: decoded.epoch, seed: decoded.seed, zones: Vec::new() };
        for zone in &self.zones {
            let said = decoded.zones.iter().find(|(name, _)| *name == zone.as_str());
            next.zones.push(said.map_or_else(ZoneState::default, |(_, state)| state.clone()));
        }
        let transitions = self.transitions_to(&next);
        let elapsed = self.clock.elapsed();
        for ((cell, from), to) in self.cells.iter_mut().zip(&self.state.zones).zip(&next.zones) {
            if from.epoch != to.epoch || from.state != to.state {
                // What the zone did while it was left or on trial is no measure of how it does now; a ramp's end is no break.
                let goes_on = from.state == State::Ramp && to.state == State::Closed;
                cell.enter((to.state != State::Open && !goes_on).then_some(elapsed));
                if to.state == State::HalfOpen {
                    self.gate = Gate::new(now, mix(self.requests));
                }
            }
        }
        if !transitions.is_empty() {
            self.cells.iter_mut().for_each(|cell| cell.drift = Default::default());
        }
        self.state = next;
        self.agreed = Some(bytes.into());
        self.draw_limits(now);
        self.reroute(now);
        Ok(transitions)
    }

    /// The state in bytes.
    pub fn encoded(&self) -> Vec<u8> {
        match &self.agreed {
            Some(agreed) => agreed.to_vec(),
            None => encode::encode(&self.state, &self.zones),
        }
    }

    /// Number of the state.
    pub fn epoch(&self) -> u64 {
        self.state.epoch
    }

    /// A zone, as the gauges show it.
    pub fn status(&self, zone: ZoneId, now: u64) -> ZoneStatus {
        let shadow = self.tuning.enforcement == Enforcement::Shadow;
        let (Some(state), Some(cell)) = (self.state.zones.get(zone.index()), self.cells.get(zone.index()))
        else {
            return ZoneStatus { state: State::Disabled, keep: Percent::FULL, shadow };
        };
        let state = match shifted(cell, now) {
            Shifted::Part | Shifted::Whole => State::ForcedOpen,
            Shifted::Held => State::ForcedClosed,
            Shifted::No if self.tuning.enforcement == Enforcement::Disabled => State::Disabled,
            Shifted::No => state.state,
        };
        ZoneStatus {
            state,
            keep: self.route.keep.get(zone.index()).copied().unwrap_or(Percent::FULL),
            shadow,
        }
    }

    fn zone_epoch(&self, zone: ZoneId) -> u64 {
        self.state.zones.get(zone.index()).map_or(0, |zone| zone.epoch)
    }

    /// Sheds load of a gray zone, or takes it back, where that is asked for.
    fn doubt(&mut self, now: u64) {
        if !self.tuning.shed && self.shed.is_none() {
            return;
        }
        let sights = self.sights(now);
        let next = shed::is_allowed(&self.state, &self.tuning, &sights).then(|| {
            let doubt = shed::doubt(&self.state, &self.tuning, &sights, now);
            Shed::next(self.shed, doubt, now)
        });
        let keeps = |shed: Option<Shed>| shed.map(|shed| (shed.zone, shed.keeps(0.0).to_bits()));
        let (before, after) = (self.shed, next.flatten());
        self.shed = after;
        if keeps(before) != keeps(after) {
            self.route.expire();
        }
    }

    fn propose(&self, now: u64) -> Option<Proposal> {
        let mv = breaker::step(&self.state, &self.tuning, &self.sights(now), now)?;
        let zone = self.zones.get(mv.zone).map_or("", Zone::as_str);
        let names = Names { service: &self.name, zone };
        let next = self.state.after(&mv, &self.tuning, names, now);
        Some(Proposal { state: encode::encode(&next, &self.zones), transitions: self.transitions_to(&next) })
    }

    fn sights(&self, now: u64) -> Vec<Sight> {
        let past: Vec<Profile> = self.cells.iter().map(|cell| cell.windows.profile()).collect();
        let elapsed = self.clock.elapsed();
        (0..past.len()).filter_map(|i| self.sight(i, &past, elapsed, now)).collect()
    }

    fn sight(&self, zone: usize, past: &[Profile], elapsed: u64, now: u64) -> Option<Sight> {
        let cell = self.cells.get(zone)?;
        let run = (self.tuning.detector == DetectorKind::Consecutive).then(|| {
            let others = |span| {
                let others = past.iter().enumerate().filter(|(other, _)| *other != zone);
                others.map(|(_, past)| past.of(span)).sum::<Counts>()
            };
            let recent = rates::are_peers(&others(Span::Ten)).then(|| others(Span::Two));
            cell.run.verdict(self.tuning.run, self.tally.since(cell.tally), recent.as_ref())
        });
        let mut since = cell.since;
        if cell.failed_trial {
            // Known here before it is in the counters of all.
            (since.n, since.fail) = (since.n.max(1), since.fail.max(1));
        }
        Some(Sight {
            past: *past.get(zone)?,
            past_ms: cell.past_ms(elapsed),
            shifted: self.drifted(),
            since,
            shift: shifted(cell, now),
            has_endpoints: cell.capacity > 0,
            run: run.flatten(),
        })
    }

    fn transitions_to(&self, next: &ServiceState) -> Vec<Transition> {
        let pairs = self.zones.iter().zip(&self.state.zones).zip(&next.zones);
        pairs
            .filter(|((_, from), to)| from.state != to.state)
            .map(|((zone, from), to)| Transition {
                service: self.name.clone(),
                zone: zone.clone(),
                from: from.state,
                to: to.state,
                cause: to.cause,
                evidence: to.evidence.as_deref().copied(),
                epoch: next.epoch,
                open_ms: if to.state == State::Open { to.until.saturating_sub(to.since) } else { 0 },
                shadow: self.tuning.enforcement == Enforcement::Shadow,
            })
            .collect()
    }

    fn reroute(&mut self, now: u64) {
        self.route = Route::new(
            &Terrain {
                zones: &self.zones,
                own: self.own.map(usize::from),
                rules: &self.rules,
                leaning: self.leaning.as_deref(),
                tuning: &self.tuning,
                state: &self.state,
                shed: self.shed,
                cells: &self.cells,
                drill: self.drill.as_deref(),
            },
            now,
        );
    }

    /// Leans the weights to the faster zones, where that is asked for. A change of less than a tenth is not worth one.
    fn lean(&mut self) {
        let Some(own) = self.own.filter(|_| self.rules.by_latency) else { return };
        let zones = self.cells.iter().zip(&self.state.zones);
        let typical: Vec<Option<f64>> = zones
            .map(|(cell, zone)| cell.times.quantile(0.5).filter(|_| zone.state == State::Closed))
            .map(|ns| ns.map(|ns| ns as f64 / 1e6))
            .collect();
        let weights: Vec<u32> = self.cells.iter().map(|cell| cell.weight).collect();
        let next = shares::lean(&weights, own.into(), &typical);
        let differ = |(old, new): (&u32, &u32)| old.abs_diff(*new) > old.checked_div(10).unwrap_or_default();
        let differs = self
            .leaning
            .as_ref()
            .is_none_or(|old| old.len() != next.len() || old.iter().zip(&next).any(differ));
        if differs {
            self.leaning = Some(next.into());
            self.route.expire();
        }
    }

    /// Draws anew what is slow in each zone.
    fn draw_limits(&mut self, now: u64) {
        let mut limits = [u64::MAX; MAX_ZONES];
        let ten: Vec<Counts> = self.cells.iter().map(|cell| cell.windows.profile().of(Span::Ten)).collect();
        let all: Counts = ten.iter().copied().sum();
        self.compared = ten.iter().all(|own| rates::are_peers(&all.minus(*own)));
        let zones =
            self.cells.iter().zip(&self.state.zones).zip(&ten).map(|((cell, zone), own)| latency::Seen {
                times: &cell.times,
                usual: zone.state == State::Closed,
                has_peers: rates::are_peers(&all.minus(*own)),
            });
        latency::limits(self.tuning.slow, zones, &mut limits);
        // A zone just left for being slow is the measure of whether the move helped: the others are held to what it was held to.
        let judged = self.cells.iter().zip(&self.state.zones).find(|(_, zone)| zone.awaits_check(now));
        let measure = judged.map(|(cell, _)| cell.limit);
        for ((cell, zone), limit) in self.cells.iter_mut().zip(&self.state.zones).zip(limits) {
            match measure {
                Some(_) if zone.awaits_check(now) => {}
                Some(measure) => cell.limit = measure.min(limit.into()),
                None => cell.limit = limit.into(),
            }
        }
    }
}

impl Service {
    /// Seconds until a drain ends, for a caller that found no zone.
    fn relief(&self, now: u64) -> u32 {
        let ms = self.route.relief.map_or(1_000, |at| at.saturating_sub(now));
        ms.div_ceil(1_000).clamp(1, LONGEST_RETRY_S) as u32
    }
}
