//! What an operator says about a zone. Describes; decides nothing.

use serde::{Deserialize, Serialize};
use zonebreak_core::names::Zone;

use super::InvalidValue;

/// A zone: the value of `zones/<zone>`. A zone that endpoints name needs no such key; it adds a region and other names.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZoneSpec {
    /// The region it lies in.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub region: String,
    /// Other names of the same zone, such as its ID (`use1-az1`), which is the same in every account while names are not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<Zone>,
    /// What the zone can carry, in requests a second; unknown when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u32>,
}

// === impl ZoneSpec ===

impl ZoneSpec {
    /// Checks what types alone cannot.
    pub fn validate(&self) -> Result<(), InvalidValue> {
        if self.capacity == Some(0) {
            return Err(InvalidValue::new(
                "capacity",
                "must be at least 1; leave it out when it is not known",
            ));
        }
        Ok(())
    }
}
