//! Which drains are refused, and with what words.

use rstest::rstest;
use zonebreak_core::units::{Millis, Percent};

use super::*;
use crate::registry::{Event, Registry};

fn now() -> Timestamp {
    "2026-01-01T00:30:00Z".parse().unwrap()
}

fn endpoint(zone: &str) -> String {
    format!(r#"{{"address": "10.0.0.1", "port": 80, "zone": "{zone}"}}"#)
}

fn shift(until: &str) -> String {
    format!(
        r#"{{"keep_percent": 30, "reason": "demo", "actor": "alice", "started_at": "2026-01-01T00:00:00Z",
        "expires_at": "2026-01-01T{until}:00Z"}}"#
    )
}

/// `both` is in az-a and az-b, `lonely` in az-b alone; az-c is declared and empty.
fn topology(more: &[(&str, &str)]) -> Registry {
    let (a, b) = (endpoint("az-a"), endpoint("az-b"));
    let base = [
        ("endpoints/both/1", a.as_str()),
        ("endpoints/both/2", &b),
        ("endpoints/lonely/1", &b),
        ("zones/az-b", r#"{"aliases": ["use1-az2"]}"#),
        ("zones/az-c", "{}"),
    ];
    let mut registry = Registry::default();
    for (key, value) in base.iter().chain(more) {
        registry.apply(Event::Put { key: (*key).into(), value: (*value).into(), mod_revision: 1 });
    }
    registry
}

fn drain(zone: &str) -> Drain {
    Drain {
        zone: Zone::new(zone).unwrap(),
        service: None,
        keep_percent: Percent::ZERO,
        duration: Millis::secs(60),
        reason: "r".into(),
        actor: "bob".into(),
        force: false,
    }
}

fn refusal(registry: &Registry, drain: &Drain) -> String {
    check(&registry.topology(), drain, now())
        .map_or_else(|refusal| refusal.to_string(), |()| "allowed".to_owned())
}

#[test]
fn a_zone_with_others_to_carry_it_may_be_drained() {
    assert_eq!(refusal(&topology(&[]), &drain("az-a")), "allowed");
    assert_eq!(refusal(&topology(&[]), &drain("az-c")), "allowed", "there is nothing in it");
}

#[test]
fn an_unknown_zone_is_refused_even_by_force() {
    let says = "drain az-x: no such zone; known are az-a, az-b, az-c";
    assert_eq!(refusal(&topology(&[]), &drain("az-x")), says);
    assert_eq!(refusal(&topology(&[]), &Drain { force: true, ..drain("az-x") }), says);
    assert!(refusal(&Registry::default(), &drain("az-x")).contains("no zone is known yet"));
}

#[test]
fn an_unknown_service_is_refused() {
    let service = Some(ServiceName::new("order").unwrap());
    let refusal = refusal(&topology(&[]), &Drain { service, ..drain("az-a") });
    assert_eq!(refusal, "drain a zone for order: no such service; known are both, lonely");
}

#[test]
fn the_last_zone_is_refused_and_the_services_are_named() {
    for name in ["az-b", "use1-az2"] {
        let refusal = refusal(&topology(&[]), &drain(name));
        assert!(
            refusal.starts_with("drain az-b: no other zone has a healthy endpoint of 1 service (lonely)."),
            "{refusal}"
        );
    }
    assert_eq!(refusal(&topology(&[]), &Drain { force: true, ..drain("az-b") }), "allowed");
    let both = Some(ServiceName::new("both").unwrap());
    assert_eq!(
        refusal(&topology(&[]), &Drain { service: both, ..drain("az-b") }),
        "allowed",
        "for that one it is not"
    );
}

#[rstest]
#[case("unhealthy", false)]
#[case("draining", false)]
#[case("degraded", true)]
fn only_zones_that_serve_can_carry(#[case] state: &str, #[case] allowed: bool) {
    let health = format!(r#"{{"state": "{state}", "since": "2026-01-01T00:00:00Z"}}"#);
    let refusal = refusal(&topology(&[("health/both/2", &health)]), &drain("az-a"));
    assert_eq!(refusal == "allowed", allowed, "{refusal}");
}

#[test]
fn a_second_drain_is_refused_while_one_is_in_force() {
    let active = topology(&[("shifts/az-c", &shift("01:00"))]);
    let says = "drain az-a while another drain is in force: az-c keeps 30 %, by alice until 2026-01-01T01:00:00Z (demo). \
                Restore az-c first, or use --force to drain both";
    assert_eq!(refusal(&active, &drain("az-a")), says);
    assert!(
        refusal(&active, &drain("az-c"))
            .ends_with("Extend or restore that one, or use --force to replace it")
    );
    assert_eq!(refusal(&active, &Drain { force: true, ..drain("az-a") }), "allowed");
    assert_eq!(
        refusal(&topology(&[("shifts/az-c", &shift("00:30"))]), &drain("az-a")),
        "allowed",
        "that one is over"
    );
}

#[test]
fn a_drain_is_found_under_any_name_of_its_zone() {
    let target = |zone: &str| ShiftTarget { zone: Zone::new(zone).unwrap(), service: None };
    let r = topology(&[("shifts/az-b", &shift("01:00"))]);
    assert_eq!(in_force(&r.topology(), &target("use1-az2"), now()).unwrap().0, target("az-b"));
    let none = in_force(&r.topology(), &target("az-a"), now()).unwrap_err();
    assert_eq!(none.to_string(), "find a drain of az-a: what is drained is az-b");
    let over = topology(&[("shifts/az-b", &shift("00:10"))]);
    let none = in_force(&over.topology(), &target("az-b"), now()).unwrap_err();
    assert_eq!(none.to_string(), "find a drain of az-b: nothing is drained");
}
