//! What Prometheus reads of a leader guard: names `zonebreak_leader_*`. Counts; decides nothing.

use prometheus::{IntCounter, IntGauge, IntGaugeVec, Opts, Registry};

use super::{Limits, View};

/// All metrics of a guard.
#[derive(Debug, Clone)]
pub struct GuardMetrics {
    /// 1 while the leader is in an allowed region.
    pub in_place: IntGauge,
    /// 1 while the cluster's members can be asked.
    pub answers: IntGauge,
    /// Times that a leader was moved.
    pub moves: IntCounter,
    /// Times that it was asked to hand over and did not.
    pub failed: IntCounter,
    /// 1 for each region that may be lost.
    pub survives: IntGaugeVec,
}

// === impl GuardMetrics ===

impl GuardMetrics {
    /// Registers everything.
    ///
    /// # Errors
    /// When a name is registered twice.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let survives = Opts::new(
            "zonebreak_leader_region_may_be_lost",
            "1 for each region whose loss leaves a quorum of those members that answer.",
        );
        let metrics = Self {
            in_place: IntGauge::new(
                "zonebreak_leader_in_place",
                "1 while the leader is in an allowed region.",
            )?,
            answers: IntGauge::new("zonebreak_leader_etcd_answers", "1 while etcd can be asked.")?,
            moves: IntCounter::new("zonebreak_leader_moves_total", "Times that the leader was moved.")?,
            failed: IntCounter::new(
                "zonebreak_leader_failed_moves_total",
                "Times that the leader was asked to hand over and did not.",
            )?,
            survives: IntGaugeVec::new(survives, &["region"])?,
        };
        registry.register(Box::new(metrics.in_place.clone()))?;
        registry.register(Box::new(metrics.answers.clone()))?;
        registry.register(Box::new(metrics.moves.clone()))?;
        registry.register(Box::new(metrics.failed.clone()))?;
        registry.register(Box::new(metrics.survives.clone()))?;
        Ok(metrics)
    }

    /// What was seen; nothing, where nobody answers.
    pub(super) fn note(&self, view: Option<&View>, limits: &Limits) {
        self.answers.set(i64::from(view.is_some()));
        self.in_place.set(i64::from(view.is_some_and(|view| view.in_place(limits))));
        for row in view.map(View::regions).unwrap_or_default() {
            let region = row.region.as_ref().map_or("", |region| region.as_str());
            self.survives.with_label_values(&[region]).set(i64::from(row.survives));
        }
    }
}
