//! A drain: load moved out of a zone on an operator's word, for a time. Describes; guards and clocks live elsewhere.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zonebreak_core::{
    names::{ServiceName, Zone},
    units::Percent,
};

use super::InvalidValue;

/// What a drain applies to: a zone, for every service or for one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShiftTarget {
    /// The zone being drained.
    pub zone: Zone,
    /// The one service it is drained for; every service when absent.
    pub service: Option<ServiceName>,
}

/// A drain in force: the value of `shifts/<zone>[/<service>]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shift {
    /// What the zone keeps of its usual share.
    pub keep_percent: Percent,
    /// Why.
    pub reason: String,
    /// Who.
    pub actor: String,
    /// Since when.
    #[serde(deserialize_with = "super::time::read")]
    pub started_at: Timestamp,
    /// When it ends by itself. Filters hold to this with or without a control plane.
    #[serde(deserialize_with = "super::time::read")]
    pub expires_at: Timestamp,
}

// === impl ShiftTarget ===

impl fmt::Display for ShiftTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.service {
            None => write!(f, "{}", self.zone),
            Some(service) => write!(f, "{} for {service}", self.zone),
        }
    }
}

// === impl Shift ===

impl Shift {
    /// Checks what types alone cannot.
    pub fn validate(&self) -> Result<(), InvalidValue> {
        if self.reason.trim().is_empty() {
            return Err(InvalidValue::new(
                "reason",
                "must not be empty: whoever finds this at night needs it",
            ));
        }
        if self.expires_at <= self.started_at {
            return Err(InvalidValue::new("expires_at", "must lie after started_at"));
        }
        Ok(())
    }

    /// Whether it holds at `now`. It does from the moment it is written, whatever the clock of its writer said.
    pub fn active(&self, now: Timestamp) -> bool {
        now < self.expires_at
    }

    /// Whether it takes everything from the zone.
    pub fn is_full(&self) -> bool {
        self.keep_percent == Percent::ZERO
    }
}
