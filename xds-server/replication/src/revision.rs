//! A whole revision of the source: what one transaction there changed. The unit of everything here, never split and never
//! reordered. Knows neither the destination nor a filter.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A revision of an etcd: counts its transactions, whatever keys they touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub i64);

/// What happened to one key.
#[derive(Clone, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: Vec<u8>,
    /// What happened to it.
    pub op: Op,
}

/// What happens to a key.
#[derive(Clone, PartialEq, Eq)]
pub enum Op {
    /// It has this value from now on.
    Put {
        /// The value.
        value: Vec<u8>,
        /// The lease that it lives by; 0 for none.
        lease: i64,
    },
    /// It is gone.
    Delete,
}

/// Every change that one transaction of the source made to the keys watched, at most one for each key.
#[derive(Clone, PartialEq, Eq)]
pub struct SourceRevision {
    /// Its number.
    pub revision: Revision,
    /// When it reached us, in milliseconds since 1970 by our clock: etcd keeps no times.
    pub seen_ms: u64,
    /// The changes, in the order in which etcd told them.
    pub changes: Vec<Change>,
}

// === impl Revision ===

impl Revision {
    /// The one after it.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The one before it.
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// How many revisions lie between `earlier` and this one; 0 when it is not earlier.
    pub fn since(self, earlier: Self) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl Op ===

impl Op {
    /// Bytes of the value.
    pub fn size(&self) -> usize {
        match self {
            Self::Put { value, .. } => value.len(),
            Self::Delete => 0,
        }
    }
}

impl fmt::Debug for Op {
    /// Values may be secrets: their length alone is shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put { value, lease: 0 } => write!(f, "put {} bytes", value.len()),
            Self::Put { value, lease } => write!(f, "put {} bytes under lease {lease:x}", value.len()),
            Self::Delete => f.write_str("delete"),
        }
    }
}

// === impl Change ===

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.key.escape_ascii(), self.op)
    }
}

// === impl SourceRevision ===

impl fmt::Debug for SourceRevision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.revision, self.changes)
    }
}
