//! Makes transactions out of revisions: as many whole ones as fit, the last value of each key. A transaction that ends at a
//! revision leaves the destination exactly as the source was at that revision, whatever was skipped on the way. A revision that
//! is too large for one transaction comes in parts, and says so. Pure.
//!
//! Several revisions that are small enough each may be more together than etcd allows in one list: they go in groups, each a
//! transaction inside the one that is carried out, and are one revision of the destination all the same. Only one transaction is on
//! its way at a time, so what fits into one is what a round trip to a destination far away brings.

use std::collections::{HashMap, VecDeque};

use crate::{
    revision::{Change, Op, Revision},
    rules::Mapped,
};

/// What a transaction of the destination may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Operations, the checkpoint not counted. etcd's `--max-txn-ops` is 128 by default, and the checkpoint takes one.
    pub operations: usize,
    /// Bytes of keys and values. etcd refuses requests over 1.5 MiB by default (`--max-request-bytes`).
    pub bytes: usize,
}

/// What one or more whole revisions come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The revision that the destination holds afterwards.
    pub through: Revision,
    /// When that reached us, in milliseconds since 1970.
    pub seen_ms: u64,
    /// When the oldest of them did.
    pub oldest_ms: u64,
    /// How many revisions with something in them.
    pub revisions: u64,
    /// Bytes of the keys and values that were taken, before they were merged.
    pub taken_bytes: usize,
    /// The transactions: one, unless a single revision is larger than that.
    pub parts: Vec<Vec<Change>>,
}

/// What one operation costs beside its key and value: tags and lengths of the protobuf around it.
const OVERHEAD: usize = 32;

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self { operations: 127, bytes: 1 << 20 }
    }
}

impl Limits {
    fn allows(&self, operations: usize, bytes: usize) -> bool {
        operations <= self.operations && bytes <= self.bytes
    }

    /// Operations of a group: etcd counts what is inside a transaction together with the list that it is in, and not with its
    /// neighbours there (`checkTxnRequest` in etcd's `api/v3rpc/key.go`). So half of its limit is for a group.
    pub fn group(&self) -> usize {
        self.operations.div_ceil(2)
    }

    /// Operations of whole revisions that fit into one transaction in groups, the checkpoint beside them not counted.
    pub fn grouped(&self) -> usize {
        let groups = self.operations.saturating_sub(self.group());
        groups.saturating_mul(self.group()).max(self.operations)
    }
}

// === impl Batch ===

impl Batch {
    /// Takes the whole revisions from the front of `pending` that fit into one transaction together; the first one in any case.
    /// `None` when there is nothing pending.
    pub fn take(pending: &mut VecDeque<Mapped>, limits: Limits) -> Option<Self> {
        let first = pending.pop_front()?;
        let mut batch = Self {
            through: first.revision,
            seen_ms: first.seen_ms,
            oldest_ms: first.seen_ms,
            revisions: u64::from(!first.changes.is_empty()),
            taken_bytes: first.size(),
            parts: Vec::new(),
        };
        let mut merged = Merged::default();
        merged.add(first.changes);
        if !limits.allows(merged.changes.len(), merged.bytes) {
            batch.parts = merged.split(limits);
            return Some(batch);
        }
        while let Some(next) = pending.front() {
            let (operations, bytes) = merged.with(&next.changes);
            // What is too large for a list comes alone.
            if next.changes.len() > limits.operations || operations > limits.grouped() || bytes > limits.bytes
            {
                break;
            }
            if let Some(next) = pending.pop_front() {
                batch.through = next.revision;
                batch.seen_ms = next.seen_ms;
                batch.taken_bytes += next.size();
                batch.revisions += u64::from(!next.changes.is_empty());
                merged.add(next.changes);
            }
        }
        batch.parts.push(merged.changes);
        Some(batch)
    }

    /// Whether the destination is between two revisions until the last part is written.
    pub fn is_staged(&self) -> bool {
        self.parts.len() > 1
    }
}

/// The last change of each key, in the order in which the keys first came.
#[derive(Debug, Default)]
struct Merged {
    changes: Vec<Change>,
    at: HashMap<Vec<u8>, usize>,
    bytes: usize,
}

// === impl Merged ===

impl Merged {
    fn add(&mut self, changes: Vec<Change>) {
        for change in changes {
            self.bytes += cost(&change.key, &change.op);
            match self.at.get(&change.key).and_then(|at| self.changes.get_mut(*at)) {
                Some(known) => {
                    self.bytes -= cost(&known.key, &known.op);
                    known.op = change.op;
                }
                None => {
                    self.at.insert(change.key.clone(), self.changes.len());
                    self.changes.push(change);
                }
            }
        }
    }

    /// Operations and bytes with these as well; never less than it will be.
    fn with(&self, changes: &[Change]) -> (usize, usize) {
        let new = changes.iter().filter(|change| !self.at.contains_key(&change.key)).count();
        let bytes: usize = changes.iter().map(|change| cost(&change.key, &change.op)).sum();
        (self.changes.len() + new, self.bytes + bytes)
    }

    fn split(self, limits: Limits) -> Vec<Vec<Change>> {
        let mut parts = Vec::new();
        let (mut part, mut bytes) = (Vec::new(), 0);
        for change in self.changes {
            let size = cost(&change.key, &change.op);
            if !part.is_empty() && !limits.allows(part.len() + 1, bytes + size) {
                parts.push(std::mem::take(&mut part));
                bytes = 0;
            }
            bytes += size;
            part.push(change);
        }
        parts.push(part);
        parts
    }
}

fn cost(key: &[u8], op: &Op) -> usize {
    key.len() + op.size() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type State = BTreeMap<Vec<u8>, Vec<u8>>;

    fn apply(state: &mut State, changes: &[Change]) {
        for Change { key, op } in changes {
            match op {
                Op::Put { value, .. } => state.insert(key.clone(), value.clone()),
                Op::Delete => state.remove(key),
            };
        }
    }

    fn revisions() -> impl Strategy<Value = Vec<Mapped>> {
        let change = (0_u8..30, prop::option::of(0_usize..40)).prop_map(|(key, value)| Change {
            key: vec![key],
            op: value.map_or(Op::Delete, |length| Op::Put { value: vec![key; length], lease: 0 }),
        });
        let keys = prop::collection::vec(change, 0..14).prop_map(|mut changes: Vec<Change>| {
            changes.sort_by(|a, b| a.key.cmp(&b.key));
            changes.dedup_by(|a, b| a.key == b.key);
            changes
        });
        prop::collection::vec((keys, 1_i64..4), 0..40).prop_map(|all| {
            let mut revision = 0;
            let mapped = all.into_iter().map(|(changes, step)| {
                revision += step;
                Mapped { revision: Revision(revision), seen_ms: 0, realtime: true, changes }
            });
            mapped.collect()
        })
    }

    #[test]
    fn a_hot_key_costs_one_operation_however_often_it_changes() {
        let hot = |revision: i64| Mapped {
            revision: Revision(revision),
            seen_ms: revision as u64,
            realtime: true,
            changes: vec![Change {
                key: b"hot".to_vec(),
                op: Op::Put { value: revision.to_string().into_bytes(), lease: 0 },
            }],
        };
        let mut pending: VecDeque<_> = (1..=1000).map(hot).collect();
        let batch = Batch::take(&mut pending, Limits::default()).unwrap();
        assert!(pending.is_empty());
        assert_eq!((batch.through, batch.revisions, batch.oldest_ms), (Revision(1000), 1000, 1));
        assert_eq!(batch.parts, [hot(1000).changes]);
    }

    #[test]
    fn half_of_what_etcd_allows_is_for_groups_and_half_for_what_is_in_them() {
        let of = |operations| {
            let limits = Limits { operations, bytes: 1 };
            (limits.group(), limits.grouped())
        };
        assert_eq!((of(127), of(9), of(2), of(1)), ((64, 4032), (5, 20), (1, 2), (1, 1)));
        for operations in 1..2_000 {
            let limits = Limits { operations, bytes: 1 };
            if limits.grouped() > operations {
                // The checkpoint is in the list beside the groups.
                let list = limits.grouped().div_ceil(limits.group()) + 1;
                assert!(list + limits.group() <= operations + 1, "{operations}");
            }
        }
    }

    #[test]
    fn a_value_of_the_largest_size_goes_alone() {
        let put = |revision, size| Mapped {
            revision: Revision(revision),
            seen_ms: 0,
            realtime: true,
            changes: vec![Change {
                key: vec![revision as u8],
                op: Op::Put { value: vec![0; size], lease: 0 },
            }],
        };
        let mut pending = VecDeque::from([put(1, 10), put(2, 1_400_000), put(3, 10)]);
        let taken: Vec<_> = std::iter::from_fn(|| Batch::take(&mut pending, Limits::default()))
            .map(|b| b.through.0)
            .collect();
        assert_eq!(taken, [1, 2, 3]);
    }

    proptest! {
        #[test]
        fn after_every_batch_the_destination_is_a_revision_of_the_source(
            revisions in revisions(), operations in 1_usize..12, bytes in 60_usize..400,
        ) {
            let limits = Limits { operations, bytes };
            let mut source: BTreeMap<i64, State> = BTreeMap::from([(0, State::new())]);
            let mut now = State::new();
            for revision in &revisions {
                apply(&mut now, &revision.changes);
                source.insert(revision.revision.0, now.clone());
            }
            let (mut pending, mut destination) = (VecDeque::from(revisions.clone()), State::new());
            let mut last = Revision(0);
            while let Some(batch) = Batch::take(&mut pending, limits) {
                prop_assert!(batch.through > last);
                last = batch.through;
                for part in &batch.parts {
                    let mut keys: Vec<_> = part.iter().map(|c| &c.key).collect();
                    keys.sort();
                    keys.dedup();
                    prop_assert_eq!(keys.len(), part.len(), "etcd refuses a key twice in one transaction");
                    prop_assert!(part.len() <= limits.grouped());
                    prop_assert!(part.len() <= operations || !batch.is_staged());
                    let size: usize = part.iter().map(|c| cost(&c.key, &c.op)).sum();
                    prop_assert!(size <= bytes || part.len() == 1);
                    apply(&mut destination, part);
                }
                prop_assert!(!batch.is_staged() || batch.revisions == 1, "only a single revision may be torn");
                prop_assert_eq!(&destination, &source[&batch.through.0]);
            }
            prop_assert_eq!(last, revisions.last().map_or(Revision(0), |r| r.revision));
        }
    }
}
