//! The server's configuration: what it holds, where each value came from, and how it is read.

mod error;
mod etcd;
mod keys;
mod load;
mod replicate;
mod schema;
mod show;
mod values;

#[cfg(test)]
mod tests;

pub use error::ConfigError;
pub use keys::{KEYS, Key, Reload};
pub use load::{Effective, Layers, Origin, Override, Requirement, parse};
pub use replicate::{LeaseChoice, ReplicateConfig, StrangerChoice};
pub use schema::{
    AdminConfig, Config, EtcdConfig, FilterConfig, HealthConfig, ListenersConfig, LogConfig, TopologyConfig,
    XdsConfig,
};
pub use show::{defaults, effective, settings};
pub use values::{Delivery, EtcdEndpoint, LogFilter, LogFormat, Prefix, Sha256Hex};
