//! An engine under some configuration: that it decides, and that what it decides can be done. Knows no events; see
//! [`super::events`].

use zonebreak_core::{
    config::FilterConfig,
    engine::{Coin, Decision, Engine, Now, ServiceId, Totals},
    mix::mix,
    names::Zone,
    policy::ServicePolicy,
    subset,
};

/// A moment in 2023, in Unix ms.
pub const START_MS: u64 = 1_700_000_000_000;

/// Requests that a configuration is tried with, in each service.
const REQUESTS: u64 = 8;

/// A configuration of one service with this policy and three zones.
pub fn config_of(policy: &ServicePolicy) -> FilterConfig {
    let zones = r#"{"az-a": 2, "az-b": 1, "az-c": 0}"#;
    let policy = serde_json::to_string(policy).expect("plain data");
    let config = format!(
        r#"{{"version": 1, "role": "downstream", "services": {{"s": {{"zones": {zones}, "policy": {policy}}}}}}}"#
    );
    FilterConfig::parse(config.as_bytes()).expect("a policy that was validated")
}

/// Configures an engine, asks it, lets it tick, and configures it again: it knows the same services and zones throughout.
pub fn decides(config: &FilterConfig) {
    let mut engine = Engine::default();
    for round in 0..2 {
        let now = Now(START_MS.saturating_add(round * 100));
        engine.configure(config, None, now);
        assert_eq!(engine.services().count(), config.services.len());
        for (name, service) in &config.services {
            let id = engine.service(name).expect("a service that was configured");
            assert!(engine.zones(id).iter().eq(service.zones.keys()), "{name}");
            let totals =
                vec![Totals { ok: round * 3, fail: round * 9, ..Totals::default() }; service.zones.len()];
            if let Some(proposal) = engine.tick(id, now, &totals) {
                engine.adopt(id, &proposal.state, now).expect("a state of its own");
            }
            for coin in 0..REQUESTS {
                let drawn = if coin % 3 == 0 { Coin::User(mix(coin)) } else { Coin::Chance(mix(coin)) };
                possible(&mut engine, id, now, drawn, coin % 2 == 0);
            }
        }
    }
}

/// Asks for a decision and holds it to be one that can be carried out.
pub fn possible(engine: &mut Engine, id: ServiceId, now: Now, coin: Coin, idempotent: bool) {
    let zones: Vec<Zone> = engine.zones(id).to_vec();
    match engine.decide(id, now, coin, || idempotent) {
        Decision::Pass => {}
        Decision::Serve { key, .. } => carried(&zones, key),
        Decision::Trial { key, zone } => {
            carried(&zones, key);
            let zone = zones.get(zone.index()).expect("a zone of the service");
            assert!(subset::keys_of_endpoint(&zones, zone).iter().any(|has| has == key), "{key} for {zone}");
        }
        Decision::Delay { key, ms, .. } => {
            key.iter().for_each(|key| carried(&zones, key));
            assert!(ms > 0);
        }
        Decision::Refuse(refusal) => {
            assert!((400..=599).contains(&refusal.status), "{refusal:?}");
            assert!(refusal.retry_after_s >= 1 && !refusal.reason.is_empty(), "{refusal:?}");
        }
    }
}

/// Some endpoint carries the key: one that nobody carries would mean everybody, the zones to be left among them.
fn carried(zones: &[Zone], key: &str) {
    let known = zones.iter().any(|zone| subset::keys_of_endpoint(zones, zone).iter().any(|has| has == key));
    assert!(known, "no endpoint in {zones:?} carries {key}");
}
