//! Brings the destination to a revision of the source by comparing both: at the very beginning, after a gap in the history, and
//! whenever the two were found to differ. Only what differs is written, what the source does not have is deleted, and a
//! destination that is equal already is not touched.
//!
//! ```text
//!  compare ── equal ────────────────────────────────────────────────────────────> whole
//!     │ first difference
//!     v
//!  checkpoint says `torn: aligning` ──> writes, several at once, guarded by the fence ──> checkpoint says whole ──> read back
//! ```
//!
//! The marker is durable before the first write, so that whoever looks, and whoever goes on after a crash, knows that the
//! destination is no revision of the source and that keys may still have to be deleted. The writes repeat until their fate is
//! known; they may be repeated because nobody else can write while the fence holds.

use std::time::Duration;

use tokio::task::JoinSet;

use crate::{
    checkpoint::{Checkpoint, Torn},
    client::{EtcdError, Member},
    compare::Comparison,
    destination::Answer,
    digest::Ledger,
    error::ReplicationError,
    listing::Listing,
    pipeline::{Attempt, Halt},
    revision::{Change, Revision},
    run::Context,
};

/// Transactions on their way at once: enough to fill a link of 80 ms.
const AT_ONCE: usize = 8;

/// Until a write of unknown fate is repeated.
const RETRY: Duration = Duration::from_millis(200);

/// How often a destination that does not hold what was written is tried again.
const TRIES: usize = 3;

/// A destination that is whole.
pub(crate) struct Aligned {
    pub checkpoint: Checkpoint,
    pub fence: i64,
    /// What the source has.
    pub expected: Ledger,
    /// What the destination has by its own account, at its revision `at`.
    pub found: Ledger,
    pub at: Revision,
    /// Keys that had to be written or deleted.
    pub written: u64,
}

// === impl Context ===

impl Context {
    /// Brings the destination, whose checkpoint and fence are ours, to `revision` of the source.
    pub(crate) async fn align(
        &self,
        source: &Member,
        mut checkpoint: Checkpoint,
        mut fence: i64,
        revision: Revision,
    ) -> Result<Aligned, ReplicationError> {
        let (mut written, rules) = (0, &self.options.rules);
        for _ in 0..TRIES {
            let (_, at) = self.destination.read().await?;
            let member = self.destination.member().await?;
            let there = rules.destination_prefix();
            let mut comparison = Comparison::new(
                rules,
                Listing::start(&self.source, source, rules.source_prefix(), revision),
                Listing::start(&self.destination.cluster, &member, there, Revision(at)),
            );
            let wrote = self.repair(&mut comparison, &mut checkpoint, &mut fence, revision).await?;
            written += wrote;
            self.metrics.leased.set(i64::try_from(comparison.leased).unwrap_or(i64::MAX));
            let (expected, mut found, mut at) = (comparison.expected, comparison.found, Revision(at));
            let whole = Checkpoint {
                source_revision: revision,
                sync_version: checkpoint.sync_version + u64::from(wrote > 0),
                source_ms: crate::watch::now_ms(),
                digest: expected.digest(),
                keys: expected.keys(),
                torn: None,
                ..checkpoint.clone()
            };
            let equal = checkpoint.is_whole()
                && (checkpoint.source_revision, checkpoint.digest) == (revision, whole.digest);
            if !equal {
                fence = self.settle(fence, &mut checkpoint, whole).await?;
            }
            if wrote > 0 {
                at = Revision(fence);
                found = self.read_back(&member, at).await?;
            }
            // Where deletes are not replicated, the destination has more than the source, and that is what it should have.
            let expected = if rules.deletes() { expected } else { found.clone() };
            if expected.digest() == found.digest() {
                return Ok(Aligned { checkpoint, fence, expected, found, at, written });
            }
            let buckets = expected.differing_buckets(&found).len();
            tracing::warn!(buckets, "the destination does not hold what was written; comparing again");
        }
        Err(EtcdError::Refused {
            side: "destination",
            why: format!(
                "somebody else keeps writing under its prefix: after {TRIES} comparisons it still differs"
            ),
        }
        .into())
    }

    /// Writes what differs; the marker before the first of it.
    async fn repair(
        &self,
        comparison: &mut Comparison<'_>,
        checkpoint: &mut Checkpoint,
        fence: &mut i64,
        revision: Revision,
    ) -> Result<u64, ReplicationError> {
        let (mut wrote, mut chunk, mut bytes) = (0, Vec::new(), 0);
        let mut flying: JoinSet<Result<(), ReplicationError>> = JoinSet::new();
        let limits = self.options.limits;
        loop {
            let finding = comparison.next().await?;
            let done = finding.is_none();
            if let Some(finding) = finding {
                let size = finding.change.key.len() + finding.change.op.size() + 32;
                let fits = chunk.len() < limits.operations && bytes + size <= limits.bytes;
                let ready = if fits || chunk.is_empty() { Vec::new() } else { std::mem::take(&mut chunk) };
                bytes = if ready.is_empty() { bytes + size } else { size };
                chunk.push(finding.change);
                if ready.is_empty() {
                    continue;
                }
                self.launch(&mut flying, ready, checkpoint, fence, revision, &mut wrote).await?;
            }
            if done {
                if !chunk.is_empty() {
                    self.launch(&mut flying, chunk, checkpoint, fence, revision, &mut wrote).await?;
                }
                break;
            }
        }
        while let Some(ended) = flying.join_next().await {
            landed(ended)?;
        }
        Ok(wrote)
    }

    async fn launch(
        &self,
        flying: &mut JoinSet<Result<(), ReplicationError>>,
        changes: Vec<Change>,
        checkpoint: &mut Checkpoint,
        fence: &mut i64,
        revision: Revision,
        wrote: &mut u64,
    ) -> Result<(), ReplicationError> {
        let torn = Some(Torn::Aligning { revision });
        if *wrote == 0 && checkpoint.torn != torn {
            let marked = Checkpoint { torn, ..checkpoint.clone() };
            *fence = self.settle(*fence, checkpoint, marked).await?;
        }
        *wrote += changes.len() as u64;
        while flying.len() >= AT_ONCE {
            if let Some(ended) = flying.join_next().await {
                landed(ended)?;
            }
        }
        let (context, fence, checkpoint) = (self.clone(), *fence, checkpoint.clone());
        flying.spawn(async move { context.write(fence, &changes, &checkpoint).await });
        Ok(())
    }

    /// Writes until it is certain that it was written.
    async fn write(&self, fence: i64, changes: &[Change], ours: &Checkpoint) -> Result<(), ReplicationError> {
        loop {
            self.leases.ensure(changes).await?;
            match self.destination.write(fence, changes).await {
                Answer::Committed(_) => return Ok(()),
                Answer::Refused(found) => return Err(Halt::of(&found, ours).into()),
                Answer::Failed(EtcdError::NoLease(_)) => self.leases.forget().await,
                Answer::Failed(error) if !ReplicationError::Etcd(error.clone()).is_transient() => {
                    return Err(error.into());
                }
                Answer::Failed(error) | Answer::Unknown(error) => {
                    tracing::debug!(%error, "repeating a write");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Replaces the checkpoint, until it is certain that it was. The same attempt again tells: if an earlier one was carried
    /// out, the comparison fails and finds what was attempted.
    pub(crate) async fn settle(
        &self,
        fence: i64,
        checkpoint: &mut Checkpoint,
        becomes: Checkpoint,
    ) -> Result<i64, ReplicationError> {
        let becomes = Checkpoint { write: checkpoint.write.wrapping_add(1), ..becomes };
        let attempt = Attempt { fence, checkpoint: becomes.encode().into(), changes: Vec::new().into() };
        loop {
            let at = match self.destination.commit(&attempt).await {
                Answer::Committed(at) => at,
                Answer::Refused(Some((bytes, at))) if bytes == attempt.checkpoint[..] => at,
                Answer::Refused(found) => return Err(Halt::of(&found, checkpoint).into()),
                Answer::Failed(error) if !ReplicationError::Etcd(error.clone()).is_transient() => {
                    return Err(error.into());
                }
                Answer::Failed(error) | Answer::Unknown(error) => {
                    tracing::debug!(%error, "repeating a change of the checkpoint");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            *checkpoint = becomes;
            return Ok(at);
        }
    }

    /// What the destination really holds at its revision `at`.
    async fn read_back(&self, member: &Member, at: Revision) -> Result<Ledger, EtcdError> {
        let rules = &self.options.rules;
        let mut listing = Listing::start(&self.destination.cluster, member, rules.destination_prefix(), at);
        let mut ledger = Ledger::default();
        while let Some(kv) = listing.next().await? {
            if rules.owns(kv.key()) {
                ledger.put(kv.key(), kv.value());
            }
        }
        Ok(ledger)
    }
}

fn landed(
    ended: Result<Result<(), ReplicationError>, tokio::task::JoinError>,
) -> Result<(), ReplicationError> {
    match ended {
        Ok(result) => result,
        Err(error) => Err(EtcdError::Refused { side: "destination", why: error.to_string() }.into()),
    }
}
