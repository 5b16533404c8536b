//! What Prometheus reads: names `zonebreak_*`, base units, labels with few values (zones, types, states; never a proxy or an
//! endpoint). Gauges are set when they are read, from what the server holds then; counters are counted where things happen.

mod load;
mod publishing;
mod state;

use prometheus::{
    Gauge, IntCounterVec, Registry, TextEncoder, register_gauge_with_registry,
    register_int_counter_vec_with_registry, register_int_gauge_vec_with_registry,
};
use zonebreak_xds::Server;

use super::xds::XdsCollector;
use crate::model::Status;
use state::State;

pub use load::Load;
pub use publishing::Publishing;

/// All metrics of the server.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    /// What is published.
    pub publishing: Publishing,
    /// What proxies report.
    pub load: Load,
    state: State,
    reloads: IntCounterVec,
    reloaded_at: Gauge,
}

// === impl Metrics ===

impl Metrics {
    /// Where else may be registered what this server does.
    pub const fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Registers everything, the counters of `server` included. `etcd` tells whether there is an etcd to be connected to.
    ///
    /// # Errors
    /// When a name is registered twice, which a test rules out.
    pub fn new(server: &Server, etcd: bool) -> prometheus::Result<Self> {
        let registry = Registry::new();
        let build_info = register_int_gauge_vec_with_registry!(
            "zonebreak_build_info",
            "Always 1; the label tells the version of the running program.",
            &["version"],
            registry
        )?;
        build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registry.register(Box::new(XdsCollector::new(server.clone())?))?;
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let reloads = register_int_counter_vec_with_registry!(
            "zonebreak_config_reloads_total",
            "Reloads of the configuration, by outcome (taken, refused).",
            &["outcome"],
            registry
        )?;
        from_zero(&reloads, &["taken", "refused"]);
        Ok(Self {
            publishing: Publishing::new(&registry)?,
            load: Load::new(&registry)?,
            state: State::new(&registry, etcd)?,
            reloads,
            reloaded_at: register_gauge_with_registry!(
                "zonebreak_config_reload_timestamp_seconds",
                "When the configuration in force was read, in seconds since 1970.",
                registry
            )?,
            registry,
        })
    }

    /// Counts a reload of the configuration.
    pub fn reloaded(&self, taken: bool) {
        self.reloads.with_label_values(&[if taken { "taken" } else { "refused" }]).inc();
    }

    /// Everything in the Prometheus text format, with the gauges set from `status`.
    ///
    /// # Errors
    /// When a metric cannot be written as text.
    pub fn render(&self, status: &Status) -> prometheus::Result<String> {
        self.state.observe(status);
        self.load.observe();
        self.reloaded_at.set(seconds(status.config_reload_ts));
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

/// Shows a counter before the first time: what is not there cannot be alerted on.
fn from_zero(counter: &IntCounterVec, outcomes: &[&str]) {
    for outcome in outcomes {
        counter.with_label_values(&[outcome]).inc_by(0);
    }
}

/// Milliseconds since 1970 are exact in a double for 285,000 years.
fn seconds(at: jiff::Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1000.0
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
