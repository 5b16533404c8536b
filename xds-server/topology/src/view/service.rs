//! One service as a client in one zone sees it: zones, priorities, weights, drains. The rules stand in [`super`].

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use zonebreak_core::{
    config::{self, MAX_ZONES},
    names::{ServiceName, Zone},
    policy::ServicePolicy,
};

use super::{EndpointView, Locality, ServiceView};
use crate::model::{Endpoint, HealthState, InstanceId, Shift, ShiftTarget, Topology};

/// How much a zone is preferred; the order is the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Own,
    Others,
    Last,
}

pub(super) fn view(
    topology: &Topology,
    name: &ServiceName,
    own: Option<&Zone>,
    now: Timestamp,
) -> ServiceView {
    let policy = topology.services.get(name).map_or_else(ServicePolicy::default, |policy| (**policy).clone());
    let members = members(topology, name, now);
    let zones: BTreeMap<Zone, u32> =
        members.iter().map(|(zone, m)| ((*zone).clone(), m.capacity())).collect();
    let shifts = shifts(topology, name, &zones, now);
    let drained: BTreeSet<&Zone> =
        shifts.iter().filter(|shift| shift.keep_percent.permille() == 0).map(|shift| &shift.zone).collect();

    let level = |zone: &Zone| {
        if drained.contains(zone) {
            Level::Last
        } else if own == Some(zone) {
            Level::Own
        } else if !policy.weights.is_empty() && policy.zone_weight(zone, 0) == 0 {
            Level::Last
        } else {
            Level::Others
        }
    };
    let levels: BTreeSet<Level> = zones.keys().map(level).collect();
    let mut localities: Vec<Locality> = members
        .into_iter()
        .map(|(zone, members)| {
            let level = level(zone);
            // Fewer than three levels come before it, so the count fits.
            let priority =
                u32::try_from(levels.iter().filter(|other| **other < level).count()).unwrap_or(u32::MAX);
            let weight = policy.zone_weight(zone, members.capacity()).max(1);
            let region = members.region(topology, zone);
            Locality { region, zone: zone.clone(), priority, weight, endpoints: members.endpoints }
        })
        .collect();
    localities.sort_by(|a, b| (a.priority, &a.zone).cmp(&(b.priority, &b.zone)));
    ServiceView { policy, zones, localities, shifts }
}

/// The endpoints of one zone.
#[derive(Default)]
struct Members {
    endpoints: Vec<EndpointView>,
    /// The first region in order that an endpoint names.
    region: String,
}

// === impl Members ===

impl Members {
    fn capacity(&self) -> u32 {
        let serving = self.endpoints.iter().filter(|endpoint| endpoint.health.serves());
        serving.fold(0, |sum, endpoint| endpoint.weight.saturating_add(sum))
    }

    fn add(&mut self, instance: &InstanceId, endpoint: &Endpoint, health: HealthState) {
        if !endpoint.region.is_empty() && (self.region.is_empty() || endpoint.region < self.region) {
            self.region.clone_from(&endpoint.region);
        }
        self.endpoints.push(EndpointView {
            instance: instance.clone(),
            address: endpoint.address.clone(),
            port: endpoint.port,
            weight: endpoint.weight,
            health,
        });
    }

    /// What the operator says, else what the endpoints say.
    fn region(&self, topology: &Topology, zone: &Zone) -> String {
        match topology.zones.get(zone) {
            Some(spec) if !spec.region.is_empty() => spec.region.clone(),
            _ => self.region.clone(),
        }
    }
}

/// The service's endpoints by canonical zone, the first [`MAX_ZONES`] zones in order.
fn members<'a>(topology: &'a Topology, name: &ServiceName, now: Timestamp) -> BTreeMap<&'a Zone, Members> {
    let mut zones: BTreeMap<&Zone, Members> = BTreeMap::new();
    let Some(endpoints) = topology.endpoints.get(name) else { return zones };
    for (instance, endpoint) in endpoints.iter() {
        let health = health(topology, name, instance, now);
        zones.entry(topology.canonical(&endpoint.zone)).or_default().add(instance, endpoint, health);
    }
    while zones.len() > MAX_ZONES {
        zones.pop_last();
    }
    zones
}

/// What operators, else probes, say of an endpoint.
pub(crate) fn health(
    topology: &Topology,
    service: &ServiceName,
    instance: &InstanceId,
    now: Timestamp,
) -> HealthState {
    if topology.forced.is_empty() && topology.health.is_empty() {
        return HealthState::Healthy;
    }
    let at = (service.clone(), instance.clone());
    match topology.forced.get(&at) {
        Some(forced) if now < forced.expires_at => forced.state,
        _ => topology.health.get(&at).map_or(HealthState::Healthy, |health| health.state),
    }
}

/// The drains in force for the service, in order of zone, only of zones that it has.
fn shifts(
    topology: &Topology,
    name: &ServiceName,
    zones: &BTreeMap<Zone, u32>,
    now: Timestamp,
) -> Vec<config::Shift> {
    let mut strictest: BTreeMap<&Zone, &Shift> = BTreeMap::new();
    for (ShiftTarget { zone, service }, shift) in topology.shifts.iter() {
        let zone = topology.canonical(zone);
        let concerns = service.as_ref().is_none_or(|service| service == name) && zones.contains_key(zone);
        if !concerns || !shift.active(now) {
            continue;
        }
        // The one that keeps less; of two alike, the one that holds longer.
        let rank = |shift: &Shift| (shift.keep_percent, std::cmp::Reverse(shift.expires_at));
        let held = strictest.entry(zone).or_insert(shift);
        if rank(shift) < rank(held) {
            *held = shift;
        }
    }
    let one = |(zone, shift): (&Zone, &Shift)| config::Shift {
        zone: zone.clone(),
        keep_percent: shift.keep_percent,
        expires_at_ms: u64::try_from(shift.expires_at.as_millisecond()).unwrap_or(0),
    };
    strictest.into_iter().map(one).collect()
}
