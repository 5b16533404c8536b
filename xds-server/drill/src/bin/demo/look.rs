//! One look at everything that a phase shows: the filter's gauges and counters in Envoy, the requests that reach the
//! backends, and what the control plane knows of its proxies. Reads; keeps nothing and judges nothing.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use zonebreak_drill::{
    lab::{BackendZone, LabError},
    world::{SERVICE, World},
};

/// Over which the share of the traffic is taken: long enough for a calm figure at 200 a second.
const SHARE_SPAN: Duration = Duration::from_secs(2);

/// The state of a zone's breaker, by its gauge in Envoy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Breaker {
    /// In use.
    Closed,
    /// Left.
    Open,
    /// A few requests test it.
    HalfOpen,
    /// Its share grows back.
    Ramp,
    /// Drained by an operator.
    Drained,
    /// Held in use by an operator.
    Held,
    /// Turned off by the policy.
    Disabled,
}

/// One zone at one moment. Counters are sums since the proxy started.
#[derive(Debug, Clone)]
pub struct ZoneLook {
    /// Its name.
    pub zone: String,
    /// Its breaker.
    pub breaker: Breaker,
    /// Attempts that it answered well.
    pub ok: u64,
    /// Attempts that it failed.
    pub failed: u64,
    /// Times that its breaker opened.
    pub opened: u64,
    /// Share of the requests that reached any backend in the last two seconds, in percent.
    pub share: f64,
}

/// How many proxies have acknowledged what they should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub struct Fleet {
    /// Those that have.
    pub acked: usize,
    /// All that are connected.
    pub proxies: usize,
}

/// Everything at one moment.
#[derive(Debug, Clone)]
pub struct Look {
    /// When.
    pub at: Instant,
    /// In the order of the world's zones.
    pub zones: Vec<ZoneLook>,
    /// Requests that Envoy tried a second time, since it started.
    pub retried: u64,
    /// Requests that it did not try again because too many retries were under way, since it started.
    pub over_budget: u64,
    /// `None` while no control plane answers.
    pub fleet: Option<Fleet>,
}

/// Envoy's counters and gauges, by name.
struct Stats(BTreeMap<String, u64>);

// === impl Breaker ===

impl Breaker {
    /// From the gauge; `None` for a number that no breaker shows.
    pub const fn of_gauge(code: u64) -> Option<Self> {
        Some(match code {
            0 => Self::Closed,
            1 => Self::Open,
            2 => Self::HalfOpen,
            3 => Self::Ramp,
            4 => Self::Drained,
            5 => Self::Held,
            6 => Self::Disabled,
            _ => return None,
        })
    }

    /// The word in the table.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "trial",
            Self::Ramp => "ramp",
            Self::Drained => "drained",
            Self::Held => "held",
            Self::Disabled => "off",
        }
    }
}

// === impl Look ===

impl Look {
    /// Looks now. A counter that Envoy does not have is an error: taken for 0 it would hide what it counts.
    pub async fn take(world: &World) -> Result<Self, LabError> {
        let of_filter = r"wasmcustom\.zonebreak_(zone_state|attempts_total|transitions_total);.*";
        let filter = format!(r"^({of_filter}|cluster\.{SERVICE}\.upstream_rq_retry(_overflow)?)$");
        // The control plane may be dead on purpose, and a proxy's view of the world goes on.
        let (stats, fleet) =
            tokio::join!(world.envoy.stats(&filter), world.plane.admin().json("/convergence?revision=0"));
        let stats = Stats(stats?);
        let at = Instant::now();
        let from = at.checked_sub(SHARE_SPAN).unwrap_or(at);
        let arrived = |zone: &BackendZone| zone.timeline().count(from, at);
        let all: u64 = world.backends.zones().iter().map(arrived).sum();
        let zone = |zone: &BackendZone| {
            let share = if all == 0 { 0.0 } else { 100.0 * arrived(zone) as f64 / all as f64 };
            stats.zone(zone.name(), share)
        };
        Ok(Self {
            at,
            zones: world.backends.zones().iter().map(zone).collect::<Result<_, _>>()?,
            retried: stats.get(&format!("cluster.{SERVICE}.upstream_rq_retry"))?,
            over_budget: stats.get(&format!("cluster.{SERVICE}.upstream_rq_retry_overflow"))?,
            fleet: fleet.ok(),
        })
    }

    /// A zone's breaker; `None` for a zone that there is not.
    pub fn breaker(&self, zone: &str) -> Option<Breaker> {
        self.zones.iter().find(|look| look.zone == zone).map(|look| look.breaker)
    }

    /// Whether every connected proxy has acknowledged everything, and at least one is connected.
    pub fn in_sync(&self) -> bool {
        self.fleet.is_some_and(|fleet| fleet.proxies > 0 && fleet.acked == fleet.proxies)
    }
}

// === impl Stats ===

impl Stats {
    fn get(&self, name: &str) -> Result<u64, LabError> {
        self.0.get(name).copied().ok_or_else(|| {
            missing(format!("Envoy has no {name}; build the filter of this checkout with `scripts/build`"))
        })
    }

    fn zone(&self, zone: &str, share: f64) -> Result<ZoneLook, LabError> {
        let get = |metric: &str, rest: &str| {
            self.get(&format!("wasmcustom.zonebreak_{metric};service={SERVICE};zone={zone}{rest}"))
        };
        let state = get("zone_state", "")?;
        Ok(ZoneLook {
            zone: zone.to_owned(),
            breaker: Breaker::of_gauge(state)
                .ok_or_else(|| missing(format!("{state} is no state of a breaker")))?,
            ok: get("attempts_total", ";result=ok")?,
            failed: get("attempts_total", ";result=fail")?,
            opened: get("transitions_total", ";to=open")?,
            share,
        })
    }
}

fn missing(why: String) -> LabError {
    LabError::Http { method: "GET", url: "/stats".to_owned(), why }
}
