//! What a promotion does next, decided from what both etcds say at this moment. Pure, and without a memory: who is killed and
//! runs again decides the same.
//!
//! ```text
//!  seen                                                                      next
//!  source answers, and its record does not name us at a later epoch          FenceSource   (one transaction at the source)
//!  ... names us, the destination is not known to be equal to the fence       Drain         (compare both sides there, write what differs)
//!  ... names us, and the destination is equal                                Take          (one transaction at the destination)
//!  source silent, operator said so; the spool is not yet rolled forward      Forward
//!  ... rolled forward                                                        Take
//!  destination is primary, and the source does not know of that epoch        FenceSource
//!  ... knows, but not that the promotion came to its end                     Confirm       (one transaction at the source)
//!  ... knows all, or is silent                                               Done
//! ```
//!
//! Why nothing is lost when the source answers: whoever compares the record in its transaction cannot write after the
//! fence's revision, and everything up to that revision is at the destination before it is taken.
//!
//! A source is fenced, and drained, only where it is known to be the one that was replicated (`super::trust`). A fence is put up
//! only after the destination has taken a write of ours: while it stands, nobody may write. What it takes to put it down again is in
//! [`super::abort()`].

use super::{
    RegionError,
    own::{Held, Ownership},
};
use crate::{
    checkpoint::{Checkpoint, ClusterId, Role},
    revision::Revision,
};

/// What both etcds say.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The destination's checkpoint.
    pub checkpoint: Checkpoint,
    /// The destination's etcd.
    pub here: ClusterId,
    /// The destination's record of the prefix.
    pub own_here: Option<Held>,
    /// The source.
    pub source: SourceSeen,
    /// The source's revision that the destination was found or made equal to, key by key, since this promotion began, and the
    /// epoch of the fence that it was drained to.
    pub drained: Option<(Revision, u64)>,
    /// Whether what the spool has more than the destination was written there.
    pub forwarded: bool,
    /// Whether the operator gave the source up.
    pub given_up: bool,
}

/// The source, as it was found.
#[derive(Debug, Clone)]
pub enum SourceSeen {
    /// It answers.
    Answers {
        /// Which etcd.
        cluster: ClusterId,
        /// Its record of the prefix.
        own: Option<Held>,
    },
    /// It does not; why.
    Silent(String),
}

/// The next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Have the source's record name the destination, at this epoch.
    FenceSource(u64),
    /// Make the destination what the source was at the fence, which is this revision.
    Drain(Revision),
    /// Write to the destination what the spool has more.
    Forward,
    /// Make the destination the owner, at this epoch.
    Take(u64),
    /// Have the source know that it is: nobody takes the promotion back from then on.
    Confirm,
    /// It is.
    Done,
}

/// What comes next.
///
/// # Errors
/// What an operator must decide.
pub fn next(seen: &Seen, prefix: &str) -> Result<Step, RegionError> {
    let (checkpoint, here) = (&seen.checkpoint, seen.here);
    let owner =
        |held: &Option<Held>| held.as_ref().map(|held| (held.ownership.cluster, held.ownership.epoch));
    let latest = owner(&seen.own_here).map_or(0, |(_, epoch)| epoch).max(checkpoint.epoch);
    match &seen.source {
        SourceSeen::Answers { cluster, .. } if *cluster != checkpoint.source_cluster => {
            Err(RegionError::OtherSource { known: checkpoint.source_cluster, found: *cluster })
        }
        SourceSeen::Answers { cluster, own } => {
            let known = owner(own);
            if checkpoint.role == Role::Primary {
                return match own {
                    Some(held)
                        if held.ownership.cluster == here && held.ownership.epoch >= checkpoint.epoch =>
                    {
                        Ok(if held.ownership.pending { Step::Confirm } else { Step::Done })
                    }
                    Some(held) if held.ownership.cluster != here && held.ownership.cluster != *cluster => {
                        Err(elsewhere(prefix, &held.ownership))
                    }
                    // Promoted once, and given up since: what the source took in later is not here.
                    Some(held)
                        if held.ownership.cluster == *cluster && held.ownership.epoch > checkpoint.epoch =>
                    {
                        Err(elsewhere(prefix, &held.ownership))
                    }
                    _ => Ok(Step::FenceSource(known.map_or(0, |(_, epoch)| epoch).max(checkpoint.epoch))),
                };
            }
            if seen.given_up && known.is_none_or(|(owner, _)| owner != here) {
                return Err(RegionError::SourceBack);
            }
            match (own, known) {
                (Some(held), Some((owner, epoch))) if owner == here && epoch > latest => {
                    let fence = Revision(held.mod_revision);
                    let equal = seen.drained.is_some_and(|(drained, _)| drained >= fence);
                    Ok(if equal { Step::Take(epoch) } else { Step::Drain(fence) })
                }
                (Some(held), Some((owner, _))) if owner != here && owner != *cluster => {
                    Err(elsewhere(prefix, &held.ownership))
                }
                (_, known) => {
                    let epoch = known.map_or(0, |(_, epoch)| epoch).max(latest);
                    Ok(Step::FenceSource(epoch.saturating_add(1)))
                }
            }
        }
        SourceSeen::Silent(_) if checkpoint.role == Role::Primary => Ok(Step::Done),
        // Everything up to the fence is here already: that the source fell silent since changes nothing. Unless somebody took the
        // fence back, who says so here by a later epoch.
        SourceSeen::Silent(why) => match seen.drained {
            Some((_, epoch)) if epoch > latest => Ok(Step::Take(epoch)),
            _ if !seen.given_up => Err(RegionError::SourceSilent { why: why.clone() }),
            _ if !seen.forwarded => Ok(Step::Forward),
            _ => Ok(Step::Take(latest.saturating_add(1))),
        },
    }
}

/// That another region has it.
pub(super) fn elsewhere(prefix: &str, found: &Ownership) -> RegionError {
    RegionError::Elsewhere {
        prefix: prefix.to_owned(),
        region: found.region.to_string(),
        epoch: found.epoch,
        actor: found.actor.clone(),
        since: found.since,
    }
}

#[cfg(test)]
mod tests;
