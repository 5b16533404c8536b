//! Zonebreak's control plane: the `zonebreak` program as a library, so that tests and documentation can reach its parts.
//!
//! | module | what it is for |
//! |---|---|
//! | [`cli`] | the verbs, one file each |
//! | [`config`] | the server's configuration: layers, defaults, errors with their place |
//! | [`serve`] | the server: a topology comes in, views go out |
//! | [`resources`] | the translation of a view into Envoy's resources |
//! | [`model`] | what the admin port answers and the command line prints |
//! | [`explain`] | why a breaker tripped or did not, from recorded counters |
//! | [`telemetry`] | log, audit events, metrics |
//! | [`exit`] | how commands end |
//!
//! The engines are in crates of their own: `zonebreak-topology` knows etcd, `zonebreak-xds` knows the discovery protocol.

pub mod cli;
pub mod client;
pub mod config;
pub mod exit;
pub mod explain;
pub mod host;
pub mod model;
pub mod resources;
pub mod serve;
pub mod telemetry;
