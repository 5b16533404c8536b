//! What probes and operators say about an endpoint. Describes; probes nothing.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::InvalidValue;

/// How an endpoint is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthState {
    /// Takes its share.
    Healthy,
    /// Works, and is used when the healthy ones are too few.
    Degraded,
    /// Does not work.
    Unhealthy,
    /// Finishes what it has and takes nothing new.
    Draining,
}

/// What the prober found: the value of `health/<service>/<instance>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// How the endpoint is doing.
    pub state: HealthState,
    /// Since when.
    #[serde(deserialize_with = "super::time::read")]
    pub since: Timestamp,
    /// What it was judged by, in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub evidence: String,
}

/// What an operator says, over any probe: the value of `forced/<service>/<instance>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forced {
    /// What the endpoint counts as.
    pub state: HealthState,
    /// Why.
    pub reason: String,
    /// Who said so.
    pub actor: String,
    /// When it ends by itself.
    #[serde(deserialize_with = "super::time::read")]
    pub expires_at: Timestamp,
}

// === impl HealthState ===

impl HealthState {
    /// Whether new requests may be given to it, and so whether it counts towards its zone's capacity.
    pub const fn serves(self) -> bool {
        matches!(self, Self::Healthy | Self::Degraded)
    }
}

// === impl Forced ===

impl Forced {
    /// Checks what types alone cannot.
    pub fn validate(&self) -> Result<(), InvalidValue> {
        if self.reason.trim().is_empty() {
            return Err(InvalidValue::new(
                "reason",
                "must not be empty: whoever finds this at night needs it",
            ));
        }
        Ok(())
    }
}
