//! A replicator from its start to its end: takes the destination over, brings it to a revision of the source, follows from
//! there, and begins again after whatever broke. What it decides by is in [`crate::pipeline`], [`crate::align`] and
//! [`crate::observer`]; this carries it out.
//!
//! # States
//!
//! ```text
//!            another holder writes                      gap, difference, backlog
//!  starting ──────────────────────> standby     ┌──────────────────────────────────┐
//!     │ ^        3 signs of life missed │       v                                  │
//!     │ └───────────────────────────────┴── aligning ──────────> streaming ────────┘
//!     └────────────────────────────────────────^                    │ promoted, damaged, another source
//!                                                                   v
//!                                                                stopped
//! ```
//!
//! Where the destination does not answer, whatever the state, the source is followed into the spool until it does
//! ([`crate::meanwhile`]; in `streaming` the stream goes on by itself).
//!
//! The destination is taken over by replacing its checkpoint with one of our own: from then on every transaction of the holder
//! before us fails. A holder is known by its spool's identity, so that a replicator that was killed goes on at once, and another
//! one with a spool of its own stands by until the first has been silent for three signs of life.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    align::{Aligned, Known, Mended},
    anchors::{Anchors, Word},
    checkpoint::{Checkpoint, ClusterId, Role, Torn},
    client::{Cluster, EtcdError, Member},
    destination::Destination,
    error::ReplicationError,
    leases::Leases,
    listing::Listing,
    meanwhile::is_away,
    metrics::Metrics,
    options::{ReplicationOptions, prefixes},
    overlap::Policy,
    pipeline::{Halt, Holder},
    region::{self, unless_compacted},
    revision::Revision,
    session::{End, Source},
    spool::{Entry, Spool, SpoolError, SpoolOptions, note_prefix},
    trouble::Trouble,
    watch::now_ms,
    witness::Witness,
};

/// Signs of life that a holder may miss before another takes over.
pub(crate) const MISSED: u32 = 3;

/// Between two tries after a failure.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// What the parts of a replicator share.
#[derive(Clone)]
pub(crate) struct Context {
    pub options: Arc<ReplicationOptions>,
    pub source: Arc<Cluster>,
    pub destination: Arc<Destination>,
    pub leases: Leases,
    pub metrics: Metrics,
    pub trouble: Trouble,
    /// Whether a destination that an operator must make room in is waited for; who stands in front of it wants to be told.
    pub patient: bool,
}

/// A replicator.
pub(crate) struct Replicator {
    pub context: Context,
    pub spool: Option<Spool>,
    /// Why both sides must be compared at the source's latest revision.
    compare: Option<&'static str>,
    /// What the last stream knew of both sides, where that tells which keys must be.
    known: Option<Known>,
    /// Whether the operator allowed to overwrite; used up by the first start that got that far.
    pub overwrite: bool,
    /// The other holder's last sign of life.
    other: Option<(i64, Instant)>,
    /// Why it starts next.
    pub cause: String,
}

/// A destination that is ours.
struct Claim {
    checkpoint: Checkpoint,
    fence: i64,
    /// Why what it holds cannot be gone on from.
    compare: Option<&'static str>,
    /// Whether nobody else wrote to it since we did.
    was_ours: bool,
    /// Up to here the log is known to have every change, though its last one may be older: a quiet prefix.
    known: Revision,
}

/// Replicates until `cancel`.
///
/// # Errors
/// What an operator must look at: settings, permissions, damage, another owner. Everything that may heal is tried again for as
/// long as it takes.
pub async fn run(
    options: ReplicationOptions,
    metrics: Metrics,
    cancel: CancellationToken,
) -> Result<(), ReplicationError> {
    options.validate()?;
    let overwrite = options.overwrite;
    let context = Context::new(options, metrics);
    let keeper = tokio::spawn(context.leases.clone().keep(cancel.clone()));
    let cause = "it was started".to_owned();
    let mut replicator =
        Replicator { context, spool: None, compare: None, known: None, overwrite, other: None, cause };
    let ended = replicator.run(&cancel).await;
    keeper.abort();
    match &ended {
        Ok(()) => replicator.context.enter("stopped", "it was told to"),
        Err(error) => {
            if let ReplicationError::Halt(Halt::Promoted { .. }) = error {
                replicator.context.metrics.is(Role::Primary);
            }
            replicator.context.enter("stopped", &format!("failed to {error}"));
        }
    }
    ended
}

// === impl Context ===

impl Context {
    pub(crate) fn new(options: ReplicationOptions, metrics: Metrics) -> Self {
        let prefix = options.rules.source_prefix();
        let source = Arc::new(Cluster::reading("source", options.source.clone(), prefix));
        let cluster = Arc::new(Cluster::new("destination", options.destination.clone()));
        let destination = Arc::new(Destination::new(cluster, options.checkpoint_key(), options.limits));
        let leases = Leases::new(Arc::clone(&source), Arc::clone(&destination));
        let trouble = Trouble::new(metrics.clone());
        Self { options: Arc::new(options), source, destination, leases, metrics, trouble, patient: true }
    }

    /// The replicator is in this state from now on; said once, with its cause.
    pub(crate) fn enter(&self, state: &'static str, cause: &str) {
        let (before, _) = self.metrics.state();
        if before != state {
            let stream = self.options.stream.as_str();
            tracing::info!(stream, state, before, cause, "the replicator changes its state");
        }
        self.metrics.enter(state);
    }
}

// === impl Replicator ===

impl Replicator {
    async fn run(&mut self, cancel: &CancellationToken) -> Result<(), ReplicationError> {
        let mut wait = RETRY.0;
        loop {
            let before = Instant::now();
            let error = match self.once(cancel).await {
                Ok(End::Cancelled) => return Ok(()),
                Ok(End::Compare(why) | End::Mend(why)) => {
                    self.cause = format!("both sides must be compared: {why}");
                    self.compare = Some(why);
                    // A comparison that is needed again at once is not made in a hot loop.
                    if before.elapsed() > RETRY.1 {
                        wait = RETRY.0;
                    }
                    None
                }
                Ok(End::RanOut) => {
                    "leases ran out at the destination alone".clone_into(&mut self.cause);
                    if before.elapsed() > RETRY.1 {
                        wait = RETRY.0;
                    }
                    None
                }
                Ok(End::Begin) => {
                    "the source is back".clone_into(&mut self.cause);
                    wait = RETRY.0;
                    None
                }
                Err(error) => Some(error),
            };
            if let Some(error) = error {
                if !error.is_transient() {
                    return Err(error);
                }
                tracing::warn!("failed to {error}; trying again");
                self.cause = format!("failed to {error}");
                if before.elapsed() > RETRY.1 {
                    wait = RETRY.0;
                }
                if is_away(&error) {
                    self.context.metrics.connected("destination", false);
                    self.follow_meanwhile(cancel).await?;
                    wait = RETRY.0;
                }
            }
            if cancel.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                return Ok(());
            }
            wait = (wait * 2).min(RETRY.1);
        }
    }

    /// From a start to the next reason to start again.
    async fn once(&mut self, cancel: &CancellationToken) -> Result<End, ReplicationError> {
        let context = self.context.clone();
        if let Some(overlap) = context.options.overlap {
            return Box::pin(self.share(overlap, cancel)).await;
        }
        // Boxed, like the other long ones here: nested in each other they would need more stack than a worker has.
        let begun = match cancel.run_until_cancelled(Box::pin(self.begin())).await {
            Some(begun) => begun?,
            None => return Ok(End::Cancelled),
        };
        let Some((source, aligned, spool)) = begun else { return Ok(End::Compare("spool")) };
        let at = aligned.checkpoint.source_revision;
        context.enter("streaming", &format!("both sides are equal at revision {at}"));
        let (ended, spool, known) = context.stream(source, aligned, spool, cancel).await;
        (self.spool, self.known) = (spool, known);
        ended
    }

    /// Everything before the stream: the destination is ours, whole, and at a revision that the spool goes on from.
    async fn begin(&mut self) -> Result<Option<(Source, Aligned, Spool)>, ReplicationError> {
        let context = self.context.clone();
        context.enter("starting", &self.cause);
        let mut source = match context.source.connect().await {
            Ok(source) => source,
            Err(error @ EtcdError::Unreachable { .. }) => {
                context.metrics.connected("source", false);
                return match Box::pin(self.begin_alone()).await? {
                    Some(begun) => Ok(Some(begun)),
                    None => Err(error.into()),
                };
            }
            Err(error) => return Err(error.into()),
        };
        context.metrics.connected("source", true);
        self.open_spool(source.cluster).await?;
        let mut word = self.require_history(&source).await?;
        let claim = Box::pin(self.claim(&mut source, &mut word)).await?;
        context.metrics.connected("destination", true);
        let known = claim.known;
        let mut aligned = Box::pin(self.align(&source, claim)).await?;
        self.remember(&mut aligned).await;
        let witness = match word {
            Word::Same(witness) => Some(witness),
            _ => None,
        };
        let Some(spool) = self.spool.take() else { return Ok(None) };
        self.compare = None;
        self.overwrite = false;
        Ok(Some((Source { cluster: source.cluster, known, witness, away: false }, aligned, spool)))
    }

    /// With the source dead, what is safe in the spool must reach the destination all the same: it is what the source's region
    /// has left behind. `None` where there is nothing to bring, or nothing to bring it to.
    async fn begin_alone(&mut self) -> Result<Option<(Source, Aligned, Spool)>, ReplicationError> {
        let context = self.context.clone();
        if self.spool.is_none() {
            let directory = context.options.spool.clone();
            let Some(cluster) = blocking(move || Spool::cluster_in(&directory)).await? else {
                return Ok(None);
            };
            self.open_spool(cluster).await?;
        }
        let Some(spool) = &self.spool else { return Ok(None) };
        let (holder, tail, begins) = (spool.holder(), spool.tail().revision, spool.begins_after());
        let (found, _) = context.destination.read().await?;
        let Some((bytes, fence)) = found else { return Ok(None) };
        let member = context.destination.member().await?;
        let cluster = spool.cluster();
        let known = self.accept(&bytes, cluster, &member)?;
        let between = matches!(known.torn, Some(Torn::Aligning { .. }));
        let (from, to) = (known.source_revision, tail);
        if between || from >= to || from < begins || from == Revision(0) {
            return Ok(None);
        }
        if known.holder != holder && self.is_alive(fence) {
            context.enter("standby", "another replicator has the destination");
            return Ok(None);
        }
        tracing::warn!(from = from.0, to = to.0, "the source does not answer; bringing what the spool has");
        context.enter("aligning", "the source does not answer; the spool has more than the destination");
        // Until the source is back nobody can say whether the log has what another holder brought.
        let (mut checkpoint, ours) = (known.clone(), Checkpoint { holder, logged: None, ..known });
        let fence = context.settle(fence, &mut checkpoint, ours).await?;
        context.metrics.connected("destination", true);
        self.other = None;
        // In the middle of a large revision the rest of it comes first, whole; every key of it is written once more.
        let at = Revision(fence);
        let found = context.read_back(&member, at).await?;
        if checkpoint.torn.is_none() && found.digest() != checkpoint.digest {
            tracing::error!(
                "the destination is not what its checkpoint says; the source will be asked when it is back"
            );
        }
        let expected = found.clone();
        let witness = self.witness().await?;
        let Some(spool) = self.spool.take() else { return Ok(None) };
        let aligned = Aligned { checkpoint, fence, expected, found, at, written: 0, sample: None };
        Ok(Some((Source { cluster, known: Revision(0), witness, away: true }, aligned, spool)))
    }

    pub(crate) async fn open_spool(&mut self, cluster: ClusterId) -> Result<(), ReplicationError> {
        if self.spool.is_some() {
            return Ok(());
        }
        let options = &self.context.options;
        let options = SpoolOptions {
            keep_for: options.spool_keep_for,
            ..SpoolOptions::new(&options.spool, options.spool_bytes)
        };
        let prefix = self.context.options.rules.source_prefix().to_vec();
        let (spool, recovery) = blocking(move || {
            let opened = Spool::open(options.clone(), cluster)?;
            note_prefix(&options.directory, &prefix).map(|()| opened)
        })
        .await?;
        tracing::info!(
            revision = spool.tail().revision.0,
            segments = recovery.segments,
            cut = recovery.cut,
            "opened the spool"
        );
        self.spool = Some(spool);
        Ok(())
    }

    /// The log says that it does not know the history up to there, before anything relies on it: whoever is killed a moment later
    /// goes on behind the gap, and a restore is told of it.
    async fn note_gap(&mut self, through: Revision) -> Result<(), ReplicationError> {
        let Some(mut spool) = self.spool.take() else { return Ok(()) };
        if spool.tail().revision < through {
            spool.release(through);
            let gap = Entry::Gap { through, seen_ms: now_ms() };
            spool = blocking(move || spool.append(&[gap]).map(|()| spool)).await?;
        }
        self.spool = Some(spool);
        Ok(())
    }

    /// Keeps what the source is known by, should it compact everything that the log has of it.
    async fn remember(&self, aligned: &mut Aligned) {
        let Some(sample) = aligned.sample.take() else { return };
        let (directory, through) = (self.context.options.spool.clone(), aligned.checkpoint.source_revision);
        let stored = tokio::task::spawn_blocking(move || sample.store(&directory, through)).await;
        if let Err(error) = stored.unwrap_or_else(|died| Err(std::io::Error::other(died))) {
            tracing::warn!(%error, "what the source is known by was not kept beside the change log");
        }
    }

    /// The source has what the spool has of it, as far as anything there tells.
    async fn require_history(&mut self, source: &Member) -> Result<Word, ReplicationError> {
        match &self.spool {
            Some(spool) if spool.cluster() != source.cluster => {
                let now = format!("it is cluster {} now, not {}", source.cluster, spool.cluster());
                return Err(ReplicationError::Strange(now));
            }
            Some(spool) if spool.tail().revision > source.head => {
                return Err(ReplicationError::WentBack { head: source.head, known: spool.tail().revision });
            }
            _ => {}
        }
        let cluster = &self.context.source;
        let mut word = match self.witness().await? {
            Some(witness) => witness.ask(cluster, source).await?,
            None => Word::Silent,
        };
        if word == Word::Silent
            && let Some(spool) = &self.spool
        {
            let (directory, begins) = (self.context.options.spool.clone(), spool.begins_after());
            let reader = spool.reader(begins);
            let known = blocking(move || Anchors::gather(&directory, begins, reader)).await?;
            word = known.ask(cluster, source).await?;
        }
        match word {
            Word::Other(why) => Err(ReplicationError::Strange(why)),
            word => Ok(word),
        }
    }

    /// Makes sure, where the log says nothing, that nothing which a rebuilt source has lost is taken from the destination.
    async fn require_proof(&self, source: &Member, checkpoint: &Checkpoint) -> Result<(), ReplicationError> {
        let (context, known) = (&self.context, checkpoint.source_revision);
        // Nothing was ever taken.
        if known == Revision(0) {
            return Ok(());
        }
        let (_, at) = context.destination.read().await?;
        let had = unless_compacted(Box::pin(context.had(source, checkpoint, Revision(at))).await)?;
        match had.flatten() {
            Some(true) => Ok(()),
            None if Box::pin(context.loses_nothing(source, Revision(at))).await? => Ok(()),
            Some(false) => Err(ReplicationError::Unproven {
                known,
                why: "what the source had then is not what the destination took (or other keys are asked for than were then: \
                      replicate.include, exclude, from_revision)",
            }),
            None => Err(ReplicationError::Unproven {
                known,
                why: "the source has compacted what it had then, nothing that is known of it is left as it was, and it lacks, or has \
                      with another value, what the destination took",
            }),
        }
    }

    /// The last put that the log has, as far as its last segment goes back.
    pub(crate) async fn witness(&self) -> Result<Option<Witness>, ReplicationError> {
        let Some(reader) = self.spool.as_ref().map(Spool::recent) else { return Ok(None) };
        blocking(move || Witness::last(reader)).await
    }

    /// Makes the destination ours, once it may be. `source` is as of the end of it.
    async fn claim(&mut self, source: &mut Member, word: &mut Word) -> Result<Claim, ReplicationError> {
        let holder = self.spool.as_ref().map(Spool::holder).unwrap_or_default();
        let mut stood_by = false;
        loop {
            let (found, _) = self.context.destination.read().await?;
            // After what the destination holds was read: the source has moved on while we stood by.
            *source = self.context.source.connect().await?;
            let member = self.context.destination.member().await?;
            region::tell_apart(source.cluster, member.cluster)?;
            let prefixes = prefixes(&self.context.options.rules);
            let genesis = || Checkpoint::genesis(source.cluster, member.cluster, prefixes.clone(), holder);
            // Boxed, as what is rarely needed and large should not be in every poll's stack.
            let returns = Box::pin(self.context.stand(source, &member, &found, self.overwrite)).await?;
            let (old, fence, compare) = match (returns, found) {
                (Some(epoch), found) => {
                    let fence = found.map_or(0, |(_, fence)| fence);
                    (Checkpoint { epoch, ..genesis() }, fence, Some("failback"))
                }
                (None, None) => {
                    self.require_empty(&member).await?;
                    (genesis(), 0, Some("genesis"))
                }
                (None, Some((bytes, fence))) => match self.accept_of(&bytes, source, &member) {
                    Ok(known) => (known, fence, None),
                    Err(error @ ReplicationError::Halt(_)) => return Err(error),
                    // The operator said so: what is there is compared, and taken over.
                    Err(error) if self.overwrite => {
                        tracing::warn!("failed to {error}; overwriting, as asked");
                        let epoch = Checkpoint::decode(&bytes).map_or(1, |known| known.epoch);
                        (Checkpoint { epoch, ..genesis() }, fence, Some("overwrite"))
                    }
                    Err(error) => return Err(error),
                },
            };
            if old.holder != holder && self.is_alive(fence) {
                self.context.enter("standby", "another replicator has the destination");
                tokio::time::sleep(self.context.options.heartbeat / 2).await;
                stood_by = true;
                continue;
            }
            if std::mem::take(&mut stood_by) {
                *word = self.require_history(source).await?;
            }
            if compare.is_none() && !self.overwrite && *word == Word::Silent {
                self.require_proof(source, &old).await?;
            }
            if self.overwrite && compare != Some("failback") {
                Box::pin(self.context.save_overwritten(source, &member, old.epoch)).await?;
            }
            // What we wrote ourselves was in our log. Where that has lost its end since (torn, or put back by whoever restored this
            // machine), as where another holder wrote, it goes on at its end: the source is asked for what it has not.
            let was_ours = old.holder == holder;
            let logged = old.logged.filter(|logged| was_ours && *logged <= self.log().0);
            let known = logged.map_or(Revision(0), |_| old.source_revision);
            if was_ours && old.logged.is_some() && logged.is_none() {
                tracing::warn!(
                    ends = self.log().0.0,
                    knew = old.logged.unwrap_or_default().0,
                    "the change log has lost its end; reading it from the source again"
                );
            }
            let (mut checkpoint, ours) = (old.clone(), Checkpoint { holder, logged, ..old });
            let fence = match self.context.settle(fence, &mut checkpoint, ours).await {
                Ok(fence) => fence,
                // A write of our former self, or of the other holder, came in between: look again.
                Err(ReplicationError::Halt(Halt::Superseded(_) | Halt::Gone)) => continue,
                Err(error) => return Err(error),
            };
            Box::pin(self.context.establish(source, &member, &checkpoint, fence)).await?;
            tracing::info!(%holder, epoch = checkpoint.epoch, "took the destination over");
            self.other = None;
            return Ok(Claim { checkpoint, fence, compare, was_ours, known });
        }
    }

    /// The last revision in the log, and the one after which it begins.
    fn log(&self) -> (Revision, Revision) {
        let spool = self.spool.as_ref();
        spool.map_or((Revision(0), Revision(0)), |spool| (spool.tail().revision, spool.begins_after()))
    }

    /// Whether the holder that wrote `fence` last may still live.
    pub(crate) fn is_alive(&mut self, fence: i64) -> bool {
        match self.other {
            Some((known, since)) if known == fence => {
                since.elapsed() < self.context.options.heartbeat * MISSED
            }
            _ => {
                self.other = Some((fence, Instant::now()));
                true
            }
        }
    }

    /// The same, of a source that answers: it must still have what the destination has of it.
    fn accept_of(
        &self,
        bytes: &[u8],
        source: &Member,
        member: &Member,
    ) -> Result<Checkpoint, ReplicationError> {
        let known = self.accept(bytes, source.cluster, member)?;
        if known.source_revision > source.head {
            return Err(ReplicationError::WentBack { head: source.head, known: known.source_revision });
        }
        Ok(known)
    }

    /// Reads a checkpoint and checks that it is one to go on from.
    pub(crate) fn accept(
        &self,
        bytes: &[u8],
        source: ClusterId,
        member: &Member,
    ) -> Result<Checkpoint, ReplicationError> {
        let known = Checkpoint::decode(bytes)?;
        if known.role == Role::Primary {
            return Err(Halt::Promoted { epoch: known.epoch }.into());
        }
        if known.source_cluster != source {
            return Err(ReplicationError::mismatch("source cluster", known.source_cluster, source));
        }
        if known.destination_cluster != member.cluster {
            let (found, wanted) = (known.destination_cluster, member.cluster);
            return Err(ReplicationError::mismatch("destination cluster", found, wanted));
        }
        let wanted = self.context.options.overlap.map(|overlap| overlap.policy);
        if known.overlap.is_some() != wanted.is_some() {
            let show = |policy: Option<Policy>| match policy {
                Some(_) => "two regions that both write (replicate.overlap)".to_owned(),
                None => "one region that writes and one that follows".to_owned(),
            };
            let (found, wanted) = (show(known.overlap), show(wanted));
            return Err(ReplicationError::Mismatch { what: "a link between", found, wanted });
        }
        let wanted = prefixes(&self.context.options.rules);
        if known.prefixes != wanted {
            let show = |(from, to): &(String, String)| format!("{from:?} to {to:?}");
            return Err(ReplicationError::Mismatch {
                what: "prefixes",
                found: show(&known.prefixes),
                wanted: show(&wanted),
            });
        }
        Ok(known)
    }

    /// A destination without a checkpoint may not hold keys of ours, unless the operator said so.
    async fn require_empty(&self, member: &Member) -> Result<(), ReplicationError> {
        let rules = &self.context.options.rules;
        if self.overwrite {
            return Ok(());
        }
        let prefix = rules.destination_prefix();
        let mut listing = Listing::start(&self.context.destination.cluster, member, prefix, Revision(0));
        let mut keys = 0;
        while let Some(kv) = listing.next().await? {
            keys += i64::from(rules.owns(kv.key()));
        }
        if keys == 0 {
            return Ok(());
        }
        Err(ReplicationError::NotEmpty { keys, prefix: prefix.escape_ascii().to_string() })
    }

    /// Brings the destination to the revision it says it has, where that can be gone on from, or to the source's latest.
    async fn align(&mut self, source: &Member, claim: Claim) -> Result<Aligned, ReplicationError> {
        let Claim { checkpoint, fence, compare, was_ours, known: logged } = claim;
        let behind = source.head.since(checkpoint.source_revision);
        let (ends, begins) = self.log();
        let why = compare
            .or(self.compare)
            .or((!checkpoint.is_whole()).then_some("torn"))
            // It went back to before the log begins: what lies between is known to nobody.
            .or((checkpoint.source_revision < begins).then_some("gap"))
            .or((behind > self.context.options.backlog).then_some("backlog"));
        let mut reason = why.unwrap_or("handshake");
        self.context.enter("aligning", reason);
        let mut at = if why.is_none() { checkpoint.source_revision } else { source.head };
        let (mut source, mut checkpoint, mut fence) = (source.clone(), checkpoint, fence);
        // What a stream of another holder's time knew, or before what it knew was written over, is worth nothing.
        let worth =
            was_ours && compare.is_none() && why != Some("gap") && behind <= self.context.options.backlog;
        if let Some(known) = self.known.take().filter(|_| worth) {
            let begun = Instant::now();
            // The stream read as far as the log goes.
            checkpoint.logged = checkpoint.logged.map(|_| ends);
            match Box::pin(self.context.mend(&source, checkpoint.clone(), fence, known)).await {
                Ok(Mended::Whole(aligned)) => {
                    self.context.metrics.resyncs.with_label_values(&[reason]).inc();
                    self.context.metrics.repaired.inc_by(aligned.written);
                    let (revision, keys) = (aligned.checkpoint.source_revision.0, aligned.expected.keys());
                    let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                    let written = aligned.written;
                    tracing::info!(
                        reason,
                        revision,
                        keys,
                        written,
                        ms,
                        "mended what differed, and read no more"
                    );
                    return Ok(*aligned);
                }
                Ok(Mended::Not(known, moved)) => (checkpoint, fence) = (known, moved),
                // Nothing was written yet.
                Err(ReplicationError::Etcd(EtcdError::Compacted { side: "source", .. })) => {}
                Err(error) => return Err(error),
            }
        }
        loop {
            // Whatever else made us compare, the log has its history or is given it by the source.
            let unknown = ends == Revision(0)
                || matches!(reason, "compaction" | "spool full")
                || source.head.since(ends.max(logged)) > self.context.options.backlog;
            if unknown {
                self.note_gap(at).await?;
            }
            if self.log().0 >= at {
                checkpoint.logged = Some(at);
            } else if at != checkpoint.source_revision {
                checkpoint.logged = None;
            }
            let begun = Instant::now();
            match Box::pin(self.context.align(&source, checkpoint.clone(), fence, at)).await {
                Ok(aligned) => {
                    let (keys, written) = (aligned.expected.keys(), aligned.written);
                    let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                    if written > 0 || reason != "handshake" {
                        self.context.metrics.resyncs.with_label_values(&[reason]).inc();
                        self.context.metrics.repaired.inc_by(written);
                    }
                    if reason != "handshake" {
                        self.compare = Some(reason);
                    } else if written > 0 {
                        tracing::warn!(
                            written,
                            "the destination was not what its checkpoint says; it was put right"
                        );
                    }
                    tracing::info!(reason, revision = at.0, keys, written, ms, "both sides are equal");
                    return Ok(aligned);
                }
                // It was compacted while we read, or the revision that the destination has is.
                Err(ReplicationError::Etcd(EtcdError::Compacted { side: "source", .. })) => {
                    source = self.context.source.connect().await?;
                    reason = "compaction";
                    at = source.head;
                    // The marker may have been written meanwhile.
                    if let (Some((bytes, found)), _) = self.context.destination.read().await? {
                        let known = Checkpoint::decode(&bytes)?;
                        if known.holder != checkpoint.holder {
                            return Err(Halt::Superseded(Holder::from(&known)).into());
                        }
                        (checkpoint, fence) = (known, found);
                    }
                    // Writes that were given up on may still be on their way: they rely on the fence, and it moves.
                    let same = checkpoint.clone();
                    fence = self.context.settle(fence, &mut checkpoint, same).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Runs what blocks on the disk.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SpoolError> + Send + 'static,
) -> Result<T, ReplicationError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(ReplicationError::from),
        Err(error) => {
            Err(SpoolError::Io { what: "use", path: "the spool".into(), error: std::io::Error::other(error) }
                .into())
        }
    }
}
