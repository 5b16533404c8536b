//! The half of a link that listens to the other region: follows its tags, fetches what is not known here yet, and has it decided
//! about. Reads the source and writes nothing there.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use etcd_client::GetOptions;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    etcd::{self, AT_ONCE, under},
    exchange::{ABREAST, Broke, Case, Exchange, RETRY},
    merge::Foreign,
    say::Scrub,
    scan::Join,
    tag::{Entry, Tag, Version},
};
use crate::{
    client::{EtcdError, Member},
    error::ReplicationError,
    listing::Listing,
    revision::{Change, Op, Revision, SourceRevision},
    source::{is_progress_trusted, version},
    watch::{News, Watch, now_ms},
};

/// What the other region said of a key.
#[derive(Debug, Clone)]
struct Said {
    tag: Tag,
    /// The source's revision at which it was said, and the key was what is said of it.
    at: Revision,
    /// When that reached us; `None` for what was found by comparing.
    seen_ms: Option<u64>,
}

/// Keys that were looked at, and those of them that must be again.
type Looked = (Vec<(Vec<u8>, Said)>, Vec<Vec<u8>>);

/// What is known of the source so far.
struct Progress {
    /// The revision from which its watch goes on, and when that was its latest; `None` when all tags must be compared first.
    at: Option<(Revision, u64)>,
    /// Keys to look at, by what was said of them last.
    queue: BTreeMap<Vec<u8>, Said>,
    lost: bool,
    scrub: Scrub,
    life: Life,
}

/// Until when the source's own replicator is known to have been at work. While it is not, what is written there is said by nobody, and
/// to have heard all that was said is not to have everything.
#[derive(Debug, Clone, Copy, Default)]
struct Life {
    /// The `mod_revision` of its last sign of life, and when that was looked for, by both clocks.
    sign: Option<(i64, Instant, u64)>,
    /// Since when it has shown a new one, or when it last said something.
    until_ms: u64,
}

// === impl Exchange ===

impl Exchange {
    /// Until an error that does not heal.
    pub(super) async fn hear(self: Arc<Self>) -> Result<(), ReplicationError> {
        let scrub = Scrub::every(self.context.options.scrub);
        let life = Life::default();
        let mut progress = Progress { at: None, queue: BTreeMap::new(), lost: false, scrub, life };
        loop {
            match self.hear_on(&mut progress).await {
                Ok(()) | Err(Broke::Gap) => progress.at = None,
                Err(Broke::Failed(error)) if self.is_passing(&error) => {
                    self.context.source.lost();
                    self.context.metrics.connected("source", false);
                    if !std::mem::replace(&mut progress.lost, true) {
                        tracing::warn!(
                            "failed to {error}; what the other region wrote comes when that is mended"
                        );
                    }
                }
                Err(Broke::Failed(error)) => return Err(error),
            }
            sleep(RETRY).await;
        }
    }

    /// One connection, until it breaks or everything is to be compared again.
    async fn hear_on(self: &Arc<Self>, progress: &mut Progress) -> Result<(), Broke> {
        let (source, options) = (&self.context.source, &self.context.options);
        let member = Box::pin(source.connect()).await?;
        if member.cluster != self.there {
            let strange = format!("it is cluster {} now, not {}", member.cluster, self.there);
            return Err(ReplicationError::Strange(strange).into());
        }
        let here = self.context.destination.member().await?;
        if !self.context.agree(self.overlap, &member, &here, Duration::ZERO).await? {
            let cause =
                "the link in the other direction is not at work, and decided by another policy when it was";
            self.context.enter("standby", cause);
            self.context.agree(self.overlap, &member, &here, Duration::MAX).await?;
        }
        self.context.enter("streaming", "both directions decide by the same policy");
        // A source that went back, as from a snapshot, says again what it has; what is known here goes back to it from here.
        let known = progress.at.filter(|(at, _)| *at <= member.head);
        // What came between is not here yet: until it is, nothing is known of a later moment.
        let known = known.map(|(at, ms)| (at, if at == member.head { member.seen_ms } else { ms }));
        let (after, seen_ms) = known.unwrap_or((member.head, member.seen_ms));
        let every = (options.heartbeat / 2).max(Duration::from_millis(200));
        let mut watch = Watch::open(source, &member, &self.names.tags, after, every).await?;
        self.context.metrics.connected("source", true);
        if std::mem::take(&mut progress.lost) {
            tracing::info!(head = member.head.0, "the source is back");
        }
        if known.is_none() {
            let first = GetOptions::new().with_prefix().with_limit(1).with_keys_only();
            let tags = source.ask(member.kv().get(self.names.tags.as_slice(), Some(first))).await?;
            if tags.kvs().is_empty() {
                tracing::warn!(
                    stream = options.stream,
                    "no replicator in the other direction has spoken yet: what the source's region writes comes when one with the same \
                     stream name runs there"
                );
            }
            self.compare_tags(&member, &mut progress.queue).await?;
            progress.scrub.done();
        }
        progress.at = Some((after, seen_ms));
        let trusted = is_progress_trusted(&version(&member).await);
        while !progress.scrub.is_due() {
            self.look_for_life(&member, &mut progress.life, every).await?;
            if progress.queue.is_empty() {
                let (through, seen_ms) = progress.at.unwrap_or((after, seen_ms));
                self.heard_out(through, progress.life.no_later_than(seen_ms));
            } else {
                self.take_in(&member, &mut progress.queue).await?;
            }
            let mut wait = if progress.queue.is_empty() { every } else { Duration::ZERO };
            // All that has come, so that a busy region is followed in large transactions and not in many.
            while progress.queue.len() < AT_ONCE * ABREAST
                && let Ok(news) = timeout(wait, watch.next()).await
            {
                match news? {
                    News::Progress(revision) if trusted && progress.queue.is_empty() => {
                        self.heard_out(revision, progress.life.no_later_than(now_ms()));
                    }
                    News::Progress(_) => {}
                    News::Revisions(revisions) => {
                        for revision in revisions {
                            let SourceRevision { revision, changes, seen_ms, .. } = revision;
                            progress.at = Some((revision, seen_ms));
                            progress.life.shown(seen_ms);
                            for change in changes {
                                self.note(&mut progress.queue, &change, revision, seen_ms);
                            }
                        }
                    }
                }
                wait = Duration::ZERO;
            }
        }
        Ok(())
    }

    /// Looks for a sign of life of the source's own replicator, which writes its checkpoint there at every heartbeat, unless that was
    /// done a moment ago. A user who may not see it knows of none: then what it says is all that tells.
    async fn look_for_life(
        &self,
        source: &Member,
        life: &mut Life,
        every: Duration,
    ) -> Result<(), EtcdError> {
        if life.sign.is_some_and(|(_, looked, _)| looked.elapsed() < every) {
            return Ok(());
        }
        let (before, looked) = (now_ms(), Instant::now());
        let options = GetOptions::new().with_keys_only();
        let asking = async { source.kv().get(self.context.options.checkpoint_key(), Some(options)).await };
        let found = match self.context.source.ask(asking).await {
            Err(EtcdError::Denied { .. }) => None,
            other => other?.kvs().first().map(etcd_client::KeyValue::mod_revision),
        };
        let sign = found.unwrap_or(0);
        // One that is new was shown after the last look, and perhaps right after it; the first that is found may be of long ago.
        if let Some((_, _, last_ms)) = life.sign.filter(|(known, ..)| sign > *known) {
            life.shown(last_ms);
        }
        life.sign = Some((sign, looked, before));
        Ok(())
    }

    fn note(&self, queue: &mut BTreeMap<Vec<u8>, Said>, change: &Change, at: Revision, seen_ms: u64) {
        let Change { key, op } = change;
        let (Some(rest), Op::Put { value, .. }) = (key.strip_prefix(&*self.names.tags), op) else { return };
        if !self.context.options.rules.owns(&under(&self.names.here, rest)) {
            return;
        }
        match Tag::decode(value) {
            Ok(tag) => {
                self.heard_of([tag.version.hlc]);
                queue.insert(rest.to_vec(), Said { tag, at, seen_ms: Some(seen_ms) });
            }
            Err(why) => {
                tracing::warn!(key = %rest.escape_ascii(), why, "the other region's tag of a key is damaged; left until it is mended there");
            }
        }
    }

    /// Looks at every tag of the source that says what is not known here.
    async fn compare_tags(
        self: &Arc<Self>,
        member: &Member,
        queue: &mut BTreeMap<Vec<u8>, Said>,
    ) -> Result<(), Broke> {
        let (destination, tags) = (&self.context.destination, &*self.names.tags);
        let here = destination.member().await?;
        let at = Revision(destination.read().await?.1);
        let mut both = Join::new(
            (Listing::gently(&self.context.source, member, tags, member.head), tags.len()),
            (Listing::start(&destination.cluster, &here, tags, at), tags.len()),
        );
        while let Some(found) = both.next().await? {
            let Some(said) = found.left else { continue };
            let known = found.right.and_then(|kv| Tag::decode(kv.value()).ok());
            let Ok(tag) = Tag::decode(said.value()) else { continue };
            let is_ours = self.context.options.rules.owns(&under(&self.names.here, &found.rest));
            if is_ours && !known.is_some_and(|known| known.version.covers(&tag.version)) {
                self.heard_of([tag.version.hlc]);
                queue.insert(found.rest, Said { tag, at: Revision(said.mod_revision()), seen_ms: None });
            }
            if queue.len() >= AT_ONCE * ABREAST {
                self.take_in(member, queue).await?;
            }
        }
        Ok(())
    }

    /// Looks at each of these keys once. Those that somebody wrote here meanwhile are left.
    async fn take_in(
        self: &Arc<Self>,
        source: &Member,
        queue: &mut BTreeMap<Vec<u8>, Said>,
    ) -> Result<(), Broke> {
        let said: Vec<(Vec<u8>, Said)> =
            queue.iter().map(|(rest, said)| (rest.clone(), said.clone())).collect();
        let (mut flying, mut oldest) = (JoinSet::new(), None);
        let mut done = |(done, again): Looked| {
            for (rest, said) in done {
                if !again.contains(&rest) {
                    queue.remove(&rest);
                    oldest = [oldest, said.seen_ms].into_iter().flatten().min();
                }
            }
        };
        for said in said.chunks(AT_ONCE) {
            let (exchange, source, said) = (Arc::clone(self), source.clone(), said.to_vec());
            if flying.len() >= ABREAST {
                self.land(&mut flying, &mut done).await?;
            }
            flying.spawn(async move { exchange.take_these(&source, said).await });
        }
        while !flying.is_empty() {
            self.land(&mut flying, &mut done).await?;
        }
        if let Some(oldest) = oldest {
            self.context.metrics.lag.observe(now_ms().saturating_sub(oldest) as f64 / 1000.0);
        }
        Ok(())
    }

    async fn take_these(
        self: Arc<Self>,
        source: &Member,
        all: Vec<(Vec<u8>, Said)>,
    ) -> Result<Looked, Broke> {
        let destination = &self.context.destination;
        let here = destination.member().await?;
        let sides = (&*self.names.here, &*self.names.tags);
        let rests: Vec<Vec<u8>> = all.iter().map(|(rest, _)| rest.clone()).collect();
        let entries = etcd::read(&destination.cluster, &here, sides, &rests).await?;
        // Most of what a region says is what it heard from us.
        let news = all.iter().zip(entries).filter(|((_, said), entry)| {
            !entry.tag.as_ref().is_some_and(|(tag, _)| tag.version.covers(&said.tag.version))
        });
        let (wanted, entries): (Vec<(Vec<u8>, Said)>, Vec<Entry>) =
            news.map(|((rest, said), entry)| ((rest.clone(), said.clone()), entry)).unzip();
        let values = self.fetch(source, &wanted).await?;
        let cases = wanted.into_iter().zip(entries).zip(values);
        let cases = cases
            .filter_map(|(((rest, _), entry), foreign)| Some(Case { rest, foreign: Some(foreign?), entry }));
        let again = self.settle(cases.collect()).await?;
        Ok((all, again))
    }

    /// What the source has of these keys: as of when it was said, or now where that is compacted. `None` for what was written
    /// there since: that is said in its turn.
    async fn fetch(
        &self,
        source: &Member,
        wanted: &[(Vec<u8>, Said)],
    ) -> Result<Vec<Option<Foreign>>, Broke> {
        let (cluster, names) = (&self.context.source, &self.names);
        // A delete is told whole by its tag.
        let asked = wanted.iter().filter(|(_, said)| !said.tag.deleted);
        let asked: Vec<(Vec<u8>, Revision)> = asked.map(|(rest, said)| (rest.clone(), said.at)).collect();
        let found: Vec<Option<(Option<Version>, Vec<u8>)>> =
            match etcd::values(cluster, source, &names.there, &asked).await {
                Ok(values) => values.into_iter().map(|value| Some((None, value?))).collect(),
                Err(EtcdError::Compacted { .. }) => {
                    let rests: Vec<Vec<u8>> = asked.into_iter().map(|(rest, _)| rest).collect();
                    let sides = (&*names.there, &*names.tags);
                    let latest = etcd::read(cluster, source, sides, &rests).await?;
                    let known = |entry: Entry| Some((Some(entry.known()?.clone()), entry.data?.0));
                    latest.into_iter().map(known).collect()
                }
                Err(error) => return Err(error.into()),
            };
        let mut found = found.into_iter();
        let foreign = |(_, said): &(Vec<u8>, Said)| {
            let version = said.tag.version.clone();
            if said.tag.deleted {
                return Some(Foreign { version, value: None });
            }
            let (later, value) = found.next().flatten()?;
            Some(Foreign { version: later.unwrap_or(version), value: Some(value) })
        };
        Ok(wanted.iter().map(foreign).collect())
    }
}

// === impl Life ===

impl Life {
    /// It was at work at this moment.
    fn shown(&mut self, at_ms: u64) {
        self.until_ms = self.until_ms.max(at_ms);
    }

    /// A time, or, where that is later than what is known of its work, that.
    fn no_later_than(&self, ms: u64) -> u64 {
        ms.min(self.until_ms)
    }
}
