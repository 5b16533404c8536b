//! Whether a source is still the etcd that was followed: one change of it that the log has, which it must have made as well. An
//! etcd that was rebuilt, or restored from a snapshot, keeps its cluster ID where its members keep their URLs and token, and once
//! enough was written to it its revision gives nothing away either. Asks for one key; changes nothing.

use etcd_client::GetOptions;

use crate::{
    anchors::Word,
    client::{Cluster, EtcdError, Member},
    revision::{Op, Revision, SourceRevision},
    spool::{Entry, Reader, SpoolError},
};

/// A put of the source, as the log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Witness {
    revision: Revision,
    key: Vec<u8>,
    value_crc: u32,
}

// === impl Witness ===

impl Witness {
    /// The last put of a revision, which every later moment remembers better than an earlier one.
    pub(crate) fn of(source: &SourceRevision) -> Option<Self> {
        source.changes.iter().rev().find_map(|change| match &change.op {
            Op::Put { value, .. } => Some(Self {
                revision: source.revision,
                key: change.key.clone(),
                value_crc: crc32c::crc32c(value),
            }),
            Op::Delete => None,
        })
    }

    /// The last put that is left to be read. Blocks on the disk.
    pub(crate) fn last(mut reader: Reader) -> Result<Option<Self>, SpoolError> {
        let mut last = None;
        while let Some(entry) = reader.read()? {
            if let Entry::Revision(source) = entry {
                last = Self::of(&source).or(last);
            }
        }
        Ok(last)
    }

    /// A put that is known to be of the source.
    pub(crate) fn new(revision: Revision, key: Vec<u8>, value: &[u8]) -> Self {
        Self { revision, key, value_crc: crc32c::crc32c(value) }
    }

    /// When it was.
    pub(crate) const fn revision(&self) -> Revision {
        self.revision
    }

    /// Whether the source made it: none but the etcd that did has it at its revision. One that has compacted that, and put or deleted
    /// the key since, or never had it, cannot tell.
    pub(crate) async fn ask(self, cluster: &Cluster, member: &Member) -> Result<Word, EtcdError> {
        let (found, compacted) = self.look(cluster, member).await?;
        Ok(match self.agrees(found, compacted) {
            Some(true) => Word::Same(self),
            None => Word::Silent,
            Some(false) => {
                let (key, at) = (self.key.escape_ascii(), self.revision);
                Word::Other(format!(
                    "it put {key} at revision {at}, and knows nothing of it now: it was rebuilt or restored"
                ))
            }
        })
    }

    /// What the source has of the key at the revision, or, where that is compacted, now; and which of the two.
    async fn look(
        &self,
        cluster: &Cluster,
        member: &Member,
    ) -> Result<(Option<(Revision, u32)>, bool), EtcdError> {
        let get = async |options| cluster.ask(member.kv().get(self.key.as_slice(), Some(options))).await;
        let then = get(GetOptions::new().with_revision(self.revision.0)).await;
        let (answer, compacted) = match then {
            Err(EtcdError::Compacted { .. }) => (get(GetOptions::new()).await?, true),
            other => (other?, false),
        };
        let found = answer.kvs().first().map(|kv| (Revision(kv.mod_revision()), crc32c::crc32c(kv.value())));
        Ok((found, compacted))
    }

    /// Whether a source made the put that has `found` of the key, at the revision or since that was compacted; `None` where that does
    /// not tell.
    fn agrees(&self, found: Option<(Revision, u32)>, compacted: bool) -> Option<bool> {
        match found {
            Some((modified, value_crc)) if modified == self.revision => Some(value_crc == self.value_crc),
            // Put again, or deleted, later: or it never had it.
            Some((modified, _)) if compacted && modified > self.revision => None,
            None if compacted => None,
            _ => Some(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revision::Change;

    #[test]
    fn a_source_is_known_by_the_very_put_and_where_that_is_compacted_it_may_not_tell() {
        let put = |key: &str, value: &[u8]| Change {
            key: key.into(),
            op: Op::Put { value: value.to_vec(), lease: 0 },
        };
        let gone = Change { key: b"/c".to_vec(), op: Op::Delete };
        let changes = vec![put("/a", b"1"), put("/b", b"2"), gone.clone()];
        let witness = Witness::of(&SourceRevision { revision: Revision(7), seen_ms: 0, changes }).unwrap();
        assert_eq!(witness.key, b"/b");
        let deletes = SourceRevision { revision: Revision(8), seen_ms: 0, changes: vec![gone] };
        assert_eq!(Witness::of(&deletes), None);
        let (same, other) = (crc32c::crc32c(b"2"), crc32c::crc32c(b"3"));
        for (found, compacted, agrees) in [
            (Some((Revision(7), same)), false, Some(true)),
            (Some((Revision(7), other)), false, Some(false)),
            (Some((Revision(5), same)), false, Some(false)),
            (None, false, Some(false)),
            (Some((Revision(7), same)), true, Some(true)),
            (Some((Revision(7), other)), true, Some(false)),
            (Some((Revision(5), same)), true, Some(false)),
            (Some((Revision(9), other)), true, None),
            (None, true, None),
        ] {
            assert_eq!(witness.agrees(found, compacted), agrees, "{found:?} {compacted}");
        }
    }
}
