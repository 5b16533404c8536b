//! A storm of events, sensible and senseless, against two workers that share a state: nothing panics, and what must always
//! hold holds after each of them.

use std::collections::BTreeMap;

use zonebreak_core::{
    config::{CONFIG_VERSION, FilterConfig, MAX_ZONES, Role, ServiceConfig, Shift},
    engine::{
        Attempt, Cause, Coin, Decision, Engine, Now, Outcome, Proposal, ServiceId, State, Totals, Transition,
    },
    instant::Instant,
    names::{ServiceName, Zone},
    policy::{
        AbortPolicy, AbortWhen, BreakerPolicy, DetectorKind, Enforcement, Mode, Sensitivity, ServicePolicy,
        Slow, SpillPolicy, Spread, Sticky,
    },
    units::{Millis, Percent},
};

use super::{rng::Rng, scenarios::zone};

struct Storm {
    engines: [Engine; 2],
    service: ServiceId,
    config: ServiceConfig,
    shared: Vec<u8>,
    totals: Vec<Totals>,
    now_ns: u64,
    flying: Vec<(usize, Attempt)>,
    opened_ms: Vec<u64>,
    /// Zones that may have been left under this policy and those before it.
    most_away: usize,
    moves: BTreeMap<String, u32>,
    rng: Rng,
}

/// Runs so many events, and adds up the transitions by where they led and why.
pub fn rage(seed: u64, events: usize, moves: &mut BTreeMap<String, u32>) {
    let mut storm = Storm {
        engines: Default::default(),
        service: first_id(),
        config: ServiceConfig { zones: [].into(), policy: ServicePolicy::default(), shifts: Vec::new() },
        shared: Vec::new(),
        totals: Vec::new(),
        now_ns: 1_700_000_000_000_000_000,
        flying: Vec::new(),
        opened_ms: Vec::new(),
        most_away: 1,
        moves: BTreeMap::new(),
        rng: Rng::new(seed),
    };
    storm.configure();
    for _ in 0..events {
        storm.event();
        storm.check();
    }
    for (kind, times) in storm.moves {
        *moves.entry(kind).or_default() += times;
    }
}

fn first_id() -> ServiceId {
    let mut engine = Engine::default();
    let nothing = ServiceConfig { zones: [].into(), policy: ServicePolicy::default(), shifts: Vec::new() };
    engine.configure(&filter_config(&nothing), None, Now(0));
    engine.service("order-svc").unwrap()
}

fn filter_config(service: &ServiceConfig) -> FilterConfig {
    FilterConfig {
        version: CONFIG_VERSION,
        role: Role::Downstream,
        zone: Some(zone(0)),
        services: [(ServiceName::new("order-svc").unwrap(), service.clone())].into(),
        debug_header: false,
    }
}

impl Storm {
    fn below(&mut self, n: u64) -> u64 {
        self.rng.next() % n
    }

    fn now(&self) -> Now {
        Now(self.now_ns / 1_000_000)
    }

    fn event(&mut self) {
        let worker = self.below(2) as usize;
        let zones = self.config.zones.len() as u64;
        match self.below(1_000) {
            0 => self.configure(),
            // A clock that is set: a little back, far back, far ahead.
            1 => self.now_ns = self.now_ns.saturating_sub(self.below(2_000_000_000)),
            2 => {
                self.now_ns = [0, 1, self.now_ns / 2, u64::MAX][self.below(4) as usize];
                // What was opened by another clock is not of the last minute of this one.
                self.opened_ms.clear();
            }
            3 => {
                let garbage: Vec<u8> = (0..self.below(150)).map(|_| self.rng.next() as u8).collect();
                assert!(self.engines[worker].adopt(self.service, &garbage, self.now()).is_err());
            }
            4 => self.totals.fill(Totals::default()),
            5 => {
                self.engines[worker] = Engine::default();
                let now = self.now();
                self.engines[worker].configure(&filter_config(&self.config), None, now);
                self.catch_up(worker);
            }
            6..300 if zones > 0 => {
                // Zones differ in how they fare, and change their minds every 20 s.
                let at = self.below(zones);
                let mood = zonebreak_core::mix::mix(at ^ (self.now_ns / 20_000_000_000)) % 5;
                let bad = [0.0, 0.0, 0.05, 0.5, 1.0][mood as usize];
                let n = self.below(12);
                for _ in 0..n {
                    let fail = self.rng.hits(bad);
                    let totals = &mut self.totals[at as usize];
                    let count = if fail { &mut totals.fail } else { &mut totals.ok };
                    *count = count.wrapping_add(1);
                    totals.slow += u64::from(mood == 3);
                    totals.connect += u64::from(fail && mood == 4);
                }
            }
            300..500 => {
                let (coin, now) = (self.rng.next(), self.now());
                let idempotent = coin % 3 > 0;
                match self.engines[worker].decide(self.service, now, Coin::Chance(coin), || idempotent) {
                    Decision::Serve { key, .. }
                    | Decision::Trial { key, .. }
                    | Decision::Delay { key: Some(key), .. } => {
                        assert!(key.starts_with("no-") || key.starts_with("only-"), "{key}");
                    }
                    Decision::Refuse(refusal) => {
                        assert!((400..=599).contains(&refusal.status) && refusal.retry_after_s >= 1);
                    }
                    Decision::Pass | Decision::Delay { key: None, .. } => {}
                }
            }
            500..600 if zones > 0 => {
                let name = zone(self.below(zones) as usize);
                let id = self.engines[worker].zone(self.service, &name).unwrap();
                let attempt = self.engines[worker].attempt(self.service, id, self.now_ns);
                self.flying.push((worker, attempt));
            }
            600..700 if !self.flying.is_empty() => {
                let at = self.below(self.flying.len() as u64) as usize;
                let (worker, attempt) = self.flying.swap_remove(at);
                let outcomes = [
                    Outcome::Ok,
                    Outcome::Failed,
                    Outcome::ConnectFailed,
                    Outcome::Answered,
                    Outcome::Neutral,
                ];
                let outcome = outcomes[self.below(outcomes.len() as u64) as usize];
                let bump = self.engines[worker].finish(&attempt, outcome, self.now_ns);
                assert!(!(bump.ok && bump.fail) && !(bump.late && (bump.ok || bump.fail || bump.slow)));
                let now = self.now();
                if let Some(proposal) = self.engines[worker].due(self.service, now) {
                    self.propose(worker, &proposal);
                }
            }
            _ => {
                self.now_ns = self.now_ns.saturating_add(self.below(120_000_000));
                for name in self.engines[worker].zones(self.service).to_vec() {
                    let id = self.engines[worker].zone(self.service, &name).unwrap();
                    self.engines[worker].sweep(self.service, id, self.now_ns);
                }
                let now = self.now();
                if let Some(proposal) = self.engines[worker].tick(self.service, now, &self.totals) {
                    self.propose(worker, &proposal);
                }
            }
        }
    }

    fn configure(&mut self) {
        let zones = self.below(MAX_ZONES as u64 + 1) as usize;
        let breaker = BreakerPolicy {
            detector: if self.rng.hits(0.5) { DetectorKind::Peers } else { DetectorKind::Consecutive },
            sensitivity: [Sensitivity::Fast, Sensitivity::Normal, Sensitivity::Safe][self.below(3) as usize],
            absolute: Percent::new(1.0 + self.rng.uniform() * 89.0).unwrap(),
            consecutive_failures: 1 + self.below(8) as u32,
            open: if self.rng.hits(0.5) { Some(Millis(100 + self.below(10_000))) } else { None },
            half_open_max_requests: None,
            slow: if self.rng.hits(0.5) { Slow::default() } else { Slow::Absolute(Millis(self.below(500))) },
            ramp: Millis(self.below(5_000)),
            enforcement: [
                Enforcement::Enforce,
                Enforcement::Enforce,
                Enforcement::Shadow,
                Enforcement::Disabled,
            ][self.below(4) as usize],
            max_open_zones: 1 + self.below(3) as u32,
            shed: self.rng.hits(0.3),
        };
        let when = [AbortWhen::Always, AbortWhen::ZoneDegraded, AbortWhen::ZoneOpen][self.below(3) as usize];
        let percent = Percent::new(self.rng.uniform() * 100.0).unwrap();
        let zones_meant = (0..zones).filter(|_| self.rng.hits(0.2)).map(zone).collect();
        let abort = self.rng.hits(0.3).then(|| AbortPolicy {
            percent,
            when,
            zones: zones_meant,
            until: self.rng.hits(0.5).then(|| Instant(self.now().0.saturating_add(self.below(60_000)))),
            delay: self.rng.hits(0.5).then_some(Millis(200)),
            ..AbortPolicy::default()
        });
        let spill = self.rng.hits(0.3).then(|| SpillPolicy {
            max_rps: Some(self.rng.next() as u32 % 100),
            max_share: Some(self.rng.uniform()),
            headroom: self.rng.hits(0.5).then(|| self.rng.uniform()),
            adaptive: true,
        });
        let spread = if self.rng.hits(0.5) { Spread::ByWeight } else { Spread::ByLatency };
        let sticky = self.rng.hits(0.3).then(|| Sticky::Cookie("session".to_owned()));
        let explore = Percent::new(self.rng.uniform() * 50.0).unwrap();
        let mode = if self.rng.hits(0.5) { Mode::Strong } else { Mode::Eventual };
        let weights = (0..zones).filter(|_| self.rng.next().is_multiple_of(3)).map(zone).collect::<Vec<_>>();
        let weights = weights.into_iter().map(|zone| (zone, self.rng.next() as u32 % 5)).collect();
        let shifts = (0..zones).filter(|_| self.rng.next().is_multiple_of(6)).collect::<Vec<_>>();
        let shifts = shifts.into_iter().map(|at| Shift {
            zone: zone(at),
            keep_percent: Percent::new([0.0, 0.1, 30.0, 100.0][self.below(4) as usize]).unwrap(),
            expires_at_ms: self.now().0.saturating_add(self.below(60_000)),
        });
        let shifts = shifts.collect();
        self.config = ServiceConfig {
            zones: (0..zones).map(|at| (zone(at), self.rng.next() as u32 % 4)).collect(),
            policy: ServicePolicy {
                mode,
                weights,
                explore,
                spread,
                sticky,
                breaker,
                abort,
                spill,
                ..ServicePolicy::default()
            },
            shifts,
        };
        self.totals.resize(zones, Totals::default());
        self.opened_ms.clear();
        self.most_away = self.most_away.max(self.config.policy.breaker.max_open_zones as usize);
        for worker in 0..2 {
            let now = self.now();
            self.engines[worker].configure(&filter_config(&self.config), None, now);
            self.catch_up(worker);
        }
    }

    fn propose(&mut self, worker: usize, proposal: &Proposal) {
        assert!(!proposal.transitions.is_empty(), "a proposal that changes nothing");
        for transition in &proposal.transitions {
            self.justified(transition);
            *self.moves.entry(format!("{} {}", transition.to, transition.cause)).or_default() += 1;
            assert!(transition.to_string().starts_with("order-svc az-"), "{transition}");
        }
        if self.shared == self.engines[worker].encoded(self.service) {
            self.shared = proposal.state.clone();
            let opened = proposal.transitions.iter().any(|transition| transition.to == State::Open);
            if opened {
                self.opened_ms.push(self.now().0);
            }
        }
        (0..2).for_each(|worker| self.catch_up(worker));
        assert_eq!(self.engines[0].encoded(self.service), self.engines[1].encoded(self.service));
        assert_eq!(self.engines[0].epoch(self.service), self.engines[1].epoch(self.service));
    }

    /// No transition without evidence.
    fn justified(&self, transition: &Transition) {
        let evidence = transition.evidence;
        match (transition.to, transition.cause) {
            (State::Open, Cause::Failures | Cause::Slow | Cause::Connect) => {
                let evidence = evidence.expect("evidence");
                assert!(
                    evidence.k >= 3 && evidence.k <= evidence.n && evidence.score >= evidence.needed,
                    "{evidence}"
                );
            }
            (State::Open, Cause::Consecutive) => {
                let evidence = evidence.expect("evidence");
                assert!(
                    evidence.k >= self.config.policy.breaker.consecutive_failures && evidence.k == evidence.n
                );
            }
            (State::Open, Cause::TrialsFailed) => assert!(evidence.expect("evidence").k >= 1),
            (State::HalfOpen, Cause::Elapsed) => {}
            (State::Ramp, Cause::TrialsPassed) => assert!(evidence.expect("evidence").n >= 1),
            (State::Closed, Cause::NoGain) => assert!(evidence.expect("evidence").peer_k >= 1),
            (State::Closed, Cause::Ramped | Cause::LastZone | Cause::Operator | Cause::TurnedOff) => {}
            other => panic!("{other:?} is no move"),
        }
        // The last zone is never left: another one is there that nobody drains or left.
        if transition.to == State::Open {
            let others = self.config.zones.iter().filter(|(zone, capacity)| {
                let engine = &self.engines[0];
                let id = engine.zone(self.service, zone).unwrap();
                let state = engine.zone_state(self.service, id, self.now()).state;
                **zone != transition.zone
                    && **capacity > 0
                    && matches!(state, State::Closed | State::ForcedClosed)
            });
            assert!(others.count() > 0, "{transition}");
        }
    }

    fn check(&mut self) {
        let now = self.now();
        for engine in &self.engines {
            let states = engine.zones(self.service).iter().map(|zone: &Zone| {
                engine.zone_state(self.service, engine.zone(self.service, zone).unwrap(), now).state
            });
            let away =
                states.filter(|state| matches!(state, State::Open | State::HalfOpen | State::Ramp)).count();
            // A policy that allows fewer than before takes none back.
            assert!(away <= self.most_away, "{away} zones are away at once");
        }
        // The shortest open time is 90 ms, and trials take 0.1 s at least: no state machine of ours spins.
        let within = self.opened_ms.iter().filter(|at| now.0.saturating_sub(**at) < 60_000).count();
        let shortest = self.config.policy.breaker.open_time().0;
        let each = 4 + 60_000 / (shortest * 9 / 10);
        assert!(
            within as u64 <= each * u64::from(self.config.policy.breaker.max_open_zones),
            "{within} openings in a minute"
        );
    }

    fn catch_up(&mut self, worker: usize) {
        if self.shared.is_empty() {
            self.shared = self.engines[worker].encoded(self.service);
        }
        let now = self.now();
        self.engines[worker].adopt(self.service, &self.shared, now).expect("a state that was encoded");
    }
}
