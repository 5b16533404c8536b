//! The configurations without Zonebreak, each what its documents say. One listener, one cluster, no control plane.
//!
//! Sources: Envoy's `outlier_detection.proto` and `cluster.proto` for fields and defaults; Istio's
//! `pilot/pkg/networking/core/cluster_traffic_policy.go` (`applyOutlierDetection`: success rate off, no panic) and
//! `loadbalancer.go` (own zone at priority 0, the other zones of the region at priority 1) for what a DestinationRule turns
//! into. Istio's default retries are left out: since 1.24 they do not cover 503.

use serde_json::{Value, json};

use super::{
    contender::Contender,
    scenario::{BROKEN, HOSTS},
};
use crate::lab::{
    BackendZone, Backends,
    bootstrap::{StaticBootstrap, localities},
};

/// The bootstrap of a native contender. Zonebreak's own get plain round robin: they are not configured here.
pub(super) fn bootstrap(contender: Contender, backends: &Backends) -> String {
    let (own_zone_first, cluster) = match contender {
        Contender::RoundRobin | Contender::OursEven | Contender::OursLocal | Contender::OursRetry => {
            (false, json!({}))
        }
        Contender::IstioDefault => (true, istio(json!({"consecutive_5xx": 5}))),
        Contender::IstioTuned => (
            true,
            istio(json!({"consecutive_5xx": 5, "interval": "1s", "base_ejection_time": "10s",
                "max_ejection_percent": 100})),
        ),
        Contender::HairTrigger => {
            let mut cluster =
                istio(json!({"consecutive_5xx": 1, "interval": "1s", "base_ejection_time": "60s",
                "max_ejection_percent": 100}));
            // Else the first ejection acts at once and the others up to a second later (Envoy's default, and Istio's).
            cluster["common_lb_config"]["update_merge_window"] = json!("0s");
            (true, cluster)
        }
        Contender::SuccessRate => (
            false,
            json!({"outlier_detection": {"enforcing_success_rate": 100, "max_ejection_percent": 100,
                "enforcing_consecutive_5xx": 0}}),
        ),
        Contender::FailurePercentage => (
            false,
            json!({"outlier_detection": {"enforcing_failure_percentage": 100, "failure_percentage_threshold": 10,
                "failure_percentage_request_volume": 10, "interval": "2s", "max_ejection_percent": 100,
                "enforcing_success_rate": 0, "enforcing_consecutive_5xx": 0}}),
        ),
    };
    let priority = |zone: &BackendZone| {
        if own_zone_first {
            json!({"priority": u32::from(zone.name() != BROKEN), "load_balancing_weight": HOSTS})
        } else {
            json!({})
        }
    };
    let endpoints = localities(backends, crate::world::REGION, priority);
    StaticBootstrap { cluster, ..StaticBootstrap::new(endpoints) }.text()
}

/// The cluster that Istio makes of a DestinationRule with locality failover and this `outlierDetection`.
fn istio(mut outliers: Value) -> Value {
    outliers["enforcing_success_rate"] = json!(0);
    json!({
        "lb_policy": "LEAST_REQUEST",
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}, "locality_weighted_lb_config": {}},
        "outlier_detection": outliers,
    })
}
