//! One instance of a service and where it lives. Validates; resolves no names and opens no sockets.

use std::{borrow::Borrow, collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use zonebreak_core::names::Zone;

use super::InvalidValue;

/// The heaviest an endpoint may be. Envoy sums endpoint weights into 32 bits; this leaves room for four million of them.
pub const MAX_ENDPOINT_WEIGHT: u32 = 1000;

/// An instance of a service, unique within it: the last segment of its etcd key. Often its `host:port`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceId(Arc<str>);

/// Why an instance name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "an instance name has 1 to 253 letters, digits, '-', '_', '.', ':', '@', '%', '[' and ']', which {0:?} does not keep to"
)]
pub struct InvalidInstance(pub String);

/// Where an instance is reached: the value of `endpoints/<service>/<instance>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// IP address, without a port. Not a name: proxies take endpoints as addresses and resolve nothing.
    pub address: String,
    /// Port, 1 to 65535.
    pub port: u16,
    /// Region; that of `zones/<zone>` when empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub region: String,
    /// Availability zone, or an alias of one.
    pub zone: Zone,
    /// Share of its zone's load relative to the other endpoints, 1 to 1000 (default 1).
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub weight: u32,
    /// Free text for people and tools; no decision looks at it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

const fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
const fn is_one(weight: &u32) -> bool {
    *weight == 1
}

// === impl InstanceId ===

impl InstanceId {
    /// Checks and takes a name.
    pub fn new(name: &str) -> Result<Self, InvalidInstance> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:@%[]".contains(c);
        if name.is_empty() || name.len() > 253 || !name.chars().all(allowed) {
            return Err(InvalidInstance(name.to_owned()));
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for InstanceId {
    type Error = InvalidInstance;
    fn try_from(name: String) -> Result<Self, InvalidInstance> {
        Self::new(&name)
    }
}

impl std::str::FromStr for InstanceId {
    type Err = InvalidInstance;
    fn from_str(name: &str) -> Result<Self, InvalidInstance> {
        Self::new(name)
    }
}

impl From<InstanceId> for String {
    fn from(id: InstanceId) -> Self {
        id.as_str().to_owned()
    }
}

impl Borrow<str> for InstanceId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// Checks what types alone cannot.
    pub fn validate(&self) -> Result<(), InvalidValue> {
        // An Envoy refuses the whole service over one name in it (EDS: "malformed IP address").
        if self.address.parse::<std::net::IpAddr>().is_err() {
            let why = format!(
                "must be an IP address such as 10.0.0.7 or fd00::7, without port or brackets (the port has its own \
                 field), not {:?}; where there is only a name, resolve it before registering",
                self.address
            );
            return Err(InvalidValue::new("address", why));
        }
        if self.port == 0 {
            return Err(InvalidValue::new("port", "must be 1 to 65535"));
        }
        if !(1..=MAX_ENDPOINT_WEIGHT).contains(&self.weight) {
            let why = format!(
                "must be 1 to {MAX_ENDPOINT_WEIGHT}, not {}; to take an endpoint out of service, deregister it or \
                 force its health",
                self.weight
            );
            return Err(InvalidValue::new("weight", why));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(json: &str) -> Result<(), String> {
        let endpoint: Endpoint = serde_json::from_str(json).map_err(|e| e.to_string())?;
        endpoint.validate().map_err(|e| e.to_string())
    }

    #[test]
    fn endpoints_are_checked_and_say_why_not() {
        endpoint(r#"{"address": "10.0.0.1", "port": 80, "zone": "az-a"}"#).unwrap();
        endpoint(r#"{"address": "fd00::1", "port": 80, "zone": "az-a", "weight": 1000}"#).unwrap();
        for (bad, says) in [
            (r#"{"address": "", "port": 80, "zone": "z"}"#, "address: must be an IP"),
            (r#"{"address": "10.0.0.1:80", "port": 80, "zone": "z"}"#, "without port"),
            (r#"{"address": "order-1.prod", "port": 80, "zone": "z"}"#, "resolve it before registering"),
            (r#"{"address": "10.0.0.1", "port": 0, "zone": "z"}"#, "port: must be 1 to 65535"),
            (r#"{"address": "10.0.0.1", "port": 80, "zone": "z", "weight": 0}"#, "force its health"),
            (r#"{"address": "a", "port": 80, "zone": "z", "wieght": 3}"#, "unknown field `wieght`"),
            (r#"{"address": "a", "port": 80, "zone": "z/1"}"#, "a zone name holds"),
        ] {
            let error = endpoint(bad).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn instance_names_take_addresses_but_no_slashes() {
        for good in ["10.0.0.1:8080", "[fd00::1]:80", "order-svc-7f9", "a@b"] {
            assert_eq!(InstanceId::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "a/b", "a b"] {
            assert!(InstanceId::new(bad).is_err(), "{bad:?}");
        }
    }
}
