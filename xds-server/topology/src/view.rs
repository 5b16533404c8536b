//! What a client in a given zone sees of the topology: which endpoints, in which order of preference, by which weights. Pure;
//! the clock comes in as an argument. Knows nothing of how a proxy is told.
//!
//! # Order of preference
//!
//! | priority | zones |
//! |---|---|
//! | first | the client's own, alone |
//! | next | the others, by weight |
//! | last | zones drained to nothing, and zones that the policy's weights give none: they still serve when all else is dead |
//!
//! Levels that hold nothing are left out, so that priorities run from 0 without a gap (a rule of Envoy's:
//! `endpoint.proto`, `LocalityLbEndpoints.priority`). A client whose zone is unknown, or has no endpoints, has no level of its
//! own: everything that is not last shares level 0.
//!
//! A drain in part leaves all this as it is: who keeps how many percent is the filter's business, and travels in
//! [`ServiceView::shifts`].
//!
//! # Weights
//!
//! A zone's weight is what the policy gives it; zones that it does not name get none. Without weights in the policy, a zone
//! weighs what its endpoints do: the sum over those that take requests. The filter counts on the same rule
//! (`ServicePolicy::zone_weight` in `zonebreak-core`). Nothing weighs less than 1, because Envoy sends nothing at all to a
//! locality of weight 0 even when it is the only one.

mod follow;
mod service;

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use zonebreak_core::{
    config,
    names::{ServiceName, Zone},
    policy::ServicePolicy,
};

pub use follow::Follower;
pub(crate) use service::health;

use crate::model::{HealthState, InstanceId, Topology};

/// The topology as a client in one zone sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct ZoneView {
    /// The client's zone, by canonical name; `None` for a client that says nothing, or names a zone unknown here.
    pub client_zone: Option<Zone>,
    /// Every known service. A service without endpoints is in here with no localities.
    pub services: BTreeMap<ServiceName, Arc<ServiceView>>,
    /// When the view changes by itself, because a drain or a forced state ends.
    pub next_expiry: Option<Timestamp>,
}

/// One service as a client in one zone sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceView {
    /// The operator's word, or the default policy when there is none: registering is enough to be served.
    pub policy: ServicePolicy,
    /// Its zones (at most [`config::MAX_ZONES`]; the last ones in order are left out), each with its capacity: the sum of the
    /// weights of the endpoints that take requests, 0 when none does.
    pub zones: BTreeMap<Zone, u32>,
    /// Endpoints by zone, in the order of priority, then of zone.
    pub localities: Vec<Locality>,
    /// Drains in force that touch it, at most one a zone. Where the zone and the service within it are both drained, the one
    /// that keeps less counts.
    pub shifts: Vec<config::Shift>,
}

/// The endpoints of a service in one zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locality {
    /// Region, empty when nobody says.
    pub region: String,
    /// Zone, by canonical name.
    pub zone: Zone,
    /// 0 is preferred; without gaps.
    pub priority: u32,
    /// Share of the load within its priority, relative to the others there; at least 1.
    pub weight: u32,
    /// In order of their names.
    pub endpoints: Vec<EndpointView>,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointView {
    /// Its name within the service.
    pub instance: InstanceId,
    /// IP address.
    pub address: String,
    /// Port.
    pub port: u16,
    /// Share of its zone's load, 1 to 1000.
    pub weight: u32,
    /// What operators, else probes, say; healthy when nobody says anything.
    pub health: HealthState,
}

/// The view of `topology` for a client in `client_zone` at `now`.
pub fn view(topology: &Topology, client_zone: Option<&Zone>, now: Timestamp) -> ZoneView {
    let zone = canonical_zone(topology, client_zone);
    let services = topology.known_services();
    let services = services.into_iter().map(|name| {
        let view = service::view(topology, &name, zone.as_ref(), now);
        (name, Arc::new(view))
    });
    ZoneView { services: services.collect(), next_expiry: next_expiry(topology, now), client_zone: zone }
}

/// The client's zone by its canonical name, if anything is known of it.
fn canonical_zone(topology: &Topology, client_zone: Option<&Zone>) -> Option<Zone> {
    let zone = topology.canonical(client_zone?);
    let used = || {
        topology.endpoints.values().flat_map(|map| map.values()).any(|e| topology.canonical(&e.zone) == zone)
    };
    (topology.zones.contains_key(zone) || used()).then(|| zone.clone())
}

/// The next moment at which a drain or a forced state ends.
fn next_expiry(topology: &Topology, now: Timestamp) -> Option<Timestamp> {
    let shifts = topology.shifts.values().map(|shift| shift.expires_at);
    let forced = topology.forced.values().map(|forced| forced.expires_at);
    shifts.chain(forced).filter(|at| *at > now).min()
}

#[cfg(test)]
mod tests;
