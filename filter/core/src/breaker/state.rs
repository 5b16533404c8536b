//! What the breaker of one service knows and shares between the workers of a proxy: a state for each zone, why it is so, and
//! the line that tells a person. Plain data; the moves are in [`super::machine`], the bytes in [`super::encode`].

mod read;

use std::fmt;

pub use read::InvalidTransition;

use crate::{
    detector::Evidence,
    names::{ServiceName, Zone},
    units::Tenths,
};

/// What a zone's breaker says. The first four are the breaker's own doing, the others the operator's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum State {
    /// The zone takes its usual share.
    #[default]
    Closed,
    /// The zone takes nothing until its time is up.
    Open,
    /// The zone takes trial requests only.
    HalfOpen,
    /// The zone's share grows back.
    Ramp,
    /// The operator drains it, in part or whole; the breaker waits.
    ForcedOpen,
    /// The operator holds it in use (a shift that keeps 100 %); the breaker cannot open it.
    ForcedClosed,
    /// The policy turned the breaker off.
    Disabled,
}

/// Why a zone changed its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Cause {
    /// It fails, and the others do not (or, without others to compare with, it fails too often).
    #[default]
    Failures,
    /// It is slow, and the others are not.
    Slow,
    /// It cannot be connected to, and the others can.
    Connect,
    /// Failures in a row.
    Consecutive,
    /// Its time in the open state is up.
    Elapsed,
    /// Trial requests failed.
    TrialsFailed,
    /// Trial requests succeeded.
    TrialsPassed,
    /// It is back at its full share.
    Ramped,
    /// The move did not help: what was moved fails as it did before.
    NoGain,
    /// The other zones went away, so that this one is the last.
    LastZone,
    /// The operator drains the zone or holds it in use, and the breaker stands back.
    Operator,
    /// The policy turned the breaker off.
    TurnedOff,
}

/// One zone of one service.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ZoneState {
    /// `Closed`, `Open`, `HalfOpen` or `Ramp`; drains are laid over it when shares are computed.
    pub state: State,
    /// Since when, in Unix ms; 0 from the start.
    pub since: u64,
    /// `Open`: when trials begin. `Closed`: until when it is held closed after a move that did not help. Else 0.
    pub until: u64,
    /// Times it opened since it was last settled (closed for 60 s).
    pub reopens: u8,
    /// Epoch of its last transition: attempts that began in an earlier one are not charged to this state.
    pub epoch: u64,
    /// Share of its attempts that were bad just before it was left, in permille: what a move has to improve on.
    pub before: u16,
    /// Why it is in this state.
    pub cause: Cause,
    /// On what evidence, for those causes that have some.
    pub evidence: Option<Box<Evidence>>,
}

/// All zones of one service, in the order of its configuration.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ServiceState {
    /// Raised by each transition of any zone.
    pub epoch: u64,
    /// Chosen with the first transition, 0 before: makes the jitter differ between proxies and agree between the workers of one.
    pub seed: u64,
    /// One for each zone.
    pub zones: Vec<ZoneState>,
}

/// A zone changed its state: what the filter logs and counts.
#[derive(Debug, Clone, PartialEq)]
pub struct Transition {
    /// The service.
    pub service: ServiceName,
    /// The zone.
    pub zone: Zone,
    /// What it was.
    pub from: State,
    /// What it is now.
    pub to: State,
    /// Why.
    pub cause: Cause,
    /// On what evidence.
    pub evidence: Option<Evidence>,
    /// The service's epoch from now on.
    pub epoch: u64,
    /// How long it stays open, in ms; 0 unless `to` is [`State::Open`].
    pub open_ms: u64,
    /// Decided and told, but not carried out.
    pub shadow: bool,
}

// === impl State ===

impl State {
    /// The lower-case word used in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::Ramp => "ramp",
            Self::ForcedOpen => "forced_open",
            Self::ForcedClosed => "forced_closed",
            Self::Disabled => "disabled",
        }
    }

    /// The number used in gauges: 0 closed, 1 open, 2 half-open, 3 ramp, 4 forced open, 5 forced closed, 6 disabled.
    pub const fn code(self) -> u8 {
        match self {
            Self::Closed => 0,
            Self::Open => 1,
            Self::HalfOpen => 2,
            Self::Ramp => 3,
            Self::ForcedOpen => 4,
            Self::ForcedClosed => 5,
            Self::Disabled => 6,
        }
    }

    /// The state that the breaker itself gives under this number.
    pub(crate) const fn own(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Closed),
            1 => Some(Self::Open),
            2 => Some(Self::HalfOpen),
            3 => Some(Self::Ramp),
            _ => None,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Cause ===

impl Cause {
    const ALL: [Self; 12] = [
        Self::Failures,
        Self::Slow,
        Self::Connect,
        Self::Consecutive,
        Self::Elapsed,
        Self::TrialsFailed,
        Self::TrialsPassed,
        Self::Ramped,
        Self::NoGain,
        Self::LastZone,
        Self::Operator,
        Self::TurnedOff,
    ];

    /// The number in the shared state: its place in the list above.
    pub(crate) const fn code(self) -> u8 {
        self as u8
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// The lower-case word used in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failures => "failures",
            Self::Slow => "slow",
            Self::Connect => "connect",
            Self::Consecutive => "consecutive",
            Self::Elapsed => "elapsed",
            Self::TrialsFailed => "trials_failed",
            Self::TrialsPassed => "trials_passed",
            Self::Ramped => "ramped",
            Self::NoGain => "no_gain",
            Self::LastZone => "last_zone",
            Self::Operator => "operator",
            Self::TurnedOff => "turned_off",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Transition ===

/// One line, for example `order-svc az-a closed -> open (failures): 13 of 33 in 500ms, peers 0 of 67, bound 11.8 %, score
/// 10.6 of 9; open for 5.2s, epoch 3`.
impl fmt::Display for Transition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} -> {} ({})", self.service, self.zone, self.from, self.to, self.cause)?;
        if let Some(evidence) = &self.evidence {
            write!(f, ": {evidence}")?;
        }
        f.write_str("; ")?;
        if self.to == State::Open {
            write!(f, "open for {}s, ", Tenths::of_thousandths(self.open_ms))?;
        }
        write!(f, "epoch {}{}", self.epoch, if self.shadow { ", shadow: not carried out" } else { "" })
    }
}
