//! What the admin port answers and the command line prints: the JSON shapes, shared by both ends so that they cannot drift
//! apart. Field names are stable; new ones may be added.

mod proxies;
mod topology;

pub use proxies::{Convergence, Fleet, Nack, Proxy, Standing, TypeState};
pub use topology::{
    ProblemRow, ServiceRow, ShiftRow, SourceRow, ZoneRow, ZoneState, problems, services, shifts, zones,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

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
    /// Values that were refused.
    pub problems: Vec<ProblemRow>,
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
