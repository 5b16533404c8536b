//! Watches over what was written: every value as the destination tells it back, every digest at the revision that it should be
//! at, and every write that was not ours. Pure.
//!
//! The destination's own watch brings all that happens under the prefix, in order. A revision of it is either one of our
//! transactions, and then it must hold exactly what was sent, and the digest of everything must be the source's; or it is a
//! stranger's. Which one it is is known for certain as soon as a later transaction of ours has been answered: until then it is
//! set aside. A sign of life is written every few seconds, so nothing stays aside for longer than that.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::{
    digest::{Digest, Ledger},
    pipeline::Applied,
    revision::{Change, Op, Revision, SourceRevision},
};

/// The watcher's watcher.
#[derive(Debug)]
pub struct Observer {
    /// What the destination has, by its own account.
    found: Ledger,
    /// Our transactions that its watch has not brought yet.
    ours: BTreeMap<Revision, Ours>,
    /// The latest of them that was answered.
    answered: Revision,
    /// The last revision that `found` has.
    judged: Revision,
    aside: VecDeque<SourceRevision>,
}

#[derive(Debug)]
struct Ours {
    /// CRC-32C of each value; `None` for a delete.
    values: HashMap<Vec<u8>, Option<u32>>,
    digest: Option<Digest>,
}

/// What a revision of the destination turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Ours, and as it should be: so many values compared, and the digest too if it ended a revision of the source.
    Verified {
        /// Values whose checksum was compared.
        values: usize,
        /// Whether the digests of both sides were compared.
        digest: bool,
    },
    /// Not ours.
    Stranger {
        /// The destination's revision.
        at: Revision,
        /// The keys.
        keys: Vec<Vec<u8>>,
        /// Those of them that it deleted, or that were gone when their lease ended.
        gone: Vec<Vec<u8>>,
    },
    /// Ours, but not what was sent.
    Corrupt {
        /// The destination's revision.
        at: Revision,
        /// The first key that differs.
        key: Vec<u8>,
    },
    /// Ours, but the whole is not what the source has.
    Diverged {
        /// The destination's revision.
        at: Revision,
        /// The digest that the source has.
        expected: Digest,
        /// The digest that the destination has.
        found: Digest,
    },
}

// === impl Observer ===

impl Observer {
    /// Goes on from what the destination held at its revision `at`.
    pub const fn new(found: Ledger, at: Revision) -> Self {
        Self { found, ours: BTreeMap::new(), answered: at, judged: at, aside: VecDeque::new() }
    }

    /// One of our transactions was answered.
    pub fn applied(&mut self, applied: &Applied) -> Vec<Verdict> {
        let at = Revision(applied.at);
        if !applied.changes.is_empty() {
            let value = |change: &Change| (change.key.clone(), checksum(&change.op));
            let values = applied.changes.iter().map(value).collect();
            self.ours.insert(at, Ours { values, digest: applied.digest });
        }
        self.answered = self.answered.max(at);
        self.settle()
    }

    /// The destination's watch brought a revision.
    pub fn seen(&mut self, revision: SourceRevision) -> Vec<Verdict> {
        self.aside.push_back(revision);
        self.settle()
    }

    /// How far the destination's account has been followed and compared.
    pub fn waiting(&self) -> usize {
        self.ours.len()
    }

    /// At its end: what the destination has by its own account, and up to which revision of it.
    pub(crate) fn into_found(self) -> (Ledger, Revision) {
        (self.found, self.judged)
    }

    fn settle(&mut self) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        while let Some(next) = self.aside.front()
            && next.revision <= self.answered
        {
            if let Some(next) = self.aside.pop_front() {
                verdicts.push(self.judge(&next));
            }
        }
        verdicts
    }

    fn judge(&mut self, seen: &SourceRevision) -> Verdict {
        let at = seen.revision;
        self.judged = at;
        for change in &seen.changes {
            self.found.apply(&change.key, &change.op);
        }
        // Transactions that changed nothing, such as the delete of a key that was not there, are never brought.
        self.ours = self.ours.split_off(&at);
        let Some(ours) = self.ours.remove(&at) else {
            let keys = seen.changes.iter().map(|change| change.key.clone()).collect();
            let gone = seen.changes.iter().filter(|change| matches!(change.op, Op::Delete));
            return Verdict::Stranger { at, keys, gone: gone.map(|change| change.key.clone()).collect() };
        };
        for change in &seen.changes {
            if ours.values.get(&change.key) != Some(&checksum(&change.op)) {
                return Verdict::Corrupt { at, key: change.key.clone() };
            }
        }
        match ours.digest {
            Some(expected) if expected != self.found.digest() => {
                Verdict::Diverged { at, expected, found: self.found.digest() }
            }
            digest => Verdict::Verified { values: seen.changes.len(), digest: digest.is_some() },
        }
    }
}

fn checksum(op: &Op) -> Option<u32> {
    match op {
        Op::Put { value, .. } => Some(crc32c::crc32c(value)),
        Op::Delete => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: u8, value: u8) -> Change {
        Change { key: vec![key], op: Op::Put { value: vec![value], lease: 0 } }
    }

    fn applied(at: i64, changes: Vec<Change>, digest: Option<Digest>) -> Applied {
        Applied { at, changes: changes.into(), oldest_ms: None, digest, through: Revision(at) }
    }

    fn seen(at: i64, changes: Vec<Change>) -> SourceRevision {
        SourceRevision { revision: Revision(at), seen_ms: 0, changes }
    }

    fn digest(changes: &[Change]) -> Digest {
        let mut ledger = Ledger::default();
        changes.iter().for_each(|change| ledger.apply(&change.key, &change.op));
        ledger.digest()
    }

    #[test]
    fn our_own_write_is_verified_whether_its_answer_or_its_echo_comes_first() {
        let (change, all) = (put(1, 1), digest(&[put(1, 1)]));
        let verified = [Verdict::Verified { values: 1, digest: true }];
        let mut observer = Observer::new(Ledger::default(), Revision(1));
        assert!(observer.applied(&applied(2, vec![change.clone()], Some(all))).is_empty());
        assert_eq!(observer.seen(seen(2, vec![change.clone()])), verified);
        let mut observer = Observer::new(Ledger::default(), Revision(1));
        assert!(observer.seen(seen(2, vec![change.clone()])).is_empty());
        assert_eq!(observer.applied(&applied(2, vec![change], Some(all))), verified);
    }

    #[test]
    fn a_stranger_s_write_is_known_by_the_next_sign_of_life() {
        let mut observer = Observer::new(Ledger::default(), Revision(1));
        let both = vec![put(9, 9), Change { key: vec![8], op: Op::Delete }];
        assert!(observer.seen(seen(2, both)).is_empty());
        let keys = vec![vec![9], vec![8]];
        let stranger = Verdict::Stranger { at: Revision(2), keys, gone: vec![vec![8]] };
        assert_eq!(observer.applied(&applied(3, vec![], None)), [stranger]);
    }

    #[test]
    fn another_value_than_was_sent_is_corrupt() {
        let mut observer = Observer::new(Ledger::default(), Revision(1));
        observer.applied(&applied(2, vec![put(1, 1)], None));
        let corrupt = Verdict::Corrupt { at: Revision(2), key: vec![1] };
        assert_eq!(observer.seen(seen(2, vec![put(1, 2)])), [corrupt]);
    }

    #[test]
    fn a_key_that_nobody_saw_change_shows_in_the_next_digest() {
        let mut held = Ledger::default();
        held.put(&[7], b"left over");
        let mut observer = Observer::new(held, Revision(1));
        observer.applied(&applied(2, vec![put(1, 1)], Some(digest(&[put(1, 1)]))));
        let verdicts = observer.seen(seen(2, vec![put(1, 1)]));
        assert!(matches!(&verdicts[..], [Verdict::Diverged { .. }]), "{verdicts:?}");
    }

    #[test]
    fn a_transaction_without_an_effect_is_not_waited_for() {
        let mut observer = Observer::new(Ledger::default(), Revision(1));
        observer.applied(&applied(2, vec![Change { key: vec![1], op: Op::Delete }], Some(digest(&[]))));
        observer.applied(&applied(3, vec![put(1, 1)], Some(digest(&[put(1, 1)]))));
        assert_eq!(observer.seen(seen(3, vec![put(1, 1)])), [Verdict::Verified { values: 1, digest: true }]);
        assert_eq!(observer.waiting(), 0);
    }
}
