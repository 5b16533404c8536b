//! What became of each change.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One change, from its cause to the proxies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChangeRow {
    /// Its number on this server, from 1.
    pub id: u64,
    /// The keys that changed, or what else it was.
    pub cause: String,
    /// The revision of etcd; with a file, how many times that had changed.
    pub revision: i64,
    /// When the server heard of it.
    pub seen_at: Timestamp,
    /// When it was given to the proxies' streams.
    pub published_at: Timestamp,
    /// The views that it made others; proxies of other zones are not concerned.
    pub views: Vec<String>,
    /// Proxies that followed one of these views then, counted in streams.
    pub proxies: usize,
    /// Of those, the ones that were sent something of it, or of what came after before they had it.
    pub sent: usize,
    /// Of those, the ones that have acknowledged all of it, or of what came after; also those for whom it held nothing.
    pub acked: usize,
    /// Of those, the ones that refused something of it.
    pub nacked: usize,
    /// Of those, the ones that went away before.
    pub gone: usize,
    /// From its publication to the ACK of half of those that it concerned and that have it, in milliseconds.
    pub p50_ms: Option<f64>,
    /// Likewise of 99 in 100.
    pub p99_ms: Option<f64>,
    /// Likewise of the last.
    pub last_ms: Option<f64>,
    /// Who refused it and why; no more than the first sixteen.
    pub nacks: Vec<RefusalRow>,
}

/// A proxy that refused a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusalRow {
    /// `node.id`.
    pub node: String,
    /// Short name of the type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The proxy's words.
    pub message: String,
    /// The resources that it blames.
    pub resources: Vec<String>,
}
