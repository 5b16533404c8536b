//! What the server's configuration holds, with every default in one place. Describes; reads nothing.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use zonebreak_replication::snapshot::{catalog::Retention, keeper::Policy};
use zonebreak_topology::gate::Limits;

use zonebreak_core::units::{Millis, Percent};

use crate::serve::waves::Sizes;

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
    /// How much of the topology may go at once.
    pub guard: GuardConfig,
    /// To whom a change of policies goes first.
    pub waves: WavesConfig,
    /// What outlives the server.
    pub state: StateConfig,
    /// Where proxies connect.
    pub xds: XdsConfig,
    /// What proxies are asked to report.
    pub load_reports: LoadReportsConfig,
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
    /// Snapshots of what is replicated.
    pub snapshots: SnapshotsConfig,
}

/// Snapshots of the source, taken beside a replicator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SnapshotsConfig {
    /// Where they lie.
    pub directory: PathBuf,
    /// Between two of them; 0s: none are taken by themselves.
    pub every: Millis,
    /// The most that are kept.
    pub keep: usize,
    /// How far back a restore must reach.
    pub keep_for: Millis,
}

/// How etcd is reached.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EtcdConfig {
    /// Client URLs of the members.
    pub endpoints: Vec<EtcdEndpoint>,
    /// Prefix of every key.
    pub prefix: Prefix,
    /// Authorities to trust where the endpoints are https; those of the operating system when absent.
    pub ca_file: Option<PathBuf>,
    /// Client certificate, with its chain.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
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

/// How much may go before an operator is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GuardConfig {
    /// The largest share of a service's endpoints, in percent, that may go within the window; 100 switches the guard off.
    pub max_removal_percent: Percent,
    /// What counts as "at once".
    pub window: Millis,
}

/// A change of policies, zones or the configuration goes to a few proxies first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WavesConfig {
    /// Proxies that get it first; 0: all at once.
    pub first: usize,
    /// Share of the proxies that get it next, in percent.
    pub second_percent: Percent,
    /// How long a wave may take to acknowledge it before the next one gets it.
    pub timeout: Millis,
}

/// What outlives the server; nothing when there is no directory.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StateConfig {
    /// Directory for the last good state, which a start without etcd serves.
    pub dir: Option<PathBuf>,
}

/// The xDS listener.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct XdsConfig {
    /// Address and port.
    #[serde(deserialize_with = "read_listen")]
    pub listen: SocketAddr,
    /// The server's certificate, with its chain; proxies then speak TLS.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
    /// Authorities of the proxies: who has no certificate of theirs is turned away.
    pub client_ca_file: Option<PathBuf>,
}

/// The load reports that proxies send when their bootstrap has a `load_stats_config`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoadReportsConfig {
    /// How often a proxy reports; 0s switches the service off.
    pub interval: Millis,
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

// === impl SnapshotsConfig ===

impl Default for SnapshotsConfig {
    fn default() -> Self {
        Self {
            directory: PathBuf::from("/var/lib/zonebreak/snapshots"),
            every: Millis(0),
            keep: 200,
            keep_for: Millis::secs(7 * 24 * 3600),
        }
    }
}

impl SnapshotsConfig {
    /// What a keeper is told; `None` when no snapshots are taken by themselves.
    pub fn policy(&self) -> Option<Policy> {
        let keep_for = Duration::from_millis(self.keep_for.0);
        (self.every.0 > 0).then(|| Policy {
            directory: self.directory.clone(),
            every: Duration::from_millis(self.every.0),
            retention: Retention { keep: self.keep, keep_for },
        })
    }
}

// === impl GuardConfig ===

impl GuardConfig {
    /// The limits of the gate.
    pub const fn limits(&self) -> Limits {
        Limits { max_removal: self.max_removal_percent, window: self.window }
    }
}

impl Default for GuardConfig {
    fn default() -> Self {
        let Limits { max_removal, window } = Limits::default();
        Self { max_removal_percent: max_removal, window }
    }
}

// === impl WavesConfig ===

impl WavesConfig {
    /// How waves are made.
    pub const fn sizes(&self) -> Sizes {
        let Self { first, second_percent: second, timeout } = self;
        Sizes { first: *first, second: *second, timeout: Duration::from_millis(timeout.0) }
    }
}

impl Default for WavesConfig {
    /// One, then 5 %. A proxy answers within milliseconds, one that compiles a new module within half a second.
    fn default() -> Self {
        Self {
            first: 1,
            second_percent: Percent::new(5.0).unwrap_or(Percent::FULL),
            timeout: Millis::secs(1),
        }
    }
}

// === impl XdsConfig ===

impl Default for XdsConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 18000)),
            cert_file: None,
            key_file: None,
            client_ca_file: None,
        }
    }
}

// === impl LoadReportsConfig ===

impl Default for LoadReportsConfig {
    /// A tenth of the matrix' window and more, at the cost of a small message.
    fn default() -> Self {
        Self { interval: Millis::secs(5) }
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
