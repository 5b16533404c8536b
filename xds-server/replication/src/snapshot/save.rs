//! A snapshot of a live etcd, as of one revision of it, or of the change log alone. Changes nothing in either.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::{runtime::Handle, task::JoinSet};

use super::{
    Item, Progress, SnapshotError,
    catalog::{Catalog, Draft, Listed},
    format::Header,
    is_state,
    moment::{self, Target},
};
use crate::{
    checkpoint::ClusterId,
    client::{Cluster, EtcdError, Member},
    digest::Digest,
    listing::Listing,
    options::ClusterOptions,
    revision::Revision,
    spool::History,
    watch::now_ms,
};

/// Leases that are asked about at the same time.
const AT_ONCE: usize = 16;

/// Reads every key under `prefix`, as of the etcd's latest revision, into a new snapshot.
///
/// # Errors
/// When the etcd does not answer, or the disk fails. Nothing is left behind.
pub async fn save(
    etcd: &ClusterOptions,
    prefix: &str,
    catalog: &Catalog,
    progress: Arc<Progress>,
) -> Result<Listed, SnapshotError> {
    etcd.validate("source")?;
    let cluster = Arc::new(Cluster::reading("source", etcd.clone(), prefix.as_bytes()));
    let member = cluster.connect().await?;
    // Right before the revision is asked for, of a member that answers: at that time it was not yet too late for it, and one
    // round trip later it was the latest. Connecting may take as long as every dead member before this one.
    let at_ms = now_ms();
    let (keys, head) = count(&cluster, &member, prefix).await?;
    progress.begin(keys);
    let draft = catalog.draft(Header::new(member.cluster, head, at_ms, prefix))?;
    let listing = Listing::start(&cluster, &member, prefix.as_bytes(), head);
    let (prefix, handle) = (prefix.to_owned(), Handle::current());
    let (draft, leases) =
        blocking(move || handle.block_on(drain(listing, draft, &prefix, &progress))).await??;
    let leases = times_to_live(&cluster, &member, leases).await?;
    blocking(move || draft.finish(&leases)).await?
}

/// A prefix of a live etcd as of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its revision.
    pub revision: Revision,
    /// Every key, in order.
    pub items: Vec<Item>,
    /// The leases that keys live by, and their times to live.
    pub leases: BTreeMap<i64, i64>,
}

/// Reads every key under `prefix`, as of the etcd's latest revision, into memory.
///
/// # Errors
/// When the etcd does not answer.
pub async fn read(etcd: &ClusterOptions, prefix: &str) -> Result<Contents, SnapshotError> {
    etcd.validate("source")?;
    let cluster = Arc::new(Cluster::reading("source", etcd.clone(), prefix.as_bytes()));
    let member = cluster.connect().await?;
    let mut listing = Listing::start(&cluster, &member, prefix.as_bytes(), member.head);
    let (mut items, mut leases) = (Vec::new(), BTreeSet::new());
    while let Some(kv) = listing.next().await? {
        if is_state(prefix, kv.key()) {
            let (modified, lease) = (Revision(kv.mod_revision()), kv.lease());
            let (key, value) = kv.into_key_value();
            items.push(Item { key, value, modified, lease });
            if lease != 0 {
                leases.insert(lease);
            }
        }
    }
    let leases = times_to_live(&cluster, &member, leases).await?;
    Ok(Contents { cluster: member.cluster, revision: member.head, items, leases })
}

/// What a live etcd holds under the prefix of a snapshot as of its revision: keys and digest.
///
/// # Errors
/// When it is another cluster, has compacted that revision, or does not answer.
pub async fn live(etcd: &ClusterOptions, header: &Header) -> Result<(u64, Digest), SnapshotError> {
    etcd.validate("source")?;
    let cluster = Arc::new(Cluster::reading("source", etcd.clone(), header.prefix.as_bytes()));
    let member = cluster.connect().await?;
    if member.cluster != header.cluster {
        return Err(SnapshotError::Elsewhere { wanted: header.cluster, found: member.cluster });
    }
    let mut listing = Listing::start(&cluster, &member, header.prefix.as_bytes(), header.revision);
    let (mut keys, mut digest) = (0, Digest::default());
    while let Some(kv) = listing.next().await? {
        if is_state(&header.prefix, kv.key()) {
            keys += 1;
            digest = digest.with(kv.key(), kv.value());
        }
    }
    Ok((keys, digest))
}

/// What became of a snapshot and the log that goes on from it.
#[derive(Debug)]
pub enum Rolled {
    /// A new snapshot.
    Taken(Listed),
    /// The same again: the log has nothing that this one, which was read and is whole, has not.
    Unchanged(Listed),
}

/// Makes the newest snapshot that the log goes on from, and the log up to its end, into a new snapshot: asks no etcd. `None` when
/// there is no such snapshot.
///
/// # Errors
/// When a file is damaged, or the disk fails.
pub fn roll(catalog: &Catalog, history: &History, prefix: &str) -> Result<Option<Rolled>, SnapshotError> {
    let snapshots = catalog.list()?;
    let of_prefix = |it: &Listed| {
        it.content
            .as_ref()
            .is_ok_and(|(header, _)| (header.prefix.as_str(), header.cluster) == (prefix, history.cluster))
    };
    let Some(newest) = snapshots.into_iter().rfind(of_prefix) else { return Ok(None) };
    let mut moment = moment::of_snapshot(&newest)?;
    // A snapshot of the source may be ahead of the log, which has what comes after it when that comes.
    let known = moment.revision >= history.begins_after;
    if !known || !moment.replay(history, Target::Revision(history.through()))? {
        return Ok(None);
    }
    // Of what does not change one copy is enough: the others would push out snapshots of what was before it.
    if moment.replayed == 0 {
        return Ok(Some(Rolled::Unchanged(newest)));
    }
    let cluster = history.cluster;
    // No later than what the log is known to hold: changes may be on their way to it.
    let mut draft = catalog.draft(Header::new(cluster, moment.revision, moment.at_ms, prefix))?;
    let (mut state, mut named) = (moment.state()?, BTreeSet::new());
    while let Some(item) = state.read()? {
        named.insert(item.lease);
        draft.push(&item)?;
    }
    let known = moment.leases.iter().filter(|(lease, _)| named.contains(lease));
    let taken = draft.finish(&known.map(|(lease, ttl)| (*lease, *ttl)).collect())?;
    Ok(Some(Rolled::Taken(taken)))
}

async fn drain(
    mut listing: Listing,
    mut draft: Draft,
    prefix: &str,
    progress: &Progress,
) -> Result<(Draft, BTreeSet<i64>), SnapshotError> {
    let mut leases = BTreeSet::new();
    while let Some(kv) = listing.next().await? {
        progress.step();
        if is_state(prefix, kv.key()) {
            let (modified, lease) = (Revision(kv.mod_revision()), kv.lease());
            let (key, value) = kv.into_key_value();
            draft.push(&Item { key, value, modified, lease })?;
            if lease != 0 {
                leases.insert(lease);
            }
        }
    }
    Ok((draft, leases))
}

/// How many keys there are under a prefix, and at which revision that is so.
pub(super) async fn count(
    cluster: &Cluster,
    member: &Member,
    prefix: &str,
) -> Result<(u64, Revision), EtcdError> {
    let end = crate::client::after_prefix(prefix.as_bytes());
    let options = etcd_client::GetOptions::new().with_range(end).with_count_only();
    let start = crate::client::range_start(prefix.as_bytes());
    let answer = cluster.ask(member.kv().get(start, Some(options))).await?;
    let head = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
    Ok((u64::try_from(answer.count()).unwrap_or(0), Revision(head)))
}

/// The times to live that leases were granted; those that have ended since are left out.
async fn times_to_live(
    cluster: &Arc<Cluster>,
    member: &Member,
    leases: BTreeSet<i64>,
) -> Result<BTreeMap<i64, i64>, SnapshotError> {
    let leases: Vec<i64> = leases.into_iter().collect();
    let mut tasks = JoinSet::new();
    for part in leases.chunks(leases.len().div_ceil(AT_ONCE).max(1)) {
        let (cluster, mut client, part) = (Arc::clone(cluster), member.client.clone(), part.to_vec());
        tasks.spawn(async move {
            let mut known = Vec::new();
            for lease in part {
                match cluster.ask(client.lease_time_to_live(lease, None)).await {
                    Ok(answer) if answer.ttl() > 0 => known.push((lease, answer.granted_ttl())),
                    Ok(_) | Err(EtcdError::NoLease(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(known)
        });
    }
    let mut known = BTreeMap::new();
    while let Some(part) = tasks.join_next().await {
        let part = part.map_err(|error| SnapshotError::Internal(error.to_string()))?;
        known.extend(part?);
    }
    Ok(known)
}

/// Runs what blocks on the disk.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, SnapshotError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| SnapshotError::Internal(error.to_string()))
}
