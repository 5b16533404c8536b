//! Snapshots of a prefix on disk, and any moment between them: the state of the nearest snapshot before it, and the change log
//! ([`crate::spool`]) from there on. Restored by difference, so that revisions go on and watches stay open.
//!
//! ```text
//!  source etcd ──listing──> snapshot r1000 ───┐                          ┌──> table of what would change (--dry-run)
//!                                             ├─ + log (1000, 1234] ──> moment ── compared with a live etcd ─┤
//!  change log  ──roll forward──> snapshot r2000                          └──> fenced transactions, until nothing differs
//! ```
//!
//! | module | what it is for |
//! |---|---|
//! | [`mod@format`] | one file: header, sorted entries, leases, digest, SHA-256 |
//! | [`catalog`] | the directory: whole files only, and which ones may go |
//! | [`moment`] | which snapshot and which piece of the log make a moment, or why none do |
//! | [`overlay`] | what the log changed since a snapshot: keys in memory, values where they lie |
//! | [`diff`] | two sorted states, and the steps from one to the other |
//! | [`save`], [`restore`] | reading an etcd into a file, and a moment into an etcd |
//! | [`keeper`] | snapshots from time to time, beside a replicator |
//!
//! The names in a snapshot and in the log are the source's. Keys of replication itself are in neither.

pub mod catalog;
pub mod diff;
mod error;
pub mod format;
pub mod keeper;
pub mod moment;
pub mod overlay;
pub mod restore;
pub mod save;

pub use error::SnapshotError;

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{options::RESERVED, revision::Revision};

/// A key and what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
    /// The revision that wrote it last.
    pub modified: Revision,
    /// The lease that it lives by; 0 for none.
    pub lease: i64,
}

/// How far a long work is, for whoever draws a bar. Written by one side and read by the other, never waited for.
#[derive(Debug, Default)]
pub struct Progress {
    /// Keys to look at; 0 while nobody knows.
    pub total: AtomicU64,
    /// Keys looked at.
    pub done: AtomicU64,
}

// === impl Progress ===

impl Progress {
    pub(crate) fn step(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn begin(&self, total: u64) {
        self.done.store(0, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }
}

/// Whether a key is part of the state: under the prefix, and not one of replication's own.
pub(crate) fn is_state(prefix: &str, key: &[u8]) -> bool {
    key.starts_with(prefix.as_bytes()) && !key.starts_with(RESERVED.as_bytes())
}
