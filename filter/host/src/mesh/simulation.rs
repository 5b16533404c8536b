//! The mesh under its clock: arrivals, ticks and answers in the order of time.

use std::{collections::HashMap, ops::Range, rc::Rc, time::Duration};

use zonebreak_core::{names::Zone, subset};

use super::{
    Attempts, Clients, End, Ends, Fault, Locality, Record, Setup,
    fault::Pace,
    flight::Flight,
    queue::{Event, Queue},
};
use crate::{
    HostError,
    process::Process,
    proxy::Proxy,
    vm::{Host, Module},
};

/// A proxy, its clients and the zones behind it.
pub struct Mesh {
    pub(super) setup: Setup,
    pub(super) proxy: Proxy,
    pub(super) cluster: Rc<str>,
    pub(super) hosts: Vec<Rc<Host>>,
    pub(super) localities: Vec<Locality>,
    pub(super) faults: Vec<Vec<Fault>>,
    pub(super) flights: HashMap<u64, Flight>,
    pub(super) retrying: usize,
    pub(super) queue: Queue,
    pub(super) record: Record,
    pub(super) rng: fastrand::Rng,
    pub(super) next_request: u64,
    /// No arrival is to come, since the rate was 0 when one was due.
    pub(super) idle: bool,
    /// How clients behave from now on.
    pub clients: Clients,
}

/// Sigma of the log-normal times to answer.
const SPREAD: f64 = 0.4;

// === impl Mesh ===

impl Mesh {
    /// Lays a mesh out; its proxy has no plugin yet. Requests arrive as soon as it runs.
    ///
    /// # Errors
    ///
    /// When a zone's name is none.
    pub fn new(module: Module, setup: Setup) -> Result<Self, HostError> {
        let zones = setup.zones.iter().map(|zone| Zone::new(&zone.name)).collect::<Result<Vec<_>, _>>()?;
        let own = setup.proxy.node.zone.as_deref();
        let own_is_here = zones.iter().any(|zone| Some(zone.as_str()) == own);
        let locality = |(zone, weight): (&Zone, u32)| Locality {
            priority: u8::from(own_is_here && Some(zone.as_str()) != own),
            weight,
            keys: subset::keys_of_endpoint(&zones, zone),
        };
        let weights = setup.zones.iter().map(|zone| zone.weight);
        let localities = zones.iter().zip(weights).map(locality).collect();
        let host = |(i, zone): (usize, &Zone)| {
            let id = setup.host_ids.then(|| format!("{}/{zone}", setup.service));
            Rc::new(Host { address: format!("10.0.{i}.1:8080"), zone: zone.to_string(), id })
        };
        let mut queue = Queue::default();
        queue.put(Duration::ZERO, Event::Arrival);
        Ok(Self {
            proxy: Proxy::new(module, &setup.proxy),
            cluster: setup.service.as_str().into(),
            hosts: zones.iter().enumerate().map(host).collect(),
            localities,
            faults: vec![Vec::new(); zones.len()],
            flights: HashMap::new(),
            retrying: 0,
            queue,
            record: Record::new(zones.len()),
            rng: fastrand::Rng::with_seed(setup.seed),
            next_request: 0,
            idle: false,
            clients: Clients::default(),
            setup,
        })
    }

    /// Lets time pass, and all that is due in it happen.
    pub fn run(&mut self, span: Duration) {
        let end = self.now() + span;
        loop {
            let (event, tick) = (self.queue.next(), self.proxy.next_tick());
            let Some(next) = [event, tick].into_iter().flatten().min().filter(|next| *next <= end) else {
                break;
            };
            self.process().advance_to(next);
            if tick == Some(next) {
                self.proxy.tick();
            } else if let Some(event) = self.queue.take() {
                self.happen(event);
            }
        }
        self.process().advance_to(end);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrival => self.arrive(),
            Event::Answer { request, attempt } => self.answer(request, attempt),
            Event::Cut { request } => self.end_attempt(request, End::Cut, |_| {}),
            Event::Timeout { request } => self.time_out(request),
            Event::Leave { request } => self.leave(request),
        }
    }

    /// Lets no request arrive any more, and waits until those under way have ended.
    pub fn drain(&mut self) {
        let rate = std::mem::replace(&mut self.setup.rate, 0.0);
        self.run(self.setup.timeout + Duration::from_secs(1));
        self.set_rate(rate);
    }

    /// Adds a fault to a zone, by its index.
    pub fn break_zone(&mut self, zone: usize, fault: Fault) {
        self.faults[zone].push(fault);
    }

    /// Takes all faults from a zone.
    pub fn heal_zone(&mut self, zone: usize) {
        self.faults[zone].clear();
    }

    /// Moves a zone's endpoints to a priority of their own behind all others, as the control plane does with a zone that is
    /// drained wholly.
    pub fn put_last(&mut self, zone: usize) {
        self.localities[zone].priority = 2;
    }

    /// Requests a second from now on.
    pub fn set_rate(&mut self, rate: f64) {
        self.setup.rate = rate;
        if rate > 0.0 && std::mem::take(&mut self.idle) {
            self.queue.put(self.now(), Event::Arrival);
        }
    }

    /// Time since the start.
    pub fn now(&self) -> Duration {
        self.process().now()
    }

    /// The last `span` of time.
    pub fn last(&self, span: Duration) -> Range<Duration> {
        self.now().saturating_sub(span)..self.now()
    }

    /// The proxy.
    pub fn proxy(&mut self) -> &mut Proxy {
        &mut self.proxy
    }

    /// What the threads of the proxy share.
    pub fn process(&self) -> &Rc<Process> {
        self.proxy.process()
    }

    /// What happened so far.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// How the requests of a time ended.
    pub fn ends(&self, time: Range<Duration>) -> Ends {
        self.record.ends(time)
    }

    /// The attempts of a time in a zone, by its index.
    pub fn attempts(&self, zone: usize, time: Range<Duration>) -> Attempts {
        self.record.attempts(zone, time)
    }

    pub(super) fn pace(&self) -> Pace {
        Pace { median: self.setup.median, spread: SPREAD }
    }
}
