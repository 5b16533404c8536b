//! Takes back a promotion that fenced the source and did not come to its end: nobody may write then, and the source gets its prefix
//! back. Undoes no promotion that did: what the new owner took in would be lost.
//!
//! Whether one did is known at the source itself, so that a destination that does not answer changes nothing about it: a fence is
//! *pending* until its promoter has taken the destination, and a replicator that brings back what the new owner took in leaves a
//! checkpoint of the other direction at an epoch as late as the fence's. One that was killed between taking the destination and
//! saying so leaves a pending fence; there only the destination can tell.
//!
//! A promotion that still runs may be about to take the destination. So the destination comes first: its checkpoint is given a later
//! epoch than the fence has, and whoever relies on that fence can take it no more ([`super::plan`]). Only then is the source's record
//! replaced, at the same epoch. Killed in between, it is run again. Where the destination takes no writes, nothing can stop a
//! promotion that still runs but the operator, who has to say that there is none.

use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::{Ownership, Region, RegionError, own, own::Held, plan, records};
use crate::{
    checkpoint::{Checkpoint, ClusterId, Role},
    client::{EtcdError, Member},
    error::ReplicationError,
    options::{ReplicationOptions, prefixes},
    pipeline::Halt,
    run::Context,
    verify,
};

/// Tries, when somebody else writes in between.
const TRIES: u32 = 8;

/// What was done.
#[derive(Debug, Clone, Serialize)]
pub struct Aborted {
    /// The prefix at the source.
    pub prefix: String,
    /// Who owns it: the source's region.
    pub region: Region,
    /// Its epoch; 0 where no record was ever written.
    pub epoch: u64,
    /// Whether there was nothing to take back.
    pub already: bool,
    /// Whether the destination was told, so that a promotion that still runs cannot take it.
    pub destination_told: bool,
}

/// Gives the source its prefix back. With `given_up`, also when the destination takes no writes.
///
/// # Errors
/// When the promotion came to its end, when a third region is the owner, and what an operator must decide.
pub async fn abort(
    options: ReplicationOptions,
    actor: &str,
    given_up: bool,
) -> Result<Aborted, ReplicationError> {
    options.validate()?;
    let context = Context { patient: false, ..verify::context(options)? };
    let (from, id) = (prefixes(&context.options.rules).0, Uuid::now_v7());
    for _ in 0..TRIES {
        let source = context.source.connect().await?;
        let all = records::read_all(&context.source, &source).await?;
        let held = records::of(&all, &from);
        let fence = held.filter(|held| held.ownership.cluster != source.cluster);
        let region = context.region_there(source.cluster);
        let Some(fence) = fence else {
            let epoch = held.map_or(0, |held| held.ownership.epoch);
            return Ok(Aborted { prefix: from, region, epoch, already: true, destination_told: false });
        };
        context.has_followed(&source, fence).await?;
        let (epoch, destination_told) = match context.tell(source.cluster, fence, id).await {
            Ok(Some(epoch)) => (epoch, true),
            Ok(None) => return Err(plan::elsewhere(&from, &fence.ownership).into()),
            Err(ReplicationError::Halt(Halt::Superseded(_) | Halt::Promoted { .. })) => continue,
            Err(ReplicationError::Etcd(error)) if error.is_blocked() => {
                let why = error.to_string();
                // Whose record it is, is then known by the region's name alone.
                let other = context.options.destination_region.as_ref();
                if other.is_some_and(|region| *region != fence.ownership.region) {
                    return Err(plan::elsewhere(&from, &fence.ownership).into());
                }
                if !fence.ownership.pending {
                    return Err(completed(fence, "the source's record says so").into());
                }
                if !given_up {
                    let Ownership { actor, since, .. } = fence.ownership.clone();
                    return Err(RegionError::DestinationSilent { why, actor, since }.into());
                }
                tracing::warn!(why, "the destination was not told");
                (fence.ownership.epoch.saturating_add(1), false)
            }
            Err(error) => return Err(error),
        };
        let owner = Ownership::new(region.clone(), source.cluster, epoch, actor, Timestamp::now());
        let written = records::replace(&context.source, &source, (&from, Some(fence)), &owner, None).await?;
        if written.is_some() {
            return Ok(Aborted { prefix: from, region, epoch, already: false, destination_told });
        }
    }
    let (prefix, actor) = (from, "somebody".to_owned());
    Err(RegionError::Lost { prefix, actor, epoch: 0 }.into())
}

/// That the destination is the owner.
fn completed(fence: &Held, evidence: &'static str) -> RegionError {
    let Ownership { region, epoch, .. } = &fence.ownership;
    RegionError::Completed {
        region: region.to_string(),
        epoch: *epoch,
        evidence,
        key: own::key(&fence.prefix),
    }
}

// === impl Context ===

impl Context {
    /// An error where the source has followed whoever it is fenced for, at that epoch: nobody follows who is not the owner.
    async fn has_followed(&self, source: &Member, fence: &Held) -> Result<(), ReplicationError> {
        let Ownership { cluster, epoch, .. } = fence.ownership;
        let (from, to) = prefixes(&self.options.rules);
        let known = records::checkpoints(&self.source, source, cluster, (&from, &to)).await?;
        if known.iter().any(|known| known.epoch >= epoch) {
            return Err(completed(fence, "a replicator has brought the source what came after").into());
        }
        Ok(())
    }

    /// Has the destination know of a later epoch than the fence's. `None` when the fence is not for it.
    async fn tell(&self, source: ClusterId, fence: &Held, id: Uuid) -> Result<Option<u64>, ReplicationError> {
        let found = records::decode(self.destination.read().await?.0)?;
        let here = self.destination.member().await?;
        super::tell_apart(source, here.cluster)?;
        let Ownership { cluster, epoch: fenced, pending, .. } = fence.ownership;
        if here.cluster != cluster {
            return Ok(None);
        }
        let all = records::read_all(&self.destination.cluster, &here).await?;
        let owns = |held: &Held| held.ownership.cluster == cluster && held.ownership.epoch >= fenced;
        let primary = found.as_ref().is_some_and(|(checkpoint, _)| checkpoint.role == Role::Primary);
        // Whatever the stream was called by which it was promoted.
        if primary || records::of(&all, &prefixes(&self.options.rules).1).is_some_and(owns) {
            return Err(completed(fence, "the destination says so").into());
        }
        let Some((mut checkpoint, at)) = found else {
            if !pending {
                return Err(completed(fence, "the source's record says so").into());
            }
            // Nobody can take what was never replicated to.
            return Ok(Some(fenced.saturating_add(1)));
        };
        let epoch = fenced.max(checkpoint.epoch).saturating_add(1);
        let later = Checkpoint { holder: id, epoch, logged: None, ..checkpoint.clone() };
        self.settle(at, &mut checkpoint, later).await?;
        Ok(Some(epoch))
    }
}

// === impl EtcdError ===

impl EtcdError {
    /// Whether it takes no writes until somebody does something about it.
    pub(crate) const fn is_blocked(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::NoSpace(_) | Self::TooLarge { .. })
    }
}
