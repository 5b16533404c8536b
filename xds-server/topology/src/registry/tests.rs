//! Sequences of events against what must hold after each of them.

use proptest::prelude::*;

use super::*;
use crate::model::ShiftTarget;

fn put(key: &str, value: &str, mod_revision: i64) -> Event {
    Event::Put { key: key.into(), value: value.into(), mod_revision }
}

fn delete(key: &str, mod_revision: i64) -> Event {
    Event::Delete { key: key.into(), mod_revision }
}

fn listed(key: &str, value: &str, mod_revision: i64) -> Listed {
    Listed { key: key.into(), value: value.into(), mod_revision, lease: 0 }
}

const ENDPOINT: &str = r#"{"address": "10.0.0.1", "port": 80, "zone": "az-a"}"#;

#[test]
fn every_kind_of_key_finds_its_place() {
    let mut registry = Registry::default();
    let forced =
        r#"{"state": "draining", "reason": "r", "actor": "a", "expires_at": "2030-01-01T00:00:00Z"}"#;
    let shift = r#"{"keep_percent": 30, "reason": "r", "actor": "a", "started_at": "2026-01-01T00:00:00Z",
        "expires_at": "2026-01-01T01:00:00Z"}"#;
    let health = r#"{"state": "unhealthy", "since": "2026-01-01T00:00:00Z", "evidence": "3 of 3"}"#;
    let confirmed = r#"{"endpoints": 2, "reason": "r", "actor": "a", "confirmed_at": "2026-01-01T00:00:00Z",
        "expires_at": "2026-01-01T00:10:00Z"}"#;
    for (at, (key, value)) in [
        ("zones/az-a", r#"{"region": "eu"}"#),
        ("services/s", r#"{"mode": "eventual"}"#),
        ("endpoints/s/i", ENDPOINT),
        ("endpoints/s/10.0.0.2:80", r#"{"Op":0,"Addr":"10.0.0.2:80","Metadata":{"zone":"az-b"}}"#),
        ("shifts/az-a", shift),
        ("shifts/az-a/s", shift),
        ("health/s/i", health),
        ("forced/s/i", forced),
        ("confirmed/endpoints/s", confirmed),
    ]
    .into_iter()
    .enumerate()
    {
        assert!(registry.apply(put(key, value, i64::try_from(at).unwrap() + 10)), "{key}");
        assert!(!registry.apply(put(key, value, 99)), "{key}: the same again is no change");
    }
    let t = registry.topology();
    assert_eq!(t.problems, BTreeMap::new());
    assert_eq!(t.revision, 18, "of the last change");
    assert_eq!((t.zones.len(), t.services.len(), t.endpoints["s"].len()), (1, 1, 2));
    assert_eq!(t.shifts.keys().filter(|ShiftTarget { service, .. }| service.is_some()).count(), 1);
    assert_eq!((t.shifts.len(), t.health.len(), t.forced.len()), (2, 1, 1));
    assert_eq!(registry.keys().len(), 9);
    for key in registry.keys() {
        assert!(registry.apply(delete(&key, 100)), "{key}");
        assert!(!registry.apply(delete(&key, 101)), "{key}: gone already");
    }
    assert!(registry.topology().is_empty());
}

#[test]
fn a_bad_value_keeps_the_last_good_one_and_is_named() {
    let mut registry = Registry::default();
    registry.apply(put("services/s", r#"{"mode": "eventual"}"#, 2));
    let good = registry.topology().services["s"].clone();
    assert!(registry.apply(put("services/s", r#"{"mode": "fast"}"#, 3)));
    let t = registry.topology();
    assert_eq!(t.services["s"], good);
    let problem = &t.problems["services/s"];
    assert_eq!((problem.revision, problem.line, problem.kept), (3, Some(1), true));
    assert!(registry.apply(put("services/s", r#"{"mode": "eventual"}"#, 4)), "the problem is gone");
    assert!(registry.topology().problems.is_empty());

    registry.apply(put("services/new", "{", 5));
    assert!(!registry.topology().problems["services/new"].kept);
    assert!(registry.apply(delete("services/new", 6)), "deleting the bad value mends it");
    assert!(registry.topology().problems.is_empty());
}

#[test]
fn unknown_keys_are_named_and_those_of_neighbours_are_not() {
    let mut registry = Registry::default();
    assert!(registry.apply(put("servces/s", "{}", 2)));
    assert!(!registry.apply(put("replication/eu", "{}", 3)));
    assert!(!registry.apply(put("changes/1", "x", 3)));
    assert_eq!(registry.topology().problems.keys().collect::<Vec<_>>(), ["servces/s"]);
    registry.reset([], 4);
    assert!(registry.topology().problems.is_empty());
}

#[test]
fn a_listing_that_says_the_same_changes_nothing_and_shares_everything() {
    let mut registry = Registry::default();
    let all =
        [listed("services/s", "{}", 2), listed("endpoints/s/i", ENDPOINT, 3), listed("zones/z", "{", 4)];
    assert!(registry.reset(all.clone(), 5));
    let before = registry.topology();
    assert!(!registry.reset(all, 9));
    assert!(Arc::ptr_eq(&before, &registry.topology()));
}

#[test]
fn what_did_not_change_is_shared() {
    let mut registry = Registry::default();
    registry.apply(put("endpoints/s/i", ENDPOINT, 2));
    registry.apply(put("endpoints/t/i", ENDPOINT, 3));
    let before = registry.topology();
    registry.apply(put("endpoints/t/j", ENDPOINT, 4));
    let after = registry.topology();
    assert!(Arc::ptr_eq(&before.endpoints["s"], &after.endpoints["s"]));
    assert!(!Arc::ptr_eq(&before.endpoints["t"], &after.endpoints["t"]));
    assert!(Arc::ptr_eq(&before.shifts, &after.shifts));
}

#[test]
fn aliases_resolve_and_disputes_are_named() {
    let mut registry = Registry::default();
    registry.apply(put("zones/az-a", r#"{"aliases": ["use1-az1", "x"]}"#, 2));
    registry.apply(put("zones/az-b", r#"{"aliases": ["x", "az-a"]}"#, 3));
    let t = registry.topology();
    let zone = |name: &str| Zone::new(name).unwrap();
    assert_eq!(*t.canonical(&zone("use1-az1")), zone("az-a"));
    assert_eq!(*t.canonical(&zone("x")), zone("az-a"), "the first in order holds");
    assert_eq!(*t.canonical(&zone("az-a")), zone("az-a"), "a zone is no alias");
    assert_eq!(t.problems.len(), 1);
    registry.apply(put("zones/az-b", "{}", 4));
    assert!(registry.topology().problems.is_empty());
}

#[test]
fn more_zones_than_a_filter_can_tell_apart_are_named() {
    let mut registry = Registry::default();
    for n in 0..9 {
        let value = format!(r#"{{"address": "10.0.0.1", "port": 1, "zone": "az-{n}"}}"#);
        registry.apply(put(&format!("endpoints/s/{n}"), &value, n + 2));
    }
    let t = registry.topology();
    let problem = t.problems.values().next().unwrap();
    assert!(problem.message.contains("9 zones") && problem.message.contains("left out: az-8"), "{problem}");
    // Two zones that turn out to be one.
    registry.apply(put("zones/az-0", r#"{"aliases": ["az-1"]}"#, 20));
    assert!(registry.topology().problems.is_empty());
}

fn keys() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "zones/a",
        "zones/b",
        "services/s",
        "services/t",
        "endpoints/s/1",
        "endpoints/s/2",
        "endpoints/t/1",
        "shifts/a",
        "shifts/a/s",
        "health/s/1",
        "forced/s/1",
        "bogus/x",
        "replication/x",
    ])
    .prop_map(str::to_owned)
}

fn values(key: &str) -> impl Strategy<Value = String> + use<> {
    let time = r#""started_at": "2026-01-01T00:00:00Z", "expires_at": "2026-01-01T01:00:00Z""#;
    let good: Vec<String> = match key.split('/').next().unwrap() {
        "zones" => vec![r#"{"aliases": ["x"]}"#.into(), "{}".into()],
        "endpoints" => ["a", "b", "x"]
            .map(|zone| format!(r#"{{"address": "10.0.0.1", "port": 1, "zone": "{zone}"}}"#))
            .to_vec(),
        "shifts" => ["10", "30"]
            .map(|k| format!(r#"{{"keep_percent": {k}, "reason": "r", "actor": "a", {time}}}"#))
            .to_vec(),
        "health" => vec![r#"{"state": "healthy", "since": "2026-01-01T00:00:00Z"}"#.into()],
        "forced" => vec![
            r#"{"state": "draining", "reason": "r", "actor": "a", "expires_at": "2026-01-01T00:00:00Z"}"#
                .into(),
        ],
        _ => vec!["{}".into(), r#"{"port": 1}"#.into()],
    };
    let bad = vec!["{".to_owned(), r#"{"nonsense": 1}"#.to_owned(), String::new()];
    prop_oneof![3 => prop::sample::select(good), 1 => prop::sample::select(bad)]
}

fn history() -> impl Strategy<Value = Vec<(String, Option<String>)>> {
    let step = keys().prop_flat_map(|key| {
        let value = prop::option::weighted(0.8, values(&key));
        value.prop_map(move |value| (key.clone(), value))
    });
    prop::collection::vec(step, 0..40)
}

/// The topology without the revisions, which tell how it came about.
fn content(registry: &Registry) -> Topology {
    let mut topology = (*registry.topology()).clone();
    topology.revision = 0;
    topology.problems.values_mut().for_each(|problem| problem.revision = 0);
    topology
}

proptest! {
    /// Any history, event by event, ends where a listing of its end state does, once that listing has something good to
    /// keep: here, the state as of halfway.
    #[test]
    fn events_and_listings_agree(history in history(), cut in 0_usize..40) {
        let mut by_event = Registry::default();
        let mut by_listing = Registry::default();
        let mut state: BTreeMap<String, (String, i64)> = BTreeMap::new();
        let cut = cut.min(history.len());
        for (at, (key, value)) in history.iter().enumerate() {
            let revision = i64::try_from(at).unwrap() + 2;
            match value {
                Some(value) => {
                    state.insert(key.clone(), (value.clone(), revision));
                    by_event.apply(put(key, value, revision));
                }
                None => {
                    state.remove(key);
                    by_event.apply(delete(key, revision));
                }
            }
            // The listing side sees everything up to the cut, then nothing until the end.
            if at < cut {
                by_listing = by_event.clone();
            }
            // Where the key came, went bad and came back unseen, only the events know the last good value.
            if at >= cut && let Ok(Some(parsed)) = Key::parse(key) {
                let good = value.as_ref().is_none_or(|v| Entry::decode(&parsed, v.as_bytes()).is_ok());
                prop_assume!(good);
            }
        }
        let all = state.iter().map(|(key, (value, revision))| listed(key, value, *revision));
        by_listing.reset(all, 1000);
        prop_assert_eq!(content(&by_listing), content(&by_event));
    }

    #[test]
    fn bad_values_never_remove_good_ones(history in history(), key in keys()) {
        let mut registry = Registry::default();
        for (at, (key, value)) in history.into_iter().enumerate() {
            let revision = i64::try_from(at).unwrap();
            match value {
                Some(value) => registry.apply(put(&key, &value, revision)),
                None => registry.apply(delete(&key, revision)),
            };
        }
        let before = registry.topology();
        registry.apply(put(&key, "{\"nonsense\": 1}", 100));
        let after = registry.topology();
        prop_assert_eq!(&before.zones, &after.zones);
        prop_assert_eq!(&before.services, &after.services);
        prop_assert_eq!(&before.endpoints, &after.endpoints);
        prop_assert_eq!(&before.shifts, &after.shifts);
        prop_assert_eq!(&before.health, &after.health);
        prop_assert_eq!(&before.forced, &after.forced);
        prop_assert_eq!(after.problems.contains_key(&key), !key.starts_with("replication/"));
    }

    /// `apply` says that something changed exactly when something did.
    #[test]
    fn changes_are_told_from_echoes(history in history()) {
        let mut registry = Registry::default();
        for (at, (key, value)) in history.into_iter().enumerate() {
            let revision = i64::try_from(at).unwrap();
            let before = registry.topology();
            let changed = match value {
                Some(value) => registry.apply(put(&key, &value, revision)),
                None => registry.apply(delete(&key, revision)),
            };
            prop_assert_eq!(changed, *before != *registry.topology());
        }
    }
}
