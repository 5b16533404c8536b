//! Bytes as the state that the workers of a proxy share: damaged, forged, of another version. They are refused and change nothing, or
//! they are a state that an engine can go on from.

use zonebreak_core::{
    breaker::encode,
    config::{FilterConfig, MAX_ZONES},
    engine::{Coin, Engine, Now, ServiceId, Totals},
    mix,
    names::Zone,
};

use super::engine::{self, START_MS};

/// Reads them as they are, and once more with a checksum that fits, which only a writer of ours would put there.
pub fn run(bytes: &[u8]) {
    read(bytes);
    let mut signed = bytes.to_vec();
    let sum = mix::fnv1a(mix::FNV_START, bytes);
    signed.extend(((sum ^ sum.wrapping_shr(32)) as u32).to_le_bytes());
    read(&signed);
}

fn read(bytes: &[u8]) {
    let mut names = vec!["az-a".to_owned(), "az-b".to_owned(), "az-c".to_owned()];
    match encode::decode(bytes) {
        Ok(decoded) => {
            assert!(decoded.zones.len() <= MAX_ZONES);
            assert!(decoded.zones.iter().all(|(_, zone)| zone.epoch <= decoded.epoch));
            // Zones as it names them, as far as there can be such; the configuration may know others.
            let named = decoded.zones.iter().map(|(name, _)| *name).filter(|name| Zone::new(name).is_ok());
            names.splice(..0, named.map(str::to_owned));
            names.truncate(MAX_ZONES);
            goes_on(bytes, &names);
        }
        Err(error) => {
            assert!(error.to_string().starts_with("failed to read a shared breaker state"), "{error}");
            let (mut engine, id) = engine(&names);
            let before = engine.encoded(id);
            assert_eq!(engine.adopt(id, bytes, Now(START_MS)), Err(error));
            assert_eq!(engine.encoded(id), before, "a state that was refused changed something");
        }
    }
}

/// Two workers take it over: they agree, and whatever they make of it next is again a state.
fn goes_on(bytes: &[u8], names: &[String]) {
    let (mut one, id) = engine(names);
    let (mut two, _) = engine(names);
    for engine in [&mut one, &mut two] {
        engine.adopt(id, bytes, Now(START_MS)).expect("a state that was decoded");
        assert_eq!(engine.encoded(id), bytes, "it is handed on as it is");
    }
    assert_eq!(one.epoch(id), two.epoch(id));
    let mut totals = vec![Totals::default(); one.zones(id).len()];
    for step in 0..40_u64 {
        // From the first ticks to long after any timer of an honest state.
        let now = Now(START_MS.saturating_add(step.saturating_mul(step).saturating_mul(100)));
        if let Some(first) = totals.first_mut() {
            first.fail += 5;
        }
        totals.iter_mut().for_each(|totals| totals.ok += 3);
        let (proposal, other) = (one.tick(id, now, &totals), two.tick(id, now, &totals));
        assert_eq!(proposal, other, "two workers, one state, the same counters");
        engine::possible(&mut one, id, now, Coin::Chance(mix::mix(step)), true);
        engine::possible(&mut two, id, now, Coin::Chance(mix::mix(step)), true);
        let Some(proposal) = proposal else { continue };
        assert!(!proposal.transitions.is_empty());
        for engine in [&mut one, &mut two] {
            let told = engine.adopt(id, &proposal.state, now).expect("a state of its own");
            assert_eq!(told, proposal.transitions);
        }
    }
}

fn engine(names: &[String]) -> (Engine, ServiceId) {
    let zones: serde_json::Map<_, _> = names.iter().map(|name| (name.clone(), 2.into())).collect();
    let service = serde_json::json!({"zones": zones, "policy": {"mode": "eventual"}});
    let config =
        serde_json::json!({"version": 1, "role": "downstream", "zone": "az-a", "services": {"s": service}});
    let config = FilterConfig::parse(config.to_string().as_bytes()).expect("a sound configuration");
    let mut engine = Engine::default();
    engine.configure(&config, None, Now(START_MS));
    let id = engine.service("s").expect("the service");
    (engine, id)
}
