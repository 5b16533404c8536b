//! What one Envoy worker knows: the engine of core and the metrics, in a thread-local that both roles of the module share.
//!
//! Workers agree through Envoy's process-wide things only, and never on the path of a request: counters, which each adds to
//! and reads every tick, and one small state a service in shared data. Whoever first sees that a zone must be left proposes
//! the next state by compare-and-swap; whoever loses takes the winner's. An epoch gauge tells the others to look.

use std::cell::RefCell;

use proxy_wasm::types::LogLevel;
use zonebreak_core::{
    breaker::STATE_VERSION,
    config::FilterConfig,
    engine::{Attempt, Engine, Now, Outcome, Proposal, ServiceId, Swept, ZoneId},
    mix,
    names::Zone,
};

use crate::{host, meters::ServiceMeters};

/// Between two ticks.
pub const TICK_MS: u64 = 100;

/// Two root contexts of one VM may both tick, while a configuration is replaced: the second within this time is not counted.
const TICK_GUARD_MS: u64 = 60;

/// No request is held back for longer (`abort.delay` is at most a minute).
const LONGEST_HOLD_MS: u64 = 60_000;

/// Requests that may be held back at a time; more than that go at once.
const MAX_HELD: usize = 4096;

thread_local! {
    static WORKER: RefCell<Worker> = RefCell::new(Worker::default());
}

/// The state of one worker.
#[derive(Debug, Default)]
pub struct Worker {
    /// Decides.
    pub engine: Engine,
    meters: Vec<ServiceMeters>,
    chance: u64,
    last_tick_ms: u64,
    /// Requests held back: when to let them go (Unix ms), and their contexts.
    held: Vec<(u64, u32)>,
    /// Say in a response header what was decided.
    pub debug_header: bool,
}

/// Lends the worker's state. `None` when it is lent already, which the host's calling rules exclude; the request then
/// goes on undecided.
pub fn with<R>(body: impl FnOnce(&mut Worker) -> R) -> Option<R> {
    WORKER.with(|worker| worker.try_borrow_mut().ok().map(|mut worker| body(&mut worker)))
}

/// Milliseconds for the engine.
pub const fn now(ns: u64) -> Now {
    Now(match ns.checked_div(1_000_000) {
        Some(ms) => ms,
        None => 0,
    })
}

// === impl Worker ===

impl Worker {
    /// Takes a new policy. What was learned stays; where this VM is new, it takes over what the other workers agreed on.
    pub fn configure(&mut self, config: FilterConfig, own_zone: Option<&Zone>) {
        let ns = host::now_ns();
        self.engine.configure(&config, own_zone, now(ns));
        self.debug_header = config.debug_header;
        // Memory never shrinks here: what follows is to find the place that this took.
        drop(config);
        if self.chance == 0 {
            // Workers are configured within microseconds of each other: mixed, their chances have nothing in common.
            self.chance = mix::mix(ns) | 1;
        }
        let services: Vec<ServiceId> = self.engine.services().collect();
        let mut known = std::mem::take(&mut self.meters);
        for service in &services {
            let (name, zones) = (self.engine.service_name(*service), self.engine.zones(*service));
            let kept = known.iter().position(|meters| meters.are_of(name, zones));
            let meters = kept.map(|at| known.swap_remove(at));
            self.meters.push(meters.unwrap_or_else(|| ServiceMeters::new(name, zones)));
        }
        // What goes (a zone whose last endpoint went, a service) is in no state: an alert on its gauge would never end.
        known.iter().for_each(ServiceMeters::rest);
        for service in services {
            self.catch_up(service, now(ns));
            self.show(service, now(ns));
        }
    }

    /// The metrics of a service.
    pub fn meters(&self, service: ServiceId) -> Option<&ServiceMeters> {
        self.meters.get(service.index())
    }

    /// A uniform number. Quality matters little, cost does: this is xorshift64* (Vigna, "An experimental exploration of
    /// Marsaglia's xorshift generators, scrambled", 2016), its better upper half turned to where it is used.
    pub fn chance(&mut self) -> u64 {
        let mut x = self.chance;
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.chance = x;
        x.wrapping_mul(0x2545_F491_4F6C_DD1D).rotate_left(32)
    }

    /// Counts the end of an attempt, and carries out what cannot wait for the next tick.
    pub fn finish(&mut self, attempt: &Attempt, outcome: Outcome, ns: u64) {
        let bump = self.engine.finish(attempt, outcome, ns);
        if let Some(meters) = self.meters(attempt.service()) {
            meters.attempt(attempt.zone().index(), bump);
        }
        if let Some(proposal) = self.engine.due(attempt.service(), now(ns)) {
            self.propose(attempt.service(), &proposal, now(ns));
        }
    }

    /// Notes that an answer has begun; `goes_on`: it is good so far, and there is more to come.
    pub fn answered(&mut self, attempt: &mut Attempt, goes_on: bool, ns: u64) {
        self.engine.answered(attempt, ns);
        if goes_on
            && self.engine.goes_on(attempt)
            && let Some(meters) = self.meters(attempt.service())
        {
            meters.swept(attempt.zone().index(), Swept { slow: 1, ..Swept::default() });
        }
    }

    /// Reads what all workers counted, and moves the states on.
    pub fn tick(&mut self) {
        let ns = host::now_ns();
        let now = now(ns);
        if now.0.saturating_sub(self.last_tick_ms) < TICK_GUARD_MS && now.0 >= self.last_tick_ms {
            return;
        }
        self.last_tick_ms = now.0;
        let services: Vec<ServiceId> = self.engine.services().collect();
        for service in services {
            let Some(meters) = self.meters.get(service.index()) else { continue };
            for zone in self.engine.zone_ids(service) {
                meters.swept(zone.index(), self.engine.sweep(service, zone, ns));
            }
            let totals = meters.totals();
            if meters.epoch() != self.engine.epoch(service) {
                self.catch_up(service, now);
            }
            if let Some(proposal) = self.engine.tick(service, now, &totals) {
                self.propose(service, &proposal, now);
            }
            self.show(service, now);
        }
    }

    /// Holds a request back for so long, to the nearest tick; false when there are too many.
    pub fn hold(&mut self, context: u32, ms: u32) -> bool {
        let room = self.held.len() < MAX_HELD;
        if room {
            let due = now(host::now_ns()).0.saturating_add(u64::from(ms)).saturating_sub(TICK_MS / 2);
            self.held.push((due, context));
        }
        room
    }

    /// Forgets a request that was held back.
    pub fn release(&mut self, context: u32) {
        self.held.retain(|(_, held)| *held != context);
    }

    /// The requests whose time has come.
    pub fn due(&mut self) -> Vec<u32> {
        if self.held.is_empty() {
            return Vec::new();
        }
        let now = now(host::now_ns()).0;
        // What is due later than any delay allows was held before the clock was set back.
        let due = |at: &u64| *at <= now || *at > now.saturating_add(LONGEST_HOLD_MS);
        let contexts = self.held.iter().filter(|(at, _)| due(at)).map(|(_, context)| *context).collect();
        self.held.retain(|(at, _)| !due(at));
        contexts
    }

    /// Carries a proposal through, or takes the state of the worker that was first.
    pub fn propose(&mut self, service: ServiceId, proposal: &Proposal, now: Now) {
        let key = self.shared_key(service);
        let before = host::shared(&key);
        // Someone may have moved on since the epoch was read: then this proposal is about a state that is no more.
        if let Some((state, _)) = &before
            && *state != self.engine.encoded(service)
        {
            self.adopt(service, state, now);
            return;
        }
        if !host::share(&key, &proposal.state, before.map(|(_, stamp)| stamp)) {
            self.catch_up(service, now);
            return;
        }
        self.adopt(service, &proposal.state, now);
        if let Some(meters) = self.meters.get(service.index()) {
            meters.set_epoch(self.engine.epoch(service));
        }
        for transition in &proposal.transitions {
            host::log(LogLevel::Warn, &transition.to_string());
            let zone = self.engine.zone(service, &transition.zone);
            if let Some((meters, zone)) = self.meters.get(service.index()).zip(zone) {
                meters.transition(zone.index(), transition.to);
            }
        }
    }

    /// Takes the state that the workers share, and sees to it that the epoch gauge tells of it: whoever wrote it may have crashed
    /// before it could, or two may have told in the wrong order. The first to look puts its own there: all begin with the
    /// same one.
    fn catch_up(&mut self, service: ServiceId, now: Now) {
        let key = self.shared_key(service);
        let known = match host::shared(&key) {
            Some((state, _)) => self.adopt(service, &state, now),
            None => {
                host::share(&key, &self.engine.encoded(service), None);
                true
            }
        };
        if known && let Some(meters) = self.meters.get(service.index()) {
            meters.set_epoch(self.engine.epoch(service));
        }
    }

    /// False when it cannot be read.
    fn adopt(&mut self, service: ServiceId, state: &[u8], now: Now) -> bool {
        let adopted = self.engine.adopt(service, state, now);
        if let Err(error) = &adopted {
            let name = self.engine.service_name(service);
            host::log(
                LogLevel::Error,
                &format!("zonebreak: failed to take the shared state of {name}: {error}"),
            );
        }
        adopted.is_ok()
    }

    /// Of this version of the state: filters of two versions may run beside each other while a proxy takes a new one, and neither
    /// could read, or replace, what the other wrote.
    fn shared_key(&self, service: ServiceId) -> String {
        format!("zonebreak/state/{STATE_VERSION}/{}", self.engine.service_name(service))
    }

    fn show(&self, service: ServiceId, now: Now) {
        let Some(meters) = self.meters.get(service.index()) else { return };
        for zone in self.engine.zone_ids(service) {
            meters.show(zone.index(), &self.engine.zone_state(service, zone, now));
        }
    }

    /// Resolves what an endpoint's metadata calls itself, `<service>/<zone>`.
    pub fn resolve(&self, id: &str) -> Option<(ServiceId, ZoneId)> {
        let (service, zone) = id.split_once('/')?;
        self.find(service, zone)
    }

    /// A service and one of its zones by name.
    pub fn find(&self, service: &str, zone: &str) -> Option<(ServiceId, ZoneId)> {
        let service = self.engine.service(service)?;
        Some((service, self.engine.zone(service, zone)?))
    }
}
