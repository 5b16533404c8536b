//! The first words of a link between two regions that both write: takes the destination over, says there what it is, and makes
//! sure that the link in the other direction decides alike. Then it is at work ([`super::exchange`]).

use std::time::Duration;

use etcd_client::{Compare, CompareOp, GetOptions, Txn, TxnOp};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Overlap,
    exchange::{Exchange, Hold},
    record::{self, Link, OverlapError},
};
use crate::{
    checkpoint::{Checkpoint, ClusterId},
    client::{Cluster, EtcdError, Member},
    error::ReplicationError,
    options::prefixes,
    pipeline::Halt,
    questions::get,
    region::{
        own::{self, Ownership},
        tell_apart,
    },
    revision::Revision,
    run::{Context, MISSED, Replicator},
    session::End,
    spool::Spool,
};

// === impl Replicator ===

impl Replicator {
    /// From a start to the next reason to start again.
    pub(crate) async fn share(
        &mut self,
        overlap: Overlap,
        cancel: &CancellationToken,
    ) -> Result<End, ReplicationError> {
        let context = self.context.clone();
        context.enter("starting", &self.cause);
        let hold = match cancel.run_until_cancelled(Box::pin(self.take_over(overlap))).await {
            Some(hold) => hold?,
            None => return Ok(End::Cancelled),
        };
        let exchange = Exchange::new(context, overlap, hold);
        match cancel.run_until_cancelled(Box::pin(exchange.recall())).await {
            Some(recalled) => recalled?,
            None => return Ok(End::Cancelled),
        }
        Box::pin(exchange.run(cancel)).await
    }

    /// Makes the destination ours. Without the source too, where both were linked before: this region's writes must have their time.
    async fn take_over(&mut self, overlap: Overlap) -> Result<Hold, ReplicationError> {
        let context = self.context.clone();
        loop {
            let (found, _) = context.destination.read().await?;
            let member = context.destination.member().await?;
            context.metrics.connected("destination", true);
            let source = match context.source.connect().await {
                Ok(source) => Ok(source),
                Err(error @ EtcdError::Unreachable { .. }) => Err(error),
                Err(error) => return Err(error.into()),
            };
            let known = found.as_ref().and_then(|(bytes, _)| Checkpoint::decode(bytes).ok());
            let there = match (&source, known) {
                (Ok(source), _) => source.cluster,
                (Err(_), Some(known)) if known.overlap.is_some() => known.source_cluster,
                (Err(error), _) => return Err(error.clone().into()),
            };
            // What a write came from is told by the cluster's ID.
            tell_apart(there, member.cluster)?;
            self.open_spool(there).await?;
            let holder = self.spool.as_ref().map(Spool::holder).unwrap_or_default();
            let prefixes = prefixes(&context.options.rules);
            let genesis = || Checkpoint::genesis(there, member.cluster, prefixes.clone(), holder);
            let (old, fence) = match found {
                None => (genesis(), 0),
                Some((bytes, fence)) => match self.accept(&bytes, there, &member) {
                    Ok(known) => (known, fence),
                    Err(error @ ReplicationError::Halt(_)) => return Err(error),
                    Err(error) if self.overwrite => {
                        tracing::warn!("failed to {error}; beginning anew, as asked");
                        let epoch = Checkpoint::decode(&bytes).map_or(1, |known| known.epoch);
                        (Checkpoint { epoch, ..genesis() }, fence)
                    }
                    Err(error) => return Err(error),
                },
            };
            if old.holder != holder && self.is_alive(fence) {
                context.enter("standby", "another replicator has the destination");
                tokio::time::sleep(context.options.heartbeat / 2).await;
                continue;
            }
            context.may_share(&member, self.overwrite).await?;
            // Before anything is said here that would stop the other direction.
            if let Ok(source) = &source {
                let limit = context.options.heartbeat * MISSED;
                let _silent = context.agree(overlap, source, &member, limit).await?;
            }
            let (mut checkpoint, ours) =
                (old.clone(), Checkpoint { holder, overlap: Some(overlap.policy), torn: None, ..old });
            let fence = match context.settle(fence, &mut checkpoint, ours).await {
                Ok(fence) => fence,
                // A write of our former self, or of the other holder, came in between: look again.
                Err(ReplicationError::Halt(Halt::Superseded(_) | Halt::Gone)) => continue,
                Err(error) => return Err(error),
            };
            context.announce(overlap, there, &member, fence).await?;
            tracing::info!(%holder, policy = %overlap.policy, "took the destination over; both regions write here");
            self.overwrite = false;
            return Ok(Hold { checkpoint, fence });
        }
    }
}

// === impl Context ===

impl Context {
    /// Nobody owns the prefix, and no other link of this kind has it.
    async fn may_share(&self, member: &Member, overwrite: bool) -> Result<(), ReplicationError> {
        let (cluster, prefix) = (&self.destination.cluster, prefixes(&self.options.rules).1);
        for (key, value, at) in under(cluster, member, &own::root()).await? {
            let held = key.strip_prefix(&own::root()).unwrap_or_default();
            if !own::overlap(held, &prefix) {
                continue;
            }
            if overwrite && held == prefix {
                let still = Compare::mod_revision(key.as_str(), CompareOp::Equal, at);
                let txn = Txn::new().when([still]).and_then([TxnOp::delete(key.as_str(), None)]);
                cluster.ask(member.kv().txn(txn)).await?;
                tracing::warn!(key, "nobody owns the prefix any more, as asked");
                continue;
            }
            let owner = Ownership::decode(&value)
                .map_err(|why| OverlapError::Unreadable { key: key.clone(), why })?;
            let (region, epoch) = (owner.region.to_string(), owner.epoch);
            return Err(OverlapError::Owned { prefix: held.to_owned(), region, epoch, key }.into());
        }
        Ok(Link::is_alone(&self.options.stream, &prefix, &links(cluster, member).await?)?)
    }

    /// Says at the destination what ends here.
    async fn announce(
        &self,
        overlap: Overlap,
        there: ClusterId,
        member: &Member,
        fence: i64,
    ) -> Result<(), ReplicationError> {
        let link = self.link(overlap, there, member);
        let key = record::key(&self.options.stream);
        let found = self.destination.cluster.ask(member.kv().get(key.as_str(), None)).await?;
        if found.kvs().first().is_some_and(|kv| kv.value() == link.encode()) {
            return Ok(());
        }
        let ours = Compare::mod_revision(self.options.checkpoint_key(), CompareOp::Equal, fence);
        let txn = Txn::new().when([ours]).and_then([TxnOp::put(key, link.encode(), None)]);
        self.destination.cluster.ask(member.kv().txn(txn)).await?;
        Ok(())
    }

    /// Waits until the link in the other direction, if there is one, decides as this one does: whether it does within the limit. One
    /// that decides otherwise and is at work, which is known by its signs of life, has the say. One that is not was stopped, perhaps
    /// to be set to what this one is set to now: it learns of that when it begins.
    ///
    /// Looked at whenever the source was connected to, before anything is heard: of two links that begin at the same moment each
    /// has said by then what it is.
    ///
    /// # Errors
    /// [`OverlapError::Contradicts`].
    pub(super) async fn agree(
        &self,
        overlap: Overlap,
        source: &Member,
        member: &Member,
        limit: Duration,
    ) -> Result<bool, ReplicationError> {
        if self.contradicts(overlap, source, member).await?.is_none() {
            return Ok(true);
        }
        let (begun, mut first) = (Instant::now(), None);
        loop {
            // Read before what it decides by: who begins shows a sign of life, says what it is, and only then shows another.
            let signs = self.signs_of_life(source).await?;
            let Some(error) = self.contradicts(overlap, source, member).await? else { return Ok(true) };
            let first = *first.get_or_insert(signs);
            // One of them may have been on its way when it died.
            if signs >= first.saturating_add(2) {
                return Err(error.into());
            }
            if begun.elapsed() >= limit {
                return Ok(false);
            }
            tokio::time::sleep(self.options.heartbeat / 4).await;
        }
    }

    /// How the link in the other direction decides otherwise, if it does.
    async fn contradicts(
        &self,
        overlap: Overlap,
        source: &Member,
        member: &Member,
    ) -> Result<Option<OverlapError>, ReplicationError> {
        let theirs = links(&self.source, source).await?;
        let stream = &self.options.stream;
        let theirs = theirs.into_iter().find(|(name, _)| name == stream);
        let ours = self.link(overlap, source.cluster, member);
        Ok(theirs.and_then(|(_, theirs)| ours.agrees(stream, &theirs).err()))
    }

    /// How often the link in the other direction has written its checkpoint.
    async fn signs_of_life(&self, source: &Member) -> Result<i64, EtcdError> {
        let found = get(&self.source, source, self.options.checkpoint_key().into(), Revision(0)).await?;
        Ok(found.map_or(0, |kv| kv.version()))
    }

    fn link(&self, overlap: Overlap, there: ClusterId, member: &Member) -> Link {
        let (prefix, region) = (prefixes(&self.options.rules).1, self.region_here(member.cluster));
        Link::new(prefix, overlap.policy, there, member.cluster, region)
    }
}

/// All records of such links in an etcd, by their streams.
pub(crate) async fn links(
    cluster: &Cluster,
    member: &Member,
) -> Result<Vec<(String, Link)>, ReplicationError> {
    let found = under(cluster, member, &record::root()).await?;
    let read = |(key, value, _): (String, Vec<u8>, i64)| {
        let stream = key.strip_prefix(&record::root()).unwrap_or_default().to_owned();
        match Link::decode(&value) {
            Ok(link) => Ok((stream, link)),
            Err(why) => Err(OverlapError::Unreadable { key, why }.into()),
        }
    };
    found.into_iter().map(read).collect()
}

/// Everything under a prefix of few small keys.
async fn under(
    cluster: &Cluster,
    member: &Member,
    prefix: &str,
) -> Result<Vec<(String, Vec<u8>, i64)>, EtcdError> {
    let options = GetOptions::new().with_prefix();
    let mut found = cluster.ask(member.kv().get(prefix, Some(options))).await?;
    let entry = |kv: etcd_client::KeyValue| {
        let at = kv.mod_revision();
        let (key, value) = kv.into_key_value();
        (String::from_utf8_lossy(&key).into_owned(), value, at)
    };
    Ok(found.take_kvs().into_iter().map(entry).collect())
}
