//! Why replication ended or could not begin, by what an operator can do about it. Formats; decides only what is tried again.

use crate::{
    checkpoint::{CheckpointError, ClusterId},
    client::EtcdError,
    options::{OptionsError, RESERVED},
    overlap::OverlapError,
    pipeline::Halt,
    region::RegionError,
    revision::Revision,
    spool::SpoolError,
};

/// Why replication ended. Each finishes the sentence "failed to ...".
#[derive(Debug, thiserror::Error)]
pub enum ReplicationError {
    /// Settings that make no sense.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// One of the two etcds.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// The spool.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The destination is not ours any more.
    #[error(transparent)]
    Halt(#[from] Halt),
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Keys under the prefix that nobody replicated there.
    #[error(
        "begin: the destination already holds {keys} keys under {prefix:?} and has no checkpoint. Choose another prefix, or run \
         once with --overwrite to make them what the source has, deleting what it has not; what is lost by that is saved beside the \
         spool first. (Had the destination been the owner before, it would be known as that, if this user may read {RESERVED} at the \
         source)"
    )]
    NotEmpty {
        /// How many.
        keys: i64,
        /// Where.
        prefix: String,
    },
    /// No replicator was ever here.
    #[error(
        "compare both sides: stream {stream}: nothing was ever replicated here. Check --stream and --destination, or start a \
         replicator"
    )]
    NothingHere {
        /// The stream.
        stream: String,
    },
    /// The checkpoint speaks of something else.
    #[error(
        "go on: the destination's checkpoint is of {what} {found}, and this is {wanted}. If that is meant, run once with \
         --overwrite, which compares both sides and makes the destination what this source has"
    )]
    Mismatch {
        /// `source cluster`, `destination cluster`, `prefixes`.
        what: &'static str,
        /// Theirs.
        found: String,
        /// Ours.
        wanted: String,
    },
    /// The source is at an earlier revision than it was.
    #[error(
        "trust the source: it is at revision {head}, and the destination holds revision {known} of it. It was restored from a \
         snapshot. If it is the truth nevertheless, run once with --overwrite --reset-spool"
    )]
    WentBack {
        /// Its revision.
        head: Revision,
        /// What it once had.
        known: Revision,
    },
    /// It is not the source that we knew.
    #[error("trust the source: {0}. If it was rebuilt, run once with --overwrite --reset-spool")]
    Strange(String),
    /// Nobody can tell whether it is the source that we knew.
    #[error(
        "trust the source: nothing tells whether it still is the etcd that was replicated. The destination holds its revision {known}, and \
         {why}; one that was rebuilt under its former cluster ID would take from the destination what it has lost. Nothing was changed. If \
         it is the same etcd, or is the truth nevertheless, run once with --overwrite, which saves what is overwritten or deleted beside the \
         spool first; if it was rebuilt, with --overwrite --reset-spool; if the destination is the truth, stop that etcd and promote the \
         destination (`zonebreak replicate promote`)"
    )]
    Unproven {
        /// Its revision that the destination holds.
        known: Revision,
        /// What was looked at.
        why: &'static str,
    },
    /// What is put back is written over again before it can be read.
    #[error(
        "make both sides equal: somebody else keeps writing under the prefix at the destination ({key} among others), which differs \
         after {tries} comparisons. Find that writer (`etcdctl watch {key}` there) and stop it"
    )]
    Contended {
        /// A key that differed in the last of them.
        key: String,
        /// How many.
        tries: usize,
    },
    /// Another region.
    #[error(transparent)]
    Region(Box<RegionError>),
    /// Two regions that both write.
    #[error(transparent)]
    Overlap(Box<OverlapError>),
    /// Two processes with one identity.
    #[error(
        "go on: another process writes to this destination with a copy of this spool. Stop one of the two, and give it a spool \
         of its own if it is to stand by"
    )]
    Twin,
}

impl From<OverlapError> for ReplicationError {
    fn from(error: OverlapError) -> Self {
        Self::Overlap(Box::new(error))
    }
}

// === impl ReplicationError ===

impl ReplicationError {
    /// Whether trying again may help.
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Etcd(error) => {
                !matches!(error, EtcdError::Denied { .. } | EtcdError::Refused { .. } | EtcdError::TooLong(_))
            }
            // The destination may have taken in meanwhile what is in the way, or the disk has room again.
            Self::Spool(SpoolError::Full { .. }) => true,
            // Until that writer pauses; each try brings what came from the source meanwhile.
            Self::Contended { .. } => true,
            // A standby takes over when the other one dies.
            Self::Halt(Halt::Superseded(_)) => true,
            _ => false,
        }
    }

    pub(crate) fn mismatch(what: &'static str, found: ClusterId, wanted: ClusterId) -> Self {
        Self::Mismatch { what, found: found.to_string(), wanted: wanted.to_string() }
    }
}
