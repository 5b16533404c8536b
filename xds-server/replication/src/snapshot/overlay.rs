//! What changed since a snapshot: the keys in memory, their values where they lie in the change log, so that a log of any size can
//! be laid over a snapshot. Reads the log; never writes it.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use super::{Item, SnapshotError};
use crate::{
    revision::{Op, Revision, SourceRevision},
    spool::{Entry, FramePlace, LogFile},
};

/// Keys that changed.
#[derive(Debug, Clone, Default)]
pub struct Overlay(BTreeMap<Vec<u8>, Option<Kept>>);

/// What a key is now.
#[derive(Debug, Clone)]
enum Kept {
    /// This.
    Here(Item),
    /// What is in the log there.
    Logged(Logged),
}

/// A value in the log.
#[derive(Debug, Clone)]
struct Logged {
    log: Arc<LogFile>,
    offset: u64,
    length: usize,
    crc: u32,
    modified: Revision,
    lease: i64,
}

// === impl Overlay ===

impl Overlay {
    /// Of entries that lie in no log.
    pub(super) fn of_items(items: Vec<Item>) -> Self {
        Self(items.into_iter().map(|item| (item.key.clone(), Some(Kept::Here(item)))).collect())
    }

    /// How many keys changed.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none did.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Goes on by a revision of the log that was read at `place`, as far as `ours` says so.
    pub(super) fn apply(&mut self, source: SourceRevision, place: &FramePlace, ours: impl Fn(&[u8]) -> bool) {
        let offsets: Vec<u64> = Entry::value_offsets(&source).collect();
        for (change, offset) in source.changes.into_iter().zip(offsets) {
            if !ours(&change.key) {
                continue;
            }
            let kept = match change.op {
                Op::Put { value, lease } => Some(Kept::Logged(Logged {
                    log: Arc::clone(&place.log),
                    offset: place.offset + offset,
                    length: value.len(),
                    crc: crc32c::crc32c(&value),
                    modified: source.revision,
                    lease,
                })),
                Op::Delete => None,
            };
            self.0.insert(change.key, kept);
        }
    }

    /// The first key after `passed`, or the very first.
    pub(super) fn after(&self, passed: Option<&[u8]>) -> Option<&[u8]> {
        let from = passed.map_or(Bound::Unbounded, Bound::Excluded);
        self.0.range::<[u8], _>((from, Bound::Unbounded)).next().map(|(key, _)| key.as_slice())
    }

    /// What a key is now; `None` when it is gone.
    ///
    /// # Errors
    /// When the log cannot be read any more.
    pub(super) fn item(&self, key: &[u8]) -> Result<Option<Item>, SnapshotError> {
        Ok(match self.0.get(key) {
            None | Some(None) => None,
            Some(Some(Kept::Here(item))) => Some(item.clone()),
            Some(Some(Kept::Logged(at))) => Some(Item {
                key: key.to_vec(),
                value: at.log.read(at.offset, at.length, at.crc)?,
                modified: at.modified,
                lease: at.lease,
            }),
        })
    }
}
