//! What the control plane tells the filter: the JSON in the plugin configuration. Versioned, strict, checked whole before
//! anything of it is used, so that a bad one is refused and the old one goes on.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    names::{ServiceName, Zone},
    objects::Objects,
    policy::{InvalidPolicy, ServicePolicy},
    units::Percent,
    words::words,
};

/// The version of the schema below. Raised when an old filter would misread a new configuration.
pub const CONFIG_VERSION: u32 = 1;

/// Zones a filter can tell apart in one service.
pub const MAX_ZONES: usize = 8;

/// Services (clusters) a filter keeps a breaker for.
pub const MAX_SERVICES: usize = 256;

/// The plugin configuration of the filter, in either of its two roles.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterConfig {
    /// [`CONFIG_VERSION`].
    pub version: u32,
    /// Which end of the proxy this instance sits at.
    pub role: Role,
    /// The proxy's own zone; from the node's locality when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Zone>,
    /// By name of service, which is the name of its cluster. Empty in the upstream role.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub services: BTreeMap<ServiceName, ServiceConfig>,
    /// Name what was decided in an `x-zonebreak-decision` response header.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub debug_header: bool,
}

/// Where in Envoy an instance of the filter sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// In the listener's filter chain: decides, and sees the final outcome.
    Downstream,
    /// In the cluster's filter chain: sees each attempt with the zone that served it.
    Upstream,
}

/// One service as the filter sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceConfig {
    /// Its zones that have endpoints, in the order of the subset keys, each with the capacity (sum of endpoint weights).
    pub zones: BTreeMap<Zone, u32>,
    /// The operator's word.
    pub policy: ServicePolicy,
    /// Drains in force, at most one a zone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shifts: Vec<Shift>,
}

/// A drain: how much of its load a zone keeps, until when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shift {
    /// The zone being drained.
    pub zone: Zone,
    /// What it keeps of its usual share.
    pub keep_percent: Percent,
    /// Unix time in ms at which the drain ends by itself, with or without a control plane.
    pub expires_at_ms: u64,
}

/// Why a filter configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum InvalidConfig {
    /// Not JSON of this schema.
    #[error("failed to read the configuration at line {line} column {column}: {why}")]
    Parse {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What the parser says.
        why: String,
    },
    /// A schema this filter does not know.
    #[error("configuration version {found} is not {CONFIG_VERSION}, the one this filter knows")]
    Version {
        /// The version given.
        found: u32,
    },
    /// A service's policy cannot be used.
    #[error("services.{service}.policy.{error}")]
    Policy {
        /// The service.
        service: ServiceName,
        /// What is wrong with it.
        error: InvalidPolicy,
    },
    /// More zones than [`MAX_ZONES`].
    #[error("services.{service}.zones: {found} zones, at most {MAX_ZONES} are allowed")]
    TooManyZones {
        /// The service.
        service: ServiceName,
        /// Zones given.
        found: usize,
    },
    /// More services than [`MAX_SERVICES`].
    #[error("services: {found} services, at most {MAX_SERVICES} are allowed")]
    TooManyServices {
        /// Services given.
        found: usize,
    },
}

words! { Role { Downstream = "downstream", Upstream = "upstream" } }

// === impl FilterConfig ===

impl FilterConfig {
    /// Reads and checks a whole configuration.
    pub fn parse(json: &[u8]) -> Result<Self, InvalidConfig> {
        let config = Self::read(json).map_err(|e| InvalidConfig::Parse {
            line: e.line(),
            column: e.column(),
            why: e.to_string(),
        })?;
        config.validate().map(|()| config)
    }

    fn read(json: &[u8]) -> serde_json::Result<Self> {
        let mut text = serde_json::Deserializer::from_slice(json);
        let config = Self::deserialize(Objects(&mut text))?;
        text.end().map(|()| config)
    }

    fn validate(&self) -> Result<(), InvalidConfig> {
        if self.version != CONFIG_VERSION {
            return Err(InvalidConfig::Version { found: self.version });
        }
        if self.services.len() > MAX_SERVICES {
            return Err(InvalidConfig::TooManyServices { found: self.services.len() });
        }
        for (name, service) in &self.services {
            let found = service.zones.len();
            if found > MAX_ZONES {
                return Err(InvalidConfig::TooManyZones { service: name.clone(), found });
            }
            let policy = service.policy.validate();
            policy.map_err(|error| InvalidConfig::Policy { service: name.clone(), error })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn a_configuration_is_refused_whole_and_says_where() {
        let ok = r#"{"version": 1, "role": "downstream", "zone": "az-a", "services": {"order-svc":
            {"zones": {"az-a": 2, "az-b": 2}, "policy": {"mode": "eventual"},
             "shifts": [{"zone": "az-b", "keep_percent": 12.5, "expires_at_ms": 1}]}}}"#;
        let config = FilterConfig::parse(ok.as_bytes()).unwrap();
        assert_eq!(FilterConfig::parse(&serde_json::to_vec(&config).unwrap()).unwrap(), config);
        for (bad, says) in [
            (ok.replace("\"version\": 1", "\"version\": 2"), "version 2 is not 1"),
            (ok.replace("eventual", "sometimes"), "line 2 column"),
            (ok.replace("\"mode\": \"eventual\"", "\"port\": 0"), "services.order-svc.policy.port: must be"),
            (
                ok.replace("{\"mode\": \"eventual\"}", "[\"eventual\"]"),
                "invalid type: sequence, expected struct ServicePolicy",
            ),
            (
                ok.replace("[{\"zone\"", "[[{\"zone\"").replace("}],", "}]],"),
                "invalid type: sequence, expected struct Shift",
            ),
            (ok.replace("}}}", "}}} 1"), "trailing characters at line 3"),
            ("{".to_owned(), "failed to read the configuration at line 1"),
            ("[1, \"downstream\"]".to_owned(), "expected struct FilterConfig"),
        ] {
            let error = FilterConfig::parse(bad.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
