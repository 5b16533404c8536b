//! Real processes for tests, the demo and the benchmarks: etcd, `zonebreak`, Envoy, backends that break on demand, and
//! load. Everything lives in one temporary directory and dies with its owner.

mod authority;
mod backend;
pub mod bootstrap;
mod dir;
mod envoy;
mod error;
mod etcd;
mod fault;
mod http;
mod link;
mod load;
mod paths;
mod plane;
mod ports;
mod process;
mod procfs;
mod registration;
mod replicator;
mod sample;
mod serve;
mod sys;
mod timeline;
mod wait;

pub use authority::{Authority, Certificate};
pub use backend::{Backend, BackendZone, Backends};
pub use dir::Lab;
pub use envoy::{Envoy, EnvoyOptions, NodeId};
pub use error::LabError;
pub use etcd::Etcd;
pub use fault::Fault;
pub use http::Http;
pub use link::Link;
pub use load::{Load, LoadOptions};
pub use paths::{Programs, Tool};
pub use plane::{Plane, PlaneOptions};
pub use ports::Port;
pub use process::{Command, Process};
pub use procfs::{Memory, cpu_time, memory};
pub use registration::{Registration, RegistrationOptions};
pub use replicator::{Replicator, ReplicatorOptions};
pub use sample::{Outcome, Sample, Summary, ZoneSummary};
pub use timeline::Timeline;
pub use wait::until;
