//! What the server's configuration holds, with every default in one place. Describes; reads nothing.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use super::{
    replicate::ReplicateConfig,
    values::{Delivery, EtcdEndpoint, LogFilter, LogFormat, Prefix, Sha256Hex, read_ip, read_listen},
};

/// The whole configuration. Unknown fields are errors; absent ones take their defaults.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The source of truth, unless `topology` names a file.
    pub etcd: EtcdConfig,
    /// A file instead of etcd.
    pub topology: TopologyConfig,
    /// Where proxies connect.
    pub xds: XdsConfig,
    /// Where operators look.
    pub admin: AdminConfig,
    /// Where orchestrators and Prometheus look.
    pub health: HealthConfig,
    /// The module that the proxies run.
    pub filter: FilterConfig,
    /// The listeners that the proxies are given.
    pub listeners: ListenersConfig,
    /// The log on standard error.
    pub log: LogConfig,
    /// Replication into another etcd, for `zonebreak replicate`.
    pub replicate: ReplicateConfig,
}

/// How etcd is reached.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EtcdConfig {
    /// Client URLs of the members.
    pub endpoints: Vec<EtcdEndpoint>,
    /// Prefix of every key.
    pub prefix: Prefix,
    /// User name, where etcd asks for one.
    pub user: Option<String>,
    /// File that holds the password and nothing else.
    pub password_file: Option<PathBuf>,
}

/// The embedded default: a topology without etcd.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TopologyConfig {
    /// YAML of the schema that etcd holds; read again when it changes.
    pub file: Option<PathBuf>,
}

/// The xDS listener.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct XdsConfig {
    /// Address and port.
    #[serde(deserialize_with = "read_listen")]
    pub listen: SocketAddr,
}

/// The admin listener.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// Address and port.
    #[serde(deserialize_with = "read_listen")]
    pub listen: SocketAddr,
}

/// The listener for health checks and metrics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HealthConfig {
    /// Address and port.
    #[serde(deserialize_with = "read_listen")]
    pub listen: SocketAddr,
}

/// The proxy-wasm module; proxies are configured without one when `file` is absent.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FilterConfig {
    /// The module, for the server to read.
    pub file: Option<PathBuf>,
    /// What its SHA-256 must be; not checked when absent.
    pub sha256: Option<Sha256Hex>,
    /// How it reaches the proxy.
    pub deliver: Delivery,
    /// With `deliver: path`: where the proxy finds it; `file` when absent.
    pub path: Option<PathBuf>,
    /// Have proxies name each decision in an `x-zonebreak-decision` response header.
    pub debug_header: bool,
}

/// The listeners that the proxies are given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenersConfig {
    /// Address they bind inside the proxy; the port is the service's.
    #[serde(deserialize_with = "read_ip")]
    pub address: IpAddr,
}

/// The log on standard error.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// What is logged.
    pub level: LogFilter,
    /// In which form.
    pub format: LogFormat,
}

// === impl XdsConfig ===

impl Default for XdsConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 18000)) }
    }
}

// === impl AdminConfig ===

impl Default for AdminConfig {
    /// Loopback: it shows the whole topology and asks nobody for a password.
    fn default() -> Self {
        Self { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 19000)) }
    }
}

// === impl HealthConfig ===

impl Default for HealthConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 19001)) }
    }
}

// === impl ListenersConfig ===

impl Default for ListenersConfig {
    /// Loopback: a sidecar serves the program beside it, not the network.
    fn default() -> Self {
        Self { address: IpAddr::V4(Ipv4Addr::LOCALHOST) }
    }
}
