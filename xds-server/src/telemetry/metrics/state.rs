//! Metrics of what the server holds: its source, its zones, its proxies, its disk. Set from the status as it is read; counts nothing.

use prometheus::{
    Gauge, GaugeVec, IntGauge, IntGaugeVec, Registry, register_gauge_vec_with_registry,
    register_gauge_with_registry, register_int_gauge_vec_with_registry, register_int_gauge_with_registry,
};

use super::{count, seconds};
use crate::model::{Fleet, Status, ZoneState};

/// What the server holds.
#[derive(Debug, Clone)]
pub(super) struct State {
    revision: IntGauge,
    problems: IntGauge,
    held: IntGauge,
    saved_at: Gauge,
    proxies: IntGaugeVec,
    shift: GaugeVec,
    endpoints: IntGaugeVec,
    etcd_connected: Option<IntGauge>,
}

// === impl State ===

impl State {
    pub(super) fn new(registry: &Registry, etcd: bool) -> prometheus::Result<Self> {
        Ok(Self {
            revision: register_int_gauge_with_registry!(
                "zonebreak_topology_revision",
                "Revision that the published views were built from.",
                registry
            )?,
            problems: register_int_gauge_with_registry!(
                "zonebreak_topology_problems",
                "Values that are refused at the moment.",
                registry
            )?,
            held: register_int_gauge_with_registry!(
                "zonebreak_topology_held",
                "Changes that are held back because they would take away too much.",
                registry
            )?,
            saved_at: register_gauge_with_registry!(
                "zonebreak_state_saved_timestamp_seconds",
                "When the last good state on disk was written, in seconds since 1970; 0 while there is none.",
                registry
            )?,
            proxies: register_int_gauge_vec_with_registry!(
                "zonebreak_proxies",
                "Connected proxies, by whether they have what they should have.",
                &["state"],
                registry
            )?,
            shift: register_gauge_vec_with_registry!(
                "zonebreak_zone_shift_ratio",
                "Share of its load that a zone gives away on an operator's word.",
                &["zone"],
                registry
            )?,
            endpoints: register_int_gauge_vec_with_registry!(
                "zonebreak_zone_endpoints",
                "Endpoints of a zone, by state (serving, out_of_service).",
                &["zone", "state"],
                registry
            )?,
            etcd_connected: etcd.then(|| connected(registry)).transpose()?,
        })
    }

    pub(super) fn observe(&self, status: &Status) {
        self.revision.set(status.source.applied_revision.unwrap_or(0));
        self.problems.set(count(status.problems.len()));
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
            let drained = row.keep_percent.filter(|_| row.state != ZoneState::Serving);
            self.shift.with_label_values(&[zone]).set(drained.map_or(0.0, |keep| keep.rest().fraction()));
            let of = |state| self.endpoints.with_label_values(&[zone, state]);
            of("serving").set(count(row.serving));
            of("out_of_service").set(count(row.endpoints - row.serving));
        }
        if let Some(connected) = &self.etcd_connected {
            connected.set(i64::from(status.source.connected));
        }
    }
}

fn connected(registry: &Registry) -> prometheus::Result<IntGauge> {
    register_int_gauge_with_registry!(
        "zonebreak_etcd_connected",
        "1 while etcd answers, 0 while the last good state is served.",
        registry
    )
}
