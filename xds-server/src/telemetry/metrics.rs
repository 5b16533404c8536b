//! What Prometheus reads: names `zonebreak_*`, base units, labels with few values (zones, types, states; never a proxy or an
//! endpoint). Gauges are set when they are read, from what the server holds then; counters are counted where things happen.

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};
use std::sync::{Arc, OnceLock};

use zonebreak_core::names::Zone;
use zonebreak_xds::{LoadMetrics, Server};

use super::xds::XdsCollector;
use crate::{
    model::{Fleet, Status, ZoneState},
    serve::matrix::Counted,
};

/// All metrics of the server.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    /// `zonebreak_topology_changes_total`: publications.
    pub changes: IntCounter,
    /// `zonebreak_view_build_seconds`: from a change to its publication.
    pub build: Histogram,
    /// `zonebreak_bulk_window_seconds`: the pause between two publications of endpoints.
    pub window: Gauge,
    /// `zonebreak_topology_changes_merged_total`: changes that were published together with an earlier one.
    pub merged: IntCounter,
    /// `zonebreak_quarantined_resources`: resources that nobody gets until they change.
    pub quarantined: IntGauge,
    waves: IntCounterVec,
    reloads: IntCounterVec,
    revision: IntGauge,
    problems: IntGauge,
    held: IntGauge,
    requests: IntCounterVec,
    reporting: IntGauge,
    reports: Arc<OnceLock<Arc<LoadMetrics>>>,
    saved_at: Gauge,
    proxies: IntGaugeVec,
    shift: GaugeVec,
    endpoints: IntGaugeVec,
    etcd_connected: Option<IntGauge>,
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
        let build_info = IntGaugeVec::new(
            Opts::new(
                "zonebreak_build_info",
                "Always 1; the label tells the version of the running program.",
            ),
            &["version"],
        )?;
        build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registry.register(Box::new(build_info))?;
        registry.register(Box::new(XdsCollector::new(server.clone())?))?;
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;

        let metrics = Self {
            changes: IntCounter::new(
                "zonebreak_topology_changes_total",
                "Times that views were built and published.",
            )?,
            build: Histogram::with_opts(
                HistogramOpts::new(
                    "zonebreak_view_build_seconds",
                    "From a change to its publication to the streams.",
                )
                .buckets(prometheus::exponential_buckets(0.000_1, 4.0, 9)?),
            )?,
            window: Gauge::new(
                "zonebreak_bulk_window_seconds",
                "Pause between two publications of endpoints that come and go, as the load has it.",
            )?,
            merged: IntCounter::new(
                "zonebreak_topology_changes_merged_total",
                "Changes that were published together with an earlier one.",
            )?,
            quarantined: IntGauge::new(
                "zonebreak_quarantined_resources",
                "Resources that a proxy refused and nobody gets until they change.",
            )?,
            waves: IntCounterVec::new(
                Opts::new(
                    "zonebreak_waves_total",
                    "Changes that went to a few proxies first, by outcome (passed, late, halted, overtaken).",
                ),
                &["outcome"],
            )?,
            reloads: IntCounterVec::new(
                Opts::new(
                    "zonebreak_config_reloads_total",
                    "Reloads of the configuration, by outcome (taken, refused).",
                ),
                &["outcome"],
            )?,
            revision: IntGauge::new(
                "zonebreak_topology_revision",
                "Revision that the published views were built from.",
            )?,
            problems: IntGauge::new("zonebreak_topology_problems", "Values that are refused at the moment.")?,
            requests: IntCounterVec::new(
                Opts::new(
                    "zonebreak_zone_requests_total",
                    "Requests that proxies reported (LRS), by zone of the proxy, zone of the endpoint and outcome (ok, error).",
                ),
                &["client_zone", "target_zone", "outcome"],
            )?,
            reporting: IntGauge::new("zonebreak_load_report_streams", "Proxies that report their load.")?,
            reports: Arc::default(),
            held: IntGauge::new(
                "zonebreak_topology_held",
                "Changes that are held back because they would take away too much.",
            )?,
            saved_at: Gauge::new(
                "zonebreak_state_saved_timestamp_seconds",
                "When the last good state on disk was written, in seconds since 1970; 0 while there is none.",
            )?,
            proxies: IntGaugeVec::new(
                Opts::new(
                    "zonebreak_proxies",
                    "Connected proxies, by whether they have what they should have.",
                ),
                &["state"],
            )?,
            shift: GaugeVec::new(
                Opts::new(
                    "zonebreak_zone_shift_ratio",
                    "Share of its load that a zone gives away on an operator's word.",
                ),
                &["zone"],
            )?,
            endpoints: IntGaugeVec::new(
                Opts::new(
                    "zonebreak_zone_endpoints",
                    "Endpoints of a zone, by state (serving, out_of_service).",
                ),
                &["zone", "state"],
            )?,
            etcd_connected: etcd
                .then(|| {
                    IntGauge::new(
                        "zonebreak_etcd_connected",
                        "1 while etcd answers, 0 while the last good state is served.",
                    )
                })
                .transpose()?,
            reloaded_at: Gauge::new(
                "zonebreak_config_reload_timestamp_seconds",
                "When the configuration in force was read, in seconds since 1970.",
            )?,
            registry,
        };
        for outcome in ["passed", "late", "halted", "overtaken"] {
            metrics.waves.with_label_values(&[outcome]).inc_by(0);
        }
        for outcome in ["taken", "refused"] {
            metrics.reloads.with_label_values(&[outcome]).inc_by(0);
        }
        let registry = &metrics.registry;
        registry.register(Box::new(metrics.changes.clone()))?;
        registry.register(Box::new(metrics.build.clone()))?;
        registry.register(Box::new(metrics.reloads.clone()))?;
        registry.register(Box::new(metrics.revision.clone()))?;
        registry.register(Box::new(metrics.problems.clone()))?;
        registry.register(Box::new(metrics.window.clone()))?;
        registry.register(Box::new(metrics.merged.clone()))?;
        registry.register(Box::new(metrics.quarantined.clone()))?;
        registry.register(Box::new(metrics.waves.clone()))?;
        registry.register(Box::new(metrics.held.clone()))?;
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.reporting.clone()))?;
        registry.register(Box::new(metrics.saved_at.clone()))?;
        registry.register(Box::new(metrics.proxies.clone()))?;
        registry.register(Box::new(metrics.shift.clone()))?;
        registry.register(Box::new(metrics.endpoints.clone()))?;
        registry.register(Box::new(metrics.reloaded_at.clone()))?;
        if let Some(connected) = &metrics.etcd_connected {
            registry.register(Box::new(connected.clone()))?;
        }
        Ok(metrics)
    }

    /// Counts a reload of the configuration.
    pub fn reloaded(&self, taken: bool) {
        self.reloads.with_label_values(&[if taken { "taken" } else { "refused" }]).inc();
    }

    /// Counts a change that went in waves.
    pub fn wave(&self, outcome: &str) {
        self.waves.with_label_values(&[outcome]).inc();
    }

    /// Counts what a proxy reported.
    pub fn requests(&self, counted: &Counted) {
        let client = counted.client.as_ref().map_or("", Zone::as_str);
        let of = |outcome| self.requests.with_label_values(&[client, counted.target.as_str(), outcome]);
        of("ok").inc_by(counted.successes);
        of("error").inc_by(counted.errors);
    }

    /// Shows how many proxies report their load; the first call counts.
    pub fn count_reports(&self, reports: Arc<LoadMetrics>) {
        _ = self.reports.set(reports);
    }

    /// Everything in the Prometheus text format, with the gauges set from `status`.
    ///
    /// # Errors
    /// When a metric cannot be written as text.
    pub fn render(&self, status: &Status) -> prometheus::Result<String> {
        self.observe(status);
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    fn observe(&self, status: &Status) {
        self.revision.set(status.source.applied_revision.unwrap_or(0));
        self.problems.set(count(status.problems.len()));
        self.reporting
            .set(self.reports.get().map_or(0, |reports| i64::try_from(reports.open()).unwrap_or(i64::MAX)));
        self.held.set(count(status.held.len()));
        let saved_at = status.disk.as_ref().and_then(|disk| disk.saved_at);
        self.saved_at.set(saved_at.map_or(0.0, seconds));
        let Fleet { synced, stale, nacked, .. } = status.proxies;
        for (state, number) in [("synced", synced), ("stale", stale), ("nacked", nacked)] {
            self.proxies.with_label_values(&[state]).set(count(number));
        }
        // Zones that are gone must not linger with their last value.
        self.shift.reset();
        self.endpoints.reset();
        for row in &status.zones {
            let zone = row.zone.as_str();
            let given_away = row
                .keep_percent
                .filter(|_| row.state != ZoneState::Serving)
                .map_or(0.0, |keep| keep.rest().fraction());
            self.shift.with_label_values(&[zone]).set(given_away);
            self.endpoints.with_label_values(&[zone, "serving"]).set(count(row.serving));
            self.endpoints
                .with_label_values(&[zone, "out_of_service"])
                .set(count(row.endpoints - row.serving));
        }
        if let Some(connected) = &self.etcd_connected {
            connected.set(i64::from(status.source.connected));
        }
        self.reloaded_at.set(seconds(status.config_reload_ts));
    }
}

/// Milliseconds since 1970 are exact in a double for 285,000 years.
fn seconds(at: jiff::Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1000.0
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
