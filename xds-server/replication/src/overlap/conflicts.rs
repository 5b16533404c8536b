//! Conflicts for those who must decide about them: listed, decided, and the log cleared. Needs no replicator; what is decided is
//! written to the destination as a write that knew both others, and reaches the other region as any write does.

use etcd_client::{Compare, CompareOp, DeleteOptions, Txn, TxnOp};
use jiff::Timestamp;
use serde::Serialize;

use super::{
    OverlapError,
    enter::links,
    etcd::{self, Names, under},
    hlc::Hlc,
    log::{self, Conflict, Kept},
    tag::{Entry, Tag, Version},
};
use crate::{
    checkpoint::ClusterId, client::Member, error::ReplicationError, listing::Listing,
    options::ReplicationOptions, revision::Revision, run::Context, verify, watch::now_ms,
};

/// Writes of others that may come in between before a decision gives up.
const TRIES: usize = 8;

/// A conflict as it was found.
#[derive(Debug, Clone, Serialize)]
pub struct Listed {
    /// Whether both sides still keep their own.
    pub open: bool,
    /// What is written down.
    #[serde(flatten)]
    pub conflict: Conflict,
}

/// Whose write shall be in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// The destination's, as it is there now.
    Local,
    /// The source's, if it is still the one that was written down.
    Remote,
}

/// Conflicts, those that are open first, each in the order of time; of the log those since a moment.
///
/// # Errors
/// When the destination cannot be read, or no link of two regions that both write ends there.
pub async fn list(
    options: ReplicationOptions,
    since: Option<Timestamp>,
) -> Result<Vec<Listed>, ReplicationError> {
    let (context, member, names) = at_destination(options).await?;
    let mut all = Vec::new();
    for (prefix, open) in [(&names.open, true), (&names.closed, false)] {
        let first = all.len();
        let mut listing = Listing::start(&context.destination.cluster, &member, prefix, Revision(0));
        while let Some(kv) = listing.next().await? {
            let conflict = read(kv.key(), kv.value())?;
            if open || since.is_none_or(|since| conflict.at >= since) {
                all.push(Listed { open, conflict });
            }
        }
        if let Some(new) = all.get_mut(first..) {
            new.sort_by_key(|listed| listed.conflict.at);
        }
    }
    Ok(all)
}

/// Deletes what the log has from before a moment, or all of it. How many that were. Open conflicts stay.
///
/// # Errors
/// When the destination cannot be written, or no link of two regions that both write ends there.
pub async fn clear(options: ReplicationOptions, before: Option<Timestamp>) -> Result<i64, ReplicationError> {
    let (context, member, names) = at_destination(options).await?;
    let range = match before {
        None => DeleteOptions::new().with_prefix(),
        Some(before) => {
            let ms = u64::try_from(before.as_millisecond()).unwrap_or(0);
            DeleteOptions::new().with_range(under(&names.closed, log::id(Hlc::new(ms, 0)).as_bytes()))
        }
    };
    let asking = async { member.kv().delete(names.closed.as_slice(), Some(range)).await };
    Ok(context.destination.cluster.ask(asking).await?.deleted())
}

/// Decides about a key of the destination, whatever its bytes, for both regions.
///
/// # Errors
/// When there is nothing to decide, when the other region wrote the key again since, or when an etcd that is needed does not
/// answer: the source, to keep its value.
pub async fn decide(
    options: ReplicationOptions,
    key: &[u8],
    keep: Keep,
    actor: &str,
) -> Result<Conflict, ReplicationError> {
    let (context, member, names) = at_destination(options).await?;
    let undecidable =
        |why: &str| OverlapError::Undecidable { key: Kept::of(key).to_string(), why: why.to_owned() };
    let Some(rest) = key.strip_prefix(names.here.as_slice()) else {
        return Err(undecidable("it is not under the prefix that both regions write").into());
    };
    for tried in 0..TRIES {
        let open = under(&names.open, rest);
        let found = context.destination.cluster.ask(member.kv().get(open.as_slice(), None)).await?;
        let Some(note) = found.kvs().first() else {
            return Err(undecidable(
                "there is no open conflict of it; `zonebreak replicate conflicts list` names those",
            )
            .into());
        };
        let conflict = read(note.key(), note.value())?;
        let here = one(&context, &member, (&names.here, &names.tags), rest).await?;
        let value = match keep {
            Keep::Local => here.value().map(<[u8]>::to_vec),
            Keep::Remote => {
                let source = context.source.connect().await?;
                let there =
                    etcd::read(&context.source, &source, (&names.there, &names.tags), &[rest.to_vec()])
                        .await?;
                let there = there.into_iter().next().unwrap_or_default();
                let same = |known: &Version| known.rank() == (conflict.remote.hlc, conflict.remote.origin.0);
                if !there.known().is_some_and(same) {
                    return Err(undecidable("the other region wrote it again since; look at it again").into());
                }
                there.data.map(|(value, _)| value)
            }
        };
        let (version, decided) = decision(conflict, &here, keep, member.cluster, actor);
        // Where another has that place in the log, the next try takes a later one.
        let place = (0..tried).fold(version.hlc, |at, _| at.next());
        let entry = under(&names.closed, log::id(place).as_bytes());
        let at = |held: Option<i64>| held.unwrap_or(0);
        let guards = [
            (under(&names.here, rest), at(here.data.as_ref().map(|(_, at)| *at))),
            (under(&names.tags, rest), at(here.tag.as_ref().map(|(_, at)| *at))),
            (open.clone(), note.mod_revision()),
            (entry.clone(), 0),
        ];
        let guards = guards.map(|(key, at)| Compare::mod_revision(key, CompareOp::Equal, at));
        let tag = Tag { version, deleted: value.is_none() };
        let mut writes = vec![
            TxnOp::put(under(&names.tags, rest), tag.encode(), None),
            TxnOp::put(entry, decided.encode(), None),
            TxnOp::delete(open, None),
        ];
        match (keep, value) {
            (Keep::Local, _) => {}
            (Keep::Remote, Some(value)) => writes.push(TxnOp::put(key, value, None)),
            (Keep::Remote, None) => writes.push(TxnOp::delete(key, None)),
        }
        let txn = Txn::new().when(guards).and_then(writes);
        if context.destination.cluster.ask(member.kv().txn(txn)).await?.succeeded() {
            return Ok(decided);
        }
    }
    Err(undecidable("somebody keeps writing it; stop them, or run this again").into())
}

/// The write that a decision is, and the conflict as it goes to the log. It knew both.
fn decision(
    conflict: Conflict,
    here: &Entry,
    keep: Keep,
    cluster: ClusterId,
    actor: &str,
) -> (Version, Conflict) {
    let version = |of: &log::Party| Version::following(None, of.origin, of.hlc);
    let known = here.tag.as_ref().map_or_else(|| version(&conflict.local), |(tag, _)| tag.version.clone());
    let both = known.joined(&version(&conflict.remote)).joined(&version(&conflict.local));
    let hlc = Hlc::new(now_ms(), 0).max(both.latest().next());
    let winner = match keep {
        Keep::Local => conflict.local.origin,
        Keep::Remote => conflict.remote.origin,
    };
    let decided = Conflict { winner: Some(winner), decided_by: Some(actor.to_owned()), ..conflict };
    (Version::following(Some(&both), cluster, hlc), decided)
}

async fn one(
    context: &Context,
    member: &Member,
    sides: (&[u8], &[u8]),
    rest: &[u8],
) -> Result<Entry, ReplicationError> {
    let found = etcd::read(&context.destination.cluster, member, sides, &[rest.to_vec()]).await?;
    Ok(found.into_iter().next().unwrap_or_default())
}

fn read(key: &[u8], value: &[u8]) -> Result<Conflict, OverlapError> {
    let key = || String::from_utf8_lossy(key).into_owned();
    Conflict::decode(value).map_err(|why| OverlapError::Unreadable { key: key(), why })
}

/// The destination, if two regions that both write meet there.
async fn at_destination(options: ReplicationOptions) -> Result<(Context, Member, Names), ReplicationError> {
    options.validate()?;
    let (context, names) = (verify::context(options.clone())?, Names::new(&options));
    let member = context.destination.member().await?;
    let known = links(&context.destination.cluster, &member).await?;
    if !known.iter().any(|(stream, _)| *stream == options.stream) {
        return Err(OverlapError::NotShared { stream: options.stream }.into());
    }
    Ok((context, member, names))
}
