//! EDS: the endpoints of a service as one zone sees them.
//!
//! Priority 0 is the client's own zone, priority 1 the others by weight, drained zones come last (all of it decided in
//! `zonebreak_topology::view`). So Envoy alone keeps a request at home and takes a retry abroad; shares between the two are
//! the filter's, by leaving zones out through the `serve` keys that every endpoint carries.

use std::collections::HashMap;

use envoy_types::pb::{
    envoy::config::{
        core::v3::{HealthStatus, Locality, Metadata},
        endpoint::v3::{
            ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
        },
    },
    google::protobuf::{ListValue, Struct, UInt32Value, Value, value::Kind},
};
use zonebreak_core::{
    names::{ServiceName, Zone},
    subset,
};
use zonebreak_topology::{
    model::HealthState,
    view::{EndpointView, Locality as LocalityView, ServiceView},
};

use super::listener;

/// The namespace of the endpoint metadata that the filter reads: `id` is `<service>/<zone>`.
const METADATA: &str = "zonebreak";

/// The endpoints of a service.
pub(super) fn assignment(service: &ServiceName, view: &ServiceView) -> ClusterLoadAssignment {
    let zones: Vec<Zone> = view.zones.keys().cloned().collect();
    ClusterLoadAssignment {
        cluster_name: service.to_string(),
        endpoints: view.localities.iter().map(|locality| self::locality(service, &zones, locality)).collect(),
        ..Default::default()
    }
}

fn locality(service: &ServiceName, zones: &[Zone], view: &LocalityView) -> LocalityLbEndpoints {
    let metadata = metadata(service, zones, &view.zone);
    LocalityLbEndpoints {
        locality: Some(Locality {
            region: view.region.clone(),
            zone: view.zone.to_string(),
            ..Default::default()
        }),
        lb_endpoints: view.endpoints.iter().map(|endpoint| self::endpoint(endpoint, &metadata)).collect(),
        // Envoy wants at least 1: a locality without a weight gets nothing at all.
        load_balancing_weight: Some(UInt32Value { value: view.weight.max(1) }),
        priority: view.priority,
        ..Default::default()
    }
}

fn endpoint(view: &EndpointView, metadata: &Metadata) -> LbEndpoint {
    let address = Some(listener::socket(&view.address, view.port));
    LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint { address, ..Default::default() })),
        health_status: health(view.health).into(),
        metadata: Some(metadata.clone()),
        load_balancing_weight: Some(UInt32Value { value: view.weight.max(1) }),
    }
}

const fn health(state: HealthState) -> HealthStatus {
    match state {
        HealthState::Healthy => HealthStatus::Healthy,
        HealthState::Degraded => HealthStatus::Degraded,
        HealthState::Unhealthy => HealthStatus::Unhealthy,
        HealthState::Draining => HealthStatus::Draining,
    }
}

fn metadata(service: &ServiceName, zones: &[Zone], zone: &Zone) -> Metadata {
    let keys = subset::keys_of_endpoint(zones, zone).into_iter().map(text).collect();
    let lb = HashMap::from([
        ("az".to_owned(), text(zone.to_string())),
        ("serve".to_owned(), Value { kind: Some(Kind::ListValue(ListValue { values: keys })) }),
    ]);
    let id = HashMap::from([("id".to_owned(), text(format!("{service}/{zone}")))]);
    Metadata {
        filter_metadata: HashMap::from([
            ("envoy.lb".to_owned(), Struct { fields: lb }),
            (METADATA.to_owned(), Struct { fields: id }),
        ]),
        ..Default::default()
    }
}

fn text(text: String) -> Value {
    Value { kind: Some(Kind::StringValue(text)) }
}
