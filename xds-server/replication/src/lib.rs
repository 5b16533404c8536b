//! Replication of an etcd prefix into another etcd: exactly, within milliseconds, and provably. Knows etcd and nothing of zones
//! or Envoy.
//!
//! ```text
//!  source ──watch──> assemble ──whole revisions──> spool (safe on disk) ──> rules ──> pipeline ──one fenced transaction──> destination
//!                                                                                        ^                                     │
//!                                                            observer (CRC32, digests) ──┘<─────────── its own watch ──────────┘
//! ```
//!
//! | module | what it is for |
//! |---|---|
//! | [`revision`], [`assemble`] | whole revisions of the source, and making them of a watch's messages |
//! | [`spool`] | the change log on disk |
//! | [`rules`] | which keys, under which names, how urgently |
//! | [`batch`], [`pipeline`] | transactions of whole revisions; the state machine that never guesses |
//! | [`checkpoint`] | what the destination knows of itself, and the fence |
//! | [`digest`], [`observer`] | proof that both sides are equal, all the time |
//! | [`verify`] | the proof on demand |
//! | [`snapshot`] | states on disk, and any moment between them, restored by difference |
//! | [`region`] | who owns a prefix, promotion, the return of a former owner |
//! | [`overlap`] | two regions that both write a prefix, by opt-in: times, conflicts, policies |
//! | [`leader`] | where the leader of an etcd that spans regions may be |
//!
//! Every decision is in a pure module with a model or property test beside it; the network is in the private ones.

mod align;
mod anchors;
pub mod assemble;
pub mod batch;
pub mod checkpoint;
mod client;
mod compare;
mod destination;
pub mod digest;
mod error;
pub mod leader;
mod leases;
mod listing;
mod meanwhile;
mod metrics;
pub mod observer;
mod options;
pub mod overlap;
pub mod pipeline;
mod questions;
mod queue;
pub mod region;
pub mod revision;
pub mod rules;
mod run;
mod session;
pub mod snapshot;
mod source;
pub mod spool;
mod trouble;
pub mod verify;
mod watch;
mod witness;

pub use client::EtcdError;
pub use error::ReplicationError;
pub use metrics::Metrics;
pub use options::{ClusterOptions, OptionsError, RESERVED, ReplicationOptions, StrangerPolicy, TlsOptions};
pub use run::run;
