//! Zones that are named somewhere and are there nowhere, which most often are typing errors. Nothing is refused for it: a zone may
//! be named before it is there. Pure; looks at a topology and changes none.
//!
//! A zone is *there* when it is declared or has endpoints. Endpoints bring their zone along, so a mistake in theirs can be told
//! only where zones are declared at all: then one that is not is a stranger. Where no zone is known, nothing can be told.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};
use zonebreak_core::names::Zone;

use crate::{
    model::{Endpoint, Topology},
    near,
};

/// A zone that is named and is not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stranger {
    /// As it is written.
    pub zone: Zone,
    /// Where it is written: `policy order-svc (weights)`, `endpoint order-svc/10.0.0.7:8080`, `drain az-x`.
    pub named_by: String,
    /// Whether endpoints are in it: it is served, and nobody declares it as the others are.
    pub has_endpoints: bool,
    /// The zones that are known.
    pub known: Vec<Zone>,
}

/// The zones that are named in this topology and are not there, in their order.
pub fn strangers(topology: &Topology) -> Vec<Stranger> {
    let known = topology.known_zones();
    if known.is_empty() {
        return Vec::new();
    }
    let declared: BTreeSet<Zone> = topology.zones.keys().cloned().collect();
    let mut found = Vec::new();
    for (service, policy) in &topology.services {
        let aborts = policy.abort.iter().flat_map(|abort| &abort.zones);
        let named = policy.weights.keys().map(|zone| (zone, "weights"));
        for (zone, field) in named.chain(aborts.map(|zone| (zone, "abort.zones"))) {
            if !known.contains(topology.canonical(zone)) {
                found.push(stranger(zone, format!("policy {service} ({field})"), false, &known));
            }
        }
    }
    for target in topology.shifts.keys() {
        if !known.contains(topology.canonical(&target.zone)) {
            found.push(stranger(&target.zone, format!("drain {target}"), false, &known));
        }
    }
    for (zone, names) in undeclared(topology) {
        let more = names.len().saturating_sub(1);
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        let first = names.first().map_or("", String::as_str);
        found.push(stranger(zone, format!("endpoint {first}{more}"), true, &declared));
    }
    found.sort_by(|a, b| (&a.zone, &a.named_by).cmp(&(&b.zone, &b.named_by)));
    found
}

/// Zones of endpoints that nobody declares, where others are; and the endpoints.
fn undeclared(topology: &Topology) -> BTreeMap<&Zone, Vec<String>> {
    let mut found: BTreeMap<&Zone, Vec<String>> = BTreeMap::new();
    if topology.zones.is_empty() {
        return found;
    }
    let all = topology.endpoints.iter().flat_map(|(s, map)| map.iter().map(move |(i, e)| (s, i, e)));
    for (service, instance, Endpoint { zone, .. }) in all {
        if !topology.zones.contains_key(topology.canonical(zone)) {
            found.entry(zone).or_default().push(format!("{service}/{instance}"));
        }
    }
    found
}

fn stranger(zone: &Zone, named_by: String, has_endpoints: bool, known: &BTreeSet<Zone>) -> Stranger {
    Stranger { zone: zone.clone(), named_by, has_endpoints, known: known.iter().cloned().collect() }
}

// === impl Stranger ===

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { zone, named_by, has_endpoints, known } = self;
        let lacks = if *has_endpoints { "is not declared" } else { "has no endpoints and is not declared" };
        let meant = near::did_you_mean(zone, known.iter().map(Zone::as_str));
        write!(f, "zone {:?} named by {named_by} {lacks}{meant}", zone.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{document::Document, registry::Registry};

    fn said(text: &str) -> Vec<String> {
        let document = Document::parse(text).unwrap();
        assert_eq!(document.problems, []);
        let mut registry = Registry::default();
        registry.reset_to(document.entries, Vec::new(), 1);
        strangers(&registry.topology()).iter().map(ToString::to_string).collect()
    }

    const ENDPOINTS: &str = "endpoints: {s: {i: {address: 10.0.0.1, port: 80, zone: az-a}}}\n";

    #[test]
    fn a_zone_that_only_a_policy_or_a_drain_names_is_a_stranger() {
        let policies = "services: {order-svc: {mode: eventual, weights: {az-a: 80, az-x: 20}, \
                        abort: {percent: 5, zones: [az-y]}}}\n";
        let drain = "shifts: {zone-9: {keep_percent: 0, reason: r, actor: a, started_at: 2026-01-01T00:00:00Z, \
                     expires_at: 2026-01-01T01:00:00Z}}\n";
        assert_eq!(
            said(&format!("{policies}{ENDPOINTS}{drain}")),
            [
                "zone \"az-x\" named by policy order-svc (weights) has no endpoints and is not declared; did you mean \"az-a\"?",
                "zone \"az-y\" named by policy order-svc (abort.zones) has no endpoints and is not declared; did you mean \
                 \"az-a\"?",
                "zone \"zone-9\" named by drain zone-9 has no endpoints and is not declared",
            ]
        );
        assert_eq!(
            said(&format!("{policies}{ENDPOINTS}zones: {{az-x: {{}}, az-a: {{aliases: [az-y]}}}}\n")),
            [""; 0]
        );
    }

    #[test]
    fn a_zone_of_endpoints_is_a_stranger_where_others_are_declared() {
        assert_eq!(said(ENDPOINTS), [""; 0], "nobody declares any");
        let two = "endpoints: {s: {i: {address: 10.0.0.1, port: 80, zone: az-a}, j: {address: 10.0.0.2, port: 80, zone: az-a}}}";
        assert_eq!(
            said(&format!("zones: {{az-b: {{}}}}\n{two}\n")),
            ["zone \"az-a\" named by endpoint s/i and 1 more is not declared; did you mean \"az-b\"?"]
        );
        assert_eq!(said(&format!("zones: {{az-a: {{}}}}\n{two}\n")), [""; 0]);
        assert_eq!(said(&format!("zones: {{az-b: {{aliases: [az-a]}}}}\n{two}\n")), [""; 0]);
    }

    #[test]
    fn where_no_zone_is_known_none_is_a_stranger() {
        assert_eq!(said("services: {s: {weights: {az-a: 1}}}"), [""; 0]);
        assert_eq!(said("{}"), [""; 0]);
    }
}
