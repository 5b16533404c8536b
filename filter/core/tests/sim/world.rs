//! A proxy of several workers, its zones with their faults, and a virtual clock. The workers share what those of Envoy share:
//! counters, an epoch gauge, and one state under compare-and-swap; and drive the engine exactly as the filter does.

use std::{cmp::Reverse, collections::BinaryHeap};

use zonebreak_core::{
    config::{CONFIG_VERSION, FilterConfig, Role, ServiceConfig},
    engine::{Attempt, Coin, Decision, Engine, Now, Outcome, Proposal, ServiceId, State, Totals, Transition},
    names::{ServiceName, Zone},
};

use super::{envoy::Envoy, rng::Rng};

/// Where the virtual clock starts, in Unix ms.
pub const START_MS: u64 = 1_700_000_000_000;
const TICK_MS: u64 = 100;

/// How a zone fares.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Health {
    /// Probability of a failed answer.
    pub fail: f64,
    /// Probability of no connection.
    pub refuse: f64,
    /// Probability of no answer for 15 s.
    pub hang: f64,
    /// Added to each response time, in ms.
    pub slow_ms: f64,
}

pub const fn fails(fail: f64) -> Health {
    Health { fail, refuse: 0.0, hang: 0.0, slow_ms: 0.0 }
}

pub const fn slow_by(slow_ms: f64) -> Health {
    Health { fail: 0.005, refuse: 0.0, hang: 0.0, slow_ms }
}

/// What came of the requests in one second.
#[derive(Debug, Clone, Copy, Default)]
pub struct Second {
    pub requests: u32,
    pub failed: u32,
    pub refused: u32,
    /// Attempts by zone, and failed ones.
    pub zones: [u32; 8],
    pub zone_failures: [u32; 8],
}

/// What is asked of a world.
#[derive(Debug, Clone)]
pub struct Setup {
    pub service: ServiceConfig,
    pub own: Option<Zone>,
    pub workers: usize,
    pub rps: f64,
    pub retry: bool,
    pub idempotent: f64,
    pub seed: u64,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// An attempt of a request ends.
    End(usize),
    /// A worker ticks.
    Tick(usize),
    /// A request arrives.
    Arrive,
}

#[derive(Debug)]
struct Flight {
    worker: usize,
    attempt: Attempt,
    outcome: Outcome,
    key: Option<String>,
    retried: bool,
}

pub struct World {
    pub engines: Vec<Engine>,
    pub service: ServiceId,
    pub now_ns: u64,
    pub health: Vec<Health>,
    pub seconds: Vec<Second>,
    /// Transitions with the ms since the start at which they were agreed on.
    pub log: Vec<(u64, Transition)>,
    /// Longest time for which workers disagreed, in ms.
    pub discord_ms: u64,
    pub rps: f64,
    setup: Setup,
    envoy: Envoy,
    totals: Vec<Totals>,
    shared: Option<Vec<u8>>,
    epoch: u64,
    discord_since: Option<u64>,
    events: BinaryHeap<Reverse<(u64, Event)>>,
    flights: Vec<Option<Flight>>,
    free: Vec<usize>,
    rng: Rng,
}

impl World {
    pub fn new(setup: Setup) -> Self {
        let zones = setup.service.zones.len();
        let mut engines: Vec<_> = (0..setup.workers).map(|_| Engine::default()).collect();
        let service = configure(&mut engines, &setup.service, setup.own.as_ref(), Now(START_MS));
        let mut world = Self {
            engines,
            service,
            now_ns: START_MS * 1_000_000,
            health: vec![fails(0.005); zones],
            seconds: Vec::new(),
            log: Vec::new(),
            discord_ms: 0,
            rps: setup.rps,
            envoy: Envoy::new(&setup.service, setup.own.as_ref()),
            totals: vec![Totals::default(); zones],
            shared: None,
            epoch: 0,
            discord_since: None,
            events: BinaryHeap::new(),
            flights: Vec::new(),
            free: Vec::new(),
            rng: Rng::new(setup.seed),
            setup,
        };
        (0..world.engines.len()).for_each(|worker| world.catch_up(worker));
        for worker in 0..world.engines.len() {
            let phase = world.rng.next() % (TICK_MS * 1_000_000);
            world.at(world.now_ns + phase, Event::Tick(worker));
        }
        world.at(world.now_ns, Event::Arrive);
        world
    }

    /// Another policy, for the proxy and for its endpoints.
    pub fn configure(&mut self, service: ServiceConfig) {
        self.configure_filter(&service);
        self.envoy = Envoy::new(&service, self.setup.own.as_ref());
    }

    /// Another policy, for the filter alone: the endpoints lag behind.
    pub fn configure_filter(&mut self, service: &ServiceConfig) {
        let now = self.now();
        self.service = configure(&mut self.engines, service, self.setup.own.as_ref(), now);
        (0..self.engines.len()).for_each(|worker| self.catch_up(worker));
    }

    /// A worker's VM crashed and was loaded again: what it knew is gone, what is process-wide stays.
    pub fn reload(&mut self, worker: usize) {
        let now = self.now();
        self.engines[worker] = Engine::default();
        configure(&mut self.engines[worker..=worker], &self.setup.service, self.setup.own.as_ref(), now);
        self.catch_up(worker);
    }

    /// Makes room for the counters of one more zone.
    pub fn zones_grow(&mut self) {
        self.totals.push(Totals::default());
    }

    pub fn ms(&self) -> u64 {
        self.now_ns / 1_000_000 - START_MS
    }

    pub fn now(&self) -> Now {
        Now(self.now_ns / 1_000_000)
    }

    /// Runs on for so many ms.
    pub fn run(&mut self, ms: u64) {
        let until = self.now_ns + ms * 1_000_000;
        while let Some(Reverse((at, _))) = self.events.peek()
            && *at <= until
        {
            let Some(Reverse((at, event))) = self.events.pop() else { break };
            self.now_ns = at;
            match event {
                Event::Arrive => {
                    self.arrive();
                    let gap = self.rng.exponential(1e9 / self.rps) as u64;
                    self.at(at + gap, Event::Arrive);
                }
                Event::Tick(worker) => {
                    self.tick(worker);
                    self.at(at + TICK_MS * 1_000_000, Event::Tick(worker));
                }
                Event::End(flight) => self.end(flight),
            }
        }
        self.now_ns = until;
    }

    /// Runs until a condition holds, at most so many ms; how many it took.
    pub fn run_until(&mut self, most_ms: u64, mut holds: impl FnMut(&Self) -> bool) -> Option<u64> {
        (0..most_ms / 10).find_map(|step| {
            self.run(10);
            holds(self).then_some((step + 1) * 10)
        })
    }

    pub fn state(&self, zone: usize) -> State {
        let id = self.engines[0].zone(self.service, &self.engines[0].zones(self.service)[zone]).unwrap();
        self.engines[0].zone_state(self.service, id, self.now()).state
    }

    /// Transitions into the open state.
    pub fn trips(&self) -> Vec<String> {
        let trips = self.log.iter().filter(|(_, transition)| transition.to == State::Open);
        trips.map(|(at, transition)| format!("{at} ms: {transition}")).collect()
    }

    /// Sums over the seconds from one to another (both since the start, in s).
    pub fn sum(&self, seconds: std::ops::Range<usize>) -> Second {
        let mut sum = Second::default();
        for second in self.seconds.iter().take(seconds.end).skip(seconds.start) {
            sum.requests += second.requests;
            sum.failed += second.failed;
            sum.refused += second.refused;
            for zone in 0..8 {
                sum.zones[zone] += second.zones[zone];
                sum.zone_failures[zone] += second.zone_failures[zone];
            }
        }
        sum
    }

    fn at(&mut self, ns: u64, event: Event) {
        self.events.push(Reverse((ns, event)));
    }

    fn second(&mut self) -> &mut Second {
        let at = (self.ms() / 1000) as usize;
        if self.seconds.len() <= at {
            self.seconds.resize(at + 1, Second::default());
        }
        &mut self.seconds[at]
    }

    fn arrive(&mut self) {
        self.second().requests += 1;
        let worker = (self.rng.next() % self.engines.len() as u64) as usize;
        let coin = Coin::Chance(self.rng.next());
        let idempotent = self.rng.hits(self.setup.idempotent);
        let now = self.now();
        let key = match self.engines[worker].decide(self.service, now, coin, || idempotent) {
            Decision::Pass => None,
            Decision::Serve { key, .. } | Decision::Trial { key, .. } => Some(key.to_owned()),
            Decision::Delay { key, .. } => key.map(str::to_owned),
            Decision::Refuse(_) => {
                self.second().refused += 1;
                return;
            }
        };
        let zone = self.envoy.pick(key.as_deref(), None, &mut self.rng);
        self.begin(worker, zone, key, false);
    }

    fn begin(&mut self, worker: usize, zone: usize, key: Option<String>, retried: bool) {
        let name = self.engines[worker].zones(self.service)[zone].clone();
        let id = self.engines[worker].zone(self.service, &name).unwrap();
        let attempt = self.engines[worker].attempt(self.service, id, self.now_ns);
        let health = self.health[zone];
        // 3 ms and a tail: median 7.5 ms, 95th percentile 22 ms.
        let usual = 3.0 + self.rng.exponential(6.5) + health.slow_ms;
        let (outcome, ms) = match self.rng.uniform() {
            u if u < health.refuse => (Outcome::ConnectFailed, 1.0),
            u if u < health.refuse + health.hang => (Outcome::Failed, 15_000.0),
            u if u < health.refuse + health.hang + health.fail => (Outcome::Failed, usual / 2.0),
            _ => (Outcome::Ok, usual),
        };
        let second = self.second();
        second.zones[zone] += 1;
        second.zone_failures[zone] += u32::from(outcome != Outcome::Ok);
        let flight = Flight { worker, attempt, outcome, key, retried };
        let place = self.free.pop().unwrap_or(self.flights.len());
        if place == self.flights.len() {
            self.flights.push(None);
        }
        self.flights[place] = Some(flight);
        self.at(self.now_ns + (ms * 1e6) as u64, Event::End(place));
    }

    fn end(&mut self, place: usize) {
        let Some(flight) = self.flights[place].take() else { return };
        self.free.push(place);
        let zone = flight.attempt.zone().index();
        let bump = self.engines[flight.worker].finish(&flight.attempt, flight.outcome, self.now_ns);
        let totals = &mut self.totals[zone];
        totals.ok += u64::from(bump.ok);
        totals.fail += u64::from(bump.fail);
        totals.slow += u64::from(bump.slow);
        totals.settled += u64::from(bump.settled);
        totals.connect += u64::from(bump.connect);
        let now = self.now();
        if let Some(proposal) = self.engines[flight.worker].due(self.service, now) {
            self.propose(flight.worker, &proposal);
        }
        if flight.outcome != Outcome::Ok {
            if self.setup.retry && !flight.retried {
                let priority = self.envoy.priority(zone);
                let next = self.envoy.pick(flight.key.as_deref(), Some(priority), &mut self.rng);
                self.begin(flight.worker, next, flight.key, true);
            } else {
                self.second().failed += 1;
            }
        }
    }

    fn tick(&mut self, worker: usize) {
        let engine = &mut self.engines[worker];
        for zone in engine.zones(self.service).to_vec() {
            let id = engine.zone(self.service, &zone).unwrap();
            self.totals[id.index()].slow += u64::from(engine.sweep(self.service, id, self.now_ns).slow);
        }
        if self.epoch != self.engines[worker].epoch(self.service) {
            self.catch_up(worker);
        }
        let now = self.now();
        if let Some(proposal) = self.engines[worker].tick(self.service, now, &self.totals) {
            self.propose(worker, &proposal);
        }
        let agree =
            self.engines.iter().all(|e| e.encoded(self.service) == self.engines[0].encoded(self.service));
        let ms = self.ms();
        let since = *self.discord_since.get_or_insert(ms);
        if agree {
            self.discord_ms = self.discord_ms.max(ms - since);
            self.discord_since = None;
        }
    }

    fn propose(&mut self, worker: usize, proposal: &Proposal) {
        // Compare-and-swap: whoever looked at an older state loses.
        if self.shared.as_ref().is_some_and(|state| *state != self.engines[worker].encoded(self.service)) {
            self.catch_up(worker);
            return;
        }
        self.shared = Some(proposal.state.clone());
        self.catch_up(worker);
        self.epoch = self.engines[worker].epoch(self.service);
        let ms = self.ms();
        self.log.extend(proposal.transitions.iter().map(|transition| (ms, transition.clone())));
    }

    fn catch_up(&mut self, worker: usize) {
        let now = self.now();
        match &self.shared {
            Some(state) => {
                drop(self.engines[worker].adopt(self.service, state, now).expect("a state that was encoded"))
            }
            None => self.shared = Some(self.engines[worker].encoded(self.service)),
        }
    }
}

fn configure(engines: &mut [Engine], service: &ServiceConfig, own: Option<&Zone>, now: Now) -> ServiceId {
    let config = FilterConfig {
        version: CONFIG_VERSION,
        role: Role::Downstream,
        zone: None,
        services: [(ServiceName::new("order-svc").unwrap(), service.clone())].into(),
        debug_header: false,
    };
    engines.iter_mut().for_each(|engine| engine.configure(&config, own, now));
    engines[0].service("order-svc").unwrap()
}
