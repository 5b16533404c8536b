//! Whether a destination has everything that its source has, right now: for scripts that wait for it. Reads both, changes nothing.
//!
//! A checkpoint's revision alone does not tell: the source's revision grows with every key, those of other prefixes included, and
//! an etcd before 3.4.25 and 3.5.8 cannot be asked whether a watch is behind. So where the two differ, the source is asked
//! whether anything under the prefix changed in between: no key was put since, and no key less is there. Keys that the rules leave
//! out come and go beside them and count for nothing, so where any of those went, the names are read and none of the values.

use etcd_client::GetOptions;
use serde::Serialize;

use super::{records, unless_compacted};
use crate::{
    checkpoint::{Checkpoint, Role},
    client::{Member, after_prefix, range_start},
    error::ReplicationError,
    listing::Listing,
    options::{ReplicationOptions, prefixes},
    revision::Revision,
    run::Context,
    verify,
};

/// Keys put since that are looked at one by one; when there are more, every name is.
const LOOKED_AT: i64 = 1_000;

/// How far a destination is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum Converged {
    /// It has all of it.
    Yes {
        /// The source's revision that was compared with.
        head: Revision,
    },
    /// It is promoted: there is nothing to wait for.
    Promoted {
        /// Since this epoch.
        epoch: u64,
    },
    /// Not yet, and why.
    No {
        /// In words.
        why: String,
    },
}

/// Looks once.
///
/// # Errors
/// What waiting does not mend: settings, permissions, damage.
pub async fn converge(options: ReplicationOptions) -> Result<Converged, ReplicationError> {
    options.validate()?;
    let context = verify::context(options)?;
    match look(&context).await {
        Err(error) if error.is_transient() => Ok(Converged::No { why: format!("failed to {error}") }),
        other => other,
    }
}

async fn look(context: &Context) -> Result<Converged, ReplicationError> {
    let no = |why: String| Ok(Converged::No { why });
    if context.options.overlap.is_some() {
        match records::decode(context.destination.read().await?.0)? {
            Some((checkpoint, _)) if checkpoint.is_whole() => {}
            _ => return no("the two regions have not met yet".to_owned()),
        }
        let proof = verify::compare(context, 1, |_| {}).await?;
        return match proof.examples.first() {
            None => Ok(Converged::Yes { head: proof.source_revision }),
            Some(first) => no(format!("{} keys differ, {} among them", proof.differences, first.key)),
        };
    }
    // The source first: what the destination has then is at least as new.
    let source = context.source.connect().await?;
    let Some((checkpoint, _)) = records::decode(context.destination.read().await?.0)? else {
        return no("nothing was ever replicated here".to_owned());
    };
    if checkpoint.role == Role::Primary {
        let (from, to) = prefixes(&context.options.rules);
        let here = checkpoint.destination_cluster;
        let owner = records::promoted_over(&context.source, &source, here, (&from, &to)).await?;
        if owner.is_some_and(|owner| owner.epoch > checkpoint.epoch) {
            return no("the destination is a former owner that was not brought up yet".to_owned());
        }
        return Ok(Converged::Promoted { epoch: checkpoint.epoch });
    }
    if !checkpoint.is_whole() {
        return no("the destination is between two revisions of the source".to_owned());
    }
    let (have, head) = (checkpoint.source_revision, source.head);
    if have >= head || unchanged(context, &source, &checkpoint).await? {
        return Ok(Converged::Yes { head });
    }
    no(format!("the destination holds revision {have} and the source is at {head}"))
}

/// Whether the source's prefix is at its latest what it was at the checkpoint.
async fn unchanged(
    context: &Context,
    source: &Member,
    checkpoint: &Checkpoint,
) -> Result<bool, ReplicationError> {
    let (rules, prefix) = (&context.options.rules, context.options.rules.source_prefix());
    let (since, head) = (checkpoint.source_revision, source.head);
    let newer = GetOptions::new()
        .with_range(after_prefix(prefix))
        .with_keys_only()
        .with_min_mod_revision(since.next().0)
        .with_revision(head.0)
        .with_limit(LOOKED_AT);
    let asking = async { source.kv().get(range_start(prefix), Some(newer)).await };
    let newer = context.source.ask(asking).await?;
    if newer.kvs().iter().any(|kv| rules.map_key(kv.key()).is_some()) {
        return Ok(false);
    }
    // Where deletes are not replicated, one more or less is none of ours.
    if !rules.deletes() && !newer.more() {
        return Ok(true);
    }
    let count = async |revision: Revision| {
        let options = GetOptions::new().with_range(after_prefix(prefix)).with_count_only();
        let options = options.with_revision(revision.0);
        let asking = async { source.kv().get(range_start(prefix), Some(options)).await };
        context.source.ask(asking).await.map(|answer| answer.count())
    };
    let Some(before) = unless_compacted(count(since).await)? else { return Ok(false) };
    // Keys of which nothing is replicated, such as the replicators' own, may come and go. Less those that came since, as many as
    // before: none went.
    let came = newer.kvs().iter().filter(|kv| kv.create_revision() > since.0).count();
    let came = i64::try_from(came).unwrap_or(i64::MAX);
    if !newer.more() && count(head).await?.saturating_sub(came) == before {
        return Ok(true);
    }
    // Some did, and only the names tell which. None of ours was put since: as many of ours are the same.
    let ours = async |revision: Revision| {
        let mut listing = Listing::keys(&context.source, source, prefix, revision);
        let (mut keys, mut put) = (0_u64, false);
        while let Some(kv) = listing.next().await? {
            if rules.map_key(kv.key()).is_some() {
                keys += 1;
                put |= kv.mod_revision() > since.0;
            }
        }
        Ok((keys, put))
    };
    let (now, put) = ours(head).await?;
    if put || !rules.deletes() {
        return Ok(!put);
    }
    Ok(unless_compacted(ours(since).await)?.is_some_and(|(then, _)| then == now))
}
