//! Why a snapshot cannot be made, read or restored: where, why and what to do. Formats only.

use std::{io, path::PathBuf};

use crate::{checkpoint::ClusterId, client::EtcdError, options::OptionsError, spool::SpoolError};

/// Why not. Each finishes the sentence "failed to ...".
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The disk failed.
    #[error("{what} {}: {error}", path.display())]
    Io {
        /// `read`, `write`, ...
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Not what was written.
    #[error(
        "use the snapshot {}: {why}. Nothing of it was used: take another one (`zonebreak snapshot ls`), or a copy of this one",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where and what.
        why: String,
    },
    /// Another process writes to the directory.
    #[error("write to {}: another snapshot is being made there; try again when it is done", .0.display())]
    Busy(PathBuf),
    /// No snapshot has this name.
    #[error("find a snapshot {name:?} in {}: there is {there}", directory.display())]
    Unknown {
        /// As given.
        name: String,
        /// Where.
        directory: PathBuf,
        /// What is there instead.
        there: String,
    },
    /// Neither snapshots nor log know that moment.
    #[error("find the state at {asked}: {why}. What can be restored: {ranges}")]
    NoMoment {
        /// What was asked for.
        asked: String,
        /// Why not.
        why: String,
        /// What could be asked for.
        ranges: String,
    },
    /// The change log cannot be read.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// An etcd.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// Settings that make no sense.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The wrong etcd.
    #[error(
        "restore into cluster {found}: the snapshot is of cluster {wanted}. If this etcd took that one's place, say --overwrite; \
         for a new etcd, say --into"
    )]
    Stranger {
        /// Whose state it is.
        wanted: ClusterId,
        /// Where it would go.
        found: ClusterId,
    },
    /// The wrong etcd to compare with.
    #[error(
        "compare with cluster {found}: the snapshot is of cluster {wanted}, and nothing can be said of another one"
    )]
    Elsewhere {
        /// Whose state it is.
        wanted: ClusterId,
        /// The one that answered.
        found: ClusterId,
    },
    /// It holds something already.
    #[error(
        "restore into an empty etcd: it holds {keys} keys under {prefix:?}. Restore in place with --etcd, which shows what would \
         change, or take another etcd"
    )]
    NotEmpty {
        /// How many.
        keys: u64,
        /// Where.
        prefix: String,
    },
    /// A replicator writes there.
    #[error(
        "restore here: stream {stream:?} makes this etcd what its source is, and would undo it. Restore the source, or promote \
         this etcd first"
    )]
    Replica {
        /// The stream.
        stream: String,
    },
    /// Another region owns what would be restored.
    #[error(
        "restore here: region {region} owns {prefix:?}, and this etcd is not the owner's. Restore it there, or make this region \
         the owner first (`zonebreak replicate promote`)"
    )]
    NotOwner {
        /// What is owned.
        prefix: String,
        /// By whom.
        region: String,
    },
    /// Somebody else writes.
    #[error("finish: {0}. What is there is partly restored: run the same command again")]
    Conflict(String),
    /// A part of the program ended that never should.
    #[error("go on: {0}")]
    Internal(String),
}

// === impl SnapshotError ===

impl SnapshotError {
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| Self::Io { what, path, error }
    }
}
