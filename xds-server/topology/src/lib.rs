//! Which services there are, where their endpoints live, and which zones an operator has drained: the schema, kept in etcd or
//! in one YAML file, and what a proxy in a given zone makes of it. Knows etcd; knows nothing of Envoy or xDS.
//!
//! ```text
//! etcd ──┐                      ┌─> view: what a client in zone z sees
//!        ├─> registry ─> Topology
//! file ──┘   (pure)   (one Arc) └─> shift, edit, register: what people and programs write back
//! ```
//!
//! [`registry`] and [`view`] are pure. [`source`] runs the two tasks that feed the registry: it publishes an immutable
//! [`Topology`] whenever something changed and never an empty one by accident. A value that cannot be used is refused alone,
//! named in [`Topology::problems`], and the last good value of its key stays in force.

pub mod advice;
pub mod backoff;
pub mod confirm;
pub mod document;
pub mod edit;
pub mod entry;
pub mod etcd;
mod foreign;
pub mod gate;
pub mod key;
mod locate;
pub mod model;
pub mod near;
mod own;
pub mod register;
pub mod registry;
pub mod saved;
pub mod shift;
pub mod source;
pub mod strangers;
pub mod tls;
pub mod view;

pub use etcd::{EtcdError, EtcdOptions};
pub use model::{
    Confirmation, Endpoint, Forced, Health, HealthState, HeldId, InstanceId, Problem, Shift, ShiftTarget,
    Topology, ZoneSpec,
};
pub use source::{FileError, Source, SourceStatus, watch_etcd, watch_file};
pub use tls::EtcdTls;
