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
//!
//! However long it takes, a sign of life is written every heartbeat: it moves the fence, so the writes that are on their way are
//! waited for first. Without it a standby would take over in the middle, begin the same comparison, and lose it the same way.

mod mend;

use std::{future::Future, time::Duration};

use tokio::{task::JoinSet, time::Instant};

use crate::{
    anchors::Sample,
    checkpoint::{Checkpoint, Torn},
    client::{EtcdError, Member},
    compare::Comparison,
    destination::Answer,
    digest::Ledger,
    error::ReplicationError,
    listing::Listing,
    options::StrangerPolicy,
    pipeline::{Attempt, Halt},
    revision::{Change, Revision},
    run::Context,
};

pub(crate) use mend::{Known, Mended};

/// Transactions on their way at once: enough to fill a link of 80 ms.
const AT_ONCE: usize = 8;

/// Keys in each of them, where the destination allows as many: that few round trips copy a whole etcd, and that others' requests
/// there do not wait long behind one.
const CHUNK: usize = 512;

/// Until a write of unknown fate is repeated.
const RETRY: Duration = Duration::from_millis(200);

/// The same for one that an operator must make possible.
const BLOCKED: Duration = Duration::from_secs(5);

/// How long a destination that does not answer is waited for in the middle of it; then the source is followed meanwhile, and all of
/// it begins again.
const AWAY: Duration = Duration::from_secs(10);

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
    /// Some of the source's keys as of the checkpoint's revision, where all of them were read.
    pub sample: Option<Sample>,
}

/// Our hold on the destination while it is brought to a revision: the checkpoint as it stands there, its `mod_revision`, when
/// that was last written, and the writes that rely on it.
struct Hold {
    checkpoint: Checkpoint,
    fence: i64,
    shown: Instant,
    flying: JoinSet<Result<(), ReplicationError>>,
}

// === impl Context ===

impl Context {
    /// Brings the destination, whose checkpoint and fence are ours, to `revision` of the source.
    pub(crate) async fn align(
        &self,
        source: &Member,
        checkpoint: Checkpoint,
        fence: i64,
        revision: Revision,
    ) -> Result<Aligned, ReplicationError> {
        let (mut written, rules) = (0, &self.options.rules);
        // When `revision` was the source's latest, if it ever was as far as we know: later is not known, and not claimed.
        let source_ms = if revision == source.head { source.seen_ms } else { checkpoint.source_ms };
        // What differs at a revision that the destination has is somebody else's doing, or damage.
        let tolerated = self.options.strangers == StrangerPolicy::Report
            && checkpoint.is_whole()
            && checkpoint.source_revision == revision;
        let (mut hold, mut odd) = (Hold::new(checkpoint, fence), None);
        for _ in 0..TRIES {
            let (_, at) = self.destination.read().await?;
            let member = self.destination.member().await?;
            let there = rules.destination_prefix();
            let mut comparison = Comparison::new(
                rules,
                Listing::gently(&self.source, source, rules.source_prefix(), revision),
                Listing::start(&self.destination.cluster, &member, there, Revision(at)),
            );
            let wrote = if tolerated {
                Box::pin(self.report(&mut comparison, &mut hold)).await?
            } else {
                Box::pin(self.repair(&mut comparison, &mut hold, revision, &mut odd)).await?
            };
            written += wrote;
            self.metrics.leased.set(i64::try_from(comparison.leases.len()).unwrap_or(i64::MAX));
            self.leases.adopt(&comparison.leases).await;
            let (expected, mut found, mut at) = (comparison.expected, comparison.found, Revision(at));
            let sample = Some(comparison.sample);
            let whole = Checkpoint {
                source_revision: revision,
                sync_version: hold.checkpoint.sync_version + u64::from(wrote > 0),
                source_ms,
                digest: expected.digest(),
                keys: expected.keys(),
                torn: None,
                ..hold.checkpoint.clone()
            };
            let equal = hold.checkpoint.is_whole()
                && (hold.checkpoint.source_revision, hold.checkpoint.digest) == (revision, whole.digest);
            if !equal {
                self.show(&mut hold, Some(whole)).await?;
            }
            if wrote > 0 {
                at = Revision(hold.fence);
                found = self.holding(&mut hold, self.read_back(&member, at)).await??;
            }
            // Where deletes are not replicated, the destination has more than the source, and that is what it should have.
            let expected = if rules.deletes() { expected } else { found.clone() };
            if tolerated || expected.digest() == found.digest() {
                let Hold { checkpoint, fence, .. } = hold;
                return Ok(Aligned { checkpoint, fence, expected, found, at, written, sample });
            }
            let buckets = expected.differing_buckets(&found).len();
            tracing::warn!(buckets, "the destination does not hold what was written; comparing again");
        }
        self.metrics.retries.with_label_values(&["contended"]).inc();
        let key = odd.map_or_else(String::new, |key: Vec<u8>| key.escape_ascii().to_string());
        Err(ReplicationError::Contended { key, tries: TRIES })
    }

    /// Counts what differs, and leaves it; but for keys that are missing and that a lease of the source keeps alive: nobody deleted
    /// them here, their lease ran out while nobody renewed it. How many were written.
    ///
    /// There is no marker before these: the destination was not a revision of the source, and each brings it nearer to the one that
    /// its checkpoint names. A marker that a crash leaves would have everything put back.
    async fn report(
        &self,
        comparison: &mut Comparison<'_>,
        hold: &mut Hold,
    ) -> Result<u64, ReplicationError> {
        let (mut keys, mut first, mut wrote) = (0_u64, None, 0);
        while let Some(finding) = self.holding(hold, comparison.next()).await?? {
            if finding.is_lapsed() {
                hold.land(AT_ONCE).await?;
                let (context, fence) = (self.clone(), hold.fence);
                hold.flying.spawn(async move { context.write(fence, &[finding.change]).await });
                wrote += 1;
                continue;
            }
            keys += 1;
            first.get_or_insert_with(|| finding.change.key.escape_ascii().to_string());
        }
        if let Some(first) = first {
            self.metrics.strangers.inc();
            tracing::warn!(
                keys,
                first,
                "the destination is not what its checkpoint says; left as it is, as asked"
            );
        }
        if wrote > 0 {
            tracing::warn!(
                keys = wrote,
                "keys had lost the lease that their source still has; they are back"
            );
            // Lands them, and moves the fence that they relied on.
            self.show(hold, None).await?;
        }
        Ok(wrote)
    }

    /// Writes what differs, and notes a key that did; the marker before the first of it.
    async fn repair(
        &self,
        comparison: &mut Comparison<'_>,
        hold: &mut Hold,
        revision: Revision,
        odd: &mut Option<Vec<u8>>,
    ) -> Result<u64, ReplicationError> {
        let (mut wrote, mut chunk, mut bytes) = (0, Vec::new(), 0);
        let limits = self.options.limits;
        let most = limits.grouped().min(CHUNK);
        loop {
            let finding = self.holding(hold, comparison.next()).await??;
            let done = finding.is_none();
            if let Some(finding) = finding {
                if wrote == 0 && chunk.is_empty() {
                    *odd = Some(finding.change.key.clone());
                }
                let size = finding.size();
                let fits = chunk.len() < most && bytes + size <= limits.bytes;
                let ready = if fits || chunk.is_empty() { Vec::new() } else { std::mem::take(&mut chunk) };
                bytes = if ready.is_empty() { bytes + size } else { size };
                chunk.push(finding.change);
                if ready.is_empty() {
                    continue;
                }
                self.launch(hold, ready, revision, &mut wrote).await?;
            }
            if done {
                if !chunk.is_empty() {
                    self.launch(hold, chunk, revision, &mut wrote).await?;
                }
                break;
            }
        }
        hold.land(1).await?;
        Ok(wrote)
    }

    async fn launch(
        &self,
        hold: &mut Hold,
        changes: Vec<Change>,
        revision: Revision,
        wrote: &mut u64,
    ) -> Result<(), ReplicationError> {
        let torn = Some(Torn::Aligning { revision });
        if *wrote == 0 && hold.checkpoint.torn != torn {
            let marked = Checkpoint { torn, ..hold.checkpoint.clone() };
            self.show(hold, Some(marked)).await?;
        } else if hold.shown.elapsed() >= self.options.heartbeat {
            self.show(hold, None).await?;
        }
        *wrote += changes.len() as u64;
        hold.land(AT_ONCE).await?;
        let (context, fence) = (self.clone(), hold.fence);
        hold.flying.spawn(async move { context.write(fence, &changes).await });
        Ok(())
    }

    /// Does `work`, and shows signs of life for as long as it takes.
    async fn holding<T>(
        &self,
        hold: &mut Hold,
        work: impl Future<Output = T>,
    ) -> Result<T, ReplicationError> {
        tokio::pin!(work);
        loop {
            let due = hold.shown + self.options.heartbeat;
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                () = tokio::time::sleep_until(due) => self.show(hold, None).await?,
            }
        }
    }

    /// Writes the checkpoint: a new one, or the same again as a sign of life.
    async fn show(&self, hold: &mut Hold, becomes: Option<Checkpoint>) -> Result<(), ReplicationError> {
        hold.land(1).await?;
        let becomes = becomes.unwrap_or_else(|| hold.checkpoint.clone());
        hold.fence = self.settle(hold.fence, &mut hold.checkpoint, becomes).await?;
        hold.shown = Instant::now();
        Ok(())
    }

    /// Whether a write that failed is not tried again.
    pub(crate) fn gives_up(&self, error: &EtcdError) -> bool {
        let operator = matches!(error, EtcdError::NoSpace(_) | EtcdError::TooLarge { .. });
        !ReplicationError::Etcd(error.clone()).is_transient() || (operator && !self.patient)
    }

    /// Writes until it is certain that it was written.
    async fn write(&self, fence: i64, changes: &[Change]) -> Result<(), ReplicationError> {
        let begun = Instant::now();
        loop {
            let answer = match self.leases.ensure(changes).await {
                Ok(()) => self.destination.write(fence, changes).await,
                Err(error) => Answer::Failed(error),
            };
            match &answer {
                Answer::Committed(_) => {}
                Answer::Refused(found) => return Err(Halt::of(found).into()),
                Answer::Failed(EtcdError::NoLease(_)) => {
                    self.leases.forget(changes).await;
                    continue;
                }
                Answer::Failed(error) if self.gives_up(error) => return Err(error.clone().into()),
                Answer::Failed(error) | Answer::Unknown(error) if is_long_away(error, begun) => {
                    return Err(error.clone().into());
                }
                Answer::Failed(_) | Answer::Unknown(_) => {}
            }
            self.trouble.note(&answer);
            match pause(&answer) {
                None => return Ok(()),
                Some(pause) => tokio::time::sleep(pause).await,
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
        let begun = Instant::now();
        loop {
            let answer = self.destination.commit(&attempt).await;
            let at = match &answer {
                Answer::Committed(at) => *at,
                Answer::Refused(Some((bytes, at))) if bytes[..] == attempt.checkpoint[..] => *at,
                Answer::Refused(found) => return Err(Halt::of(found).into()),
                Answer::Failed(error) if self.gives_up(error) => return Err(error.clone().into()),
                Answer::Failed(error) | Answer::Unknown(error) if is_long_away(error, begun) => {
                    return Err(error.clone().into());
                }
                Answer::Failed(_) | Answer::Unknown(_) => 0,
            };
            self.trouble.note(&answer);
            if let Some(pause) = pause(&answer) {
                tokio::time::sleep(pause).await;
                continue;
            }
            *checkpoint = becomes;
            return Ok(at);
        }
    }

    /// What the destination really holds at its revision `at`.
    pub(crate) async fn read_back(&self, member: &Member, at: Revision) -> Result<Ledger, EtcdError> {
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

/// Until a write that was answered so is repeated; `None` where it is not.
const fn pause(answer: &Answer) -> Option<Duration> {
    match answer {
        Answer::Committed(_) | Answer::Refused(_) => None,
        Answer::Failed(EtcdError::NoSpace(_) | EtcdError::TooLarge { .. }) => Some(BLOCKED),
        Answer::Failed(_) | Answer::Unknown(_) => Some(RETRY),
    }
}

/// Whether the destination has not answered for so long that something else should be done meanwhile. Whoever begins again moves
/// the fence, so that what may still be on its way does nothing.
fn is_long_away(error: &EtcdError, begun: Instant) -> bool {
    matches!(error, EtcdError::Unreachable { side: "destination", .. }) && begun.elapsed() > AWAY
}

// === impl Hold ===

impl Hold {
    fn new(checkpoint: Checkpoint, fence: i64) -> Self {
        Self { checkpoint, fence, shown: Instant::now(), flying: JoinSet::new() }
    }

    /// Waits until fewer than `most` writes are on their way.
    async fn land(&mut self, most: usize) -> Result<(), ReplicationError> {
        while self.flying.len() >= most {
            match self.flying.join_next().await {
                None => return Ok(()),
                Some(Ok(result)) => result?,
                Some(Err(error)) => {
                    return Err(EtcdError::Refused { side: "destination", why: error.to_string() }.into());
                }
            }
        }
        Ok(())
    }
}
