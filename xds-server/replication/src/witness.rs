//! Whether a source is still the etcd that was followed: one change of it that the log has, which it must have made as well. An
//! etcd that was rebuilt, or restored from a snapshot, keeps its cluster ID where its members keep their URLs and token, and once
//! enough was written to it its revision gives nothing away either. Asks for one key; changes nothing.

use etcd_client::GetOptions;

use crate::{
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

    /// What the source says against it, in words; `None` where it agrees, or has compacted what would tell.
    pub(crate) async fn against(
        &self,
        cluster: &Cluster,
        member: &Member,
    ) -> Result<Option<String>, EtcdError> {
        let (found, compacted) = self.ask(cluster, member).await?;
        if self.agrees(found, compacted) {
            return Ok(None);
        }
        let (key, at) = (self.key.escape_ascii(), self.revision);
        Ok(Some(format!(
            "it put {key} at revision {at}, and knows nothing of it now: it was rebuilt or restored"
        )))
    }

    /// Whether the source has the very put: none but the etcd that made it does. One that has put the key again since cannot tell.
    pub(crate) async fn is_kept_by(&self, cluster: &Cluster, member: &Member) -> Result<bool, EtcdError> {
        let (found, _) = self.ask(cluster, member).await?;
        Ok(found == Some((self.revision, self.value_crc)))
    }

    /// What the source has of the key at the revision, or, where that is compacted, now; and which of the two.
    async fn ask(
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

    /// Whether a source that has `found` of the key, at the revision or since that was compacted, may have made the put.
    fn agrees(&self, found: Option<(Revision, u32)>, compacted: bool) -> bool {
        match found {
            Some((modified, value_crc)) if modified == self.revision => value_crc == self.value_crc,
            // Put again, or deleted, later.
            Some((modified, _)) => compacted && modified > self.revision,
            None => compacted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revision::Change;

    #[test]
    fn a_source_agrees_that_may_have_made_the_put_and_no_other() {
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
            (Some((Revision(7), same)), false, true),
            (Some((Revision(7), other)), false, false),
            (Some((Revision(5), same)), false, false),
            (None, false, false),
            (Some((Revision(7), same)), true, true),
            (Some((Revision(7), other)), true, false),
            (Some((Revision(5), same)), true, false),
            (Some((Revision(9), other)), true, true),
            (None, true, true),
        ] {
            assert_eq!(witness.agrees(found, compacted), agrees, "{found:?} {compacted}");
        }
    }
}
