//! Puts whole revisions together from a watch's messages. etcd keeps the events of a transaction in one message unless that is
//! too large (or the watcher is behind): then it comes in fragments, and a fragment may end in the middle of a revision.
//! Checks the order that etcd promises and trusts nothing else; reads no network.

use crate::revision::{Change, Revision, SourceRevision};

/// Events on their way to whole revisions.
#[derive(Debug)]
pub struct Assembler {
    /// The last revision handed out, or where the watch began.
    last: Revision,
    /// The revision that may go on in the next message.
    open: Option<SourceRevision>,
}

/// A watch that broke etcd's promises, which is a bug of some version of it; nothing that came by it can be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderViolation {
    /// An event of a revision that is over already.
    #[error(
        "trust the source's watch: an event of revision {revision} came after revision {after} was complete. This is a bug of \
         the source's etcd version"
    )]
    Backwards {
        /// The event's.
        revision: Revision,
        /// The latest that was complete.
        after: Revision,
    },
    /// Two events of one revision for one key.
    #[error("trust the source's watch: revision {revision} came with the key {key} twice")]
    Twice {
        /// The revision.
        revision: Revision,
        /// The key, printable.
        key: String,
    },
}

// === impl Assembler ===

impl Assembler {
    /// One for a watch that begins with the revision after `last`.
    pub const fn after(last: Revision) -> Self {
        Self { last, open: None }
    }

    /// Takes the events of one message and hands out the revisions that are now known to be whole: all but the last, and the
    /// last too unless this message is a fragment with more to come.
    ///
    /// # Errors
    /// When an event is out of order. The watch must then be opened again.
    pub fn take(
        &mut self,
        events: impl IntoIterator<Item = (Revision, Change)>,
        more_to_come: bool,
        seen_ms: u64,
    ) -> Result<Vec<SourceRevision>, OrderViolation> {
        let mut whole = Vec::new();
        for (revision, change) in events {
            match &mut self.open {
                Some(open) if open.revision == revision => {
                    // Only short revisions are searched; a long one has its keys checked where it is coalesced.
                    if open.changes.len() < 256 && open.changes.iter().any(|c| c.key == change.key) {
                        let key = change.key.escape_ascii().to_string();
                        return Err(OrderViolation::Twice { revision, key });
                    }
                    open.changes.push(change);
                }
                open => {
                    let after = open.as_ref().map_or(self.last, |open| open.revision);
                    if revision <= after {
                        return Err(OrderViolation::Backwards { revision, after });
                    }
                    whole.extend(open.replace(SourceRevision { revision, seen_ms, changes: vec![change] }));
                }
            }
        }
        if !more_to_come {
            whole.extend(self.open.take());
        }
        if let Some(last) = whole.last() {
            self.last = last.revision;
        }
        Ok(whole)
    }

    /// The last revision handed out, or where the watch began.
    pub const fn last(&self) -> Revision {
        self.last
    }

    /// Whether a revision waits for its other fragments.
    pub const fn is_open(&self) -> bool {
        self.open.is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::revision::Op;

    fn event(revision: i64, key: u8) -> (Revision, Change) {
        (Revision(revision), Change { key: vec![key], op: Op::Delete })
    }

    #[test]
    fn a_fragment_does_not_end_a_revision() {
        let mut assembler = Assembler::after(Revision(4));
        let first = assembler.take([event(5, 1), event(6, 1)], true, 0).unwrap();
        assert_eq!(first.iter().map(|r| r.revision.0).collect::<Vec<_>>(), [5]);
        assert!(assembler.is_open());
        let rest = assembler.take([event(6, 2)], false, 0).unwrap();
        assert_eq!(rest[0].changes.len(), 2);
        assert!(!assembler.is_open());
    }

    #[test]
    fn a_revision_that_comes_back_is_refused() {
        let mut assembler = Assembler::after(Revision(4));
        assembler.take([event(5, 1)], false, 0).unwrap();
        let error = assembler.take([event(5, 2)], false, 0).unwrap_err();
        assert_eq!(error, OrderViolation::Backwards { revision: Revision(5), after: Revision(5) });
        assert!(Assembler::after(Revision(4)).take([event(4, 1)], false, 0).is_err());
        assert!(Assembler::after(Revision(4)).take([event(5, 1), event(5, 1)], false, 0).is_err());
    }

    proptest! {
        #[test]
        fn however_a_watch_is_cut_the_revisions_are_whole(
            sizes in prop::collection::vec(1_usize..6, 1..20),
            cuts in prop::collection::vec(any::<bool>(), 120),
        ) {
            let events: Vec<_> = sizes.iter().enumerate().flat_map(|(r, size)| {
                (0..*size).map(move |key| event(r as i64 + 1, key as u8))
            }).collect();
            let mut assembler = Assembler::after(Revision(0));
            let (mut message, mut whole) = (Vec::new(), Vec::new());
            for (at, (revision, change)) in events.iter().enumerate() {
                message.push((*revision, change.clone()));
                let last_of_revision = events.get(at + 1).is_none_or(|(next, _)| next != revision);
                if cuts[at] || at + 1 == events.len() {
                    // etcd marks a message as a fragment whenever a revision goes on in the next one.
                    let seen = assembler.take(std::mem::take(&mut message), !last_of_revision, 7).unwrap();
                    whole.extend(seen);
                }
            }
            prop_assert_eq!(whole.iter().map(|r| r.changes.len()).collect::<Vec<_>>(), sizes);
            prop_assert!(whole.windows(2).all(|pair| pair[0].revision < pair[1].revision));
        }
    }
}
