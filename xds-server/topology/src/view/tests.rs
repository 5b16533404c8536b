//! Priorities, weights and drains as a client of each zone sees them.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::registry::{Event, Registry};

fn zone(name: &str) -> Zone {
    Zone::new(name).unwrap()
}

fn now() -> Timestamp {
    "2026-01-01T00:30:00Z".parse().unwrap()
}

fn registry(keys: &[(&str, &str)]) -> Registry {
    let mut registry = Registry::default();
    for (at, (key, value)) in keys.iter().enumerate() {
        let mod_revision = i64::try_from(at).unwrap() + 2;
        registry.apply(Event::Put { key: (*key).into(), value: (*value).into(), mod_revision });
    }
    assert_eq!(registry.topology().problems, BTreeMap::new());
    registry
}

fn endpoint(zone: &str, weight: u32) -> String {
    format!(r#"{{"address": "10.0.0.1", "port": 80, "region": "eu", "zone": "{zone}", "weight": {weight}}}"#)
}

fn shift(keep: &str, until: &str) -> String {
    format!(
        r#"{{"keep_percent": {keep}, "reason": "r", "actor": "a", "started_at": "2026-01-01T00:00:00Z",
        "expires_at": "2026-01-01T{until}:00Z"}}"#
    )
}

/// Three zones; a has two endpoints, b one of weight 3, c one.
fn three(more: &[(&str, &str)]) -> Registry {
    let (a, b, c) = (endpoint("az-a", 1), endpoint("az-b", 3), endpoint("az-c", 1));
    let base = [
        ("endpoints/s/a1", a.as_str()),
        ("endpoints/s/a2", &a),
        ("endpoints/s/b1", &b),
        ("endpoints/s/c1", &c),
    ];
    let keys: Vec<(&str, &str)> = base.into_iter().chain(more.iter().copied()).collect();
    registry(&keys)
}

/// `zone:priority:weight` of each locality.
fn layout(registry: &Registry, client: &str) -> String {
    let client = (!client.is_empty()).then(|| zone(client));
    let view = view(&registry.topology(), client.as_ref(), now());
    let localities =
        view.services["s"].localities.iter().map(|l| format!("{}:{}:{}", l.zone, l.priority, l.weight));
    localities.collect::<Vec<_>>().join(" ")
}

#[test]
fn the_own_zone_comes_first_and_the_others_by_capacity() {
    let r = three(&[]);
    assert_eq!(layout(&r, "az-a"), "az-a:0:2 az-b:1:3 az-c:1:1");
    assert_eq!(layout(&r, "az-c"), "az-c:0:1 az-a:1:2 az-b:1:3");
}

#[test]
fn a_client_without_a_zone_of_its_own_sees_all_alike() {
    let r = three(&[("zones/az-d", "{}")]);
    for client in ["", "nowhere", "az-d"] {
        assert_eq!(layout(&r, client), "az-a:0:2 az-b:0:3 az-c:0:1", "{client:?}");
    }
    let of = |client: &str| view(&r.topology(), Some(&zone(client)), now()).client_zone;
    assert_eq!(of("nowhere"), None, "unknown");
    assert_eq!(of("az-d"), Some(zone("az-d")), "known, and empty");
}

#[test]
fn given_weights_count_in_either_mode() {
    let weights = r#""weights": {"az-a": 80, "az-b": 15, "az-c": 5}"#;
    let r = three(&[("services/s", &format!(r#"{{"mode": "eventual", {weights}}}"#))]);
    assert_eq!(layout(&r, "az-a"), "az-a:0:80 az-b:1:15 az-c:1:5");
    let r = three(&[("services/s", &format!(r#"{{"mode": "strong", {weights}}}"#))]);
    assert_eq!(layout(&r, "az-a"), "az-a:0:80 az-b:1:15 az-c:1:5", "for when the own zone is left");
    let r = three(&[("services/s", r#"{"weights": {"az-b": 15}}"#)]);
    assert_eq!(
        layout(&r, "az-a"),
        "az-a:0:1 az-b:1:15 az-c:2:1",
        "a zone that is not named is a last resort"
    );
    let r =
        three(&[("services/s", r#"{"mode": "eventual", "weights": {"az-a": 80, "az-b": 20, "az-c": 0}}"#)]);
    assert_eq!(layout(&r, "az-a"), "az-a:0:80 az-b:1:20 az-c:2:1", "weight 0 is a last resort");
    assert_eq!(layout(&r, "az-c"), "az-c:0:1 az-a:1:80 az-b:1:20", "but at home it is home");
}

#[test]
fn a_zone_drained_to_nothing_comes_last() {
    let r = three(&[("shifts/az-a", &shift("0", "01:00"))]);
    assert_eq!(layout(&r, "az-a"), "az-b:0:3 az-c:0:1 az-a:1:2");
    assert_eq!(layout(&r, "az-b"), "az-b:0:3 az-c:1:1 az-a:2:2");
    let r = three(&[("shifts/az-a/s", &shift("0", "01:00"))]);
    assert_eq!(layout(&r, "az-b"), "az-b:0:3 az-c:1:1 az-a:2:2", "for the service alone");
    let r = three(&[("shifts/az-a/other", &shift("0", "01:00"))]);
    assert_eq!(layout(&r, "az-a"), "az-a:0:2 az-b:1:3 az-c:1:1", "for another service");
    let all = shift("0", "01:00");
    let r = three(&[("shifts/az-a", &all), ("shifts/az-b", &all), ("shifts/az-c", &all)]);
    assert_eq!(
        layout(&r, "az-a"),
        "az-a:0:2 az-b:0:3 az-c:0:1",
        "with everything drained, everything serves"
    );
}

#[test]
fn a_drain_in_part_leaves_the_endpoints_alone_and_tells_the_filter() {
    let r = three(&[("shifts/az-a", &shift("30", "01:00")), ("shifts/az-z", &shift("0", "01:00"))]);
    assert_eq!(layout(&r, "az-a"), "az-a:0:2 az-b:1:3 az-c:1:1");
    let view = view(&r.topology(), None, now());
    let shifts = &view.services["s"].shifts;
    assert_eq!(shifts.len(), 1, "of zones that the service has");
    assert_eq!((shifts[0].keep_percent.permille(), &*shifts[0].zone), (300, "az-a"));
    assert_eq!(shifts[0].expires_at_ms, 1_767_229_200_000);
    assert_eq!(view.next_expiry, Some("2026-01-01T01:00:00Z".parse().unwrap()));
}

#[test]
fn the_stricter_of_two_drains_of_a_zone_counts_and_ended_ones_do_not() {
    let keep = |keys: &[(&str, &str)]| {
        let view = view(&three(keys).topology(), None, now());
        let shifts = view.services["s"].shifts.iter();
        shifts.map(|s| (s.keep_percent.permille(), s.expires_at_ms)).collect::<Vec<_>>()
    };
    let (hard, soft) = (shift("10", "01:00"), shift("50", "02:00"));
    let (later, ended) = (shift("10", "03:00"), shift("0", "00:30"));
    assert_eq!(keep(&[("shifts/az-a", &hard), ("shifts/az-a/s", &soft)]), [(100, 1_767_229_200_000)]);
    assert_eq!(keep(&[("shifts/az-a", &soft), ("shifts/az-a/s", &hard)]), [(100, 1_767_229_200_000)]);
    assert_eq!(keep(&[("shifts/az-a", &hard), ("shifts/az-a/s", &later)]), [(100, 1_767_236_400_000)]);
    assert_eq!(keep(&[("shifts/az-a", &ended)]), [], "over at the very moment of its end");
    assert_eq!(layout(&three(&[("shifts/az-a", &ended)]), "az-a"), "az-a:0:2 az-b:1:3 az-c:1:1");
}

#[test]
fn what_does_not_take_requests_is_no_capacity() {
    let health = |state: &str| format!(r#"{{"state": "{state}", "since": "2026-01-01T00:00:00Z"}}"#);
    let forced = |state: &str, until: &str| {
        format!(
            r#"{{"state": "{state}", "reason": "r", "actor": "a", "expires_at": "2026-01-01T{until}:00Z"}}"#
        )
    };
    let r = three(&[
        ("health/s/a1", &health("unhealthy")),
        ("health/s/b1", &health("unhealthy")),
        ("health/s/c1", &health("degraded")),
    ]);
    let v = view(&r.topology(), Some(&zone("az-c")), now());
    let capacity: Vec<u32> = v.services["s"].zones.values().copied().collect();
    assert_eq!(capacity, [1, 0, 1]);
    assert_eq!(layout(&r, "az-c"), "az-c:0:1 az-a:1:1 az-b:1:1", "a dead zone keeps a foot in the door");
    let states: Vec<HealthState> = v.services["s"].localities[1].endpoints.iter().map(|e| e.health).collect();
    assert_eq!(states, [HealthState::Unhealthy, HealthState::Healthy]);

    let over = three(&[
        ("health/s/b1", &health("unhealthy")),
        ("forced/s/b1", &forced("healthy", "01:00")),
        ("forced/s/a1", &forced("draining", "01:00")),
        ("forced/s/a2", &forced("draining", "00:10")),
    ]);
    let v = view(&over.topology(), None, now());
    assert_eq!(
        v.services["s"].zones.values().copied().collect::<Vec<u32>>(),
        [1, 3, 1],
        "forced while it lasts"
    );
}

#[test]
fn services_without_a_policy_or_without_endpoints_are_there() {
    let r = registry(&[("endpoints/s/a", &endpoint("az-a", 1)), ("services/t", "{}")]);
    let v = view(&r.topology(), None, now());
    assert_eq!(v.services["s"].policy, ServicePolicy::default());
    assert_eq!((v.services["t"].localities.len(), v.services["t"].zones.len()), (0, 0));
    assert_eq!(v.next_expiry, None);
}

#[test]
fn aliases_and_regions_are_resolved() {
    let r = registry(&[
        ("zones/az-a", r#"{"region": "declared", "aliases": ["use1-az1"]}"#),
        ("endpoints/s/1", &endpoint("use1-az1", 1)),
        ("endpoints/s/2", &endpoint("az-a", 1)),
        ("endpoints/s/3", &endpoint("az-b", 1)),
        ("shifts/use1-az1", &shift("0", "01:00")),
    ]);
    let v = view(&r.topology(), Some(&zone("use1-az1")), now());
    assert_eq!(v.client_zone, Some(zone("az-a")));
    let localities = &v.services["s"].localities;
    assert_eq!(localities.len(), 2);
    let last = localities.last().unwrap();
    assert_eq!((&*last.zone, last.region.as_str(), last.endpoints.len()), ("az-a", "declared", 2));
    assert_eq!(localities[0].region, "eu", "what the endpoints say");
}

#[test]
fn at_most_as_many_zones_as_a_filter_can_tell_apart() {
    let mut r = Registry::default();
    for n in 0..9 {
        let value = endpoint(&format!("az-{n}"), 1).into_bytes();
        r.apply(Event::Put { key: format!("endpoints/s/{n}"), value, mod_revision: n });
    }
    let v = view(&r.topology(), Some(&zone("az-8")), now());
    assert_eq!(v.services["s"].zones.len(), config::MAX_ZONES);
    assert_eq!(v.services["s"].localities.len(), config::MAX_ZONES);
    assert!(!v.services["s"].zones.contains_key("az-8"));
}

fn changes() -> impl Strategy<Value = Vec<(String, Option<String>)>> {
    let zones = || prop::sample::select(vec!["az-a", "az-b", "az-c", "alias"]);
    let services = || prop::sample::select(vec!["s", "t"]);
    let hour = || prop::sample::select(vec!["00:10", "00:30", "00:40", "01:00"]);
    let endpoints = (services(), 0..4, zones(), 1_u32..5)
        .prop_map(|(s, i, z, w)| (format!("endpoints/{s}/{i}"), endpoint(z, w)));
    let policies =
        (services(), prop::sample::select(vec!["strong", "eventual"]), 0_u32..3).prop_map(|(s, mode, w)| {
            let weights = format!(r#"{{"mode": "{mode}", "weights": {{"az-a": {w}, "az-b": 5}}}}"#);
            (format!("services/{s}"), weights)
        });
    let shifts = (zones(), prop::option::of(services()), prop::sample::select(vec!["0", "30"]), hour())
        .prop_map(|(z, s, keep, until)| {
            let key = s.map_or_else(|| format!("shifts/{z}"), |s| format!("shifts/{z}/{s}"));
            (key, shift(keep, until))
        });
    let states = || prop::sample::select(vec!["healthy", "unhealthy", "draining"]);
    let health = (services(), 0..4, states()).prop_map(|(s, i, state)| {
        (format!("health/{s}/{i}"), format!(r#"{{"state": "{state}", "since": "2026-01-01T00:00:00Z"}}"#))
    });
    let forced = (services(), 0..4, states(), hour()).prop_map(|(s, i, state, until)| {
        let value = format!(
            r#"{{"state": "{state}", "reason": "r", "actor": "a", "expires_at": "2026-01-01T{until}:00Z"}}"#
        );
        (format!("forced/{s}/{i}"), value)
    });
    let declared = prop::sample::select(vec!["{}", r#"{"aliases": ["alias"]}"#])
        .prop_map(|value| ("zones/az-a".to_owned(), value.to_owned()));
    let put =
        prop_oneof![6 => endpoints, 1 => policies, 2 => shifts, 2 => health, 1 => forced, 1 => declared];
    let change = (put, prop::bool::weighted(0.8)).prop_map(|((key, value), put)| (key, put.then_some(value)));
    prop::collection::vec(change, 0..40)
}

fn apply(registry: &mut Registry, (key, value): (String, Option<String>)) {
    registry.apply(match value {
        Some(value) => Event::Put { key, value: value.into(), mod_revision: 1 },
        None => Event::Delete { key, mod_revision: 1 },
    });
}

proptest! {
    #[test]
    fn views_keep_to_the_rules(changes in changes(), client in prop::sample::select(vec!["az-a", "az-b", "alias", "other"])) {
        let mut registry = Registry::default();
        changes.into_iter().for_each(|change| apply(&mut registry, change));
        let topology = registry.topology();
        let view = view(&topology, Some(&zone(client)), now());
        for (name, service) in &view.services {
            let endpoints = topology.endpoints.get(name).map_or(0, |map| map.len());
            let seen: usize = service.localities.iter().map(|l| l.endpoints.len()).sum();
            prop_assert_eq!(seen, endpoints, "every endpoint once");
            let priorities: BTreeSet<u32> = service.localities.iter().map(|l| l.priority).collect();
            prop_assert!(priorities.iter().copied().eq(0..u32::try_from(priorities.len()).unwrap()), "no gaps");
            let zones: BTreeSet<&Zone> = service.localities.iter().map(|l| &l.zone).collect();
            prop_assert_eq!(zones.len(), service.localities.len(), "a zone once");
            prop_assert!(zones.iter().copied().eq(service.zones.keys()));
            prop_assert!(!zones.contains(&zone("alias")) || !topology.zones.contains_key("az-a")
                || topology.zones["az-a"].aliases.is_empty());
            prop_assert!(service.localities.iter().all(|l| l.weight >= 1));
            let order: Vec<(u32, &Zone)> = service.localities.iter().map(|l| (l.priority, &l.zone)).collect();
            prop_assert!(order.is_sorted());
            let drained = |zone: &Zone| service.shifts.iter().any(|s| s.zone == *zone && s.keep_percent.permille() == 0);
            for pair in service.localities.windows(2) {
                prop_assert!(!drained(&pair[0].zone) || drained(&pair[1].zone)
                    || pair[0].priority == pair[1].priority, "drained zones come last");
            }
            let home = view.client_zone.as_ref().filter(|home| service.zones.contains_key(*home) && !drained(home));
            if let Some(home) = home {
                let first: Vec<&Zone> = service.localities.iter().filter(|l| l.priority == 0).map(|l| &l.zone).collect();
                prop_assert_eq!(first, [home], "the own zone first, alone");
            }
        }
    }

    /// The incremental view is the whole one, at every step, and keeps what did not change.
    #[test]
    fn a_follower_sees_what_a_view_shows(changes in changes(), minutes in prop::collection::vec(0_i64..90, 40)) {
        let mut registry = Registry::default();
        let mut followers: Vec<(Option<Zone>, Follower)> = [None, Some("az-a"), Some("alias")]
            .map(|name| name.map(zone))
            .map(|zone| (zone.clone(), Follower::new(zone)))
            .into();
        for (change, minute) in changes.into_iter().zip(minutes) {
            apply(&mut registry, change);
            let at = Timestamp::from_second(1_767_225_600 + 60 * minute).unwrap();
            let topology = registry.topology();
            for (zone, follower) in &mut followers {
                let followed = follower.view(&topology, at);
                prop_assert_eq!(&followed, &view(&topology, zone.as_ref(), at));
                let again = follower.view(&topology, at);
                prop_assert!(again.services.values().zip(followed.services.values()).all(|(a, b)| Arc::ptr_eq(a, b)));
            }
        }
    }
}
