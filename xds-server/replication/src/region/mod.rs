//! Who owns a prefix: which region's word counts, who may take it over, and what becomes of the one that lost it. The decisions
//! are pure ([`own`], [`plan`], [`standing`]); the rest carries them out on real etcds.
//!
//! # Two records, one owner
//!
//! Each region's etcd says who owns a prefix *as far as it knows*, under [`own::key`]: a region, the cluster ID of its etcd, and an
//! epoch that only grows. Whoever writes under the prefix (our own commands do) compares that record in the same transaction; a
//! record that names another cluster refuses the write, and no record at all means that nobody replicates here.
//!
//! etcd makes that ID of its members' peer URLs and `--initial-cluster-token`, at its birth: two that were made alike have the
//! same, and none of the records would tell them apart. Two such etcds are refused, here and by the replicators. An etcd restored
//! from a snapshot has the ID of the flags that it was restored with, and so it may be its former self at an earlier moment:
//! that is found out by what it had, or does not know any more (`trust`, `witness`, `anchors`), and not by its ID.
//!
//! The destination's checkpoint is the second record, and the fence of the replicators: it is changed in the same transaction as
//! the first. Epochs order what two etcds say about the same prefix.
//!
//! # States of a prefix, seen from the destination
//!
//! ```text
//!             promote, source answers            source at the fence = destination, key by key
//!  replica ─────────────────────────────> fenced ────────────────────────────────────────────> primary
//!   ^  │          (source: fenced)         │  ^                                                 │  ^
//!   │  │                                   │  └── killed at any step: run it again, it goes on ─┘  │
//!   │  │ promote, source silent, operator says yes; what the spool has beyond the destination       │
//!   │  └──────────────────────────────────────────────────────────────────────────────────────────┘
//!   │                                                              │
//!   └── the other region is primary at a later epoch, and a replicator runs from there to here:
//!       fenced first, what nobody else has is exported, then made equal
//! ```
//!
//! Nothing of this is remembered by the program that does it: each step is decided from what both etcds say, and is one
//! transaction that compares what it was decided from. Killed at any step and run again, it goes on where it was.

mod abort;
mod converge;
mod enter;
mod export;
mod forward;
mod grace;
pub mod own;
pub mod plan;
mod promote;
pub(crate) mod records;
pub mod standing;
mod tail;
mod trust;
mod unfinished;

pub use abort::{Aborted, abort};
pub use converge::{Converged, converge};
pub use forward::Silence;
pub use own::{Ownership, Region};
pub use promote::{Assessment, Estimate, Promoted, assess, assess_saying, demote, promote, promote_assessed};
pub use unfinished::Unfinished;

use crate::{client::EtcdError, error::ReplicationError};

/// Why ownership cannot change hands, or a replicator may not begin. Each finishes the sentence "failed to ...".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegionError {
    /// A record that is none.
    #[error(
        "read the ownership record {key}: {why}. Nothing was changed. Look at it with etcdctl; delete it if nobody replicates this prefix"
    )]
    Unreadable {
        /// Which.
        key: String,
        /// Why.
        why: String,
    },
    /// No replicator was ever here.
    #[error(
        "promote the destination: nothing was ever replicated to it (no checkpoint of stream {stream:?}). Check --stream and --destination"
    )]
    NeverReplicated {
        /// The stream.
        stream: String,
    },
    /// The source is another one.
    #[error(
        "promote the destination: it is a replica of cluster {known} and the source that answers is cluster {found}. Check --source"
    )]
    OtherSource {
        /// Whose replica it is.
        known: crate::checkpoint::ClusterId,
        /// Who answers.
        found: crate::checkpoint::ClusterId,
    },
    /// Nothing tells the two etcds apart.
    #[error(
        "tell the two etcds apart: both are cluster {id}. etcd makes that ID of the members' peer URLs and --initial-cluster-token, and an \
             owner is known by it. Give each region a token of its own when its etcd is made (`--initial-cluster-token west`); one that is there \
             gets another ID by `etcdutl snapshot restore --initial-cluster-token ...`. Nothing was changed"
    )]
    Alike {
        /// The ID of both.
        id: crate::checkpoint::ClusterId,
    },
    /// The source lost what the destination has of it.
    #[error(
        "drain the source: it is at revision {head}, and the destination holds revision {known} of it. It was rebuilt or restored, and to drain \
             it would take from the destination what the source has lost. Nothing was changed. Stop that etcd, and run this again: the \
             destination is promoted without it"
    )]
    SourceWentBack {
        /// Its revision.
        head: crate::revision::Revision,
        /// What it once had.
        known: crate::revision::Revision,
    },
    /// The source is not what it was.
    #[error(
        "drain the source: the destination holds its revision {known}, and {why}. To drain it would take from the destination what the source \
             has lost. Nothing was changed. Stop that etcd, and run this again: the destination is promoted without it"
    )]
    SourceDiffers {
        /// Its revision that the destination holds.
        known: crate::revision::Revision,
        /// What is not the same.
        why: String,
    },
    /// Nobody can tell whether the source is what it was.
    #[error(
        "drain the source: nothing tells whether it is still the etcd that was replicated. The destination holds its revision {known}, which \
             is compacted there, and no change log here has a last change that it still has; one that was rebuilt would take from the \
             destination what it has lost. Nothing was changed. Let the replicator catch up first (`zonebreak replicate status --wait`), or \
             run this where its change log is (--spool). If that etcd was rebuilt or restored, stop it and run this again: the destination \
             is promoted without it"
    )]
    SourceForgot {
        /// Its revision that the destination holds.
        known: crate::revision::Revision,
    },
    /// A third region has it, or is getting it.
    #[error(
        "change the owner of {prefix:?}: region {region} has it or is being promoted (epoch {epoch}, by {actor} at {since})"
    )]
    Elsewhere {
        /// The prefix.
        prefix: String,
        /// Who.
        region: String,
        /// Its epoch.
        epoch: u64,
        /// Who did that.
        actor: String,
        /// When.
        since: jiff::Timestamp,
    },
    /// Somebody else did the same at the same time.
    #[error(
        "change the owner of {prefix:?}: {actor} did so at the same moment (epoch {epoch}). Look at it with `zonebreak replicate status`"
    )]
    Lost {
        /// The prefix.
        prefix: String,
        /// Who.
        actor: String,
        /// The epoch that they gave it.
        epoch: u64,
    },
    /// The source does not answer, and the operator did not say that it is lost.
    #[error(
        "drain the source: it does not answer ({why}). Run it again: it then says what would be lost and asks"
    )]
    SourceSilent {
        /// Why.
        why: String,
    },
    /// It answers again.
    #[error("promote without the source: it answers again. Run it again, and nothing is lost")]
    SourceBack,
    /// The destination is between two revisions, and nothing here can bring it to one.
    #[error(
        "promote the destination: it is between two revisions of the source ({torn}) and the spool does not hold what is missing. \
             Run it where the spool is (--spool), or, if a mixture of two revisions is better than none, with --accept-torn"
    )]
    Torn {
        /// What is missing.
        torn: String,
    },
    /// A replicator has what the destination lacks, and does not write it.
    #[error(
        "roll the destination forward: the replicator that runs on the change log {spool} has stood still for {seconds} s, with {revisions} \
             revisions that the destination has not; to promote it now would give them up. Nothing was changed. Its log says what is in the \
             way; stop it, and run this again: they are written first"
    )]
    Unwritten {
        /// The directory.
        spool: String,
        /// How many.
        revisions: u64,
        /// Since when it stands still.
        seconds: u64,
    },
    /// A replicator elsewhere does not come to an end.
    #[error(
        "promote the destination: a replicator elsewhere still writes to it, after {seconds} s. Nothing was changed. Run this where its change \
             log is (--spool), or stop it; then run this again"
    )]
    Busy {
        /// How long it was waited for.
        seconds: u64,
    },
    /// Nobody was promoted.
    #[error(
        "demote the source: the destination was not promoted (epoch {epoch}); `zonebreak replicate promote` does both, and with \
             --abort it takes back a promotion that did not come to its end"
    )]
    NotPromoted {
        /// Its epoch.
        epoch: u64,
    },
    /// It came to its end.
    #[error(
        "take the promotion back: it came to its end, and region {region} is the owner (epoch {epoch}; {evidence}). Nothing was changed. To move \
             the owner back, replicate from there to here and promote in that direction: without loss while it answers, and telling what \
             may be lost where it is gone. Only if no replicator ever ran in that direction and it is gone for good, delete {key} at the source \
             with etcdctl: what that region took in as the owner is lost then"
    )]
    Completed {
        /// The owner.
        region: String,
        /// Since this epoch.
        epoch: u64,
        /// By what that is known.
        evidence: &'static str,
        /// The source's record.
        key: String,
    },
    /// A promotion that still runs cannot be told that it was taken back.
    #[error(
        "take the promotion back: the destination takes no writes, and a promotion that still runs could take it afterwards, so that there \
             would be two owners ({why}). Nothing was changed. Make sure that no `zonebreak replicate promote` runs anywhere, and that the one \
             of {actor} at {since} never said that the destination is the owner; then run this with --yes"
    )]
    DestinationSilent {
        /// Why.
        why: String,
        /// Who fenced the source.
        actor: String,
        /// When.
        since: jiff::Timestamp,
    },
    /// The two directions overlap.
    #[error(
        "begin: {prefix:?} of the source is itself owned by region {region} through another link (record {key}, epoch {epoch}), which is \
             the destination of this one: the two would write each other's keys for ever. Two regions may replicate to each other only prefixes \
             that do not overlap"
    )]
    Overlap {
        /// The prefix of the other link.
        prefix: String,
        /// Its owner.
        region: String,
        /// Its epoch.
        epoch: u64,
        /// The record.
        key: String,
    },
    /// Two links into one destination overlap.
    #[error(
        "begin: another link already replicates {prefix:?} of region {region} to this destination (record {key}). Prefixes of two links must not \
             overlap; if that link is gone for good, delete that key at the destination"
    )]
    Taken {
        /// Its prefix.
        prefix: String,
        /// Its owner.
        region: String,
        /// The record.
        key: String,
    },
    /// The destination owns what it is to be given.
    #[error(
        "begin: the destination owns {prefix:?} itself (region {region}, epoch {epoch}). To replicate to it nevertheless and lose what only it has, \
             run once with --overwrite"
    )]
    Owned {
        /// The prefix.
        prefix: String,
        /// Its region.
        region: String,
        /// Its epoch.
        epoch: u64,
    },
    /// A name that cannot be one.
    #[error("use {0:?} as the name of a region: it is 1 to 63 letters, digits, '-', '_' and '.'")]
    Name(String),
    /// The divergent tail could not be saved, so nothing is overwritten.
    #[error("save what only the returning region has to {path}: {why}. Nothing was overwritten")]
    Export {
        /// Where to.
        path: String,
        /// Why.
        why: String,
    },
}

impl From<RegionError> for ReplicationError {
    fn from(error: RegionError) -> Self {
        Self::Region(Box::new(error))
    }
}

/// Makes sure that the IDs by which owners are known are two.
pub(crate) fn tell_apart(
    source: crate::checkpoint::ClusterId,
    destination: crate::checkpoint::ClusterId,
) -> Result<(), RegionError> {
    if source == destination { Err(RegionError::Alike { id: source }) } else { Ok(()) }
}

/// Whether an etcd does not let us see something, which some users may not.
fn denied(error: &EtcdError) -> bool {
    matches!(error, EtcdError::Denied { .. })
}

/// `None` where the etcd has compacted what was asked for.
pub(crate) fn unless_compacted<T>(found: Result<T, EtcdError>) -> Result<Option<T>, EtcdError> {
    match found {
        Err(EtcdError::Compacted { .. }) => Ok(None),
        other => other.map(Some),
    }
}
