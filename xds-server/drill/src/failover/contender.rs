//! Who competes. Names, one line each, and Zonebreak's policies; the native configurations are in `native.rs`.

use clap::ValueEnum;
use serde::Serialize;
use serde_json::{Value, json};

use super::scenario::ZONES;

/// A way to keep a service answering when a zone breaks. No contender but the last one retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contender {
    /// Envoy's default: all hosts in turn, no outlier detection.
    RoundRobin,
    /// Istio's locality failover with `outlierDetection: {}`: own zone first, 5 in a row, every 10 s, 30 s out, at most 10 %.
    IstioDefault,
    /// The same, tuned as its documents show: every 1 s, 10 s out, at most 100 %.
    IstioTuned,
    /// The same on a hair trigger: one 5xx, 60 s out, at most 100 %, and no merging of updates. The fastest that Envoy does
    /// without a filter, and what it costs shows when every zone has errors.
    HairTrigger,
    /// Even load, Envoy's success-rate outlier detection enforced.
    SuccessRate,
    /// Even load, Envoy's failure-percentage outlier detection tuned by hand: 10 %, 10 requests, every 2 s.
    FailurePercentage,
    /// Zonebreak, even load.
    OursEven,
    /// Zonebreak, 80 % in the own zone.
    OursLocal,
    /// Zonebreak, 80 % in the own zone, one retry: its defaults.
    OursRetry,
}

// === impl Contender ===

impl Contender {
    /// As it stands in the table.
    pub const fn title(self) -> &'static str {
        match self {
            Self::RoundRobin => "round robin",
            Self::IstioDefault => "Istio default: own zone first, 5 in a row, 10 s, max 10 %",
            Self::IstioTuned => "Istio tuned: 5 in a row, 1 s, 10 s out, max 100 %",
            Self::HairTrigger => "Envoy hair trigger: own zone first, 1 error, 60 s out, max 100 %",
            Self::SuccessRate => "success_rate enforced, even",
            Self::FailurePercentage => "failure_percentage by hand (10 %, 10 rq, 2 s), even",
            Self::OursEven => "**Zonebreak, even**",
            Self::OursLocal => "**Zonebreak, 80 % local**",
            Self::OursRetry => "**Zonebreak, 80 % local, one retry**",
        }
    }

    /// As it is named on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
    /// Zonebreak's policy, without a port; `None` for the others.
    pub(super) fn policy(self) -> Option<Value> {
        let even: Value = ZONES.iter().map(|zone| ((*zone).to_owned(), json!(1))).collect();
        match self {
            Self::OursEven => Some(json!({"mode": "eventual", "weights": even, "retry": {"attempts": 0}})),
            Self::OursLocal => Some(json!({"mode": "eventual", "retry": {"attempts": 0}})),
            Self::OursRetry => Some(json!({"mode": "eventual"})),
            _ => None,
        }
    }
}
