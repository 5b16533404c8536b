//! What each proxy has, against what it should have.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// How a proxy stands, by the worst of its types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It has acknowledged what it should have.
    Synced,
    /// Something was sent, or will be, and is not acknowledged.
    Stale,
    /// It has refused what it should have.
    Nacked,
}

/// One connected proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proxy {
    /// `node.id`.
    pub id: String,
    /// `node.cluster`.
    pub cluster: String,
    /// `node.locality.zone`.
    pub zone: String,
    /// The view that it is served: a zone, or empty for the view of nobody's zone.
    pub view: String,
    /// Where it connects from.
    pub peer: String,
    /// `delta` or `sotw`.
    pub protocol: String,
    /// The proxy's own version.
    pub version: String,
    /// Since when.
    pub connected_since: Timestamp,
    /// How it stands.
    pub state: Standing,
    /// By short name of type: CDS, EDS, LDS, RDS, ECDS.
    pub types: BTreeMap<String, TypeState>,
    /// Why its word does not count in waves, when it refuses what others take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed_over: Option<String>,
}

/// One type on one proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeState {
    /// How it stands.
    pub state: Standing,
    /// How many names it asked for; absent when it asked for all.
    pub subscribed: Option<usize>,
    /// Version that was sent last.
    pub sent: Option<String>,
    /// Version that was acknowledged last.
    pub acked: Option<String>,
    /// What it refused, if it did and nothing else was sent since.
    pub nack: Option<Nack>,
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nack {
    /// The version that was refused.
    pub version: String,
    /// The proxy's words.
    pub message: String,
    /// When.
    pub at: Timestamp,
}

/// How many proxies there are, by how they stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Fleet {
    /// All that are connected.
    pub connected: usize,
    /// Those that have what they should have.
    pub synced: usize,
    /// Those that are on the way.
    pub stale: usize,
    /// Those that refused something.
    pub nacked: usize,
}

/// `GET /convergence?revision=R`: how far a revision has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Convergence {
    /// The revision that was asked about.
    pub revision: i64,
    /// The revision that the views were built from.
    pub applied_revision: i64,
    /// Connected proxies.
    pub proxies: usize,
    /// Proxies that have acknowledged what their view holds at `revision` or later.
    pub acked: usize,
    /// Proxies that have not answered yet.
    pub pending: usize,
    /// Proxies that refused it.
    pub nacked: usize,
}

// === impl Fleet ===

impl Fleet {
    /// Counts proxies.
    pub fn of<'a>(proxies: impl IntoIterator<Item = &'a Proxy>) -> Self {
        proxies.into_iter().fold(Self::default(), |mut fleet, proxy| {
            fleet.connected += 1;
            match proxy.state {
                Standing::Synced => fleet.synced += 1,
                Standing::Stale => fleet.stale += 1,
                Standing::Nacked => fleet.nacked += 1,
            }
            fleet
        })
    }
}

// === impl Convergence ===

impl Convergence {
    /// How far `revision` has come, when the views are of `applied_revision` and the proxies stand like this. Views only ever
    /// move forward, so a proxy in sync with a later one has left `revision` behind.
    pub fn of(revision: i64, applied_revision: i64, fleet: Fleet) -> Self {
        let proxies = fleet.connected;
        if applied_revision < revision {
            return Self { revision, applied_revision, proxies, acked: 0, pending: proxies, nacked: 0 };
        }
        let (acked, pending, nacked) = (fleet.synced, fleet.stale, fleet.nacked);
        Self { revision, applied_revision, proxies, acked, pending, nacked }
    }
}
