//! Open conflicts that were there before a link began, or were decided by somebody beside it: which keys they are of, and that those
//! which are over are put away. A key in an open conflict keeps its tags, however old they are ([`super::merge`]). Decides none.

use std::collections::BTreeSet;

use super::{
    OverlapError,
    etcd::{self, AT_ONCE},
    exchange::{Exchange, lock},
    log::{Conflict, Party},
    tag::Version,
};
use crate::{error::ReplicationError, listing::Listing, revision::Revision};

/// A note as it was found: of which key, what it says, and its `mod_revision`.
type Found = (Vec<u8>, Conflict, i64);

// === impl Exchange ===

impl Exchange {
    /// Learns which conflicts are open, from what the destination says.
    pub(super) async fn recall(&self) -> Result<(), ReplicationError> {
        let member = self.context.destination.member().await?;
        let (cluster, prefix) = (&self.context.destination.cluster, &self.names.open);
        let mut gone: BTreeSet<Vec<u8>> = lock(&self.open).keys().cloned().collect();
        let mut listing = Listing::start(cluster, &member, prefix, Revision(0));
        let mut found: Vec<Found> = Vec::new();
        while let Some(kv) = listing.next().await? {
            let rest = kv.key().get(prefix.len()..).unwrap_or_default().to_vec();
            gone.remove(&rest);
            match Conflict::decode(kv.value()) {
                Ok(conflict) => found.push((rest, conflict, kv.mod_revision())),
                Err(why) => {
                    let key = String::from_utf8_lossy(kv.key()).into_owned();
                    return Err(OverlapError::Unreadable { key, why }.into());
                }
            }
            if found.len() >= AT_ONCE {
                self.put_away(&member, std::mem::take(&mut found)).await?;
            }
        }
        self.put_away(&member, found).await?;
        lock(&self.open).retain(|rest, _| !gone.contains(rest));
        Ok(())
    }

    /// Notes of which the key's tag knows the other write by now speak of nothing any more; the others are remembered.
    async fn put_away(
        &self,
        member: &crate::client::Member,
        found: Vec<Found>,
    ) -> Result<(), ReplicationError> {
        let sides = (&*self.names.here, &*self.names.tags);
        let rests: Vec<Vec<u8>> = found.iter().map(|(rest, ..)| rest.clone()).collect();
        let entries = etcd::read(&self.context.destination.cluster, member, sides, &rests).await?;
        let mut over = Vec::new();
        for ((rest, conflict, at), entry) in found.into_iter().zip(entries) {
            let theirs = Version::following(None, conflict.remote.origin, conflict.remote.hlc);
            if entry.tag.is_some_and(|(tag, _)| tag.version.knows(&theirs)) {
                lock(&self.open).remove(&rest);
                over.push((rest, at));
            } else {
                let rank = |party: &Party| (party.hlc, party.origin.0);
                let pair = [rank(&conflict.local), rank(&conflict.remote)];
                lock(&self.open).insert(rest, pair);
            }
        }
        if over.is_empty() { Ok(()) } else { self.drop_if(&self.names.open, over).await }
    }
}
