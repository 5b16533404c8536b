//! What Zonebreak promises, kept or broken before your eyes: a real Envoy with the real filter, a real etcd, the real control
//! plane and its command line, under load and under fault. A module a topic; the promise stands in the name of its test.
//!
//! Times are taken at the backends. Where a promise is about time, a machine that was too busy to keep it says so and the
//! measurement is made again (see `support/calm.rs`); a promise that was kept on a busy machine was kept.

mod actuation;
mod contract;
mod control_plane;
mod drain;
mod explain;
mod failure;
mod feedback;
mod nack;
mod policy;
mod proxies;
mod recovery;
mod registration;
mod requests;
mod secure;
mod support;
mod topology_file;
