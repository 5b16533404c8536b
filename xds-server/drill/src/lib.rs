//! Labs of real processes, and what is measured in them: the crate behind the end-to-end tests, the demo and the
//! benchmarks. Runs Envoy, etcd and `zonebreak` as children; never links against the control plane.

mod closed;
pub mod embedded;
pub mod failover;
pub mod fanout;
pub mod lab;
pub mod overhead;
mod proxy;
pub mod replication;
pub mod world;
