//! The steady state: the spool is read into the pipeline, its transactions are carried out, the destination's own account of
//! them is compared, until something is beyond what these can mend.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use etcd_client::GetOptions;
use tokio::{sync::mpsc, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::{
    align::{Aligned, Known},
    checkpoint::ClusterId,
    client::{EtcdError, after_prefix, range_start},
    destination::Answer,
    error::ReplicationError,
    observer::{Observer, Verdict},
    options::StrangerPolicy,
    pipeline::{Applied, Effect, Event, Found, Halt, Pace, Pipeline},
    questions::{all, get},
    revision::{Revision, SourceRevision},
    run::Context,
    source::{Feed, Follow, SourceNews},
    spool::{Entry, Reader, Spool, SpoolError},
    verify,
    watch::{News, Watch, WatchEnd, now_ms},
    witness::Witness,
};

/// Entries read from the spool between two looks at everything else.
const TURN: usize = 256;

/// Transactions that the destination's watch may owe us before both sides are compared for real.
const UNSEEN: usize = 65_536;

/// Keys that a scrub names; when more differ, everything is compared again.
const SCRUBBED: usize = 1_024;

/// Looks at an idle destination, a heartbeat apart, that must find the same revisions missing: what was on its way at the first is
/// there by then.
const LOOKS: u32 = 3;

/// Revisions that may be missing then; more is an alarm.
const IDLE_OFFSET: u64 = 3;

/// Keys of which the source is asked, at such a look, when they were last put.
const LOOKED_AT: i64 = 1_000;

/// Keys that are asked for together.
const ASKED: usize = 64;

/// Keys that went at the destination of which it is not known yet why; the rest is left to the next start.
const GONE: usize = 65_536;

/// Why a session ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It was told to.
    Cancelled,
    /// Both sides must be compared.
    Compare(&'static str),
    /// The same of the keys that are in doubt alone.
    Mend(&'static str),
    /// The source, without which this began, is back: begin again with it.
    Begin,
    /// Keys ran out at the destination alone: begin again, which brings those back and leaves strangers' alone.
    RanOut,
}

/// The source of a session.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub cluster: ClusterId,
    /// Up to here it has nothing for us beyond what the spool has.
    pub known: Revision,
    /// A change of it that the spool has.
    pub witness: Option<Witness>,
    /// Whether it did not answer, so that the spool is all there is.
    pub away: bool,
}

/// What the tasks of a session tell.
enum Told {
    Answer(Answer),
    Found(Found),
    /// A revision of the destination, with the keys that are ours to write.
    Seen(SourceRevision),
    /// The destination's account has a gap.
    Blind,
    /// The destination does not let us look, and asking again would not help.
    Barred(EtcdError),
    /// A scrub found this many differences, of these keys or more.
    Scrubbed(u64, Vec<Vec<u8>>),
    /// Whether one of the keys that went at the destination lives by a lease at the source.
    RanOut(bool),
    /// How many revisions the source has beyond this one, which was the last to be brought.
    Lacks(Revision, u64),
}

/// What the looks at an idle destination have found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Idle {
    /// The revision that was the last to be brought, at all of them.
    at: Revision,
    /// How many in a row found more than [`IDLE_OFFSET`] missing.
    looks: u32,
    /// How many are missing, by the last one.
    missing: u64,
}

struct Session {
    context: Context,
    pipeline: Pipeline,
    observer: Observer,
    reader: Reader,
    feed: Feed,
    tell: mpsc::Sender<Told>,
    started: Instant,
    /// Whether the spool has been read to its end.
    drained: bool,
    /// The last revision read.
    read: Revision,
    /// The source's latest, by its own account.
    known: Revision,
    /// Revisions with something in them, read so far, counted as the checkpoint counts them.
    taken_version: u64,
    /// The same at the last look round, and at the one before: what it had then has had a heartbeat's time.
    looked: (u64, u64),
    idle: Idle,
    progress: Option<(Revision, Revision, u64)>,
    /// Why both sides must be compared when everything that can be written is.
    then_compare: Option<&'static str>,
    /// Keys of the destination that there is reason to doubt.
    suspects: BTreeSet<Vec<u8>>,
    /// Keys that went there, where strangers are left alone: they may have run out. Whether the source is being asked.
    gone: BTreeSet<Vec<u8>>,
    asking: bool,
    source_lost: bool,
    /// Begun from the spool alone, with nobody to compare the destination with.
    alone: bool,
}

// === impl Context ===

impl Context {
    /// Follows the source until something ends it; hands the spool back unless that failed, and what is known of both sides where
    /// a part of them is to be mended.
    pub(crate) async fn stream(
        &self,
        source: Source,
        aligned: Aligned,
        spool: Spool,
        cancel: &CancellationToken,
    ) -> (Result<End, ReplicationError>, Option<Spool>, Option<Known>) {
        let (alone, follow) = (source.away, self.follow(source));
        self.stream_from(follow, alone, aligned, spool, cancel).await
    }

    /// The same, of what is to be followed.
    async fn stream_from(
        &self,
        follow: Follow,
        alone: bool,
        aligned: Aligned,
        spool: Spool,
        cancel: &CancellationToken,
    ) -> (Result<End, ReplicationError>, Option<Spool>, Option<Known>) {
        let options = &self.options;
        let pace = Pace { debounce_ms: millis(options.debounce), heartbeat_ms: millis(options.heartbeat) };
        let through = aligned.checkpoint.source_revision;
        let reader = spool.reader(through);
        let (tell, told) = mpsc::channel(256);
        let ended = cancel.child_token();
        tokio::spawn(ended.clone().run_until_cancelled_owned(self.clone().listen(aligned.at, tell.clone())));
        tokio::spawn(ended.clone().run_until_cancelled_owned(self.clone().scrub(tell.clone())));
        let _ended = ended.drop_guard();
        let mut session = Session {
            context: self.clone(),
            observer: Observer::new(aligned.found, aligned.at),
            taken_version: aligned.checkpoint.sync_version,
            looked: (aligned.checkpoint.sync_version, aligned.checkpoint.sync_version),
            idle: Idle::default(),
            pipeline: Pipeline::new(
                aligned.checkpoint,
                aligned.fence,
                aligned.expected,
                options.limits,
                pace,
                0,
            ),
            reader,
            feed: Feed::start(follow, spool, through),
            tell,
            started: Instant::now(),
            drained: false,
            read: through,
            known: through,
            progress: None,
            then_compare: None,
            suspects: BTreeSet::new(),
            gone: BTreeSet::new(),
            asking: false,
            source_lost: false,
            alone,
        };
        session.gauge();
        let result = session.run(told, cancel).await;
        let Session { pipeline, observer, suspects, feed, .. } = session;
        self.metrics.verifying.set(0);
        let spool = feed.stop().await;
        let known = matches!(result, Ok(End::Mend(_))).then(|| {
            let ((expected, at), (found, seen)) = (pipeline.into_expected(), observer.into_found());
            Known { expected, at, found, seen, suspects }
        });
        (result, spool, known)
    }

    fn follow(&self, source: Source) -> Follow {
        let options = &self.options;
        Follow {
            cluster: Arc::clone(&self.source),
            id: source.cluster,
            prefix: options.rules.source_prefix().to_vec(),
            backlog: options.backlog,
            ask_every: (options.heartbeat / 2).max(Duration::from_millis(200)),
            known: source.known,
            witness: source.witness,
        }
    }

    /// Tells what the destination's watch tells, from after its revision `at` on.
    async fn listen(self, mut at: Revision, tell: mpsc::Sender<Told>) {
        let mut deaf = false;
        loop {
            let told = match self.listen_once(&mut at, &mut deaf, &tell).await {
                Ok(()) => return,
                Err(WatchEnd::Compacted { .. } | WatchEnd::Order(_)) => Told::Blind,
                Err(WatchEnd::Etcd(error)) if is_final(&error) => Told::Barred(error),
                Err(WatchEnd::Etcd(error)) => {
                    self.metrics.verifying.set(0);
                    if !std::mem::replace(&mut deaf, true) {
                        tracing::warn!(
                            "failed to {error}; what it holds is not verified meanwhile, trying again"
                        );
                    }
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    continue;
                }
            };
            let _gone = tell.send(told).await;
            return;
        }
    }

    async fn listen_once(
        &self,
        at: &mut Revision,
        deaf: &mut bool,
        tell: &mpsc::Sender<Told>,
    ) -> Result<(), WatchEnd> {
        let (member, rules) = (self.destination.member().await?, &self.options.rules);
        let cluster = &self.destination.cluster;
        let every = self.options.heartbeat;
        let mut watch = Watch::open(cluster, &member, rules.destination_prefix(), *at, every).await?;
        let mut opened = false;
        loop {
            let news = match watch.next().await {
                Ok(news) => news,
                Err(end) => {
                    self.destination.lost().await;
                    return Err(end);
                }
            };
            // An etcd that lets nobody watch says so in the first answer of a watch that was opened well.
            if !std::mem::replace(&mut opened, true) {
                self.metrics.verifying.set(1);
                if std::mem::take(deaf) {
                    tracing::info!("what the destination holds is verified again");
                }
            }
            let News::Revisions(revisions) = news else { continue };
            for mut revision in revisions {
                *at = revision.revision;
                revision.changes.retain(|change| rules.owns(&change.key));
                if !revision.changes.is_empty() && tell.send(Told::Seen(revision)).await.is_err() {
                    return Ok(());
                }
            }
        }
    }

    /// Whether one of these keys of the destination lives by a lease at the source.
    async fn have_leases(&self, keys: &BTreeSet<Vec<u8>>) -> Result<bool, EtcdError> {
        let rules = &self.options.rules;
        let names: Vec<Vec<u8>> = keys.iter().filter_map(|key| rules.unmap_key(key)).collect();
        let source = self.source.connect().await?;
        for names in names.chunks(ASKED) {
            let each = |name: &Vec<u8>| {
                let (cluster, source, name) = (Arc::clone(&self.source), source.clone(), name.clone());
                async move { get(&cluster, &source, name, Revision(0)).await }
            };
            let found = all(&self.source, names.iter().map(each)).await?;
            if found.iter().flatten().any(|kv| rules.map_lease(kv.lease()) != 0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Asks what stands at the destination, until it says.
    async fn look_up(&self) -> Told {
        let mut told = false;
        loop {
            match self.destination.read().await {
                Ok((found, _)) => return Told::Found(found),
                Err(error) if is_final(&error) => return Told::Barred(error),
                Err(error) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(
                            "failed to {error}; whether a transaction was carried out is asked again"
                        );
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// How many revisions of the source put something for us after `since`, as far as [`LOOKED_AT`] keys tell.
    async fn beyond(&self, since: Revision) -> Result<u64, EtcdError> {
        let (rules, prefix) = (&self.options.rules, self.options.rules.source_prefix());
        let newer = GetOptions::new()
            .with_range(after_prefix(prefix))
            .with_keys_only()
            .with_min_mod_revision(since.next().0)
            .with_limit(LOOKED_AT);
        let source = self.source.connect().await?;
        let asking = async { source.kv().get(range_start(prefix), Some(newer)).await };
        let newer = self.source.ask(asking).await?;
        let ours = newer.kvs().iter().filter(|kv| {
            rules.map_key(kv.key()).is_some() && !rules.leaves_alone(Revision(kv.mod_revision()))
        });
        let revisions: BTreeSet<i64> = ours.map(etcd_client::KeyValue::mod_revision).collect();
        Ok(revisions.len() as u64)
    }

    /// Compares both sides from time to time, beside everything else.
    async fn scrub(self, tell: mpsc::Sender<Told>) {
        if self.options.scrub.is_zero() {
            return;
        }
        loop {
            tokio::time::sleep(self.options.scrub).await;
            match verify::compare(&self, SCRUBBED, |_| {}).await {
                Ok(proof) if proof.differences == 0 => {
                    tracing::info!(
                        keys = proof.keys,
                        ms = proof.elapsed_ms,
                        "scrubbed: both sides are equal"
                    );
                }
                Ok(proof) => {
                    let _gone = tell.send(Told::Scrubbed(proof.differences, proof.keys_named)).await;
                }
                Err(error) => tracing::warn!("failed to {error}; scrubbing again later"),
            }
        }
    }
}

// === impl Session ===

impl Session {
    async fn run(
        &mut self,
        mut told: mpsc::Receiver<Told>,
        cancel: &CancellationToken,
    ) -> Result<End, ReplicationError> {
        let mut tail = self.reader.tail();
        let every = self.context.options.heartbeat;
        let mut look = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if let Some(end) = self.read_on()? {
                return Ok(end);
            }
            if let Some(why) = self.then_compare
                && self.drained
                && self.pipeline.is_idle()
            {
                return Ok(End::Compare(why));
            }
            // A wait of nothing lets everything else have its turn while there is more to read.
            let busy = !self.drained && self.pipeline.has_room();
            let end = tokio::select! {
                biased;
                () = cancel.cancelled() => Some(End::Cancelled),
                Some(told) = told.recv() => self.hear(told)?,
                Some(news) = self.feed.news.recv() => self.source_says(news)?,
                moved = tail.changed(), if self.drained => {
                    self.drained = moved.is_err();
                    None
                }
                () = sleep_until(self.started, self.pipeline.deadline_ms()) => self.step(Event::Tick)?,
                _ = look.tick() => {
                    self.look_round();
                    None
                }
                () = tokio::task::yield_now(), if busy => None,
            };
            if let Some(end) = end {
                return Ok(end);
            }
        }
    }

    /// Reads what is safe in the spool, as much as the pipeline has room for.
    ///
    /// The reads block, and stay here all the same: what is read was written a moment ago and lies in the page cache, 256 KiB at a
    /// time, and to hand each of them to another thread and back would cost every change more than it takes. After a start, when
    /// the disk itself may be asked, a turn waits for as many such reads as [`TURN`] entries take.
    fn read_on(&mut self) -> Result<Option<End>, ReplicationError> {
        if self.drained || !self.pipeline.has_room() {
            return Ok(None);
        }
        let ended = self.read_turn();
        self.gauge_lag();
        ended
    }

    fn read_turn(&mut self) -> Result<Option<End>, ReplicationError> {
        for _ in 0..TURN {
            if self.drained || !self.pipeline.has_room() {
                return Ok(None);
            }
            match self.reader.read()? {
                Some(Entry::Revision(source)) => {
                    self.read = source.revision;
                    let mapped = self.context.options.rules.map(&source);
                    self.taken_version += u64::from(!mapped.changes.is_empty());
                    if let Some(end) = self.step(Event::Revision(mapped))? {
                        return Ok(Some(end));
                    }
                }
                // History that the log does not have, and the destination neither.
                Some(Entry::Gap { .. }) => return Ok(Some(End::Compare("gap"))),
                None => {
                    self.drained = true;
                    if let Some((revision, after, ms)) = self.progress
                        && self.read >= after
                    {
                        self.progress = None;
                        return self.step(Event::Progress(revision, ms));
                    }
                }
            }
        }
        Ok(None)
    }

    fn source_says(&mut self, news: SourceNews) -> Result<Option<End>, ReplicationError> {
        let metrics = &self.context.metrics;
        match news {
            SourceNews::Connected { head } => {
                metrics.connected("source", true);
                self.known = self.known.max(head);
                if self.alone {
                    tracing::info!(
                        head = head.0,
                        "the source is back; comparing what was written without it"
                    );
                    return Ok(Some(End::Begin));
                }
                if std::mem::take(&mut self.source_lost) {
                    tracing::info!(head = head.0, "the source is back");
                }
            }
            SourceNews::Progress { revision, after, ms } => {
                self.progress = Some((revision, after, ms));
                self.known = self.known.max(revision);
                // Looked at when the spool has been read to its end, which it may have been.
                self.drained = false;
            }
            SourceNews::Lost(why) => {
                metrics.connected("source", false);
                if !std::mem::replace(&mut self.source_lost, true) {
                    tracing::warn!("failed to {why}; the destination stays as it is, trying again");
                }
            }
            SourceNews::Compare(why) => self.then_compare = Some(why),
            SourceNews::Strange(why) => return Err(ReplicationError::Strange(why)),
            SourceNews::Spool(SpoolError::Full { bytes }) => {
                tracing::warn!(
                    bytes,
                    "the spool is full: letting go of the source until the destination has it all"
                );
                self.then_compare = Some("spool full");
            }
            SourceNews::Spool(error) => return Err(error.into()),
        }
        Ok(None)
    }

    fn hear(&mut self, told: Told) -> Result<Option<End>, ReplicationError> {
        match told {
            Told::Answer(answer) => {
                if let Answer::Failed(error) | Answer::Unknown(error) = &answer
                    && is_final(error)
                {
                    return Err(error.clone().into());
                }
                self.context.trouble.note(&answer);
                self.step(Event::from(&answer))
            }
            Told::Found(found) => self.step(Event::Found(found)),
            Told::Seen(revision) => {
                let verdicts = self.observer.seen(revision);
                Ok(self.judge(verdicts))
            }
            Told::Lacks(since, missing) => Ok(self.lacks(since, missing)),
            Told::RanOut(true) => Ok(Some(End::RanOut)),
            Told::RanOut(false) => {
                self.asking = false;
                self.ask_why_gone();
                Ok(None)
            }
            Told::Blind => Ok(Some(End::Compare("destination compacted"))),
            Told::Barred(error) => Err(error.into()),
            Told::Scrubbed(differences, keys) => {
                self.context.metrics.mismatches.inc();
                if self.context.options.strangers == StrangerPolicy::Report {
                    tracing::error!(
                        differences,
                        "a scrub found that the sides differ; left as it is, as asked"
                    );
                    return Ok(None);
                }
                tracing::error!(differences, "a scrub found that the sides differ");
                let all = keys.len() as u64 == differences;
                self.suspects.extend(keys);
                Ok(Some(if all { End::Mend("scrub") } else { End::Compare("scrub") }))
            }
        }
    }

    fn step(&mut self, event: Event) -> Result<Option<End>, ReplicationError> {
        let mut end = None;
        for effect in self.pipeline.step(millis(self.started.elapsed()), event) {
            match effect {
                Effect::Commit(attempt) => {
                    let (context, tell) = (self.context.clone(), self.tell.clone());
                    tokio::spawn(async move {
                        let answer = match context.leases.ensure(&attempt.changes).await {
                            Ok(()) => context.destination.commit(&attempt).await,
                            Err(error) => Answer::Failed(error),
                        };
                        if let Answer::Failed(EtcdError::NoLease(_)) = answer {
                            context.leases.forget(&attempt.changes).await;
                        }
                        let _gone = tell.send(Told::Answer(answer)).await;
                    });
                }
                Effect::Read => {
                    let (context, tell) = (self.context.clone(), self.tell.clone());
                    tokio::spawn(async move {
                        let _gone = tell.send(context.look_up().await).await;
                    });
                }
                Effect::Applied(applied) => end = self.applied(&applied).or(end),
                Effect::Halt(Halt::Superseded(holder)) if holder.id == self.pipeline.checkpoint().holder => {
                    return Err(ReplicationError::Twin);
                }
                Effect::Halt(halt) => return Err(halt.into()),
            }
        }
        Ok(end)
    }

    fn applied(&mut self, applied: &Applied) -> Option<End> {
        let metrics = &self.context.metrics;
        metrics.transactions.inc();
        metrics.operations.inc_by(applied.changes.len() as u64);
        if let Some(oldest) = applied.oldest_ms {
            metrics.lag.observe(now_ms().saturating_sub(oldest) as f64 / 1000.0);
        }
        self.feed.release(applied.through);
        self.gauge();
        let verdicts = self.observer.applied(applied);
        let unseen = self.observer.waiting() > UNSEEN;
        self.judge(verdicts).or(unseen.then_some(End::Compare("destination unseen")))
    }

    /// Revisions with something in them that the destination has not, though they were read a heartbeat ago or more. What came since
    /// is on its way, however much that is under load. While nothing is: what the source has and nobody brought.
    fn offset(&self) -> u64 {
        let late = self.looked.1.saturating_sub(self.pipeline.checkpoint().sync_version);
        late.max(if self.is_still(self.idle.at) { self.idle.missing } else { 0 })
    }

    /// Whether nothing but a sign of life is on its way to the destination, and this was the last revision that anybody brought.
    fn is_still(&self, at: Revision) -> bool {
        let there = self.pipeline.checkpoint().sync_version;
        self.drained && self.taken_version <= there && self.read == at
    }

    /// Every heartbeat: takes note of how far everything is, and has the source asked for what nobody brought while nothing is on
    /// its way. By our own account nothing is missing then; only the source knows.
    fn look_round(&mut self) {
        self.looked = (self.taken_version, self.looked.0);
        self.gauge_lag();
        let at = self.read;
        if self.source_lost || self.alone || self.then_compare.is_some() || !self.is_still(at) {
            self.idle = Idle::default();
            return;
        }
        let (context, tell) = (self.context.clone(), self.tell.clone());
        tokio::spawn(async move {
            match context.beyond(at).await {
                Ok(missing) => drop(tell.send(Told::Lacks(at, missing)).await),
                Err(error) => {
                    tracing::debug!(%error, "the source does not say what it has beyond the destination")
                }
            }
        });
    }

    /// What the source said then.
    fn lacks(&mut self, at: Revision, missing: u64) -> Option<End> {
        // Something moved since it was asked.
        let missing = if self.is_still(at) { missing } else { 0 };
        let alarm = self.idle.look(at, missing);
        self.gauge_lag();
        if !alarm {
            return None;
        }
        self.context.metrics.mismatches.inc();
        tracing::error!(
            missing,
            revision = at.0,
            "the source has revisions that nobody brought though nothing waits to be written"
        );
        Some(End::Compare("offset"))
    }

    fn gauge(&self) {
        let (metrics, checkpoint) = (&self.context.metrics, self.pipeline.checkpoint());
        metrics.revision.set(checkpoint.source_revision.0);
        metrics.torn.set(i64::from(checkpoint.torn.is_some()));
        metrics.epoch.set(i64::try_from(checkpoint.epoch).unwrap_or(i64::MAX));
        metrics.keys.set(i64::try_from(checkpoint.keys).unwrap_or(i64::MAX));
        metrics.safe_time.set(checkpoint.source_ms as f64 / 1000.0);
        metrics.is(checkpoint.role);
        metrics.spool_bytes.set(i64::try_from(self.feed.spool_bytes()).unwrap_or(i64::MAX));
        metrics.spool_oldest.set(self.feed.spool_oldest_ms() as f64 / 1000.0);
        self.gauge_lag();
    }

    /// What the destination lacks: told while it takes nothing, too.
    fn gauge_lag(&self) {
        let metrics = &self.context.metrics;
        let known = self.reader.end().max(self.known);
        let behind = known.since(self.pipeline.checkpoint().source_revision);
        metrics.behind.set(i64::try_from(behind).unwrap_or(i64::MAX));
        metrics.offset.set(i64::try_from(self.offset()).unwrap_or(i64::MAX));
    }

    /// What the destination's own account of our writes means.
    fn judge(&mut self, verdicts: Vec<Verdict>) -> Option<End> {
        let metrics = &self.context.metrics;
        let tolerated = self.context.options.strangers == StrangerPolicy::Report;
        let mut end = None;
        for verdict in verdicts {
            match verdict {
                Verdict::Verified { values, digest } => {
                    metrics.verified.inc_by(values as u64);
                    metrics.digests.inc_by(u64::from(digest));
                }
                Verdict::Stranger { at, keys, gone } => {
                    metrics.strangers.inc();
                    let first = keys.first().map(|key| key.escape_ascii().to_string()).unwrap_or_default();
                    tracing::warn!(
                        revision = at.0,
                        keys = keys.len(),
                        first,
                        tolerated,
                        "somebody else wrote"
                    );
                    if tolerated {
                        let room = GONE.saturating_sub(self.gone.len());
                        self.gone.extend(gone.into_iter().take(room));
                    } else {
                        self.suspects.extend(keys);
                        end = Some(End::Mend("stranger"));
                    }
                }
                Verdict::Corrupt { at, key } => {
                    metrics.mismatches.inc();
                    let shown = key.escape_ascii().to_string();
                    self.suspects.insert(key);
                    tracing::error!(
                        revision = at.0,
                        key = shown,
                        "the destination holds another value than was sent"
                    );
                    end = Some(End::Mend("checksum"));
                }
                // After a stranger's write that was only reported this is no news.
                Verdict::Diverged { .. } if tolerated && metrics.strangers.get() > 0 => {}
                Verdict::Diverged { at, expected, found } => {
                    metrics.mismatches.inc();
                    tracing::error!(revision = at.0, %expected, %found, "the digests of both sides differ");
                    end = Some(End::Mend("digest"));
                }
            }
        }
        self.ask_why_gone();
        end
    }

    /// Who deleted a key cannot be told from a lease that ended while nobody could renew it, but by whether the source's lives.
    fn ask_why_gone(&mut self) {
        if self.asking || self.gone.is_empty() {
            return;
        }
        self.asking = true;
        let (context, tell, keys) = (self.context.clone(), self.tell.clone(), std::mem::take(&mut self.gone));
        tokio::spawn(async move {
            // They ran out because the source could not be asked, most likely, and it may not answer yet.
            while !tell.is_closed() {
                match context.have_leases(&keys).await {
                    Ok(ran_out) => {
                        let _gone = tell.send(Told::RanOut(ran_out)).await;
                        return;
                    }
                    Err(error) => {
                        tracing::debug!(%error, "asking later whether keys were deleted or ran out")
                    }
                }
                tokio::time::sleep(context.options.heartbeat).await;
            }
        });
    }
}

// === impl Idle ===

impl Idle {
    /// Another look, with `at` as the last revision that was brought: whether what is missing has been missing for too long.
    fn look(&mut self, at: Revision, missing: u64) -> bool {
        let again = if self.at == at { self.looks } else { 0 };
        let looks = if missing > IDLE_OFFSET { again + 1 } else { 0 };
        *self = Self { at, looks, missing };
        looks >= LOOKS
    }
}

/// Whether only an operator can make the destination answer otherwise.
const fn is_final(error: &EtcdError) -> bool {
    matches!(error, EtcdError::Denied { .. } | EtcdError::Refused { .. })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

async fn sleep_until(started: Instant, deadline_ms: Option<u64>) {
    match deadline_ms {
        Some(ms) => {
            let at = started + Duration::from_millis(ms);
            tokio::time::sleep_until(at.into()).await;
        }
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
