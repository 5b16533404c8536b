//! What to write to the destination next. Pure: revisions, answers and the clock come in as arguments, and the transactions
//! that come out are carried out by [`crate::run()`].
//!
//! # States
//!
//! ```text
//!          enough pending, or due                    Refused / Unknown, and found not to be ours
//!  Idle ───────────────────────────> Committing ───────────────────────────────────────────────> Halted
//!   ^  <── Committed (last part) ──────  │  ^
//!   │                            Unknown │  │ Found: not there (the same attempt again)
//!   │                                    v  │
//!   └────────── Found: ours ────────── Unsure
//! ```
//!
//! At most one transaction is on its way. While it is, revisions pile up, and the next transaction takes as many of them as it
//! can hold; so a destination that slows down is sent larger transactions and not more of them.
//!
//! # An attempt stays the same until its fate is known
//!
//! A transaction whose answer was lost may have been carried out, may be carried out later, or never. It is therefore repeated
//! byte for byte: whichever of the two etcd sees first makes the other fail its comparison, and what the checkpoint then holds
//! is equal to what was attempted. Nothing else may be sent before that is known. `write` in the checkpoint makes each attempt
//! differ from all others of the same holder.
//!
//! # Halting
//!
//! A checkpoint that somebody else wrote ends this replicator's work on the destination, with the reason: another holder took
//! over, an operator promoted the destination, or the key was damaged or deleted. None of them heals by trying again.
//!
//! # Two latencies
//!
//! A revision with a change of a realtime key is due at once, and takes along whatever waited before it: the order of revisions
//! is never changed. Others wait until the oldest of them has waited [`Pace::debounce_ms`], or a transaction is full.

use std::{collections::VecDeque, sync::Arc};

use uuid::Uuid;

use crate::{
    batch::{Batch, Limits},
    checkpoint::{Checkpoint, CheckpointError, ClusterId, Role, Torn},
    digest::{Digest, Ledger},
    revision::{Change, Revision},
    rules::Mapped,
};

/// Revisions that wait in memory; more stay in the spool.
const WINDOW: usize = 4096;

/// Bytes of values that wait in memory.
const WINDOW_BYTES: usize = 32 << 20;

/// Until an attempt is repeated: doubled from the first to the last.
const RETRY_MS: (u64, u64) = (20, 5_000);

/// How fast.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// How long a change of a key that is not realtime may wait for others.
    pub debounce_ms: u64,
    /// A checkpoint is written this often though nothing changed.
    pub heartbeat_ms: u64,
}

/// The state machine.
#[derive(Debug)]
pub struct Pipeline {
    limits: Limits,
    pace: Pace,
    /// What the destination's checkpoint says, as far as is known.
    checkpoint: Checkpoint,
    /// Its `mod_revision`.
    fence: i64,
    /// The source's keys and values as of the last attempt.
    expected: Ledger,
    pending: VecDeque<Mapped>,
    pending_bytes: usize,
    /// When the pending revisions must go; set with the first of them.
    due_ms: Option<u64>,
    /// Nothing for us up to here.
    watermark: (Revision, u64),
    /// The last revision that came out of the log.
    logged: Option<Revision>,
    wrote_ms: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Idle,
    Committing(Flight),
    Unsure(Flight),
    Halted,
}

/// A batch on its way.
#[derive(Debug)]
struct Flight {
    attempt: Attempt,
    /// What the checkpoint will say when this attempt is carried out.
    becomes: Checkpoint,
    /// What comes after this part.
    rest: VecDeque<Vec<Change>>,
    done: Checkpoint,
    oldest_ms: Option<u64>,
    tries: u32,
    /// When to repeat it, while it is not on its way.
    again_ms: Option<u64>,
}

/// One transaction: these changes and this checkpoint, if the checkpoint's `mod_revision` is `fence`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The comparison.
    pub fence: i64,
    /// The new value of the checkpoint.
    pub checkpoint: Arc<[u8]>,
    /// Everything else.
    pub changes: Arc<[Change]>,
}

/// A checkpoint as it was found: its value and its `mod_revision`; `None` when there is none.
pub type Found = Option<(Vec<u8>, i64)>;

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// The next revision, which is safe in the spool.
    Revision(Mapped),
    /// The source has nothing else for us up to this revision, at this time.
    Progress(Revision, u64),
    /// The attempt was carried out, at this revision of the destination.
    Committed(i64),
    /// The attempt was not carried out: the comparison failed, and this is what stood there.
    Refused(Found),
    /// The attempt certainly was not carried out and may be later, after so many milliseconds at least.
    Failed(u64),
    /// Nobody knows.
    Unknown,
    /// The checkpoint, when it was asked for.
    Found(Found),
    /// Time passed.
    Tick,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Carry this out and say how it went.
    Commit(Attempt),
    /// Read the checkpoint and say what it is.
    Read,
    /// A transaction was carried out.
    Applied(Applied),
    /// Stop: this destination is not ours any more.
    Halt(Halt),
}

/// What was carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The destination's revision.
    pub at: i64,
    /// What was written.
    pub changes: Arc<[Change]>,
    /// When the oldest of it reached us, in milliseconds since 1970; `None` for a mere heartbeat.
    pub oldest_ms: Option<u64>,
    /// The digest that the destination has now; `None` in the middle of a revision.
    pub digest: Option<Digest>,
    /// The source's revision that it holds.
    pub through: Revision,
}

/// Why a replicator must leave a destination alone. Each finishes the sentence "failed to ...".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Halt {
    /// Another replicator has it.
    #[error(
        "go on: replicator {} has taken this destination over, as a replica of cluster {} (epoch {}). `zonebreak replicate status` shows \
         it as the holder. One of two may stand by; where that is not meant, stop one of them",
        .0.id, .0.source, .0.epoch
    )]
    Superseded(Holder),
    /// It is not a replica any more.
    #[error(
        "go on: the destination was promoted (epoch {epoch}) and takes no more changes from this source: its region owns the prefix now, and \
         `zonebreak replicate status` says since when and by whom. Stop this replicator, and run the one of the other direction"
    )]
    Promoted {
        /// The new epoch.
        epoch: u64,
    },
    /// The key is gone.
    #[error(
        "go on: the checkpoint was deleted at the destination. Somebody may be resetting it; run with --overwrite to compare \
         the destination with the source and go on"
    )]
    Gone,
    /// The key cannot be read.
    #[error(transparent)]
    Unreadable(CheckpointError),
}

/// Who has a destination, by its checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// The replicator.
    pub id: Uuid,
    /// Changes of ownership that it knows of.
    pub epoch: u64,
    /// The etcd that it follows.
    pub source: ClusterId,
}

// === impl Holder ===

impl From<&Checkpoint> for Holder {
    fn from(checkpoint: &Checkpoint) -> Self {
        Self { id: checkpoint.holder, epoch: checkpoint.epoch, source: checkpoint.source_cluster }
    }
}

// === impl Halt ===

impl Halt {
    /// What a checkpoint means that is not the one that followed ours.
    pub(crate) fn of(found: &Found) -> Self {
        let Some((bytes, _)) = found else { return Self::Gone };
        match Checkpoint::decode(bytes) {
            Ok(other) if other.role == Role::Primary => Self::Promoted { epoch: other.epoch },
            Ok(other) => Self::Superseded(Holder::from(&other)),
            Err(error) => Self::Unreadable(error),
        }
    }
}

// === impl Pipeline ===

impl Pipeline {
    /// Goes on from a destination that is whole, with its checkpoint, that key's `mod_revision`, and the ledger of the source's
    /// state that it holds.
    pub fn new(
        checkpoint: Checkpoint,
        fence: i64,
        expected: Ledger,
        limits: Limits,
        pace: Pace,
        now_ms: u64,
    ) -> Self {
        let watermark = (checkpoint.source_revision, checkpoint.source_ms);
        let logged = checkpoint.logged;
        Self {
            limits,
            pace,
            checkpoint,
            fence,
            expected,
            pending: VecDeque::new(),
            pending_bytes: 0,
            due_ms: None,
            watermark,
            logged,
            wrote_ms: now_ms,
            state: State::Idle,
        }
    }

    /// What the destination holds, as far as is known.
    pub const fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// At its end: what the source has, and at which revision of it.
    pub(crate) fn into_expected(self) -> (Ledger, Revision) {
        let flying = match &self.state {
            State::Committing(flight) | State::Unsure(flight) => Some(flight.done.source_revision),
            State::Idle | State::Halted => None,
        };
        (self.expected, flying.unwrap_or(self.checkpoint.source_revision))
    }

    /// The last revision taken in.
    pub fn taken(&self) -> Revision {
        let waiting = self.pending.back().map(|last| last.revision);
        let flying = match &self.state {
            State::Committing(flight) | State::Unsure(flight) => Some(flight.done.source_revision),
            State::Idle | State::Halted => None,
        };
        waiting.or(flying).unwrap_or(self.checkpoint.source_revision).max(self.watermark.0)
    }

    /// Whether another revision may be taken in.
    pub fn has_room(&self) -> bool {
        self.pending.len() < WINDOW && self.pending_bytes < WINDOW_BYTES
    }

    /// Whether nothing waits and nothing is on its way.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle) && self.pending.is_empty()
    }

    /// When a [`Event::Tick`] is due, by the clock of [`Self::step`].
    pub fn deadline_ms(&self) -> Option<u64> {
        match &self.state {
            State::Idle => {
                let heartbeat = self.wrote_ms.saturating_add(self.pace.heartbeat_ms);
                Some(self.due_ms.map_or(heartbeat, |due| due.min(heartbeat)))
            }
            State::Committing(flight) => flight.again_ms,
            State::Unsure(_) | State::Halted => None,
        }
    }

    /// Takes an event in and says what to do.
    pub fn step(&mut self, now_ms: u64, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Revision(mapped) => self.take(now_ms, mapped),
            Event::Progress(revision, ms) => {
                // The same revision again says that the source had nothing newer at this time.
                if revision >= self.taken() {
                    self.watermark = (revision, ms);
                }
            }
            Event::Committed(at) => self.committed(now_ms, at, &mut effects),
            Event::Refused(found) | Event::Found(found) => self.found(now_ms, found, &mut effects),
            Event::Failed(after_ms) => {
                if let State::Committing(flight) = &mut self.state {
                    flight.retry(now_ms, after_ms);
                }
            }
            Event::Unknown => {
                if let State::Committing(flight) = std::mem::replace(&mut self.state, State::Halted) {
                    self.state = State::Unsure(flight);
                    effects.push(Effect::Read);
                }
            }
            Event::Tick => {}
        }
        self.proceed(now_ms, &mut effects);
        effects
    }

    fn take(&mut self, now_ms: u64, mapped: Mapped) {
        self.logged = Some(mapped.revision);
        if mapped.changes.is_empty() {
            // Nothing to do for it, but a revision that is known to be behind us; unless something before it still waits.
            if self.pending.is_empty() {
                self.watermark = (mapped.revision, mapped.seen_ms);
                return;
            }
        } else {
            let wait = if mapped.realtime { 0 } else { self.pace.debounce_ms };
            let due = now_ms.saturating_add(wait);
            self.due_ms = Some(self.due_ms.map_or(due, |known| known.min(due)));
        }
        self.pending_bytes += mapped.size();
        self.pending.push_back(mapped);
    }

    /// Starts or repeats what is due.
    fn proceed(&mut self, now_ms: u64, effects: &mut Vec<Effect>) {
        let due = self.is_due(now_ms);
        match &mut self.state {
            State::Committing(flight) if flight.again_ms.is_some_and(|at| at <= now_ms) => {
                flight.again_ms = None;
                effects.push(Effect::Commit(flight.attempt.clone()));
            }
            State::Idle if due => self.begin(effects),
            State::Idle if now_ms.saturating_sub(self.wrote_ms) >= self.pace.heartbeat_ms => {
                self.heartbeat(effects);
            }
            _ => {}
        }
    }

    fn is_due(&self, now_ms: u64) -> bool {
        self.due_ms.is_some_and(|due| due <= now_ms)
            || self.pending.len() >= self.limits.operations
            || self.pending_bytes >= self.limits.bytes
    }

    fn begin(&mut self, effects: &mut Vec<Effect>) {
        let Some(batch) = Batch::take(&mut self.pending, self.limits) else { return };
        // What did not fit in goes next, without waiting any longer.
        if self.pending.is_empty() {
            self.due_ms = None;
        }
        self.pending_bytes = self.pending_bytes.saturating_sub(batch.taken_bytes);
        for change in batch.parts.iter().flatten() {
            self.expected.apply(&change.key, &change.op);
        }
        let staging = batch.is_staged().then_some(Torn::Staging { revision: batch.through });
        let done = Checkpoint {
            source_revision: batch.through,
            sync_version: self.checkpoint.sync_version + batch.revisions,
            source_ms: batch.seen_ms,
            digest: self.expected.digest(),
            keys: self.expected.keys(),
            logged: self.logged,
            torn: None,
            ..self.checkpoint.clone()
        };
        let mut rest = VecDeque::from(batch.parts);
        let first = rest.pop_front().unwrap_or_default();
        let becomes = if rest.is_empty() {
            done.clone()
        } else {
            Checkpoint { torn: staging, ..self.checkpoint.clone() }
        };
        self.fly(first, rest, becomes, done, Some(batch.oldest_ms), effects);
    }

    fn heartbeat(&mut self, effects: &mut Vec<Effect>) {
        let (revision, ms) = self.watermark;
        let ahead = revision >= self.checkpoint.source_revision && self.pending.is_empty();
        let done = Checkpoint {
            source_revision: if ahead { revision } else { self.checkpoint.source_revision },
            source_ms: if ahead { ms } else { self.checkpoint.source_ms },
            logged: self.logged,
            ..self.checkpoint.clone()
        };
        self.fly(Vec::new(), VecDeque::new(), done.clone(), done, None, effects);
    }

    fn fly(
        &mut self,
        changes: Vec<Change>,
        rest: VecDeque<Vec<Change>>,
        becomes: Checkpoint,
        done: Checkpoint,
        oldest_ms: Option<u64>,
        effects: &mut Vec<Effect>,
    ) {
        let becomes = Checkpoint { write: self.checkpoint.write.wrapping_add(1), ..becomes };
        let attempt =
            Attempt { fence: self.fence, checkpoint: becomes.encode().into(), changes: changes.into() };
        effects.push(Effect::Commit(attempt.clone()));
        self.state =
            State::Committing(Flight { attempt, becomes, rest, done, oldest_ms, tries: 0, again_ms: None });
    }

    fn committed(&mut self, now_ms: u64, at: i64, effects: &mut Vec<Effect>) {
        let flight = match std::mem::replace(&mut self.state, State::Idle) {
            State::Committing(flight) | State::Unsure(flight) => flight,
            other => {
                self.state = other;
                return;
            }
        };
        let Flight { attempt, becomes, mut rest, done, oldest_ms, .. } = flight;
        self.fence = at;
        self.checkpoint = becomes;
        self.wrote_ms = now_ms;
        effects.push(Effect::Applied(Applied {
            at,
            changes: attempt.changes,
            oldest_ms,
            digest: self.checkpoint.torn.is_none().then_some(self.checkpoint.digest),
            through: self.checkpoint.source_revision,
        }));
        if let Some(next) = rest.pop_front() {
            let torn = if rest.is_empty() { None } else { self.checkpoint.torn };
            let becomes =
                if torn.is_none() { done.clone() } else { Checkpoint { torn, ..self.checkpoint.clone() } };
            self.fly(next, rest, becomes, done, oldest_ms, effects);
        }
    }

    /// The checkpoint was read, after a comparison that failed or an answer that was lost.
    fn found(&mut self, now_ms: u64, found: Found, effects: &mut Vec<Effect>) {
        let flight = match &mut self.state {
            State::Committing(flight) | State::Unsure(flight) => flight,
            State::Idle | State::Halted => return,
        };
        match &found {
            Some((bytes, at)) if *bytes == flight.attempt.checkpoint[..] => {
                return self.committed(now_ms, *at, effects);
            }
            Some((_, at)) if *at == self.fence => {
                flight.retry(now_ms, 0);
                if let State::Committing(flight) | State::Unsure(flight) =
                    std::mem::replace(&mut self.state, State::Halted)
                {
                    self.state = State::Committing(flight);
                }
                return;
            }
            _ => {}
        }
        let halt = Halt::of(&found);
        self.state = State::Halted;
        effects.push(Effect::Halt(halt));
    }
}

// === impl Flight ===

impl Flight {
    fn retry(&mut self, now_ms: u64, after_ms: u64) {
        let wait = RETRY_MS.0.saturating_mul(1 << self.tries.min(10)).min(RETRY_MS.1).max(after_ms);
        self.tries = self.tries.saturating_add(1);
        self.again_ms = Some(now_ms.saturating_add(wait));
    }
}

#[cfg(test)]
mod tests;
