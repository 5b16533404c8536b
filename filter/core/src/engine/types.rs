//! The words that the filter and the engine exchange. Plain data; no decision is made here.

use crate::{
    breaker::{State, Transition},
    units::Percent,
};

/// A service (an Envoy cluster), as long as its configuration stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ServiceId(pub(super) u16);

/// A zone of a service: its place in [`super::Engine::zones`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ZoneId(pub(super) u8);

/// Unix time in ms, from the host's clock, which may jump.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Now(pub u64);

/// What one request is drawn by. The lower half of the number must be uniform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coin {
    /// Chance, all of it uniform: the service deals it out evenly ([`crate::deck`]).
    Chance(u64),
    /// A user's own ([`crate::sticky::coin`]): wherever it leads, it leads there always.
    User(u64),
}

/// What to do with one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision<'a> {
    /// Nothing: Envoy's own priorities and weights do what is wanted.
    Pass,
    /// Set the header to `key`.
    Serve {
        /// The subset key.
        key: &'a str,
        /// Why.
        reason: Reason,
    },
    /// Set the header to `key`: a trial request to a half-open zone. (To the own zone it may be a plain [`Decision::Pass`].)
    Trial {
        /// The subset key that leads there.
        key: &'a str,
        /// The zone on trial.
        zone: ZoneId,
    },
    /// A drill: as [`Decision::Serve`], or without a key as [`Decision::Pass`], but after so many ms.
    Delay {
        /// The subset key, if one is needed.
        key: Option<&'a str>,
        /// Why, where there is a key.
        reason: Option<Reason>,
        /// How long to wait.
        ms: u32,
    },
    /// Answer at once.
    Refuse(Refusal),
}

/// Why a request carries a subset key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The usual share of the other zones.
    Split,
    /// It goes where it usually would; a left zone is kept out of the way of its retry.
    Avoid,
    /// It was moved out of a zone that is left, in part or whole.
    Moved,
}

/// A request that the filter answers itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// `no-zone`, `abort`, `spill` or `overload`: the value of `x-zonebreak-reason`.
    pub reason: &'static str,
    /// Seconds for `retry-after`, at least 1.
    pub retry_after_s: u32,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was answered properly.
    Ok,
    /// It failed after a connection was there.
    Failed,
    /// There was no connection.
    ConnectFailed,
    /// It was answered, and the answer says no more of the zone than that: please less (429), not implemented, or the client did
    /// not stay to its end. It counts as [`Outcome::Ok`] in a zone on trial, and else for nothing.
    Answered,
    /// It says nothing about the zone: the client went away, or the failure was ours.
    Neutral,
}

/// An attempt under way: keep it until it ends, then give it to [`super::Engine::finish`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    pub(super) service: ServiceId,
    pub(super) zone: ZoneId,
    /// Which tenant of the service's slot this is, so that a later one is not charged.
    pub(super) tenant: u32,
    /// Epoch of the zone's state when it began.
    pub(super) epoch: u64,
    /// When it began, in ns.
    pub(super) began_ns: u64,
    /// What is known since the answer began.
    pub(super) answer: Option<Answer>,
}

/// The beginning of an answer: what its zone is timed by, since how long a body takes is the caller's and the body's affair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    /// From the attempt's beginning, in ns.
    pub took_ns: u64,
    /// It was reported as slow before it ended.
    pub told: bool,
    /// It is kept among the answers that last, and is counted there when its time is up.
    pub lasting: bool,
}

/// Which of the zone's process-wide counters to raise by one. All false for an attempt that counts for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bump {
    /// Answered properly.
    pub ok: bool,
    /// Failed, with or without a connection.
    pub fail: bool,
    /// Answered properly, but slow (also counted in `ok`).
    pub slow: bool,
    /// A slow attempt ended, be it now or earlier that it was counted in `slow`.
    pub settled: bool,
    /// Failed for want of a connection (also counted in `fail`).
    pub connect: bool,
    /// It tells of a time that is past, and is not to be judged: it began before the zone's last transition (or before its
    /// configuration changed), or it failed more than 2 s later, having been counted in `slow` meanwhile. The others are false.
    /// For a counter of its own, if wanted.
    pub late: bool,
}

/// By how much to raise a zone's process-wide counters for what is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Answered properly: the answer has gone on for so long that its end, whenever it comes, is no news.
    pub ok: u32,
    /// Should have been answered by now.
    pub slow: u32,
    /// Of those in `ok`, the ones that were counted as slow earlier.
    pub settled: u32,
    /// Answered before a transition, and not counted until then.
    pub late: u32,
}

/// A next state of a service, for all workers to agree on. Nothing changes until one is adopted.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal {
    /// The whole next state, for [`super::Engine::adopt`].
    pub state: Vec<u8>,
    /// What changes by it.
    pub transitions: Vec<Transition>,
}

/// A zone as the gauges show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZoneStatus {
    /// What the breaker, or the operator, says.
    pub state: State,
    /// What the zone keeps of its usual share, drains included.
    pub keep: Percent,
    /// `state` is what the breaker would do; `keep` is untouched by it.
    pub shadow: bool,
}

// === impl Answer ===

impl Answer {
    /// When it began, in ns, where its attempt began at `began_ns`.
    pub const fn at_ns(&self, began_ns: u64) -> u64 {
        began_ns.saturating_add(self.took_ns)
    }
}

// === impl ServiceId ===

impl ServiceId {
    /// A small number, dense from 0, for tables beside the engine.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

// === impl ZoneId ===

impl ZoneId {
    /// Its place in [`super::Engine::zones`] and in the totals given to [`super::Engine::tick`].
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

// === impl Attempt ===

impl Attempt {
    /// What it counts for at its end, when the state or the configuration in which it began is past.
    pub(super) fn overtaken(&self) -> Bump {
        // An answer that lasted has been counted, if only as late.
        let counted = self.answer.is_some_and(|answer| answer.lasting);
        Bump { late: !counted, ..Bump::default() }
    }

    /// The service.
    pub const fn service(&self) -> ServiceId {
        self.service
    }

    /// The zone.
    pub const fn zone(&self) -> ZoneId {
        self.zone
    }
}

// === impl Reason ===

impl Reason {
    /// The lower-case word used in the debug header and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Split => "split",
            Self::Avoid => "avoid",
            Self::Moved => "moved",
        }
    }
}
