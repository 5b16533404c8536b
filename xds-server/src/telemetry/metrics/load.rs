//! Metrics of what proxies report: requests from zone to zone, and how many report. Counts; decides nothing.

use std::sync::{Arc, OnceLock};

use prometheus::{
    IntCounterVec, IntGauge, Registry, register_int_counter_vec_with_registry,
    register_int_gauge_with_registry,
};
use zonebreak_core::names::Zone;
use zonebreak_xds::LoadMetrics;

use crate::serve::matrix::Counted;

/// What proxies report.
#[derive(Debug, Clone)]
pub struct Load {
    requests: IntCounterVec,
    reporting: IntGauge,
    reports: Arc<OnceLock<Arc<LoadMetrics>>>,
}

// === impl Load ===

impl Load {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            requests: register_int_counter_vec_with_registry!(
                "zonebreak_zone_requests_total",
                "Requests that proxies reported (LRS), by zone of the proxy, zone of the endpoint and outcome (ok, error).",
                &["client_zone", "target_zone", "outcome"],
                registry
            )?,
            reporting: register_int_gauge_with_registry!(
                "zonebreak_load_report_streams",
                "Proxies that report their load.",
                registry
            )?,
            reports: Arc::default(),
        })
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

    pub(super) fn observe(&self) {
        let open = self.reports.get().map_or(0, |reports| i64::try_from(reports.open()).unwrap_or(i64::MAX));
        self.reporting.set(open);
    }
}
