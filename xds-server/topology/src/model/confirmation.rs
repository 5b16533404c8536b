//! An operator's word that a change which is held back was meant. Describes; the gate decides what it lets through.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zonebreak_core::names::ServiceName;

use super::InvalidValue;

/// What can be held back: the name that status shows and `topology confirm` takes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HeldId {
    /// The loss of endpoints of a service: `endpoints/<service>`.
    Endpoints(ServiceName),
    /// The loss of policies: `services`.
    Policies,
    /// The loss of zones: `zones`.
    Zones,
    /// The loss of the source's data: `source`. Confirmed, all that the source says is believed.
    Source,
}

/// What was meant: the value of `confirmed/<held>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confirmation {
    /// The service may go down to this many endpoints, the topology to this many policies or zones, and no further. Whoever
    /// confirms has seen this number, and what goes missing after that look is held again. No meaning for `source`.
    pub endpoints: usize,
    /// Why.
    pub reason: String,
    /// Who.
    pub actor: String,
    /// When it was given.
    #[serde(deserialize_with = "super::time::read")]
    pub confirmed_at: Timestamp,
    /// When it is void.
    #[serde(deserialize_with = "super::time::read")]
    pub expires_at: Timestamp,
}

// === impl HeldId ===

impl HeldId {
    /// Reads the name; `None` when nothing of that name can be held.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "source" => Some(Self::Source),
            "services" => Some(Self::Policies),
            "zones" => Some(Self::Zones),
            _ => Some(Self::Endpoints(ServiceName::new(text.strip_prefix("endpoints/")?).ok()?)),
        }
    }
}

impl fmt::Display for HeldId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoints(service) => write!(f, "endpoints/{service}"),
            Self::Policies => f.write_str("services"),
            Self::Zones => f.write_str("zones"),
            Self::Source => f.write_str("source"),
        }
    }
}

// === impl Confirmation ===

impl Confirmation {
    /// Checks what types alone cannot.
    pub fn validate(&self) -> Result<(), InvalidValue> {
        if self.reason.trim().is_empty() {
            return Err(InvalidValue::new(
                "reason",
                "must not be empty: whoever finds this at night needs it",
            ));
        }
        if self.expires_at <= self.confirmed_at {
            return Err(InvalidValue::new("expires_at", "must lie after confirmed_at"));
        }
        Ok(())
    }

    /// Whether it counts at `now`.
    pub fn active(&self, now: Timestamp) -> bool {
        now < self.expires_at
    }
}
