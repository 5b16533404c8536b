//! Why a proxy is told what it is told of a service: each zone's priority, weight and share with the inputs that made it, each
//! endpoint that takes no requests with whoever says so. Explains the view; the rules are the topology crate's and the filter's.

use std::{collections::BTreeMap, fmt::Write as _};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zonebreak_core::{
    names::{ServiceName, Zone},
    policy::{Mode, ServicePolicy},
    shares,
    units::Percent,
};
use zonebreak_topology::{
    HealthState, InstanceId, Topology,
    gate::Held,
    view::{self, Locality, ServiceView},
};

use super::Nack;

/// `GET /why?service=S&proxy=ID`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Why {
    /// The service.
    pub service: ServiceName,
    /// The client's zone, by canonical name; absent for a client of no known zone.
    pub zone: Option<Zone>,
    /// How the zones share the load.
    pub mode: Mode,
    /// The policy's weights, as far as it has any.
    pub weights: BTreeMap<Zone, u32>,
    /// Each zone, in the order of preference.
    pub zones: Vec<WhyZone>,
    /// Endpoints that take no requests.
    pub out: Vec<WhyEndpoint>,
    /// Whatever else has a part in it: held changes, withheld resources, refused values.
    pub notes: Vec<String>,
    /// What the proxy has of the service's endpoints; absent when a zone was asked about.
    pub proxy: Option<WhyProxy>,
}

/// One zone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WhyZone {
    /// Its canonical name.
    pub zone: Zone,
    /// 0 is preferred.
    pub priority: u32,
    /// Why that.
    pub priority_because: String,
    /// Share of the load within its priority, relative to the others there.
    pub weight: u32,
    /// Why that.
    pub weight_because: String,
    /// What the filter aims at while every zone is well, drains included, in percent.
    pub share_percent: f64,
    /// Endpoints that take requests.
    pub serving: usize,
    /// All of them.
    pub endpoints: usize,
}

/// One endpoint that takes no requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyEndpoint {
    /// Its name.
    pub instance: InstanceId,
    /// Its zone.
    pub zone: Zone,
    /// What it counts as.
    pub state: HealthState,
    /// Who says so, and why.
    pub because: String,
}

/// What a proxy has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyProxy {
    /// `node.id`.
    pub id: String,
    /// Whether it has acknowledged the endpoints that this explains, and the filter's configuration where it has a filter.
    pub in_sync: bool,
    /// Version of its endpoints that was sent last.
    pub sent: Option<String>,
    /// Version of its endpoints that was acknowledged last.
    pub acked: Option<String>,
    /// Version of the filter's configuration that was sent last.
    #[serde(default)]
    pub filter_sent: Option<String>,
    /// Version of the filter's configuration that was acknowledged last.
    #[serde(default)]
    pub filter_acked: Option<String>,
    /// What it refuses now, by short name of type.
    #[serde(default)]
    pub refused: BTreeMap<String, Nack>,
}

/// Explains `service` to a client in `zone`; `None` when there is no such service.
pub fn why(
    topology: &Topology,
    held: &[Held],
    service: &ServiceName,
    zone: Option<&Zone>,
    now: Timestamp,
) -> Option<Why> {
    let view = view::view(topology, zone, now);
    let (client, of_service) = (view.client_zone.clone(), view.services.get(service)?.clone());
    let shares = shares_of(&of_service, client.as_ref());
    let zones = of_service.localities.iter().map(|locality| {
        let share = of_service.zones.keys().position(|zone| *zone == locality.zone);
        WhyZone {
            zone: locality.zone.clone(),
            priority: locality.priority,
            priority_because: priority(topology, service, &of_service, client.as_ref(), &locality.zone, now),
            weight: locality.weight,
            weight_because: weight(&of_service.policy, &of_service, locality),
            // Tenths of a percent, as precise as the filter is.
            share_percent: share.map_or(0.0, |at| (shares::share_of(&shares, at) * 1000.0).round() / 10.0),
            serving: serving(locality),
            endpoints: locality.endpoints.len(),
        }
    });
    Some(Why {
        service: service.clone(),
        mode: of_service.policy.mode,
        weights: of_service.policy.weights.clone(),
        zones: zones.collect(),
        out: out(topology, service, &of_service, now),
        notes: notes(topology, held, service, zone, client.as_ref(), &of_service),
        zone: client,
        proxy: None,
    })
}

fn serving(locality: &Locality) -> usize {
    locality.endpoints.iter().filter(|endpoint| endpoint.health.serves()).count()
}

/// What the filter aims at while no breaker is open.
fn shares_of(view: &ServiceView, client: Option<&Zone>) -> shares::Shares {
    let own = view.zones.keys().position(|zone| Some(zone) == client);
    let weights: Vec<u32> =
        view.zones.iter().map(|(zone, capacity)| view.policy.zone_weight(zone, *capacity)).collect();
    let policy = &view.policy;
    let explore = policy.explore.fraction();
    let usual = shares::usual(policy.mode, own, explore, !policy.weights.is_empty(), &weights);
    let keep: Vec<f64> = view
        .zones
        .keys()
        .map(|zone| {
            let shift = view.shifts.iter().find(|shift| shift.zone == *zone);
            shift.map_or(1.0, |shift| shift.keep_percent.fraction())
        })
        .collect();
    let capacities: Vec<u32> = view.zones.values().copied().collect();
    let headroom = policy.spill.as_ref().and_then(|spill| spill.headroom);
    let room = headroom.map(|headroom| shares::room(headroom, &capacities, &keep));
    shares::target(&usual, &keep, &weights, room.as_ref()).map_or_else(Default::default, |(shares, _)| shares)
}

fn priority(
    topology: &Topology,
    service: &ServiceName,
    view: &ServiceView,
    client: Option<&Zone>,
    zone: &Zone,
    now: Timestamp,
) -> String {
    let mut text = match view.shifts.iter().find(|shift| shift.zone == *zone) {
        Some(shift) if shift.keep_percent == Percent::ZERO => {
            "drained to nothing, so it comes last".to_owned()
        }
        _ if client == Some(zone) => "the client's own zone".to_owned(),
        _ if !view.policy.weights.is_empty() && view.policy.zone_weight(zone, 0) == 0 => {
            "the policy's weights give it nothing, so it comes last".to_owned()
        }
        _ if client.is_some_and(|own| view.zones.contains_key(own)) => {
            "another zone, after the client's own".to_owned()
        }
        _ => "the client has no zone with endpoints of its own, so all are alike".to_owned(),
    };
    let drain = topology.shifts.iter().find(|(target, shift)| {
        let concerns = target.service.as_ref().is_none_or(|of| of == service);
        concerns && topology.canonical(&target.zone) == zone && shift.active(now)
    });
    if let Some((target, shift)) = drain {
        // Writing to a string cannot fail.
        let _infallible = write!(
            text,
            "; {} drained {target} to {} until {:.0}: {}",
            shift.actor, shift.keep_percent, shift.expires_at, shift.reason
        );
    }
    text
}

fn weight(policy: &ServicePolicy, view: &ServiceView, locality: &Locality) -> String {
    let (serving, all) = (serving(locality), locality.endpoints.len());
    let capacity = view.zones.get(&locality.zone).copied().unwrap_or_default();
    match (policy.weights.get(&locality.zone), policy.weights.is_empty()) {
        (_, true) if capacity == 0 => {
            format!("none of {all} endpoints takes requests; 1 is the least that Envoy heeds")
        }
        (_, true) => format!("sum of the weights of the {serving} of {all} endpoints that take requests"),
        (Some(0) | None, false) => {
            "the policy's weights give it nothing; 1 is the least that Envoy heeds".to_owned()
        }
        (Some(_), false) => "the policy's weight for it".to_owned(),
    }
}

fn out(topology: &Topology, service: &ServiceName, view: &ServiceView, now: Timestamp) -> Vec<WhyEndpoint> {
    let all = view
        .localities
        .iter()
        .flat_map(|locality| locality.endpoints.iter().map(move |endpoint| (locality, endpoint)));
    let row = |(locality, endpoint): (&Locality, &view::EndpointView)| {
        let key = (service.clone(), endpoint.instance.clone());
        let forced = topology.forced.get(&key).filter(|forced| now < forced.expires_at);
        let because = match (forced, topology.health.get(&key)) {
            (Some(forced), _) => {
                format!("forced by {} until {:.0}: {}", forced.actor, forced.expires_at, forced.reason)
            }
            (None, Some(health)) => format!("probes, since {:.0}: {}", health.since, health.evidence),
            (None, None) => "nobody says anything of it".to_owned(),
        };
        let (instance, zone, state) = (endpoint.instance.clone(), locality.zone.clone(), endpoint.health);
        WhyEndpoint { instance, zone, state, because }
    };
    all.filter(|(_, endpoint)| !endpoint.health.serves()).map(row).collect()
}

fn notes(
    topology: &Topology,
    held: &[Held],
    service: &ServiceName,
    asked: Option<&Zone>,
    client: Option<&Zone>,
    view: &ServiceView,
) -> Vec<String> {
    let mut notes = Vec::new();
    match (asked, client) {
        (Some(asked), None) => {
            notes.push(format!("zone {asked} is not in the topology: the client counts as in none"))
        }
        (Some(asked), Some(client)) if asked != client => {
            notes.push(format!("{asked} is an alias of {client}"))
        }
        _ => {}
    }
    // Policies and zones shape every service.
    let of_service = held.iter().filter(|held| held.service().is_none_or(|held| held == service));
    notes.extend(
        of_service
            .map(|held| format!("held: {}; {} {} are served", held.describe(), held.served, held.counted())),
    );
    if !topology.services.contains_key(service) {
        notes.push("it has no policy of its own: the defaults count".to_owned());
    }
    if view.localities.is_empty() {
        notes.push("it has no endpoints: every request fails with 503".to_owned());
    }
    let keys = [format!("services/{service}"), format!("zones of endpoints/{service}")];
    let endpoints = format!("endpoints/{service}/");
    let concerns = |key: &str| keys.iter().any(|own| own == key) || key.starts_with(&endpoints);
    let refused = topology.problems.values().filter(|problem| concerns(&problem.key));
    notes.extend(refused.map(|problem| format!("refused: {problem}")));
    notes
}

#[cfg(test)]
mod tests {
    use zonebreak_topology::registry::{Event, Registry};

    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:10:00Z".parse().unwrap()
    }

    fn topology() -> std::sync::Arc<Topology> {
        let mut registry = Registry::default();
        let shift = r#"{"keep_percent": 0, "reason": "switch", "actor": "eve", "started_at": "2026-01-01T00:00:00Z",
            "expires_at": "2026-01-01T01:00:00Z"}"#;
        let forced = r#"{"state": "unhealthy", "reason": "leaks", "actor": "bob", "expires_at": "2026-01-01T01:00:00Z"}"#;
        for (key, value) in [
            ("zones/az-a", r#"{"aliases": ["use1-az1"]}"#),
            ("services/s", r#"{"mode": "eventual"}"#),
            ("services/weighted", r#"{"weights": {"az-a": 3}}"#),
            ("endpoints/s/a1", r#"{"address": "10.0.0.1", "port": 80, "zone": "az-a", "weight": 3}"#),
            ("endpoints/s/b1", r#"{"address": "10.0.0.2", "port": 80, "zone": "az-b", "weight": 3}"#),
            ("endpoints/s/b2", r#"{"address": "10.0.0.3", "port": 80, "zone": "az-b"}"#),
            ("endpoints/s/c1", r#"{"address": "10.0.0.4", "port": 80, "zone": "az-c"}"#),
            ("endpoints/weighted/a1", r#"{"address": "10.0.0.1", "port": 80, "zone": "az-a"}"#),
            ("endpoints/weighted/b1", r#"{"address": "10.0.0.2", "port": 80, "zone": "az-b"}"#),
            ("shifts/az-c", shift),
            ("forced/s/b2", forced),
            ("endpoints/s/bad", "{}"),
        ] {
            let (key, value) = (key.to_owned(), value.as_bytes().to_vec());
            registry.apply(Event::Put { key, value, mod_revision: 1 });
        }
        registry.topology()
    }

    fn explain(service: &str, zone: &str) -> Why {
        let (service, zone) = (service.parse().unwrap(), zone.parse().unwrap());
        why(&topology(), &[], &service, Some(&zone), now()).unwrap()
    }

    #[test]
    fn each_zone_is_explained_by_what_made_it() {
        let why = explain("s", "use1-az1");
        let rows: Vec<_> = why
            .zones
            .iter()
            .map(|zone| (zone.zone.as_str(), zone.priority, zone.weight, zone.share_percent, zone.serving))
            .collect();
        // The drained zone's share goes to the others in proportion to theirs: 80 to 20 * 3/4.
        assert_eq!(rows, [("az-a", 0, 3, 84.2, 1), ("az-b", 1, 3, 15.8, 1), ("az-c", 2, 1, 0.0, 1)]);
        assert_eq!(why.zones[0].priority_because, "the client's own zone");
        assert_eq!(
            why.zones[1].weight_because,
            "sum of the weights of the 1 of 2 endpoints that take requests"
        );
        let drained = &why.zones[2].priority_because;
        assert!(
            drained.starts_with("drained to nothing") && drained.contains("eve drained az-c"),
            "{drained}"
        );
        assert!(drained.ends_with("until 2026-01-01T01:00:00Z: switch"), "{drained}");
        assert_eq!(why.out[0].instance.as_str(), "b2");
        assert_eq!(why.out[0].because, "forced by bob until 2026-01-01T01:00:00Z: leaks");
        assert!(why.notes[0].contains("use1-az1 is an alias of az-a"), "{:?}", why.notes);
        assert!(why.notes[1].starts_with("refused: endpoints/s/bad"), "{:?}", why.notes);
    }

    #[test]
    fn weights_that_give_a_zone_nothing_and_unknown_zones_are_said() {
        let why = explain("weighted", "az-x");
        assert!(why.notes[0].contains("zone az-x is not in the topology"), "{:?}", why.notes);
        assert!(why.zones[1].priority_because.contains("give it nothing"), "{:?}", why.zones);
        assert_eq!(
            (why.zones[0].weight, why.zones[0].weight_because.as_str()),
            (3, "the policy's weight for it")
        );
        let nobody = "nobody".parse().unwrap();
        assert_eq!(super::why(&topology(), &[], &nobody, None, now()), None);
    }
}
