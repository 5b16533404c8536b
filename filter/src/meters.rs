//! The filter's metrics, visible in Envoy's /stats. Names and handles only; what they mean for the breaker is core's matter.
//!
//! Counters are process-wide atomics in Envoy: each worker adds to them and reads the sum of all. That is how the workers of
//! a proxy, which share no memory, come to see the same traffic. Names carry their labels as Graphite does,
//! `name;label=value`, which the `stats_tags` in the bootstrap turn into labels.

use zonebreak_core::{
    engine::{Bump, State, Swept, Totals, ZoneStatus},
    names::Zone,
    units::Percent,
};

use crate::host::Metric;

/// The metrics of one service.
#[derive(Debug)]
pub struct ServiceMeters {
    service: String,
    names: Vec<Zone>,
    zones: Vec<ZoneMeters>,
    /// What clients got in the end: one of these for each request.
    answered: Option<Metric>,
    failed: Option<Metric>,
    refused: Option<Metric>,
    moved: Option<Metric>,
    epoch: Option<Metric>,
}

#[derive(Debug)]
struct ZoneMeters {
    ok: Option<Metric>,
    fail: Option<Metric>,
    late: Option<Metric>,
    slow: Option<Metric>,
    settled: Option<Metric>,
    connect: Option<Metric>,
    state: Option<Metric>,
    keep: Option<Metric>,
    /// Transitions into each state that the breaker itself enters, in the order of [`ENTERED`].
    into: [Option<Metric>; ENTERED.len()],
}

/// The states that the breaker itself enters.
const ENTERED: [State; 4] = [State::Closed, State::Open, State::HalfOpen, State::Ramp];

/// What a client got in the end.
#[derive(Debug, Clone, Copy)]
pub enum Final {
    /// An answer below 500.
    Answered,
    /// A 5xx from the service or for want of it.
    Failed,
    /// A refusal of ours: no zone left, spill or abort.
    Refused,
}

// === impl ServiceMeters ===

impl ServiceMeters {
    /// Whether these are the metrics of that service and those zones.
    pub fn are_of(&self, service: &str, zones: &[Zone]) -> bool {
        self.service == service && self.names == zones
    }

    /// Defines the metrics, or finds those that another worker defined. The host remembers every call for ever, so each
    /// service comes here once, and again only when its zones change.
    pub fn new(service: &str, zones: &[Zone]) -> Self {
        let names = zones.to_vec();
        let of_service = |name: &str| format!("zonebreak_{name};service={service}");
        let final_count =
            |outcome: &str| Metric::counter(&format!("{};outcome={outcome}", of_service("requests_total")));
        let zones = zones
            .iter()
            .map(|zone| {
                let of_zone = |name: &str| format!("{};zone={zone}", of_service(name));
                ZoneMeters {
                    ok: Metric::counter(&format!("{};result=ok", of_zone("attempts_total"))),
                    fail: Metric::counter(&format!("{};result=fail", of_zone("attempts_total"))),
                    late: Metric::counter(&format!("{};result=late", of_zone("attempts_total"))),
                    slow: Metric::counter(&of_zone("slow_attempts_total")),
                    settled: Metric::counter(&of_zone("slow_attempts_ended_total")),
                    connect: Metric::counter(&of_zone("connect_failures_total")),
                    state: Metric::gauge(&of_zone("zone_state")),
                    keep: Metric::gauge(&of_zone("zone_keep_permille")),
                    into: ENTERED.map(|state| {
                        Metric::counter(&format!("{};to={state}", of_zone("transitions_total")))
                    }),
                }
            })
            .collect();
        Self {
            service: service.to_owned(),
            names,
            zones,
            answered: final_count("answered"),
            failed: final_count("failed"),
            refused: final_count("refused"),
            moved: Metric::counter(&of_service("moved_requests_total")),
            epoch: Metric::gauge(&of_service("epoch")),
        }
    }

    /// Adds what one attempt in a zone (by its index) was.
    pub fn attempt(&self, zone: usize, bump: Bump) {
        let Some(meters) = self.zones.get(zone) else { return };
        let counts = [
            (bump.ok, meters.ok),
            (bump.fail, meters.fail),
            (bump.late, meters.late),
            (bump.slow, meters.slow),
            (bump.settled, meters.settled),
            (bump.connect, meters.connect),
        ];
        for (hit, metric) in counts {
            if hit && let Some(metric) = metric {
                metric.bump();
            }
        }
    }

    /// Adds what became of attempts that are under way.
    pub fn swept(&self, zone: usize, swept: Swept) {
        let Some(meters) = self.zones.get(zone) else { return };
        let counts = [
            (swept.ok, meters.ok),
            (swept.slow, meters.slow),
            (swept.settled, meters.settled),
            (swept.late, meters.late),
        ];
        for (count, metric) in counts {
            if let Some(metric) = metric {
                metric.add(count);
            }
        }
    }

    /// Adds what one request came to.
    pub fn request(&self, outcome: Final) {
        let metric = match outcome {
            Final::Answered => self.answered,
            Final::Failed => self.failed,
            Final::Refused => self.refused,
        };
        if let Some(metric) = metric {
            metric.bump();
        }
    }

    /// Adds one request that was moved out of a zone because of its state.
    pub fn moved(&self) {
        if let Some(metric) = self.moved {
            metric.bump();
        }
    }

    /// The sums over all workers, zone by zone.
    pub fn totals(&self) -> Vec<Totals> {
        let read = |metric: Option<Metric>| metric.map(Metric::get).unwrap_or_default();
        let zone = |m: &ZoneMeters| Totals {
            ok: read(m.ok),
            fail: read(m.fail),
            slow: read(m.slow),
            settled: read(m.settled),
            connect: read(m.connect),
        };
        self.zones.iter().map(zone).collect()
    }

    /// The epoch of the state that the workers share.
    pub fn epoch(&self) -> u64 {
        self.epoch.map(Metric::get).unwrap_or_default()
    }

    /// Tells the other workers that there is a newer state.
    pub fn set_epoch(&self, epoch: u64) {
        if let Some(metric) = self.epoch {
            metric.set(epoch);
        }
    }

    /// Shows the state of one zone.
    pub fn show(&self, zone: usize, status: &ZoneStatus) {
        let Some(meters) = self.zones.get(zone) else { return };
        if let Some(metric) = meters.state {
            metric.set(u64::from(status.state.code()));
        }
        if let Some(metric) = meters.keep {
            metric.set(u64::from(status.keep.permille()));
        }
    }

    /// Shows zones that nobody looks after any more as closed, with their full share.
    pub fn rest(&self) {
        let status = ZoneStatus { state: State::Closed, keep: Percent::FULL, shadow: false };
        (0..self.zones.len()).for_each(|zone| self.show(zone, &status));
    }

    /// Adds one transition of a zone.
    pub fn transition(&self, zone: usize, to: State) {
        let place = ENTERED.iter().position(|state| *state == to);
        let meters = self.zones.get(zone).zip(place);
        if let Some(metric) = meters.and_then(|(meters, place)| *meters.into.get(place)?) {
            metric.bump();
        }
    }
}
