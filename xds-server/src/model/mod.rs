//! What the admin port answers and the command line prints: the JSON shapes, shared by both ends so that they cannot drift
//! apart. Field names are stable; new ones may be added.

mod changes;
mod load;
mod proxies;
mod topology;
mod why;

pub use changes::{ChangeRow, RefusalRow};
pub use load::LoadRow;
pub use proxies::{Convergence, Fleet, Nack, Proxy, Standing, TypeState};
pub use topology::{
    HeldRow, ProblemRow, ServiceRow, ShiftRow, SourceRow, ZoneRow, ZoneState, problems, services, shifts,
    zones,
};

pub use why::{Why, WhyEndpoint, WhyProxy, WhyZone, why};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zonebreak_topology::strangers::Stranger;

/// `GET /status`: one screen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The program's version.
    pub version: String,
    /// When it started.
    pub started_at: Timestamp,
    /// When the configuration in force was read.
    pub config_reload_ts: Timestamp,
    /// Where the topology comes from.
    pub source: SourceRow,
    /// The module that proxies run.
    pub filter: Option<FilterRow>,
    /// Every zone, by name.
    pub zones: Vec<ZoneRow>,
    /// Drains in force.
    pub shifts: Vec<ShiftRow>,
    /// Every service, by name.
    pub services: Vec<ServiceRow>,
    /// How many proxies have what they should have.
    pub proxies: Fleet,
    /// How often a proxy did not acknowledge a part of a change in time and was given the rest of it without, since the start.
    #[serde(default)]
    pub gates_expired: u64,
    /// Values that were refused.
    pub problems: Vec<ProblemRow>,
    /// Zones that are named and are not there.
    #[serde(default)]
    pub strangers: Vec<Stranger>,
    /// Changes that are held back.
    #[serde(default)]
    pub held: Vec<HeldRow>,
    /// Resources that a proxy refused and nobody gets until they change.
    #[serde(default)]
    pub quarantine: Vec<QuarantineRow>,
    /// The change that only a few proxies have so far.
    #[serde(default)]
    pub trial: Option<TrialRow>,
    /// How requests fare from zone to zone: the surest failures; `/load` has all.
    #[serde(default)]
    pub load: Vec<LoadRow>,
    /// The last changes, the newest first.
    #[serde(default)]
    pub changes: Vec<ChangeRow>,
    /// What is kept on the server's disk, where it keeps anything.
    #[serde(default)]
    pub disk: Option<DiskRow>,
}

/// `POST /held/confirm`: an operator's word on a held change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfirmRequest {
    /// The held change.
    pub id: String,
    /// How many endpoints the operator has seen that it leaves.
    pub endpoints: usize,
    /// Why it was meant.
    pub reason: String,
    /// Who says so.
    pub actor: String,
}

/// The answer to it: what it was said about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmed {
    /// The revision of the topology in force then.
    pub revision: i64,
}

/// A resource that a proxy refused: everybody keeps its last good version until its content changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantineRow {
    /// Short name of the type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Since when it is withheld.
    pub since: Timestamp,
    /// The change that brought it.
    pub change: u64,
    /// Who refused it.
    pub node: String,
    /// What that proxy said.
    pub message: String,
}

/// A change that a few proxies try before all others get it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialRow {
    /// Its number.
    pub change: u64,
    /// What changed, by key.
    pub cause: String,
    /// Since when it is on trial.
    pub since: Timestamp,
    /// Which wave it is in, from 1.
    pub wave: usize,
    /// Streams that were given it.
    pub streams: usize,
    /// Proxies of those that have not answered, by `node.id`.
    pub waiting_for: Vec<String>,
    /// Proxies that went away before they answered, by `node.id`.
    #[serde(default)]
    pub gone: Vec<String>,
}

/// The last good state on the server's disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRow {
    /// The file.
    pub file: String,
    /// When it was written; absent when nothing was yet.
    pub saved_at: Option<Timestamp>,
    /// What went wrong last: with reading it at the start, or with writing it since.
    pub error: Option<String>,
}

/// The module that proxies run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterRow {
    /// Where the server read it.
    pub file: String,
    /// Its SHA-256 in hexadecimal.
    pub sha256: String,
    /// `bytes`, or the path at which proxies find it.
    pub delivery: String,
}
