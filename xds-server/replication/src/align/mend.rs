//! Mends a few keys where two sides were found to differ, and reads no other value: what [`super`] does for everything, for what a
//! stream knows to be in doubt. Gives up, and leaves it to the comparison of everything, where more is in doubt than it pays for.
//!
//! # Which keys are in doubt
//!
//! A stream that ends knows the hash of every key and value that the source has, and of every one that the destination told of
//! ([`Ledger`]), so it knows which differ, but of none its name. Names cost little: both sides are asked for theirs, without
//! values. In doubt is every key
//!
//! - whose hashes differ, or that the stream named itself: a stranger wrote it, its checksum was wrong, a scrub found it;
//! - that the destination wrote after the last revision of it that the stream was told of, or has deleted since.
//!
//! Those are read for real on both sides, and what differs is written under the fence, marked as a comparison marks it. Everything
//! else is as the stream knew it: nothing of it was written since, by the destination's own account of its revisions.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use super::{Aligned, Hold};
use crate::{
    checkpoint::{Checkpoint, Torn},
    client::{Cluster, EtcdError, Member},
    compare::{Entry, Finding, judge},
    digest::{Ledger, Name},
    error::ReplicationError,
    listing::Listing,
    options::StrangerPolicy,
    questions::{all, get},
    revision::{Op, Revision},
    run::Context,
};

/// Keys in doubt that are worth it; when there are more, everything is compared.
const MOST: usize = 4_096;

/// Keys read together.
const READ: usize = 64;

/// What a stream knew of both sides when it ended.
#[derive(Debug)]
pub(crate) struct Known {
    /// What the source has at its revision `at`.
    pub expected: Ledger,
    pub at: Revision,
    /// What the destination has by its own account, up to its revision `seen`.
    pub found: Ledger,
    pub seen: Revision,
    /// Keys of the destination that the stream had reason to doubt.
    pub suspects: BTreeSet<Vec<u8>>,
}

/// What came of it.
pub(crate) enum Mended {
    /// The destination is whole.
    Whole(Box<Aligned>),
    /// It must be compared as a whole, by who holds it with this checkpoint and fence.
    Not(Checkpoint, i64),
}

// === impl Context ===

impl Context {
    /// Brings the destination, whose checkpoint and fence are ours, to the source's revision that is known, if little is in doubt.
    pub(crate) async fn mend(
        &self,
        source: &Member,
        checkpoint: Checkpoint,
        fence: i64,
        known: Known,
    ) -> Result<Mended, ReplicationError> {
        let ours = self.options.strangers == StrangerPolicy::Repair && self.options.rules.deletes();
        let behind = checkpoint.source_revision <= known.at
            && !matches!(checkpoint.torn, Some(Torn::Aligning { .. }))
            && checkpoint.source_revision.0 > 0;
        if !ours || !behind {
            return Ok(Mended::Not(checkpoint, fence));
        }
        let Known { mut expected, at, mut found, seen, suspects } = known;
        let mut hold = Hold::new(checkpoint, fence);
        let (_, head) = self.destination.read().await?;
        let member = self.destination.member().await?;
        let head = Revision(head);
        let doubting = self.doubtful((source, at), (&member, head, seen), (&expected, &found), suspects);
        let Some((keys, gone)) = self.holding(&mut hold, doubting).await?? else {
            return Ok(Mended::Not(hold.checkpoint, hold.fence));
        };
        gone.iter().for_each(|name| found.delete_name(*name));
        let (mut findings, mut bytes) = (Vec::new(), 0);
        let keys: Vec<Vec<u8>> = keys.into_iter().collect();
        for keys in keys.chunks(READ) {
            let reading = async {
                tokio::try_join!(
                    self.wanted(source, keys, at),
                    read(&self.destination.cluster, &member, keys, head)
                )
            };
            let (wanted, there) = match self.holding(&mut hold, reading).await? {
                // A very large value: pages of a listing adapt to it.
                Err(EtcdError::TooLong(_)) => return Ok(Mended::Not(hold.checkpoint, hold.fence)),
                read => read?,
            };
            for ((key, wanted), there) in keys.iter().zip(wanted).zip(there) {
                note(&mut found, key, there.as_ref());
                // What is left alone is right as it is.
                let right = if wanted.as_ref().is_some_and(|it| it.alone) { &there } else { &wanted };
                note(&mut expected, key, right.as_ref());
                let (finding, ..) = judge(wanted.as_ref(), there.as_ref());
                bytes += finding.as_ref().map_or(0, Finding::size);
                findings.extend(finding);
            }
            if bytes > self.options.limits.bytes.saturating_mul(16) {
                return Ok(Mended::Not(hold.checkpoint, hold.fence));
            }
        }
        let wrote = findings.len() as u64;
        let written: BTreeSet<Vec<u8>> = findings.iter().map(|finding| finding.change.key.clone()).collect();
        self.carry_out(&mut hold, findings, at).await?;
        let whole = Checkpoint {
            source_revision: at,
            sync_version: hold.checkpoint.sync_version + u64::from(wrote > 0),
            digest: expected.digest(),
            keys: expected.keys(),
            torn: None,
            ..hold.checkpoint.clone()
        };
        self.show(&mut hold, Some(whole)).await?;
        let mut still = true;
        let mut until = head;
        if wrote > 0 {
            until = Revision(hold.fence);
            let reading = self.read_again(&member, (head, until), &written, &mut found);
            still = self.holding(&mut hold, reading).await??;
        }
        let Hold { checkpoint, fence, .. } = hold;
        if !still || expected.digest() != found.digest() {
            tracing::warn!("somebody else writes as well; comparing everything");
            return Ok(Mended::Not(checkpoint, fence));
        }
        let aligned = Aligned { checkpoint, fence, expected, found, at: until, written: wrote, sample: None };
        Ok(Mended::Whole(Box::new(aligned)))
    }

    /// Notes what the destination holds of what was written, and says whether nothing else was since.
    async fn read_again(
        &self,
        member: &Member,
        (since, at): (Revision, Revision),
        written: &BTreeSet<Vec<u8>>,
        found: &mut Ledger,
    ) -> Result<bool, EtcdError> {
        let (cluster, rules) = (&self.destination.cluster, &self.options.rules);
        let keys: Vec<Vec<u8>> = written.iter().cloned().collect();
        for keys in keys.chunks(READ) {
            for (key, there) in keys.iter().zip(read(cluster, member, keys, at).await?) {
                note(found, key, there.as_ref());
            }
        }
        let (mut still, mut there) = (true, 0);
        let mut listing = Listing::keys(cluster, member, rules.destination_prefix(), at);
        while let Some(kv) = listing.next().await? {
            if rules.owns(kv.key()) {
                there += 1;
                still &= kv.mod_revision() <= since.0 || written.contains(kv.key());
            }
        }
        Ok(still && there == found.keys())
    }

    /// The keys in doubt, under the destination's names, and those known of that are gone; `None` when there are too many.
    async fn doubtful(
        &self,
        (source, at): (&Member, Revision),
        (member, head, seen): (&Member, Revision, Revision),
        (expected, found): (&Ledger, &Ledger),
        suspects: BTreeSet<Vec<u8>>,
    ) -> Result<Option<(BTreeSet<Vec<u8>>, Vec<Name>)>, EtcdError> {
        let (rules, mut keys) = (&self.options.rules, suspects);
        let mut doubted: HashSet<Name> = expected.differing(found);
        if doubted.len() + keys.len() > MOST {
            return Ok(None);
        }
        let (mut there, prefix) = (HashSet::new(), rules.destination_prefix());
        let mut listing = Listing::keys(&self.destination.cluster, member, prefix, head);
        while let Some(kv) = listing.next().await? {
            if !rules.owns(kv.key()) {
                continue;
            }
            let name = Name::of(kv.key());
            if kv.mod_revision() > seen.0 || doubted.contains(&name) || !found.has(name) {
                keys.insert(kv.key().to_vec());
                if keys.len() > MOST {
                    return Ok(None);
                }
            }
            there.insert(name);
        }
        let gone: Vec<Name> = found.names().filter(|name| !there.contains(name)).collect();
        doubted.extend(&gone);
        // Only the source can say what those are called that the destination has not.
        doubted.retain(|name| !there.contains(name) && expected.has(*name));
        if doubted.len() > MOST {
            return Ok(None);
        }
        if !doubted.is_empty() {
            let mut listing = Listing::keys(&self.source, source, rules.source_prefix(), at);
            while let Some(kv) = listing.next().await? {
                keys.extend(rules.map_key(kv.key()).filter(|key| doubted.contains(&Name::of(key))));
            }
        }
        Ok(Some((keys, gone)))
    }

    /// What the source has of these keys of the destination.
    async fn wanted(
        &self,
        source: &Member,
        keys: &[Vec<u8>],
        at: Revision,
    ) -> Result<Vec<Option<Entry>>, EtcdError> {
        let rules = &self.options.rules;
        let names: Vec<Vec<u8>> = keys.iter().filter_map(|key| rules.unmap_key(key)).collect();
        let found = read(&self.source, source, &names, at).await?;
        let mapped = found.into_iter().zip(keys).map(|(entry, key)| {
            let entry = entry?;
            let alone = rules.leaves_alone(entry.modified);
            Some(Entry { key: key.clone(), lease: rules.map_lease(entry.lease), alone, ..entry })
        });
        Ok(mapped.collect())
    }

    /// Writes what was found to differ; the marker before the first of it.
    async fn carry_out(
        &self,
        hold: &mut Hold,
        findings: Vec<Finding>,
        at: Revision,
    ) -> Result<(), ReplicationError> {
        let (mut chunk, mut bytes, mut wrote) = (Vec::new(), 0, 0);
        for finding in findings {
            let size = finding.size();
            let full =
                chunk.len() >= self.options.limits.operations || bytes + size > self.options.limits.bytes;
            if full && !chunk.is_empty() {
                self.launch(hold, std::mem::take(&mut chunk), at, &mut wrote).await?;
                bytes = 0;
            }
            bytes += size;
            chunk.push(finding.change);
        }
        if !chunk.is_empty() {
            self.launch(hold, chunk, at, &mut wrote).await?;
        }
        hold.land(1).await
    }
}

/// The ledger knows of a key what was read of it.
fn note(ledger: &mut Ledger, key: &[u8], read: Option<&Entry>) {
    match read {
        Some(entry) => ledger.put(key, &entry.value),
        None => ledger.apply(key, &Op::Delete),
    }
}

/// These keys of an etcd as of a revision.
async fn read(
    cluster: &Arc<Cluster>,
    member: &Member,
    keys: &[Vec<u8>],
    at: Revision,
) -> Result<Vec<Option<Entry>>, EtcdError> {
    let each = |key: &Vec<u8>| {
        let (cluster, member, key) = (Arc::clone(cluster), member.clone(), key.clone());
        async move { Ok(get(&cluster, &member, key, at).await?.map(Entry::from)) }
    };
    all(cluster, keys.iter().map(each)).await
}

#[cfg(test)]
mod tests;
