//! Metrics of what is published: how often, how fast, and how it fares with the first proxies. Counts; decides nothing.

use prometheus::{
    Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, Registry, exponential_buckets,
    register_gauge_with_registry, register_histogram_with_registry, register_int_counter_vec_with_registry,
    register_int_counter_with_registry, register_int_gauge_with_registry,
};

/// What is published.
#[derive(Debug, Clone)]
pub struct Publishing {
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
}

// === impl Publishing ===

impl Publishing {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let waves = register_int_counter_vec_with_registry!(
            "zonebreak_waves_total",
            "Changes that went to a few proxies first, by outcome (passed, late, halted, overtaken).",
            &["outcome"],
            registry
        )?;
        super::from_zero(&waves, &["passed", "late", "halted", "overtaken"]);
        Ok(Self {
            changes: register_int_counter_with_registry!(
                "zonebreak_topology_changes_total",
                "Times that views were built and published.",
                registry
            )?,
            build: register_histogram_with_registry!(
                "zonebreak_view_build_seconds",
                "From a change to its publication to the streams.",
                exponential_buckets(0.000_1, 4.0, 9)?,
                registry
            )?,
            window: register_gauge_with_registry!(
                "zonebreak_bulk_window_seconds",
                "Pause between two publications of endpoints that come and go, as the load has it.",
                registry
            )?,
            merged: register_int_counter_with_registry!(
                "zonebreak_topology_changes_merged_total",
                "Changes that were published together with an earlier one.",
                registry
            )?,
            quarantined: register_int_gauge_with_registry!(
                "zonebreak_quarantined_resources",
                "Resources that a proxy refused and nobody gets until they change.",
                registry
            )?,
            waves,
        })
    }

    /// Counts a change that went in waves.
    pub fn wave(&self, outcome: &str) {
        self.waves.with_label_values(&[outcome]).inc();
    }
}
