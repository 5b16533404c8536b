//! Bytes as what an operator may write: a configuration that is in order, with anything in it that may be. As JSON, so that it goes the
//! way of all configurations.

use arbitrary::{Result, Unstructured};
use serde_json::{Map, Value, json};

/// The services that a script may name.
pub const SERVICES: [&str; 3] = ["cart", "order-svc", "stock"];

const ZONES: [&str; 8] = ["az-a", "az-b", "az-c", "az-d", "az-e", "az-f", "az-g", "az-h"];

/// A configuration, of the time `now_ms`.
pub fn configuration(bytes: &mut Unstructured<'_>, now_ms: u64) -> Result<Value> {
    let mut services = Map::new();
    for name in SERVICES.iter().take(bytes.int_in_range(0..=SERVICES.len())?) {
        services.insert((*name).to_owned(), service(bytes, now_ms)?);
    }
    let mut config = json!({"version": 1, "role": "downstream", "services": services});
    if bytes.arbitrary()? {
        config["zone"] = json!(bytes.choose(&ZONES)?);
    }
    Ok(config)
}

fn service(bytes: &mut Unstructured<'_>, now_ms: u64) -> Result<Value> {
    let count = bytes.int_in_range(0..=ZONES.len())?;
    let mut zones = Map::new();
    let mut shifts = Vec::new();
    for name in ZONES.iter().take(count) {
        zones.insert((*name).to_owned(), json!(bytes.choose(&[0_u32, 1, 2, 100, u32::MAX])?));
        if bytes.ratio(1, 6)? {
            let keep = bytes.int_in_range(0..=1000_u32)?;
            let keep = [0, 1000, keep].get(bytes.choose_index(3)?).copied().unwrap_or_default();
            let ends = now_ms.saturating_add(bytes.int_in_range(0..=120_000)?);
            shifts.push(json!({"zone": name, "keep_percent": f64::from(keep) / 10.0, "expires_at_ms": ends}));
        }
    }
    Ok(json!({"zones": zones, "policy": policy(bytes, count)?, "shifts": shifts}))
}

fn policy(bytes: &mut Unstructured<'_>, zones: usize) -> Result<Value> {
    let mut policy = json!({"mode": bytes.choose(&["strong", "eventual"])?, "breaker": breaker(bytes)?});
    if bytes.ratio(1, 3)? {
        let mut weights = Map::new();
        for name in ZONES.iter().take(zones) {
            weights.insert((*name).to_owned(), json!(bytes.choose(&[0, 1, 3, 10_000])?));
        }
        // All of them 0 is refused.
        weights.insert("elsewhere".to_owned(), json!(1));
        policy["weights"] = weights.into();
    }
    if bytes.ratio(1, 4)? {
        let when = bytes.choose(&["always", "zone_degraded", "zone_open"])?;
        let percent = f64::from(bytes.int_in_range(1..=1000_u32)?) / 10.0;
        policy["abort"] =
            json!({"percent": percent, "status": bytes.int_in_range(400..=599_u16)?, "when": when});
    }
    if bytes.ratio(1, 4)? {
        let share = f64::from(bytes.int_in_range(0..=1000_u32)?) / 1000.0;
        policy["spill"] = json!({"max_rps": bytes.arbitrary::<u32>()?, "max_share": share});
    }
    Ok(policy)
}

fn breaker(bytes: &mut Unstructured<'_>) -> Result<Value> {
    let time = |bytes: &mut Unstructured<'_>, least: u64| -> Result<String> {
        let ms = bytes.choose(&[0, 1, 100, 700, 5_000, 60_000, u64::MAX])?;
        Ok(format!("{}ms", ms.max(&least)))
    };
    let mut breaker = json!({
        "detector": bytes.choose(&["peers", "consecutive"])?,
        "sensitivity": bytes.choose(&["fast", "normal", "safe"])?,
        "enforcement": bytes.choose(&["enforce", "enforce", "enforce", "shadow", "disabled"])?,
        "consecutive_failures": bytes.choose(&[1, 2, 5, u32::MAX])?,
        "ramp": time(bytes, 0)?,
    });
    if bytes.arbitrary()? {
        breaker["open"] = json!(time(bytes, 100)?);
    }
    if bytes.arbitrary()? {
        breaker["half_open_max_requests"] = json!(bytes.choose(&[1, 5, 100, u32::MAX])?);
    }
    if bytes.arbitrary()? {
        let over = if bytes.arbitrary()? { " over peers" } else { "" };
        breaker["slow"] = json!(format!("{}{over}", time(bytes, 1)?));
    }
    Ok(breaker)
}
