//! A proxy of some workers as the filter runs it (`filter/src/worker.rs`): shared counters, shared states under compare-and-swap, an
//! engine each. After whatever happens, what must always hold is looked at. Decides nothing itself.
//!
//! Held after every event:
//!
//! - workers that have looked at the shared state are in it, all of them;
//! - the breaker keeps at most one zone of a service away at a time, and never the last one;
//! - a transition raises the epoch by one, and no zone is left without evidence;
//! - a zone is not left more often than its open time allows, as long as nobody sets the clock;
//! - what is decided can be carried out, and what is counted is counted once.

use std::collections::BTreeSet;

use serde_json::Value;
use zonebreak_core::{
    config::FilterConfig,
    engine::{Attempt, Bump, Coin, Engine, Now, Outcome, Proposal, ServiceId, State, Totals, ZoneId},
};

use super::{
    engine::{START_MS, possible},
    script::SERVICES,
};

/// Workers.
pub const WORKERS: usize = 3;

const MS: u64 = 1_000_000;

/// The zone breaker of one proxy.
pub struct Proxy {
    engines: [Engine; WORKERS],
    config: FilterConfig,
    /// By name of service, as in shared data; they outlive configurations and VMs.
    shared: Vec<(String, Vec<u8>)>,
    /// By service and zone, in the order of the configuration.
    counters: Vec<Vec<Totals>>,
    flying: Vec<(usize, Attempt)>,
    now_ns: u64,
    /// When a zone of a service was left (in ms), as far back as the clock can be trusted.
    left: Vec<(String, u64)>,
    /// Where transitions led and why, of all that there were: an input that brings none shows little.
    pub moves: BTreeSet<String>,
}

// === impl Proxy ===

impl Proxy {
    pub fn new() -> Self {
        let nothing = FilterConfig::parse(br#"{"version": 1, "role": "downstream"}"#).expect("sound");
        Self {
            engines: Default::default(),
            config: nothing,
            shared: Vec::new(),
            counters: Vec::new(),
            flying: Vec::new(),
            now_ns: START_MS * MS,
            left: Vec::new(),
            moves: BTreeSet::new(),
        }
    }

    pub fn now(&self) -> Now {
        Now(self.now_ns / MS)
    }

    /// A new policy for all workers. Attempts under way go on.
    pub fn configure(&mut self, config: Value) {
        let json = config.to_string();
        self.config = FilterConfig::parse(json.as_bytes()).unwrap_or_else(|error| panic!("{error}: {json}"));
        self.counters =
            self.config.services.values().map(|s| vec![Totals::default(); s.zones.len()]).collect();
        self.left.clear();
        (0..WORKERS).for_each(|worker| self.load(worker));
    }

    /// A VM goes down and comes back: its engine is new, its attempts are nobody's.
    pub fn crash(&mut self, worker: usize) {
        self.engines[worker] = Engine::default();
        self.flying.retain(|(of, _)| *of != worker);
        self.load(worker);
    }

    fn load(&mut self, worker: usize) {
        let now = self.now();
        self.engines[worker].configure(&self.config, None, now);
        for id in self.engines[worker].services() {
            self.catch_up(worker, id);
        }
    }

    pub fn set_clock(&mut self, ns: u64) {
        self.now_ns = ns;
        self.left.clear();
    }

    /// By so many ms.
    pub fn shift_clock(&mut self, ms: i32) {
        self.now_ns = self.now_ns.saturating_add_signed(i64::from(ms) * MS as i64);
        self.left.clear();
    }

    /// Time passes without a tick, in ms.
    pub fn pass(&mut self, ms: u64) {
        self.now_ns = self.now_ns.saturating_add(ms * MS);
    }

    pub fn lose_counters(&mut self) {
        self.counters.iter_mut().flatten().for_each(|totals| *totals = Totals::default());
    }

    /// A service and one of its zones; none where there are none.
    fn pick(&self, place: u8) -> Option<(ServiceId, ZoneId)> {
        let services: Vec<_> = self.engines[0].services().collect();
        let id = *services.get(usize::from(place) % services.len().max(1))?;
        let zones: Vec<_> = self.engines[0].zone_ids(id).collect();
        let zone = *zones.get(usize::from(place) / services.len() % zones.len().max(1))?;
        Some((id, zone))
    }

    pub fn decide(&mut self, worker: usize, place: u8, bits: u64) {
        let coin = if place.is_multiple_of(2) { Coin::User(bits) } else { Coin::Chance(bits) };
        let now = self.now();
        let services: Vec<_> = self.engines[0].services().collect();
        let Some(id) = services.get(usize::from(place) % services.len().max(1)) else { return };
        possible(&mut self.engines[worker], *id, now, coin, place.is_multiple_of(3));
    }

    pub fn begin(&mut self, worker: usize, place: u8) {
        let Some((id, zone)) = self.pick(place) else { return };
        let attempt = self.engines[worker].attempt(id, zone, self.now_ns);
        self.flying.push((worker, attempt));
    }

    pub fn answered(&mut self, which: u16) {
        let count = self.flying.len().max(1);
        let Some((worker, attempt)) = self.flying.get_mut(usize::from(which) % count) else { return };
        self.engines[*worker].answered(attempt, self.now_ns);
        // Every other answer has more to come.
        if which % 2 == 1 && self.engines[*worker].goes_on(attempt) {
            let counters = self.counters.get_mut(attempt.service().index());
            if let Some(totals) = counters.and_then(|zones| zones.get_mut(attempt.zone().index())) {
                totals.slow += 1;
            }
        }
    }

    pub fn finish(&mut self, which: u16, outcome: Outcome) {
        if self.flying.is_empty() {
            return;
        }
        let (worker, attempt) = self.flying.swap_remove(usize::from(which) % self.flying.len());
        let bump = self.engines[worker].finish(&attempt, outcome, self.now_ns);
        let counted = u8::from(bump.ok) + u8::from(bump.fail) + u8::from(bump.late);
        let possible = match outcome {
            Outcome::Neutral => counted == u8::from(bump.late),
            Outcome::Answered => counted <= 1 && !bump.fail,
            // None that lasted is counted at its end.
            Outcome::Ok | Outcome::Failed | Outcome::ConnectFailed => counted == 1 || bump == Bump::default(),
        };
        assert!(possible, "{outcome:?}: {bump:?}");
        assert!((!bump.slow || bump.ok) && (!bump.connect || bump.fail), "{bump:?}");
        let counters = self.counters.get_mut(attempt.service().index());
        if let Some(totals) = counters.and_then(|zones| zones.get_mut(attempt.zone().index())) {
            for (hit, count) in [
                (bump.ok, &mut totals.ok),
                (bump.fail, &mut totals.fail),
                (bump.slow, &mut totals.slow),
                (bump.settled, &mut totals.settled),
                (bump.connect, &mut totals.connect),
            ] {
                *count += u64::from(hit);
            }
        }
        let now = self.now();
        if let Some(proposal) = self.engines[worker].due(attempt.service(), now) {
            self.propose(worker, attempt.service(), &proposal);
        }
    }

    /// Attempts that ended elsewhere; `kinds` says which of them were slow or without a connection.
    pub fn count(&mut self, place: u8, well: u8, badly: u8, kinds: u8) {
        let Some((id, zone)) = self.pick(place) else { return };
        let Some(totals) = self.counters.get_mut(id.index()).and_then(|zones| zones.get_mut(zone.index()))
        else {
            return;
        };
        totals.ok += u64::from(well);
        totals.fail += u64::from(badly);
        if kinds & 1 == 1 {
            totals.slow += u64::from(well);
            totals.settled += u64::from(well);
        }
        if kinds & 2 == 2 {
            totals.connect += u64::from(badly);
        }
    }

    /// All workers tick, after so many ms.
    pub fn tick(&mut self, after_ms: u64) {
        self.pass(after_ms);
        let now = self.now();
        for id in self.engines[0].services() {
            for worker in 0..WORKERS {
                for zone in self.engines[worker].zone_ids(id) {
                    let swept = self.engines[worker].sweep(id, zone, self.now_ns);
                    assert!(swept.settled <= swept.ok, "{swept:?}");
                    if let Some(totals) =
                        self.counters.get_mut(id.index()).and_then(|z| z.get_mut(zone.index()))
                    {
                        totals.ok += u64::from(swept.ok);
                        totals.slow += u64::from(swept.slow);
                        totals.settled += u64::from(swept.settled);
                    }
                }
            }
            for worker in 0..WORKERS {
                self.catch_up(worker, id);
                let totals = self.counters.get(id.index()).cloned().unwrap_or_default();
                if let Some(proposal) = self.engines[worker].tick(id, now, &totals) {
                    self.propose(worker, id, &proposal);
                }
            }
        }
    }

    /// The shared state of a service is damaged at a place, and a worker happens to read it.
    pub fn damage(&mut self, worker: usize, place: u8, at: u16, with: u8) {
        let Some((id, _)) = self.pick(place) else { return };
        let name = self.engines[worker].service_name(id).to_owned();
        let Some((_, sound)) = self.shared.iter().find(|(of, _)| *of == name) else { return };
        let mut damaged = sound.clone();
        let at = usize::from(at) % damaged.len().max(1);
        let Some(byte) = damaged.get_mut(at).filter(|byte| **byte != with) else { return };
        *byte = with;
        let (before, now) = (self.engines[worker].encoded(id), self.now());
        let refused = self.engines[worker].adopt(id, &damaged, now);
        assert!(refused.is_err(), "one byte of a state was changed, and nobody noticed");
        assert_eq!(self.engines[worker].encoded(id), before);
    }

    fn propose(&mut self, worker: usize, id: ServiceId, proposal: &Proposal) {
        let name = self.engines[worker].service_name(id).to_owned();
        let (before, now) = (self.engines[worker].epoch(id), self.now());
        let Some((_, shared)) = self.shared.iter_mut().find(|(of, _)| *of == name) else { return };
        if *shared == self.engines[worker].encoded(id) {
            shared.clone_from(&proposal.state);
            assert!(!proposal.transitions.is_empty(), "a proposal that changes nothing");
            for transition in &proposal.transitions {
                assert_eq!(transition.epoch, before.wrapping_add(1), "{transition}");
                assert!(transition.from != transition.to, "{transition}");
                self.moves.insert(format!("{} {}", transition.to, transition.cause));
                if transition.to != State::Open {
                    continue;
                }
                let evidence =
                    transition.evidence.unwrap_or_else(|| panic!("left for no reason: {transition}"));
                assert!(evidence.k >= 1 && evidence.k <= evidence.n, "{transition}");
                self.left.push((name.clone(), now.0));
                self.not_the_last(worker, id, &transition.zone);
            }
        }
        self.catch_up(worker, id);
    }

    /// Another zone is there that nobody has left or drains wholly.
    fn not_the_last(&self, worker: usize, id: ServiceId, left: &str) {
        let engine = &self.engines[worker];
        let Some(service) = self.config.services.get(engine.service_name(id)) else { return };
        let another = engine.zone_ids(id).zip(&service.zones).any(|(zone, (name, capacity))| {
            let state = engine.zone_state(id, zone, self.now()).state;
            name.as_str() != left && *capacity > 0 && matches!(state, State::Closed | State::ForcedClosed)
        });
        assert!(another, "{left} was the last zone: {:?}", self.config);
    }

    fn catch_up(&mut self, worker: usize, id: ServiceId) {
        let (engine, now) = (&mut self.engines[worker], Now(self.now_ns / MS));
        let name = engine.service_name(id);
        match self.shared.iter().find(|(of, _)| of == name) {
            Some((_, state)) => {
                engine.adopt(id, state, now).expect("a state that was encoded");
            }
            None => self.shared.push((name.to_owned(), engine.encoded(id))),
        }
    }

    /// Looks at everything that must hold.
    pub fn check(&mut self) {
        let now = self.now();
        for id in self.engines[0].services() {
            (0..WORKERS).for_each(|worker| self.catch_up(worker, id));
            let [first, others @ ..] = &self.engines;
            for other in others {
                assert_eq!(other.encoded(id), first.encoded(id), "the workers are divided");
                assert_eq!(other.epoch(id), first.epoch(id));
            }
            let away = first.zone_ids(id).filter(|zone| {
                matches!(first.zone_state(id, *zone, now).state, State::Open | State::HalfOpen | State::Ramp)
            });
            assert!(away.count() <= 1, "more than one zone is away");
        }
        for name in SERVICES {
            let Some(service) = self.config.services.get(name) else { continue };
            let open = service.policy.breaker.open_time().0;
            let recent = |(of, at): &&(String, u64)| of == name && now.0.saturating_sub(*at) < 60_000;
            let times = self.left.iter().filter(recent).count() as u64;
            // At most 10 % less than the open time by jitter; each zone may have its turn, and the first of each is free.
            let most = 9 + 60_000 / (open / 10 * 9).max(90);
            assert!(
                times <= most,
                "{name} was left {times} times in a minute, {most} are possible at {open} ms"
            );
        }
    }
}
