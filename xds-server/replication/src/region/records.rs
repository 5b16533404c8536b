//! Ownership records in an etcd: reads them all, and replaces one if it is still what was read. Decides nothing.

use etcd_client::{Compare, CompareOp, GetOptions, Txn, TxnOp};

use super::{
    RegionError, denied,
    own::{self, Held, Ownership},
};
use crate::{
    checkpoint::{Checkpoint, ClusterId, Role},
    client::{Cluster, EtcdError, Member, after_prefix},
    error::ReplicationError,
    options::RESERVED,
    pipeline::Found,
};

/// The records of an etcd. Some users may not read those of the source; to them it has none.
pub(super) async fn read_all(cluster: &Cluster, member: &Member) -> Result<Vec<Held>, ReplicationError> {
    let options = GetOptions::new().with_prefix();
    let answer = match cluster.ask(member.kv().get(own::root(), Some(options))).await {
        Err(error) if denied(&error) && cluster.side() == "source" => return Ok(Vec::new()),
        other => other?,
    };
    let decode = |kv: &etcd_client::KeyValue| {
        let key = String::from_utf8_lossy(kv.key()).into_owned();
        let prefix = key.strip_prefix(&own::root()).unwrap_or_default().to_owned();
        let ownership =
            Ownership::decode(kv.value()).map_err(|why| RegionError::Unreadable { key: key.clone(), why })?;
        Ok(Held { prefix, ownership, mod_revision: kv.mod_revision() })
    };
    answer.kvs().iter().map(decode).collect()
}

/// The checkpoint by which the source was promoted over `here`, with these prefixes of the source and of `here`, whatever the stream
/// was called; the latest, if there are several.
pub(super) async fn promoted_over(
    source: &Cluster,
    member: &Member,
    here: ClusterId,
    prefixes: (&str, &str),
) -> Result<Option<Checkpoint>, ReplicationError> {
    let known = checkpoints(source, member, here, prefixes).await?;
    let promoted = known.into_iter().filter(|known| known.role == Role::Primary);
    Ok(promoted.max_by_key(|known| known.epoch))
}

/// The source's checkpoints of the other direction: as a destination of `here`, with these prefixes of the source and of `here`,
/// whatever the streams were called. Some users may not read those of the source; to them there is none.
pub(super) async fn checkpoints(
    source: &Cluster,
    member: &Member,
    here: ClusterId,
    (from, to): (&str, &str),
) -> Result<Vec<Checkpoint>, ReplicationError> {
    let options = GetOptions::new().with_range(own::root());
    // The streams' keys, before and after those of the owners.
    let (mut found, after) = (Vec::new(), after_prefix(own::root().as_bytes()));
    let rest = GetOptions::new().with_range(after_prefix(RESERVED.as_bytes()));
    for (start, options) in [(RESERVED.as_bytes().to_vec(), options), (after, rest)] {
        match source.ask(member.kv().get(start, Some(options))).await {
            Err(error) if denied(&error) => return Ok(Vec::new()),
            other => found.extend(other?.take_kvs()),
        }
    }
    let known = found.iter().filter_map(|kv| Checkpoint::decode(kv.value()).ok());
    let of_here = known.filter(|known| {
        known.source_cluster == here && (known.prefixes.0.as_str(), known.prefixes.1.as_str()) == (to, from)
    });
    Ok(of_here.collect())
}

/// What an etcd says about the owner of a prefix.
pub(crate) async fn owner(
    cluster: &Cluster,
    member: &Member,
    prefix: &str,
) -> Result<Option<Ownership>, ReplicationError> {
    let all = read_all(cluster, member).await?;
    Ok(of(&all, prefix).map(|held| held.ownership.clone()))
}

/// The record of exactly this prefix.
pub(super) fn of<'a>(all: &'a [Held], prefix: &str) -> Option<&'a Held> {
    all.iter().find(|held| held.prefix == prefix)
}

/// Replaces a record, together with other writes, if it and the other key are what was read. The revision; `None` when not.
pub(super) async fn replace(
    cluster: &Cluster,
    member: &Member,
    (prefix, before): (&str, Option<&Held>),
    becomes: &Ownership,
    with: Option<(&str, i64, Option<Vec<u8>>)>,
) -> Result<Option<i64>, EtcdError> {
    let key = own::key(prefix);
    let mut conditions = vec![same(&key, before.map_or(0, |held| held.mod_revision))];
    let mut writes = vec![TxnOp::put(key, becomes.encode(), None)];
    if let Some((key, fence, value)) = with {
        conditions.push(same(key, fence));
        writes.extend(value.map(|value| TxnOp::put(key, value, None)));
    }
    let txn = Txn::new().when(conditions).and_then(writes);
    let answer = cluster.ask(member.kv().txn(txn)).await?;
    let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
    Ok(answer.succeeded().then_some(revision))
}

/// Takes back a record and a checkpoint that were just written, if they still are that.
pub(super) async fn withdraw(
    cluster: &Cluster,
    member: &Member,
    prefix: &str,
    (checkpoint, fence): (&str, i64),
) -> Result<(), EtcdError> {
    let deletes = [TxnOp::delete(own::key(prefix), None), TxnOp::delete(checkpoint, None)];
    let txn = Txn::new().when([same(checkpoint, fence)]).and_then(deletes);
    cluster.ask(member.kv().txn(txn)).await.map(drop)
}

fn same(key: &str, mod_revision: i64) -> Compare {
    Compare::mod_revision(key, CompareOp::Equal, mod_revision)
}

/// A checkpoint that was found, and its fence.
pub(super) fn decode(found: Found) -> Result<Option<(Checkpoint, i64)>, ReplicationError> {
    Ok(match found {
        Some((bytes, fence)) => Some((Checkpoint::decode(&bytes)?, fence)),
        None => None,
    })
}
