//! Replication of an etcd prefix into another etcd: exactly, within milliseconds, and provably.
pub mod assemble;
pub mod batch;
pub mod checkpoint;
pub mod digest;
pub mod options;
pub mod pipeline;
pub mod revision;
pub mod rules;
pub mod spool;
