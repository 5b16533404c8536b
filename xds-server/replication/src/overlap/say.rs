//! The half of a link that watches its own region: finds what applications wrote and deleted there, and gives it a time. Goes on
//! while the other region cannot be reached, so that a write's time is that of the write and not of the end of a partition.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    etcd::{self, AT_ONCE, under},
    exchange::{ABREAST, Broke, Case, Exchange, RETRY},
    scan::Join,
    tag::Entry,
};
use crate::{
    client::Member,
    error::ReplicationError,
    listing::Listing,
    revision::{Revision, SourceRevision},
    watch::{News, Watch},
};

/// What is known of the region so far.
struct Progress {
    /// The revision from which its watch goes on; `None` when everything must be compared first.
    at: Option<Revision>,
    /// Keys to look at.
    dirty: BTreeSet<Vec<u8>>,
    scrub: Scrub,
}

/// Keys that were looked at, and those of them that must be again.
type Looked = (Vec<Vec<u8>>, Vec<Vec<u8>>);

/// When everything is to be compared again, however often the connection broke since it was last.
pub(super) struct Scrub {
    every: Duration,
    last: Instant,
}

// === impl Exchange ===

impl Exchange {
    /// Until an error that does not heal.
    pub(super) async fn say(self: Arc<Self>) -> Result<(), ReplicationError> {
        let scrub = Scrub::every(self.context.options.scrub);
        let mut progress = Progress { at: None, dirty: BTreeSet::new(), scrub };
        loop {
            match self.say_on(&mut progress).await {
                Ok(()) | Err(Broke::Gap) => progress.at = None,
                Err(Broke::Failed(error)) if self.is_passing(&error) => {
                    self.context.metrics.connected("destination", false);
                    tracing::warn!(
                        "failed to {error}; what is written in this region has no time until it is back"
                    );
                    self.context.destination.lost().await;
                }
                Err(Broke::Failed(error)) => return Err(error),
            }
            sleep(RETRY).await;
        }
    }

    /// One connection, until it breaks or everything is to be compared again.
    async fn say_on(self: &Arc<Self>, progress: &mut Progress) -> Result<(), Broke> {
        let destination = &self.context.destination;
        let member = destination.member().await?;
        let after = match progress.at {
            Some(at) => at,
            None => Revision(destination.read().await?.1),
        };
        let every = self.context.options.heartbeat;
        // Before anything is compared: whatever is written meanwhile is looked at as well.
        let mut watch = Watch::open(&destination.cluster, &member, &self.names.here, after, every).await?;
        if progress.at.is_none() {
            self.recall().await?;
            self.compare_with_tags(&member, after, &mut progress.dirty).await?;
            progress.at = Some(after);
            progress.scrub.done();
        }
        while !progress.scrub.is_due() {
            self.look(&member, &mut progress.dirty).await?;
            let mut wait = if progress.dirty.is_empty() { every } else { Duration::ZERO };
            // All that has come, so that a busy region is written to in large transactions and not in many.
            while progress.dirty.len() < AT_ONCE * ABREAST
                && let Ok(news) = timeout(wait, watch.next()).await
            {
                if let News::Revisions(revisions) = news? {
                    self.note_written(revisions, progress);
                }
                wait = Duration::ZERO;
            }
        }
        Ok(())
    }

    fn note_written(&self, revisions: Vec<SourceRevision>, progress: &mut Progress) {
        for revision in revisions {
            progress.at = Some(revision.revision);
            if self.is_ours(revision.revision) {
                continue;
            }
            let written =
                revision.changes.iter().filter(|change| self.context.options.rules.owns(&change.key));
            let rests = written.filter_map(|change| change.key.strip_prefix(&*self.names.here));
            progress.dirty.extend(rests.map(<[u8]>::to_vec));
        }
    }

    /// Compares every key with its tag, and lets go of tags of deletes of long ago.
    async fn compare_with_tags(
        self: &Arc<Self>,
        member: &Member,
        at: Revision,
        dirty: &mut BTreeSet<Vec<u8>>,
    ) -> Result<(), Broke> {
        let (cluster, names) = (&self.context.destination.cluster, &self.names);
        let listing = |prefix: &[u8]| (Listing::start(cluster, member, prefix, at), prefix.len());
        let mut both = Join::new(listing(&names.here), listing(&names.tags));
        let (mut forgotten, mut leased) = (Vec::new(), 0);
        while let Some(found) = both.next().await? {
            let (key, rest) = (under(&names.here, &found.rest), found.rest);
            if !self.context.options.rules.owns(&key) {
                continue;
            }
            leased += i64::from(found.left.as_ref().is_some_and(|kv| kv.lease() != 0));
            let entry = Entry {
                tag: found
                    .right
                    .map(|kv| (etcd::decode(kv.value(), found.left.is_some(), &rest), kv.mod_revision())),
                // The value is not needed to tell whether it is known.
                data: found.left.map(|kv| (Vec::new(), kv.mod_revision())),
            };
            if let Some((tag, tagged)) = &entry.tag {
                self.resume(tag.version.hlc);
                if entry.data.is_none() && tag.deleted && self.is_forgotten(&rest, &tag.version) {
                    forgotten.push((rest.clone(), *tagged));
                }
            }
            if entry.is_unsaid() {
                dirty.insert(rest);
            }
            if dirty.len() >= AT_ONCE * ABREAST {
                self.look(member, dirty).await?;
            }
            if forgotten.len() >= AT_ONCE {
                self.drop_if(&self.names.tags, std::mem::take(&mut forgotten)).await?;
            }
        }
        self.context.metrics.leased.set(leased);
        if forgotten.is_empty() { Ok(()) } else { Ok(self.drop_if(&self.names.tags, forgotten).await?) }
    }

    /// Looks at each of these keys once. Those that somebody wrote meanwhile are left.
    async fn look(self: &Arc<Self>, member: &Member, dirty: &mut BTreeSet<Vec<u8>>) -> Result<(), Broke> {
        let rests: Vec<Vec<u8>> = dirty.iter().cloned().collect();
        let mut flying = JoinSet::new();
        let mut done = |(done, again): Looked| {
            for rest in &done {
                dirty.remove(rest);
            }
            dirty.extend(again);
        };
        for rests in rests.chunks(AT_ONCE) {
            let (exchange, member, rests) = (Arc::clone(self), member.clone(), rests.to_vec());
            if flying.len() >= ABREAST {
                self.land(&mut flying, &mut done).await?;
            }
            flying.spawn(async move { exchange.look_at(&member, rests).await });
        }
        while !flying.is_empty() {
            self.land(&mut flying, &mut done).await?;
        }
        Ok(())
    }

    async fn look_at(self: Arc<Self>, member: &Member, rests: Vec<Vec<u8>>) -> Result<Looked, Broke> {
        let (cluster, names) = (&self.context.destination.cluster, &self.names);
        let entries = etcd::read(cluster, member, (&names.here, &names.tags), &rests).await?;
        let cases = rests.iter().cloned().zip(entries);
        let cases = cases.map(|(rest, entry)| Case { rest, foreign: None, entry });
        let again = self.settle(cases.collect()).await?;
        Ok((rests, again))
    }

    /// Waits for one of those that are on their way.
    pub(super) async fn land<T: 'static>(
        &self,
        flying: &mut JoinSet<Result<T, Broke>>,
        done: impl FnOnce(T),
    ) -> Result<(), Broke> {
        match flying.join_next().await {
            None => Ok(()),
            Some(Ok(result)) => result.map(done),
            Some(Err(died)) => {
                Err(self.context.destination.cluster.unreachable(format!("a task broke off: {died}")).into())
            }
        }
    }

    /// Whether it is enough to try again here; a fence that moved means that somebody else has the destination.
    pub(super) fn is_passing(&self, error: &ReplicationError) -> bool {
        error.is_transient() && !matches!(error, ReplicationError::Halt(_))
    }
}

// === impl Scrub ===

impl Scrub {
    /// From now on; never, when 0.
    pub(super) fn every(every: Duration) -> Self {
        Self { every, last: Instant::now() }
    }

    /// Everything was compared.
    pub(super) fn done(&mut self) {
        self.last = Instant::now();
    }

    pub(super) fn is_due(&self) -> bool {
        !self.every.is_zero() && self.last.elapsed() >= self.every
    }
}
