//! The last thing that can be done for a destination whose source is gone: write to it what the spool has more, by the same
//! pipeline that a replicator uses. Never invents anything: where the spool has a gap, it ends.

use std::{collections::VecDeque, path::Path, time::Duration};

use tokio::time::Instant;

use super::{RegionError, records};
use crate::{
    checkpoint::{Checkpoint, Torn},
    client::EtcdError,
    destination::Answer,
    digest::Ledger,
    error::ReplicationError,
    listing::Listing,
    options::ReplicationOptions,
    pipeline::{Effect, Event, Pace, Pipeline},
    revision::{Change, Op, Revision},
    run::Context,
    spool::{self, Entry, History, Reader, Spool, SpoolError, SpoolOptions},
};

/// How long a replicator that has the spool is waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waits {
    /// A destination that stands still this long has all that its replicator has: longer than a replicator waits for leases of a
    /// source that is gone, for room, or to try again.
    pub still: Duration,
    /// For all of it.
    pub patience: Duration,
}

/// That no replicator gave a sign of life at a destination for as long as one may take. It goes on for as long as its checkpoint is the
/// one that was written then: whoever begins, writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Silence {
    /// The checkpoint's `mod_revision`; `None` where it was not listened for, because a log here says more.
    at: Option<i64>,
}

/// Time to live of a lease that can be asked of nobody any more: long enough for its owner to renew it here.
const ORPHAN: i64 = 60;

/// Between two looks at the destination while a replicator is waited for.
const LOOK: Duration = Duration::from_millis(100);

/// Revisions of the spool's end that a rate is taken from.
const RECENT: i64 = 10_000;

/// Over which time.
const MINUTE_MS: u64 = 60_000;

/// What a spool has.
#[derive(Debug, Clone, Default)]
pub(super) struct Survey {
    /// Revisions that the destination has not, with a change in them.
    pub spooled: Option<u64>,
    /// Why that is not known, though there is a log.
    pub unreadable: Option<String>,
    /// Whether a replicator has the log in use, and writes what it has itself.
    pub in_use: bool,
    /// Revisions in a minute, by the last one.
    pub per_minute: Option<u64>,
}

/// A destination after what the spool had was written.
pub(super) struct Rolled {
    pub checkpoint: Checkpoint,
    pub fence: i64,
    pub revisions: u64,
}

/// Looks into the change log, whoever has it in use.
pub(super) fn survey(options: &ReplicationOptions, checkpoint: &Checkpoint) -> Survey {
    let in_use = spool::in_use(&options.spool);
    match look(options, checkpoint) {
        Ok(found) => Survey { in_use, ..found.unwrap_or_default() },
        Err(error) => Survey { in_use, unreadable: Some(error.to_string()), ..Survey::default() },
    }
}

fn look(options: &ReplicationOptions, checkpoint: &Checkpoint) -> Result<Option<Survey>, SpoolError> {
    let Some(log) = History::open(&options.spool)? else { return Ok(None) };
    let spooled = unwritten(&log, options, checkpoint)?;
    let after = Revision(log.through().0.saturating_sub(RECENT)).max(log.begins_after);
    let (mut reader, mut times) = (log.reader(after), Vec::new());
    while let Ok(Some(entry)) = reader.read() {
        if let Entry::Revision(revision) = entry {
            times.push(revision.seen_ms);
        }
    }
    Ok(Some(Survey { spooled: Some(spooled), per_minute: rate(&times), ..Survey::default() }))
}

/// Revisions with a change in them that a log has more than the destination; where it has a gap, it ends.
fn unwritten(
    log: &History,
    options: &ReplicationOptions,
    checkpoint: &Checkpoint,
) -> Result<u64, SpoolError> {
    let after = checkpoint.source_revision;
    if log.cluster != checkpoint.source_cluster || log.begins_after > after || log.through() <= after {
        return Ok(0);
    }
    let (mut reader, mut revisions) = (log.reader(after), 0);
    while let Some(Entry::Revision(revision)) = reader.read()? {
        revisions += u64::from(!options.rules.map(&revision).changes.is_empty());
    }
    Ok(revisions)
}

/// Revisions in a minute, by those of the last one.
fn rate(times: &[u64]) -> Option<u64> {
    let last = *times.last()?;
    let recent = times.iter().filter(|ms| last.saturating_sub(**ms) <= MINUTE_MS);
    let (count, first) = recent.fold((0_u64, last), |(count, first), ms| (count + 1, first.min(*ms)));
    // Less than a second says nothing about a minute.
    let window = last.saturating_sub(first);
    (window >= 1_000).then(|| count.saturating_mul(MINUTE_MS) / window)
}

/// The spool, if there is one: none is made here.
fn open(options: &ReplicationOptions, checkpoint: &Checkpoint) -> Result<Option<Spool>, SpoolError> {
    if !has_segments(&options.spool) {
        return Ok(None);
    }
    let spool = SpoolOptions::new(&options.spool, options.spool_bytes);
    Spool::open(spool, checkpoint.source_cluster).map(|(spool, _)| Some(spool))
}

fn has_segments(directory: &Path) -> bool {
    let Ok(mut files) = std::fs::read_dir(directory) else { return false };
    files.any(|file| file.is_ok_and(|file| file.path().extension().is_some_and(|end| end == "seg")))
}

/// A reader of what follows `after`, if the log knows what that is.
fn reader(spool: &Spool, after: Revision) -> Option<Reader> {
    (spool.begins_after() <= after && spool.tail().revision > after).then(|| spool.reader(after))
}

// === impl Waits ===

impl Default for Waits {
    fn default() -> Self {
        Self { still: Duration::from_secs(15), patience: Duration::from_secs(120) }
    }
}

// === impl Context ===

impl Context {
    /// The spool that is to be rolled forward. A replicator that runs, on it or elsewhere, rolls it forward itself; then there is none,
    /// once the destination stands still and no log here has more.
    pub(super) async fn spool_to_forward(
        &self,
        seen: &Checkpoint,
        waits: Waits,
        silence: Option<Silence>,
    ) -> Result<Option<Spool>, ReplicationError> {
        let busy = match open(&self.options, seen) {
            Ok(Some(spool)) => return Ok(Some(spool)),
            Ok(None) if self.hear_out(silence, |_| {}).await?.is_none() => {
                RegionError::Busy { seconds: waits.patience.as_secs() }.into()
            }
            // Nobody is left who could be waited for.
            Ok(None) => return Ok(None),
            Err(error @ SpoolError::Locked(_)) => ReplicationError::from(error),
            Err(error) => return Err(error.into()),
        };
        let begun = Instant::now();
        let (mut last, mut since) = (seen.clone(), Instant::now());
        loop {
            tokio::time::sleep(LOOK).await;
            let Some((now, _)) = records::decode(self.destination.read().await?.0)? else { return Ok(None) };
            if (now.source_revision, now.torn) != (last.source_revision, last.torn) {
                (last, since) = (now, Instant::now());
            }
            let still = last.torn.is_none() && since.elapsed() >= waits.still;
            if still {
                return self.left_behind(&last, waits);
            }
            if begun.elapsed() >= waits.patience {
                return Err(busy);
            }
        }
    }

    /// What is left to be done when the destination stands still: nothing, where its replicator has written all that it had.
    fn left_behind(&self, last: &Checkpoint, waits: Waits) -> Result<Option<Spool>, ReplicationError> {
        match open(&self.options, last) {
            // It went away.
            Ok(spool) => return Ok(spool),
            Err(SpoolError::Locked(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let log = History::open(&self.options.spool)?;
        match log.map_or(Ok(0), |log| unwritten(&log, &self.options, last))? {
            0 => Ok(None),
            revisions => {
                let spool = self.options.spool.display().to_string();
                Err(RegionError::Unwritten { spool, revisions, seconds: waits.still.as_secs() }.into())
            }
        }
    }

    /// Listens for a replicator's sign of life at the destination, where no log here says what one has; `None` when one gives it. What
    /// is known to have been silent until now is not listened to again. `begins` is told for how long it listens.
    ///
    /// It cannot be shorter: one that has nothing to write shows itself at its heartbeats alone, and to take the destination from one
    /// that has more would give that up.
    pub(super) async fn hear_out(
        &self,
        known: Option<Silence>,
        begins: impl FnOnce(Duration),
    ) -> Result<Option<Silence>, ReplicationError> {
        if has_segments(&self.options.spool) {
            return Ok(Some(Silence { at: None }));
        }
        let fence = async || Ok::<_, EtcdError>(self.destination.read().await?.0.map(|(_, fence)| fence));
        let (begun, first) = (Instant::now(), fence().await?);
        let silence = Silence { at: first };
        if first.is_some() && known == Some(silence) {
            return Ok(Some(silence));
        }
        // One is due every heartbeat, and half of one for it to arrive.
        let long = self.options.heartbeat * 3 / 2;
        begins(long);
        while begun.elapsed() < long {
            tokio::time::sleep(LOOK).await;
            if fence().await? != first {
                return Ok(None);
            }
        }
        Ok(Some(silence))
    }

    /// Writes what the spool has more than the destination, whose checkpoint and fence are ours.
    pub(super) async fn roll_forward(
        &self,
        spool: Option<Spool>,
        checkpoint: Checkpoint,
        fence: i64,
    ) -> Result<Rolled, ReplicationError> {
        let before = checkpoint.sync_version;
        let as_it_is = Rolled { checkpoint: checkpoint.clone(), fence, revisions: 0 };
        // What an alignment was about to write is known to the source alone.
        let (Some(spool), false) = (spool, matches!(checkpoint.torn, Some(Torn::Aligning { .. }))) else {
            return Ok(as_it_is);
        };
        let Some(mut reader) = reader(&spool, checkpoint.source_revision) else { return Ok(as_it_is) };
        let ledger = self.ledger().await?;
        let pace = Pace { debounce_ms: 0, heartbeat_ms: u64::MAX };
        let mut pipeline = Pipeline::new(checkpoint, fence, ledger, self.options.limits, pace, 0);
        // A clock of the pipeline's own: it stands still but for pauses after a failure.
        let (mut at, mut ended, mut now) = (fence, false, 0);
        let mut effects = VecDeque::new();
        loop {
            while !ended && pipeline.has_room() {
                match reader.read()? {
                    Some(Entry::Revision(revision)) => {
                        let mapped = self.options.rules.map(&revision);
                        effects.extend(pipeline.step(now, Event::Revision(mapped)));
                    }
                    Some(Entry::Gap { .. }) | None => ended = true,
                }
            }
            if pipeline.is_idle() && effects.is_empty() {
                break;
            }
            while let Some(effect) = effects.pop_front() {
                match effect {
                    Effect::Commit(attempt) => {
                        self.orphans(&attempt.changes).await?;
                        let answer = self.destination.commit(&attempt).await;
                        if let Answer::Failed(error) | Answer::Unknown(error) = &answer
                            && self.gives_up(error)
                        {
                            return Err(error.clone().into());
                        }
                        self.trouble.note(&answer);
                        effects.extend(pipeline.step(now, Event::from(&answer)));
                    }
                    Effect::Read => {
                        let (found, _) = self.destination.read().await?;
                        effects.extend(pipeline.step(now, Event::Found(found)));
                    }
                    Effect::Applied(applied) => at = applied.at,
                    Effect::Halt(halt) => return Err(halt.into()),
                }
            }
            // What failed is due again later.
            if let Some(due) = pipeline.deadline_ms().filter(|due| !pipeline.is_idle() && *due < u64::MAX) {
                tokio::time::sleep(Duration::from_millis(due.saturating_sub(now))).await;
                now = now.max(due);
                effects.extend(pipeline.step(now, Event::Tick));
            }
        }
        let checkpoint = pipeline.checkpoint().clone();
        let revisions = checkpoint.sync_version.saturating_sub(before);
        tracing::info!(
            revisions,
            through = checkpoint.source_revision.0,
            "rolled the destination forward from the spool"
        );
        Ok(Rolled { checkpoint, fence: at, revisions })
    }

    /// What the destination holds now; nobody else may write while the fence is ours.
    async fn ledger(&self) -> Result<Ledger, ReplicationError> {
        let (_, at) = self.destination.read().await?;
        let member = self.destination.member().await?;
        let rules = &self.options.rules;
        let mut listing =
            Listing::start(&self.destination.cluster, &member, rules.destination_prefix(), Revision(at));
        let mut ledger = Ledger::default();
        while let Some(kv) = listing.next().await? {
            if rules.owns(kv.key()) {
                ledger.put(kv.key(), kv.value());
            }
        }
        Ok(ledger)
    }

    /// Leases whose source can tell nothing about them any more.
    async fn orphans(&self, changes: &[Change]) -> Result<(), EtcdError> {
        for change in changes {
            let Op::Put { lease, .. } = change.op else { continue };
            if lease == 0 {
                continue;
            }
            let mut member = self.destination.member().await?;
            let options = etcd_client::LeaseGrantOptions::new().with_id(lease);
            match self.destination.cluster.ask(member.client.lease_grant(ORPHAN, Some(options))).await {
                Err(EtcdError::Refused { why, .. }) if why.contains("lease already exists") => {}
                other => drop(other?),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
