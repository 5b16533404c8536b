//! The whole topology at one moment. Immutable once shared; built by the registry and by nobody else.

use std::{collections::BTreeMap, sync::Arc};

use zonebreak_core::{
    names::{ServiceName, Zone},
    policy::ServicePolicy,
};

use super::{
    Confirmation, Endpoint, Forced, Health, HeldId, InstanceId, Problem, Shift, ShiftTarget, ZoneSpec,
};

/// Everything the schema holds that could be used, and what could not. What lies behind an `Arc` is shared with the topology
/// before it unless it changed, so that "did it change" is a comparison of pointers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Topology {
    /// The etcd revision of the last change in here; with a file, how many times it had changed. What a source has *seen*
    /// may be later: see [`crate::SourceStatus::revision`].
    pub revision: i64,
    /// What operators say about zones.
    pub zones: Arc<BTreeMap<Zone, ZoneSpec>>,
    /// What operators say about services. A service with endpoints and no entry here has the default policy.
    pub services: BTreeMap<ServiceName, Arc<ServicePolicy>>,
    /// Instances, by service.
    pub endpoints: BTreeMap<ServiceName, Arc<BTreeMap<InstanceId, Endpoint>>>,
    /// Drains, expired ones included until they are deleted: hold them against a clock.
    pub shifts: Arc<BTreeMap<ShiftTarget, Shift>>,
    /// What probes found.
    pub health: Arc<BTreeMap<(ServiceName, InstanceId), Health>>,
    /// What operators say over the probes, expired ones included.
    pub forced: Arc<BTreeMap<(ServiceName, InstanceId), Forced>>,
    /// Held changes that operators have confirmed, expired ones included.
    pub confirmed: Arc<BTreeMap<HeldId, Confirmation>>,
    /// Values refused, by key.
    pub problems: BTreeMap<String, Problem>,
    /// Alias to zone, from the `zones` above.
    pub(crate) aliases: Arc<BTreeMap<Zone, Zone>>,
}

// === impl Topology ===

impl Topology {
    /// The canonical name of a zone: the one it is an alias of, or itself.
    pub fn canonical<'a>(&'a self, zone: &'a Zone) -> &'a Zone {
        self.aliases.get(zone).unwrap_or(zone)
    }

    /// The same, under what `other` says of zones and services.
    pub fn under(&self, other: &Self) -> Self {
        let Self { zones, services, aliases, .. } = other.clone();
        Self { zones, services, aliases, ..self.clone() }
    }

    /// Every zone that is declared or has endpoints, by canonical name, in order.
    pub fn known_zones(&self) -> std::collections::BTreeSet<Zone> {
        let used = self.endpoints.values().flat_map(|e| e.values()).map(|e| self.canonical(&e.zone));
        self.zones.keys().chain(used).cloned().collect()
    }

    /// Every service that has a policy or endpoints, in order.
    pub fn known_services(&self) -> std::collections::BTreeSet<ServiceName> {
        self.services.keys().chain(self.endpoints.keys()).cloned().collect()
    }

    /// Whether nothing at all is known; problems do not count.
    pub fn is_empty(&self) -> bool {
        self.zones.is_empty()
            && self.services.is_empty()
            && self.endpoints.is_empty()
            && self.shifts.is_empty()
            && self.health.is_empty()
            && self.forced.is_empty()
            && self.confirmed.is_empty()
    }
}
