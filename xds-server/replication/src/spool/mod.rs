//! The change log on disk: every revision of the source that concerns us, whole and in order, safe before anything of it is
//! written to the destination. What a restart goes on with, and what a restore to a point in time will read.
//!
//! ```text
//! DIR/lock              held while a replicator runs; two never share a spool
//! DIR/holder            who this replicator is to others, for as long as the spool lives
//! DIR/prefix            what every key in it starts with
//! DIR/anchors.json      keys by which its source is known again after it compacted what is in the log
//! DIR/0000000001.seg    header, frames, zeros to the end: 64 MiB at most, allocated in advance so that a write changes no metadata
//! DIR/0000000002.seg    each header holds the digest of all frames before it
//! ```
//!
//! A group of revisions is written and synchronised (`fdatasync`) together: whatever has arrived while the last group was
//! being written. The first frame that is not whole ends the log:
//!
//! - with nothing behind it that was written after it had been synchronised, it is the tail that a crash or a worn disk tore;
//!   it is cut off, and the source is asked for it again;
//! - otherwise it is damage in the middle, the log cannot be trusted, and opening fails with the place and the way out.
//!
//! The disk it takes is bounded. What the destination has is dropped from the old end when room is needed; when everything is
//! still needed the spool is *full*: it takes nothing more, and the replicator lets go of the source and brings the destination
//! up by comparison later. The source never waits for us. What the destination has may also be bounded in time.

mod frame;
mod history;
mod open;
mod reader;
mod segment;
mod writer;

pub use frame::Entry;
pub use history::History;
pub use open::Recovery;
pub(crate) use open::in_use;
pub(crate) use open::note_prefix;
pub use reader::Reader;
pub(crate) use reader::{FramePlace, LogFile};
pub use segment::{MIN_BYTES, SEGMENT_BYTES};
pub use writer::Spool;

use std::{io, path::PathBuf, time::Duration};

use crate::{checkpoint::ClusterId, revision::Revision};

/// What a spool is told.
#[derive(Debug, Clone)]
pub struct SpoolOptions {
    /// Where it lies; made when absent.
    pub directory: PathBuf,
    /// The most that it may take on disk.
    pub max_bytes: u64,
    /// Size of a segment.
    pub segment_bytes: u64,
    /// How long what the destination has stays at most; while there is room, when 0. Segments go whole, when another begins.
    pub keep_for: Duration,
}

/// How far the log is safe on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    /// The segment that is written to.
    pub segment: u64,
    /// The end of its last frame.
    pub offset: u64,
    /// The last revision in the log, or up to which it knows that there is nothing.
    pub revision: Revision,
}

/// Why a spool cannot be used. Each finishes the sentence "failed to ...".
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
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
    /// Another process uses it.
    #[error("use the spool {}: another replicator runs on it. Each stream needs a directory of its own", .0.display())]
    Locked(PathBuf),
    /// Bytes that nobody wrote.
    #[error(
        "read the spool {}: it is damaged at byte {offset} ({why}); what is before that is intact. Replication itself loses \
         nothing: run once with --reset-spool, which puts the spool aside and compares both sides instead",
        path.display()
    )]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        why: String,
    },
    /// A segment between others is gone.
    #[error(
        "read the spool {}: segment {segment} is missing. Put it back, or run once with --reset-spool, which puts the spool \
         aside and compares both sides instead",
        directory.display()
    )]
    Missing {
        /// The spool.
        directory: PathBuf,
        /// The number of the segment.
        segment: u64,
    },
    /// The log of another source.
    #[error(
        "use the spool {}: it holds the changes of cluster {found} and the source is cluster {wanted}. Give this source another \
         directory, or run once with --reset-spool if the source was rebuilt",
        directory.display()
    )]
    Foreign {
        /// The spool.
        directory: PathBuf,
        /// Whose changes are in it.
        found: ClusterId,
        /// Whose should be.
        wanted: ClusterId,
    },
    /// What is asked for was dropped.
    #[error(
        "read the spool {} from revision {after} on: it begins after revision {begins}, and what was before that was dropped for \
         want of room. Try again; where that does not help, replicate.spool_mib is too small for what is asked of it",
        directory.display()
    )]
    Forgotten {
        /// The spool.
        directory: PathBuf,
        /// The revision after which it was to be read.
        after: Revision,
        /// The one after which it begins.
        begins: Revision,
    },
    /// No room, and nothing that may go.
    #[error("take in more changes: the spool is full ({bytes} bytes) and the destination needs all of it")]
    Full {
        /// What it takes.
        bytes: u64,
    },
}

// === impl SpoolError ===

impl SpoolError {
    fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| Self::Io { what, path, error }
    }
}

// === impl SpoolOptions ===

impl SpoolOptions {
    /// A spool in `directory` of at most `max_bytes`, in eight segments or more, so that little is dropped at a time.
    pub fn new(directory: impl Into<PathBuf>, max_bytes: u64) -> Self {
        let segment_bytes = (max_bytes / 8).min(SEGMENT_BYTES);
        Self { directory: directory.into(), max_bytes, segment_bytes, keep_for: Duration::ZERO }
    }
}

#[cfg(test)]
mod tests;
