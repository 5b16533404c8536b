//! Carries out what [`super::plan`] decides: looks at both etcds, takes one step, looks again. Remembers only what it made sure of
//! itself, so that it may be killed anywhere.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    Ownership, Region, RegionError, Unfinished,
    forward::{Silence, Waits},
    own::Held,
    plan::{self, Seen, SourceSeen, Step},
    records,
};
use crate::{
    checkpoint::{Checkpoint, ClusterId, Role, Torn},
    client::{EtcdError, Member},
    error::ReplicationError,
    options::{ReplicationOptions, prefixes},
    overlap::OverlapError,
    pipeline::Halt,
    revision::Revision,
    run::Context,
    verify,
    watch::now_ms,
};

/// Steps that a promotion may have to take again because somebody else wrote in between.
const TRIES: u32 = 8;

/// What a promotion would do, before it does anything.
#[derive(Debug, Clone, Serialize)]
pub struct Assessment {
    /// The prefix at the destination.
    pub prefix: String,
    /// The region that would be the owner.
    pub region: Region,
    /// Whether it is already.
    pub promoted: bool,
    /// The destination's epoch.
    pub epoch: u64,
    /// Why the source did not answer; when it did, nothing is lost.
    pub source_error: Option<String>,
    /// A promotion that was begun, and did not tell the source that it came to its end: this one goes on with it.
    pub unfinished: Option<Unfinished>,
    /// Keys at the destination that live by a lease: nobody renews it once the owner is another.
    pub leased_keys: u64,
    /// That no replicator gives a sign of life, where that was listened for.
    #[serde(skip)]
    pub silence: Option<Silence>,
    /// What is known of the loss, should the source be given up.
    pub estimate: Estimate,
}

/// What would be lost with the source.
#[derive(Debug, Clone, Serialize)]
pub struct Estimate {
    /// The source's revision that the destination holds, and everything before it.
    pub safe_revision: Revision,
    /// When that was known to be the source's latest.
    pub safe_time: Timestamp,
    /// Time since then: what the source took in during it is what may be lost.
    pub age_ms: u64,
    /// Set while the destination is between two revisions.
    pub torn: Option<Torn>,
    /// Revisions that the spool has more, which will be written before; `None` when there is no spool here.
    pub spooled: Option<u64>,
    /// Why the spool here cannot be read.
    pub unreadable: Option<String>,
    /// Whether a replicator has the spool here in use: it is waited for while it writes what it has.
    pub in_use: bool,
    /// Whether, without a spool here, a replicator elsewhere gave a sign of life: it is waited for.
    pub replicator: bool,
    /// Revisions that would be lost if the source went on as it did in the last minute of the spool; `None` when that is unknown.
    pub lost_revisions: Option<u64>,
}

/// What was done.
#[derive(Debug, Clone, Serialize)]
pub struct Promoted {
    /// The prefix at the destination.
    pub prefix: String,
    /// The owner now.
    pub region: Region,
    /// Its epoch.
    pub epoch: u64,
    /// Whether it was so before.
    pub already: bool,
    /// Whether the source was fenced.
    pub source_fenced: bool,
    /// Whether the source was told, by this, that the promotion came to its end.
    pub source_told: bool,
    /// The source's revision that the destination begins with.
    pub through: Revision,
    /// Keys that had to be written to make the destination equal to the source; `None` when the source was silent.
    pub drained_keys: Option<u64>,
    /// Revisions written from the spool.
    pub forwarded: u64,
    /// The digest of both sides, when they were compared.
    pub digest: Option<crate::digest::Digest>,
    /// Keys that the replicator held by leases, and that nobody had registered with the new owner when this ended.
    pub leased_keys: u64,
    /// How long each of them lives at least for that, in milliseconds; 0: as long as its lease had left.
    pub lease_grace_ms: u64,
    /// How long it took.
    pub elapsed_ms: u64,
}

/// A promotion under way.
struct Promotion {
    context: Context,
    actor: String,
    id: Uuid,
    given_up: bool,
    accept_torn: bool,
    waits: Waits,
    /// Whether the source that answers is known to be the one that was replicated.
    trusted: bool,
    /// What was heard before it began.
    silence: Option<Silence>,
    drained: Option<(Revision, u64)>,
    /// The checkpoint that it left behind, and that key's `mod_revision`.
    ours: Option<(Checkpoint, i64)>,
    forwarded: bool,
    rolled: u64,
    wrote: Option<u64>,
    digest: Option<crate::digest::Digest>,
    /// The ownership that it wrote, or meant to.
    meant: Vec<Uuid>,
    /// Whether it found the destination not promoted: who promotes it after that was faster, unless it was us.
    competes: bool,
    /// Whether it told the source that the promotion came to its end.
    told: bool,
}

/// Says what a promotion would do. Changes nothing.
///
/// # Errors
/// When the destination cannot be read or was never replicated to.
pub async fn assess(options: ReplicationOptions) -> Result<Assessment, ReplicationError> {
    assess_saying(options, |_| {}).await
}

/// [`assess`], which tells `listens` for how long it listens for a replicator, if it has to.
///
/// # Errors
/// As [`assess`].
pub async fn assess_saying(
    options: ReplicationOptions,
    listens: impl FnOnce(Duration),
) -> Result<Assessment, ReplicationError> {
    options.validate()?;
    let context = verify::context(options)?;
    let (source, found) = tokio::join!(context.source.connect(), context.destination.read());
    let Some((checkpoint, _)) = records::decode(found?.0)? else {
        return Err(RegionError::NeverReplicated { stream: context.options.stream.clone() }.into());
    };
    has_one_owner(&context, &checkpoint)?;
    let here = context.destination.member().await?;
    if let Ok(source) = &source {
        super::tell_apart(source.cluster, here.cluster)?;
    }
    let fence = match &source {
        Ok(source) => records::owner(&context.source, source, &prefixes(&context.options.rules).0).await?,
        Err(_) => None,
    };
    let leased = context.leased(&here).await?.len();
    let gives_up = source.is_err() && checkpoint.role == Role::Replica;
    let silence = if gives_up { context.hear_out(None, listens).await? } else { None };
    let replicator = gives_up && silence.is_none();
    let age_ms = now_ms().saturating_sub(checkpoint.source_ms);
    let known = super::forward::survey(&context.options, &checkpoint);
    let lost = known
        .per_minute
        .map(|rate| u64::try_from(u128::from(rate) * u128::from(age_ms) / 60_000).unwrap_or(u64::MAX));
    Ok(Assessment {
        prefix: prefixes(&context.options.rules).1,
        region: context.region_here(here.cluster),
        promoted: checkpoint.role == Role::Primary,
        epoch: checkpoint.epoch,
        source_error: source.err().map(|error| error.to_string()),
        silence,
        unfinished: Unfinished::seen(fence.as_ref(), &checkpoint),
        leased_keys: u64::try_from(leased).unwrap_or(u64::MAX),
        estimate: Estimate {
            safe_revision: checkpoint.source_revision,
            safe_time: Timestamp::from_millisecond(i64::try_from(checkpoint.source_ms).unwrap_or(0))
                .unwrap_or_default(),
            age_ms,
            torn: checkpoint.torn,
            spooled: known.spooled,
            unreadable: known.unreadable,
            in_use: known.in_use,
            replicator,
            lost_revisions: lost,
        },
    })
}

/// Makes the destination the owner. With `given_up`, also when the source is silent; with `accept_torn`, also when it then is a
/// mixture of two revisions. Run again after it was killed, it goes on.
///
/// # Errors
/// What an operator must decide, and who was faster.
pub async fn promote(
    options: ReplicationOptions,
    actor: &str,
    given_up: bool,
    accept_torn: bool,
) -> Result<Promoted, ReplicationError> {
    Promotion::new(options, actor, given_up, accept_torn)?.carry_out().await
}

/// [`promote`] of a destination that was assessed, and of which an operator knows what that said: the source is given up if it was silent
/// then, and what was heard is not listened for again.
///
/// # Errors
/// As [`promote`].
pub async fn promote_assessed(
    options: ReplicationOptions,
    actor: &str,
    assessed: &Assessment,
    accept_torn: bool,
) -> Result<Promoted, ReplicationError> {
    let given_up = assessed.source_error.is_some() && !assessed.promoted;
    let promotion = Promotion::new(options, actor, given_up, accept_torn)?;
    Promotion { silence: assessed.silence, ..promotion }.carry_out().await
}

/// Tells a source that answers again that the destination was promoted: from then on its writers are refused. What
/// [`promote`] does by itself where it can.
///
/// # Errors
/// When the destination was not promoted.
pub async fn demote(options: ReplicationOptions, actor: &str) -> Result<Promoted, ReplicationError> {
    options.validate()?;
    let context = verify::context(options.clone())?;
    match records::decode(context.destination.read().await?.0)? {
        None => Err(RegionError::NeverReplicated { stream: options.stream }.into()),
        Some((checkpoint, _)) if checkpoint.role == Role::Replica => {
            Err(RegionError::NotPromoted { epoch: checkpoint.epoch }.into())
        }
        Some(_) => {
            // A source that does not answer cannot be told.
            context.source.connect().await?;
            // Who renews what here is not known any more, and none of this command's business.
            let options = ReplicationOptions { lease_grace: Duration::ZERO, ..options };
            promote(options, actor, false, false).await
        }
    }
}

/// Where both regions write there is no owner to be changed.
fn has_one_owner(context: &Context, checkpoint: &Checkpoint) -> Result<(), OverlapError> {
    let prefix = || prefixes(&context.options.rules).1;
    checkpoint.overlap.map_or(Ok(()), |policy| Err(OverlapError::Shared { prefix: prefix(), policy }))
}

// === impl Context ===

impl Context {
    /// What the destination's region is called.
    pub(crate) fn region_here(&self, cluster: ClusterId) -> Region {
        self.options.destination_region.clone().unwrap_or_else(|| Region::of_cluster(cluster))
    }

    /// What the source's region is called.
    pub(crate) fn region_there(&self, cluster: ClusterId) -> Region {
        self.options.source_region.clone().unwrap_or_else(|| Region::of_cluster(cluster))
    }
}

// === impl Promotion ===

impl Promotion {
    fn new(
        options: ReplicationOptions,
        actor: &str,
        given_up: bool,
        accept_torn: bool,
    ) -> Result<Self, ReplicationError> {
        options.validate()?;
        Ok(Self {
            context: Context { patient: false, ..verify::context(options)? },
            actor: actor.to_owned(),
            id: Uuid::now_v7(),
            given_up,
            accept_torn,
            waits: Waits::default(),
            trusted: false,
            silence: None,
            drained: None,
            ours: None,
            forwarded: false,
            rolled: 0,
            wrote: None,
            digest: None,
            meant: Vec::new(),
            competes: false,
            told: false,
        })
    }

    async fn carry_out(mut self) -> Result<Promoted, ReplicationError> {
        let begun = Instant::now();
        let mut promoted = self.run().await?;
        promoted.elapsed_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(promoted)
    }

    async fn run(&mut self) -> Result<Promoted, ReplicationError> {
        let (mut first, mut tries) = (true, 0);
        loop {
            let (here, source, seen) = self.look().await?;
            let prefix = self.prefixes().1;
            let ours = seen.own_here.as_ref().is_some_and(|held| self.meant.contains(&held.ownership.id));
            let promoted = seen.checkpoint.role == Role::Primary;
            if promoted && self.competes && !ours {
                return Err(lost(&prefix, seen.own_here.as_ref()));
            }
            self.competes |= !promoted;
            // One that comes back may be another one.
            self.trusted &= source.is_some();
            let step = plan::next(&seen, &prefix)?;
            tracing::info!(?step, "promoting");
            let moved = match (step, &source) {
                (Step::Done, _) => match self.leave(&here, &seen, first).await {
                    Ok(leased) => return Ok(self.report(&seen, &here, (first, leased), &source)),
                    Err(error) => Err(error),
                },
                (Step::FenceSource(_) | Step::Drain(_), Some(source)) if !promoted && !self.trusted => {
                    self.trust(source).await
                }
                (Step::FenceSource(epoch), Some(source)) => self.fence(epoch, source, &here, &seen).await,
                (Step::Drain(fence), Some(source)) => self.drain(source, fence, &seen).await,
                (Step::Forward, _) => self.forward(&seen.checkpoint).await,
                (Step::Take(epoch), _) => self.take(epoch, &here, &seen).await,
                (Step::Confirm, Some(source)) => self.confirm(source, &seen).await,
                // A step at a source that does not answer is never decided.
                (Step::FenceSource(_) | Step::Drain(_) | Step::Confirm, None) => Ok(false),
            };
            first &= step == Step::Confirm;
            match moved {
                Ok(true) => continue,
                // Nobody knows, or somebody else wrote: what both etcds say now tells.
                Ok(false) | Err(ReplicationError::Etcd(EtcdError::Unreachable { .. })) if tries < TRIES => {}
                Err(ReplicationError::Halt(Halt::Superseded(_) | Halt::Promoted { .. })) if tries < TRIES => {
                }
                Ok(false) => return Err(lost(&prefix, seen.own_here.as_ref())),
                Err(error) => return Err(error),
            }
            tries += 1;
            self.ours = None;
            // Two who do the same at the same moment do not meet again at the next.
            let apart = u64::try_from(self.id.as_u128() % 97).unwrap_or(0);
            tokio::time::sleep(Duration::from_millis(u64::from(tries) * (20 + apart))).await;
        }
    }

    async fn look(&self) -> Result<(Member, Option<Member>, Seen), ReplicationError> {
        let context = &self.context;
        let (source, found) = tokio::join!(context.source.connect(), context.destination.read());
        let Some((checkpoint, _)) = records::decode(found?.0)? else {
            return Err(RegionError::NeverReplicated { stream: context.options.stream.clone() }.into());
        };
        has_one_owner(context, &checkpoint)?;
        let here = context.destination.member().await?;
        let (from, to) = self.prefixes();
        let own_here = records::read_all(&context.destination.cluster, &here).await?;
        let (source, source_seen) = match source {
            Err(error @ EtcdError::Unreachable { .. }) => (None, SourceSeen::Silent(error.to_string())),
            Err(error) => return Err(error.into()),
            Ok(mut member) => {
                super::tell_apart(member.cluster, here.cluster)?;
                let known = checkpoint.source_revision;
                if checkpoint.role == Role::Replica && member.head < known {
                    // A replicator may have brought more since the source was asked.
                    member = context.source.connect().await?;
                    if member.head < known {
                        return Err(RegionError::SourceWentBack { head: member.head, known }.into());
                    }
                }
                let own = records::read_all(&context.source, &member).await?;
                let own = records::of(&own, &from).cloned();
                let seen = SourceSeen::Answers { cluster: member.cluster, own };
                (Some(member), seen)
            }
        };
        let seen = Seen {
            checkpoint,
            here: here.cluster,
            own_here: records::of(&own_here, &to).cloned(),
            source: source_seen,
            drained: self.drained,
            forwarded: self.forwarded,
            given_up: self.given_up,
        };
        Ok((here, source, seen))
    }

    fn prefixes(&self) -> (String, String) {
        prefixes(&self.context.options.rules)
    }

    fn owner(&mut self, here: &Member, epoch: u64) -> Ownership {
        let region = self.context.region_here(here.cluster);
        let owner = Ownership::new(region, here.cluster, epoch, &self.actor, Timestamp::now());
        self.meant.push(owner.id);
        owner
    }

    /// Before anything is changed: a source that lost what the destination has of it is not drained.
    async fn trust(&mut self, source: &Member) -> Result<bool, ReplicationError> {
        self.context.trust(source).await?;
        self.trusted = true;
        Ok(true)
    }

    async fn fence(
        &mut self,
        epoch: u64,
        source: &Member,
        here: &Member,
        seen: &Seen,
    ) -> Result<bool, ReplicationError> {
        let SourceSeen::Answers { own, .. } = &seen.source else { return Ok(false) };
        if seen.checkpoint.role == Role::Replica {
            // From the fence on nobody may write: the destination must be known to take what comes after it. The checkpoint is not
            // asked for that: a busy replicator far from here replaces it faster than we can.
            let (cluster, key) = (&self.context.destination.cluster, self.context.options.checkpoint_key());
            let probe = format!("{key}/probe");
            cluster.ask(here.kv().put(probe.as_str(), "", None)).await?;
            cluster.ask(here.kv().delete(probe.as_str(), None)).await?;
        }
        let from = self.prefixes().0;
        let pending = seen.checkpoint.role == Role::Replica;
        let becomes = Ownership { pending, ..self.owner(here, epoch) };
        let fenced =
            records::replace(&self.context.source, source, (&from, own.as_ref()), &becomes, None).await?;
        if let Some(revision) = fenced {
            tracing::info!(revision, epoch, region = %becomes.region, "fenced the source");
        }
        Ok(fenced.is_some())
    }

    /// Makes the destination what the source is at the fence, and knows it: both sides are read.
    async fn drain(
        &mut self,
        source: &Member,
        fence: Revision,
        seen: &Seen,
    ) -> Result<bool, ReplicationError> {
        let SourceSeen::Answers { own: Some(Held { ownership, .. }), .. } = &seen.source else {
            return Ok(false);
        };
        let (checkpoint, at) = self.claim().await?;
        let aligned = match self.context.align(source, checkpoint.clone(), at, fence).await {
            // What the source has now, under our prefix, is what it had at the fence.
            Err(ReplicationError::Etcd(EtcdError::Compacted { side: "source", .. })) => {
                let (checkpoint, at) = self.claim().await?;
                self.context.align(source, checkpoint, at, source.head.max(fence)).await?
            }
            other => other?,
        };
        tracing::info!(
            revision = aligned.checkpoint.source_revision.0,
            written = aligned.written,
            keys = aligned.expected.keys(),
            "the destination is what the source was at the fence"
        );
        self.drained = Some((aligned.checkpoint.source_revision, ownership.epoch));
        self.wrote = Some(self.wrote.unwrap_or(0) + aligned.written);
        self.digest = Some(aligned.expected.digest());
        self.ours = Some((aligned.checkpoint, aligned.fence));
        Ok(true)
    }

    /// Makes the checkpoint ours: whatever a replicator has on its way there fails.
    async fn claim(&self) -> Result<(Checkpoint, i64), ReplicationError> {
        let Some((mut checkpoint, at)) = records::decode(self.context.destination.read().await?.0)? else {
            return Err(Halt::Gone.into());
        };
        if checkpoint.role == Role::Primary {
            return Err(Halt::Promoted { epoch: checkpoint.epoch }.into());
        }
        let ours = Checkpoint { holder: self.id, ..checkpoint.clone() };
        let at = self.context.settle(at, &mut checkpoint, ours).await?;
        Ok((checkpoint, at))
    }

    async fn forward(&mut self, seen: &Checkpoint) -> Result<bool, ReplicationError> {
        let spool = self.context.spool_to_forward(seen, self.waits, self.silence).await?;
        let (checkpoint, at) = self.claim().await?;
        let rolled = self.context.roll_forward(spool, checkpoint, at).await?;
        if let Some(torn) = rolled.checkpoint.torn
            && !self.accept_torn
        {
            let torn = match torn {
                Torn::Staging { revision } => format!("revision {revision} was being written"),
                Torn::Aligning { revision } => format!("it was being made equal to revision {revision}"),
            };
            return Err(RegionError::Torn { torn }.into());
        }
        self.forwarded = true;
        self.rolled += rolled.revisions;
        self.ours = Some((rolled.checkpoint, rolled.fence));
        Ok(true)
    }

    async fn take(&mut self, epoch: u64, here: &Member, seen: &Seen) -> Result<bool, ReplicationError> {
        // Drained or rolled forward by ourselves, or it is done again.
        let Some((checkpoint, at)) = self.ours.clone() else {
            self.drained = None;
            self.forwarded = false;
            return Ok(false);
        };
        let becomes = Checkpoint {
            role: Role::Primary,
            epoch,
            write: checkpoint.write.wrapping_add(1),
            torn: None,
            ..checkpoint
        };
        let (owner, to) = (self.owner(here, epoch), self.prefixes().1);
        let key = self.context.options.checkpoint_key();
        let with = Some((key.as_str(), at, Some(becomes.encode())));
        let cluster = &self.context.destination.cluster;
        let taken = records::replace(cluster, here, (&to, seen.own_here.as_ref()), &owner, with).await?;
        if let Some(revision) = taken {
            tracing::info!(revision, epoch, region = %owner.region, "the destination is the owner");
        }
        Ok(taken.is_some())
    }

    /// Leaves the keys that live by leases time to be registered with the new owner, and says how many they are. Done again after a
    /// kill: what was registered here since, or has its time already, is left alone.
    async fn leave(&self, here: &Member, seen: &Seen, already: bool) -> Result<u64, ReplicationError> {
        let nothing = already && self.context.options.lease_grace.is_zero();
        let Some(own) = seen.own_here.as_ref().filter(|_| !nothing) else { return Ok(0) };
        self.context.give_grace(here, &self.prefixes().1, own).await
    }

    /// Tells the source that what it was fenced for has happened.
    async fn confirm(&mut self, source: &Member, seen: &Seen) -> Result<bool, ReplicationError> {
        let SourceSeen::Answers { own: Some(held), .. } = &seen.source else { return Ok(false) };
        let becomes = Ownership { pending: false, ..held.ownership.clone() };
        let from = self.prefixes().0;
        let told =
            records::replace(&self.context.source, source, (&from, Some(held)), &becomes, None).await?;
        self.told |= told.is_some();
        Ok(told.is_some())
    }

    fn report(
        &self,
        seen: &Seen,
        here: &Member,
        (already, leased_keys): (bool, u64),
        source: &Option<Member>,
    ) -> Promoted {
        Promoted {
            prefix: self.prefixes().1,
            region: self.context.region_here(here.cluster),
            epoch: seen.checkpoint.epoch,
            already,
            source_fenced: source.is_some(),
            source_told: self.told,
            through: seen.checkpoint.source_revision,
            drained_keys: self.wrote,
            forwarded: self.rolled,
            digest: self.digest,
            leased_keys,
            lease_grace_ms: u64::try_from(self.context.options.lease_grace.as_millis()).unwrap_or(u64::MAX),
            elapsed_ms: 0,
        }
    }
}

fn lost(prefix: &str, owner: Option<&Held>) -> ReplicationError {
    let (actor, epoch) = owner.map_or_else(
        || ("somebody".to_owned(), 0),
        |held| (held.ownership.actor.clone(), held.ownership.epoch),
    );
    RegionError::Lost { prefix: prefix.to_owned(), actor, epoch }.into()
}

#[cfg(test)]
mod tests;
