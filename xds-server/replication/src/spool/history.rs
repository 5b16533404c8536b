//! A spool as somebody else sees it: read to where it ended at one moment, while its replicator goes on writing or is not there
//! at all. Takes no lock and changes nothing.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use tokio::sync::watch;

use super::{Reader, SpoolError, Tail, open, segment};
use crate::{checkpoint::ClusterId, revision::Revision};

/// A segment that is written to while it is read looks damaged for a moment.
const TRIES: u32 = 5;

/// A log up to a moment.
#[derive(Debug, Clone)]
pub struct History {
    directory: PathBuf,
    /// Whose changes these are.
    pub cluster: ClusterId,
    /// The revision after which the log begins.
    pub begins_after: Revision,
    /// What every key in it starts with, where its replicator noted that.
    pub prefix: Option<Vec<u8>>,
    /// The revision after which its last segment begins.
    recent: Revision,
    tail: Tail,
}

// === impl History ===

impl History {
    /// Looks at the spool in `directory`; `None` when nothing was ever written there.
    ///
    /// # Errors
    /// When it is damaged or the disk fails.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Option<Self>, SpoolError> {
        let directory = directory.into();
        for _ in 1..TRIES {
            match Self::look(directory.clone()) {
                // Written to, or dropped for want of room, while we looked.
                Err(SpoolError::Damaged { .. } | SpoolError::Io { .. }) => {
                    thread::sleep(Duration::from_millis(50));
                }
                other => return other,
            }
        }
        Self::look(directory)
    }

    fn look(directory: PathBuf) -> Result<Option<Self>, SpoolError> {
        if !directory.exists() {
            return Ok(None);
        }
        let numbers = segment::list(&directory)?;
        let (Some(first), Some(last)) = (numbers.first(), numbers.last()) else { return Ok(None) };
        let (first, last) = (open::peek(&directory, *first)?, open::peek(&directory, *last)?);
        let path = segment::name(&directory, last.number);
        let bytes = fs::read(&path).map_err(SpoolError::io("read", &path))?;
        let (offset, revision) = open::end(&bytes, &last).map_err(|(offset, why)| SpoolError::Damaged {
            path,
            offset,
            why: why.to_owned(),
        })?;
        let tail = Tail { segment: last.number, offset, revision };
        let prefix = fs::read(directory.join(open::PREFIX)).ok();
        let (cluster, begins_after, recent) = (last.cluster, first.after, last.after);
        Ok(Some(Self { directory, cluster, begins_after, prefix, recent, tail }))
    }

    /// Where it lies.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The last revision in it.
    pub const fn through(&self) -> Revision {
        self.tail.revision
    }

    /// Whether every change under `prefix` is in it.
    pub fn covers(&self, prefix: &str) -> bool {
        self.prefix.as_ref().is_none_or(|own| prefix.as_bytes().starts_with(own))
    }

    /// What its last segment has, in order.
    pub(crate) fn recent(&self) -> Reader {
        self.reader(self.recent)
    }

    /// What comes after `after`, in order.
    pub fn reader(&self, after: Revision) -> Reader {
        Reader::new(self.directory.clone(), after, watch::Sender::new(self.tail).subscribe())
    }
}
