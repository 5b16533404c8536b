//! Walks over both sides in the order of their keys, each as of one revision, and tells where they differ. What the beginning,
//! a resync, a scrub and `replicate verify` have in common. Changes nothing.

use std::collections::BTreeSet;

use crate::{
    anchors::Sample,
    client::EtcdError,
    digest::Ledger,
    listing::Listing,
    revision::{Change, Op, Revision},
    rules::Rules,
};

/// A key that is not the same on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// The destination lacks it.
    Missing,
    /// It has another value.
    Value,
    /// It lives by another lease, or by none.
    Lease,
    /// The source does not have it.
    Extra,
}

/// A difference and what would mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong.
    pub difference: Difference,
    /// The change of the destination that makes it right.
    pub change: Change,
}

/// A walk over both sides.
pub(crate) struct Comparison<'a> {
    rules: &'a Rules,
    source: Listing,
    destination: Listing,
    wanted: Option<Entry>,
    there: Option<Entry>,
    started: bool,
    /// What the source has, under the destination's names.
    pub expected: Ledger,
    /// What the destination has.
    pub found: Ledger,
    /// Leases that the source's keys live by, as the destination shall have them.
    pub leases: BTreeSet<i64>,
    /// Some of the source's keys.
    pub sample: Sample,
}

/// What one side has under a key of the destination.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub lease: i64,
    /// The revision of its side that wrote it last.
    pub modified: Revision,
    /// Too old to be replicated: whatever the destination has under this name stays as it is.
    pub alone: bool,
}

// === impl Finding ===

impl Finding {
    /// Whether the destination lacks what a lease keeps alive at the source: its own has run out.
    pub(crate) const fn is_lapsed(&self) -> bool {
        matches!(self.difference, Difference::Missing)
            && matches!(self.change.op, Op::Put { lease, .. } if lease != 0)
    }

    /// Bytes of a request that mends it.
    pub(crate) fn size(&self) -> usize {
        self.change.key.len() + self.change.op.size() + 32
    }
}

// === impl Entry ===

impl From<etcd_client::KeyValue> for Entry {
    fn from(kv: etcd_client::KeyValue) -> Self {
        let (modified, lease) = (Revision(kv.mod_revision()), kv.lease());
        let (key, value) = kv.into_key_value();
        Self { key, value, lease, modified, alone: false }
    }
}

// === impl Comparison ===

impl<'a> Comparison<'a> {
    pub(crate) fn new(rules: &'a Rules, source: Listing, destination: Listing) -> Self {
        Self {
            rules,
            source,
            destination,
            wanted: None,
            there: None,
            started: false,
            expected: Ledger::default(),
            found: Ledger::default(),
            leases: BTreeSet::new(),
            sample: Sample::default(),
        }
    }

    /// The next difference; `None` when everything has been looked at.
    pub(crate) async fn next(&mut self) -> Result<Option<Finding>, EtcdError> {
        if !self.started {
            self.started = true;
            self.wanted = self.next_wanted().await?;
            self.there = self.next_there().await?;
        }
        loop {
            let (finding, take_wanted, take_there) = match (&self.wanted, &self.there) {
                (None, None) => return Ok(None),
                (wanted, there) => judge(wanted.as_ref(), there.as_ref()),
            };
            // What is left alone is right as it is.
            if let (Some(Entry { alone: true, .. }), Some(there), true, true) =
                (&self.wanted, &self.there, take_wanted, take_there)
            {
                self.expected.put(&there.key, &there.value);
            }
            if take_wanted {
                self.wanted = self.next_wanted().await?;
            }
            if take_there {
                self.there = self.next_there().await?;
            }
            match finding {
                // Where deletes are not replicated, the destination may have more.
                Some(Finding { difference: Difference::Extra, .. }) if !self.rules.deletes() => {}
                Some(finding) => return Ok(Some(finding)),
                None => {}
            }
        }
    }

    async fn next_wanted(&mut self) -> Result<Option<Entry>, EtcdError> {
        while let Some(kv) = self.source.next().await? {
            let created = Revision(kv.create_revision());
            let entry = Entry::from(kv);
            if let Some(key) = self.rules.map_key(&entry.key) {
                self.sample.offer(&entry.key, created, entry.modified);
                let alone = self.rules.leaves_alone(entry.modified);
                let entry = Entry { key, lease: self.rules.map_lease(entry.lease), alone, ..entry };
                if !alone {
                    self.expected.put(&entry.key, &entry.value);
                    self.leases.extend((entry.lease != 0).then_some(entry.lease));
                }
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    async fn next_there(&mut self) -> Result<Option<Entry>, EtcdError> {
        while let Some(kv) = self.destination.next().await? {
            if self.rules.owns(kv.key()) {
                let entry = Entry::from(kv);
                self.found.put(&entry.key, &entry.value);
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }
}

/// Compares the two entries that come next on either side, and says which of them are done with.
pub(crate) fn judge(wanted: Option<&Entry>, there: Option<&Entry>) -> (Option<Finding>, bool, bool) {
    let missing = |wanted: &Entry, difference| Finding {
        difference,
        change: Change {
            key: wanted.key.clone(),
            op: Op::Put { value: wanted.value.clone(), lease: wanted.lease },
        },
    };
    let extra = |there: &Entry| Finding {
        difference: Difference::Extra,
        change: Change { key: there.key.clone(), op: Op::Delete },
    };
    match (wanted, there) {
        (None, None) => (None, false, false),
        (Some(wanted), None) => ((!wanted.alone).then(|| missing(wanted, Difference::Missing)), true, false),
        (None, Some(there)) => (Some(extra(there)), false, true),
        (Some(wanted), Some(there)) => match wanted.key.cmp(&there.key) {
            std::cmp::Ordering::Less => {
                ((!wanted.alone).then(|| missing(wanted, Difference::Missing)), true, false)
            }
            std::cmp::Ordering::Greater => (Some(extra(there)), false, true),
            std::cmp::Ordering::Equal if wanted.alone => (None, true, true),
            std::cmp::Ordering::Equal if wanted.value != there.value => {
                (Some(missing(wanted, Difference::Value)), true, true)
            }
            std::cmp::Ordering::Equal if wanted.lease != there.lease => {
                (Some(missing(wanted, Difference::Lease)), true, true)
            }
            std::cmp::Ordering::Equal => (None, true, true),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type Side = BTreeMap<u8, (u8, i64)>;

    fn entries(side: &Side) -> Vec<Entry> {
        let entry = |(key, (value, lease)): (&u8, &(u8, i64))| Entry {
            key: vec![*key],
            value: vec![*value],
            lease: *lease,
            modified: Revision(1),
            alone: false,
        };
        side.iter().map(entry).collect()
    }

    fn side() -> impl Strategy<Value = Side> {
        prop::collection::btree_map(0_u8..24, (0_u8..2, 0_i64..2), 0..20)
    }

    proptest! {
        #[test]
        fn carrying_out_what_was_found_makes_the_sides_equal_and_no_more_is_found(a in side(), b in side()) {
            let (wanted, there) = (entries(&a), entries(&b));
            let (mut i, mut j, mut mended, mut findings) = (0, 0, b.clone(), 0);
            while i < wanted.len() || j < there.len() {
                let (finding, first, second) = judge(wanted.get(i), there.get(j));
                prop_assert!(first || second, "a walk goes on");
                i += usize::from(first);
                j += usize::from(second);
                if let Some(finding) = finding {
                    findings += 1;
                    let key = finding.change.key[0];
                    match finding.change.op {
                        Op::Put { value, lease } => mended.insert(key, (value[0], lease)),
                        Op::Delete => mended.remove(&key),
                    };
                }
            }
            prop_assert_eq!(&mended, &a);
            let differ = (0_u8..24).filter(|key| a.get(key) != b.get(key)).count();
            prop_assert_eq!(findings, differ);
        }
    }
}
