//! A value of each kind in which every field is as it may be written: what error messages take their examples from.

use serde_json::{Value, json};

use crate::key::Kind;

/// The sample of that kind.
pub(super) fn of(kind: Kind) -> Value {
    match kind {
        Kind::Zones => json!({"region": "eu-1", "aliases": ["use1-az1"], "capacity": 5000}),
        Kind::Services => policy(),
        Kind::Endpoints => json!({
            "address": "10.0.0.7", "port": 8080, "region": "eu-1", "zone": "az-a", "weight": 1, "labels": {"version": "1.4"},
        }),
        Kind::Shifts => json!({
            "keep_percent": 30, "reason": "packet loss on the uplink", "actor": "ann",
            "started_at": "2026-01-05T10:00:00Z", "expires_at": "2026-01-05T10:30:00Z",
        }),
        Kind::Health => json!({
            "state": "degraded", "since": "2026-01-05T09:58:00Z", "evidence": "3 of 10 checks failed",
        }),
        Kind::Forced => json!({
            "state": "draining", "reason": "memory leak", "actor": "ann", "expires_at": "2026-01-05T12:00:00Z",
        }),
        Kind::Confirmed => json!({
            "endpoints": 2, "reason": "moved to eu-2", "actor": "ann",
            "confirmed_at": "2026-01-05T10:00:00Z", "expires_at": "2026-01-05T10:10:00Z",
        }),
    }
}

fn policy() -> Value {
    json!({
        "hosts": ["order-svc", "order-svc.prod"],
        "port": 8080,
        "mode": "strong",
        "weights": {"az-a": 80, "az-b": 20},
        "explore": 5,
        "spread": "by_weight",
        "sticky": {"cookie": "session"},
        "breaker": {
            "detector": "peers", "sensitivity": "normal", "absolute": 10, "consecutive_failures": 5, "open": "5s",
            "half_open_max_requests": 20, "slow": "50ms over peers", "ramp": "20s", "max_open_zones": 1, "shed": true,
            "enforcement": "shadow",
        },
        "abort": {
            "percent": 5, "status": 503, "when": "zone_degraded", "zones": ["az-b"], "until": "2026-01-05T10:30:00Z",
            "delay": "200ms", "delay_percent": 100,
        },
        "spill": {"max_rps": 500, "max_share": 0.5, "headroom": 0.5, "adaptive": true},
        "retry": {"attempts": 1, "budget_percent": 20, "non_idempotent": false},
        "timeout": "15s",
        "probe": {
            "http": "/health", "tcp": false, "interval": "3s", "timeout": "5s", "unhealthy_after": 3, "healthy_after": 2,
            "expected": ["2xx", "204"],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Entry;

    /// Every field that the reader knows: a nonsense field makes serde list them.
    fn fields(kind: Kind, at: &[&str]) -> Vec<String> {
        let mut value = json!({"no such field": 0});
        for name in at.iter().rev() {
            value = json!({*name: value});
        }
        let error = Entry::read(kind, &value).unwrap_err().to_string();
        let (_, expected) = error.split_once("expected ").unwrap();
        expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn the_samples_can_be_used_and_show_every_field() {
        for kind in Kind::ALL {
            let sample = of(kind);
            let entry = Entry::read(kind, &sample).unwrap_or_else(|error| panic!("{kind:?}: {error}"));
            entry.validate().unwrap_or_else(|invalid| panic!("{kind:?}: {invalid}"));
            let mut shown: Vec<(Vec<&str>, &Value)> = vec![(Vec::new(), &sample)];
            if kind == Kind::Services {
                shown.extend(
                    ["breaker", "abort", "spill", "retry", "probe"].map(|name| (vec![name], &sample[name])),
                );
            }
            for (at, value) in shown {
                for field in fields(kind, &at) {
                    assert!(value.get(&field).is_some(), "the sample of {kind:?} {at:?} lacks {field}");
                }
            }
        }
    }
}
