//! What an operator or another program may have written, as bytes. What is refused says why; what is taken is within the documented
//! bounds, reads the same when written again, and makes an engine that decides.

use zonebreak_core::{
    config::{FilterConfig, MAX_SERVICES, MAX_ZONES},
    policy::ServicePolicy,
};

use super::engine;

/// Reads bytes as both, as the filter and the control plane do.
pub fn run(bytes: &[u8]) {
    match FilterConfig::parse(bytes) {
        Ok(config) => accepted(&config),
        Err(error) => explained(&error.to_string()),
    }
    let Ok(policy) = serde_json::from_slice::<ServicePolicy>(bytes) else { return };
    match policy.validate() {
        Ok(()) => accepted(&engine::config_of(&policy)),
        Err(error) => explained(&error.to_string()),
    }
}

/// A refusal is for a person: it names a place or a field, and says something about it.
fn explained(error: &str) {
    assert!(error.len() > 10 && error.contains(' '), "says nothing: {error:?}");
}

fn accepted(config: &FilterConfig) {
    assert!(config.services.len() <= MAX_SERVICES);
    for service in config.services.values() {
        assert!(service.zones.len() <= MAX_ZONES);
        service.policy.validate().expect("a policy that was taken");
    }
    let written = serde_json::to_vec(config).expect("plain data");
    let again = FilterConfig::parse(&written).unwrap_or_else(|error| {
        panic!("what was taken is refused when written again: {error}: {}", String::from_utf8_lossy(&written))
    });
    let rewritten = serde_json::to_vec(&again).expect("plain data");
    assert_eq!(again, *config, "{}", String::from_utf8_lossy(&rewritten));
    assert_eq!(rewritten, written, "two ways to write one configuration");
    engine::decides(config);
}
