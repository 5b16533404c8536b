//! The explanation as programs read it (`zonebreak explain -o json`). Field names are stable; new ones may be added. Plain data.

use jiff::Timestamp;
use serde::Serialize;
use zonebreak_core::{
    detector::Evidence,
    names::{ServiceName, Zone},
    policy::{DetectorKind, Enforcement, Sensitivity},
};

/// Everything about one service of one recording.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// The service.
    pub service: ServiceName,
    /// The proxy's own zone, where known.
    pub own_zone: Option<Zone>,
    /// Time of the first sample.
    pub from: Timestamp,
    /// Time of the last sample.
    pub to: Timestamp,
    /// How many there are.
    pub samples: usize,
    /// What the replay went by.
    pub policy: PolicyRow,
    /// What was tolerated or assumed.
    pub notes: Vec<String>,
    /// Every change of a zone's state.
    pub transitions: Vec<TransitionRow>,
    /// The moments asked for.
    pub moments: Vec<Moment>,
    /// Every zone, over the whole recording.
    pub zones: Vec<ZoneRow>,
    /// The replay beside what the filter did; none when the recording does not tell.
    pub filter: Option<Agreement>,
}

/// What the replay went by.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PolicyRow {
    /// Where it comes from.
    pub source: PolicySource,
    /// `breaker.detector`.
    pub detector: DetectorKind,
    /// `breaker.sensitivity`.
    pub sensitivity: Sensitivity,
    /// `breaker.enforcement`.
    pub enforcement: Enforcement,
}

/// Where a policy comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicySource {
    /// From the recording: the one that the filter had.
    Recorded,
    /// From `--policy`.
    Given,
    /// Nothing was known: all defaults.
    Default,
}

/// A zone changed its state.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TransitionRow {
    /// When.
    pub at: Timestamp,
    /// The same, in ms from the first sample.
    pub offset_ms: u64,
    /// The zone.
    pub zone: Zone,
    /// What it was, as in the filter's log.
    pub from: String,
    /// What it is from now on.
    pub to: String,
    /// Why, as in the filter's log; `unknown` where the filter did it and the counters do not show why.
    pub cause: String,
    /// On what evidence.
    pub evidence: Option<EvidenceRow>,
    /// When the filter itself did so, where the recording tells.
    pub filter_at: Option<Timestamp>,
    /// The same in words.
    pub words: Vec<String>,
}

/// The numbers of a test.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct EvidenceRow {
    /// Length of the window, in ms.
    pub window_ms: u32,
    /// Attempts of the zone.
    pub n: u32,
    /// Bad ones among them.
    pub k: u32,
    /// Attempts of the other zones.
    pub peer_n: u32,
    /// Bad ones among them.
    pub peer_k: u32,
    /// The highest rate that the comparison explains, 0 to 1.
    pub bound: f64,
    /// The evidence found, in nats.
    pub score: f64,
    /// The evidence asked for; 0 where none is weighed.
    pub needed: f64,
}

/// All zones at one time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Moment {
    /// When.
    pub at: Timestamp,
    /// The same, in ms from the first sample.
    pub offset_ms: u64,
    /// Every zone.
    pub zones: Vec<MomentZone>,
}

/// One zone at one time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MomentZone {
    /// Which.
    pub zone: Zone,
    /// Its state.
    pub state: String,
    /// The guard rail that keeps it from being left, in words.
    pub guard: Option<String>,
    /// Every window and signal.
    pub windows: Vec<WindowRow>,
}

/// One window by one signal.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WindowRow {
    /// `failures`, `connect` or `slow`.
    pub signal: String,
    /// The numbers.
    pub evidence: EvidenceRow,
    /// The condition that does not hold; none when the zone is to be left on this window.
    pub missing: Option<MissingRow>,
}

/// A condition that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MissingRow {
    /// A word for programs: `bad`, `peers`, `gap`, `score`, `timing`, `now`, `past`, `alone` or `remembered`.
    pub condition: String,
    /// The same in words.
    pub words: String,
}

/// One zone over the whole recording.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ZoneRow {
    /// Which.
    pub zone: Zone,
    /// Attempts.
    pub attempts: u64,
    /// Failed ones.
    pub failed: u64,
    /// Slow ones.
    pub slow: u64,
    /// How often it was left.
    pub trips: usize,
    /// The time at which it was nearest to being left, if it never was.
    pub nearest: Option<Nearest>,
    /// The same in words.
    pub words: String,
}

/// When a zone was nearest to being left, and what was missing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Nearest {
    /// When.
    pub at: Timestamp,
    /// The same, in ms from the first sample.
    pub offset_ms: u64,
    /// The window.
    pub window: WindowRow,
    /// The guard rail in the way.
    pub guard: Option<String>,
}

/// The replay beside what the filter did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Agreement {
    /// Transitions of the filter in the recording.
    pub transitions: usize,
    /// Those that the replay makes too, for a reason that it sees.
    pub explained: usize,
}

// === impl EvidenceRow ===

impl From<Evidence> for EvidenceRow {
    fn from(evidence: Evidence) -> Self {
        let rounded = |number: f32, digits: f64| (f64::from(number) * digits).round() / digits;
        let Evidence { window_ms, n, k, peer_n, peer_k, bound, score, needed } = evidence;
        let (bound, score, needed) = (rounded(bound, 1e4), rounded(score, 10.0), rounded(needed, 10.0));
        Self { window_ms, n, k, peer_n, peer_k, bound, score, needed }
    }
}
