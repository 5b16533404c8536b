//! A link at work: what its two halves ([`super::say`], [`super::hear`]) share, carrying out what was decided, and signs of life.
//! One that breaks is begun again by [`crate::run()`]; what it was about to do is found again by comparing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use etcd_client::{
    Compare, CompareOp, DeleteOptions, GetOptions, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse,
};
use jiff::Timestamp;
use tokio::{
    sync::{Notify, RwLock},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Overlap, Policy,
    etcd::{Names, Note, Ranks, Write, under},
    hlc::{Clock, Hlc},
    log::{self, Conflict, Kept, Party},
    merge::{Foreign, Judge, Winner, decide},
    tag::{Entry, Version},
};
use crate::{
    checkpoint::{Checkpoint, ClusterId},
    client::{EtcdError, after_prefix},
    destination::Answer,
    error::ReplicationError,
    pipeline::Halt,
    region::Region,
    revision::Revision,
    run::Context,
    session::End,
    watch::{WatchEnd, now_ms},
};

/// Until what failed is tried again.
pub(super) const RETRY: Duration = Duration::from_millis(200);

/// Groups of keys that are worked on at once by each half: enough to fill a link of 80 ms.
pub(super) const ABREAST: usize = 8;

/// Between two warnings about one clock.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// A key to look at: what follows the prefix, what is there if that is to be looked at, and what is here.
pub(super) struct Case {
    pub rest: Vec<u8>,
    pub foreign: Option<Foreign>,
    pub entry: Entry,
}

/// A link between two regions that both write.
pub(super) struct Exchange {
    pub context: Context,
    pub names: Names,
    pub overlap: Overlap,
    /// The destination's etcd, and the source's.
    pub here: ClusterId,
    pub there: ClusterId,
    /// Moved by signs of life alone; transactions of both halves rely on it at once.
    hold: RwLock<Hold>,
    clock: Mutex<Clock>,
    /// Revisions of the destination that are ours, and that its watch has not brought yet.
    ours: Mutex<BTreeSet<i64>>,
    /// Open conflicts that are written down: which two writes.
    pub open: Mutex<BTreeMap<Vec<u8>, Ranks>>,
    /// Up to where the source was heard out, and when.
    heard: Mutex<(Revision, u64)>,
    warned: Mutex<Option<Instant>>,
    /// The source was heard out for the first time.
    met: Notify,
}

/// The checkpoint as it stands at the destination, and its `mod_revision`.
pub(super) struct Hold {
    pub checkpoint: Checkpoint,
    pub fence: i64,
}

/// Why one of the halves begins again.
pub(super) enum Broke {
    /// What it knows of its side has a gap: everything must be compared.
    Gap,
    /// Something else.
    Failed(ReplicationError),
}

// === impl Broke ===

impl From<WatchEnd> for Broke {
    fn from(end: WatchEnd) -> Self {
        match end {
            WatchEnd::Etcd(error) => error.into(),
            WatchEnd::Compacted { .. } | WatchEnd::Order(_) => Self::Gap,
        }
    }
}

impl From<EtcdError> for Broke {
    fn from(error: EtcdError) -> Self {
        match error {
            EtcdError::Compacted { .. } => Self::Gap,
            error => Self::Failed(error.into()),
        }
    }
}

impl From<ReplicationError> for Broke {
    fn from(error: ReplicationError) -> Self {
        match error {
            ReplicationError::Etcd(error) => error.into(),
            error => Self::Failed(error),
        }
    }
}

// === impl Exchange ===

impl Exchange {
    pub(super) fn new(context: Context, overlap: Overlap, hold: Hold) -> Self {
        let Checkpoint { source_cluster, destination_cluster, source_revision, source_ms, .. } =
            hold.checkpoint;
        Self {
            names: Names::new(&context.options),
            context,
            overlap,
            here: destination_cluster,
            there: source_cluster,
            hold: RwLock::new(hold),
            clock: Mutex::default(),
            ours: Mutex::default(),
            open: Mutex::default(),
            heard: Mutex::new((source_revision, source_ms)),
            warned: Mutex::default(),
            met: Notify::new(),
        }
    }

    /// Goes on until something ends it.
    pub(super) async fn run(self, cancel: &CancellationToken) -> Result<End, ReplicationError> {
        let exchange = Arc::new(self);
        exchange.context.enter("streaming", "the destination is ours; both regions write here");
        let mut halves = JoinSet::new();
        halves.spawn(Arc::clone(&exchange).say());
        halves.spawn(Arc::clone(&exchange).hear());
        halves.spawn(Arc::clone(&exchange).show());
        let ended = cancel.run_until_cancelled(halves.join_next()).await;
        halves.shutdown().await;
        match ended {
            None => Ok(End::Cancelled),
            Some(None) => Ok(End::Begin),
            Some(Some(Ok(ended))) => ended.map(|()| End::Begin),
            Some(Some(Err(died))) => {
                Err(EtcdError::Refused { side: "destination", why: died.to_string() }.into())
            }
        }
    }

    /// Decides about keys and carries it out. Those that were written by somebody else meanwhile are to be looked at again, and
    /// so are all of them where nobody knows what became of the transaction.
    pub(super) async fn settle(&self, cases: Vec<Case>) -> Result<Vec<Vec<u8>>, ReplicationError> {
        let limits = self.context.options.limits;
        let (mut again, mut chunk, mut operations, mut bytes) = (Vec::new(), Vec::new(), 0, 0);
        for case in cases {
            let Some(write) = self.plan(case) else { continue };
            let (more, size) = write.cost();
            if !chunk.is_empty() && (operations + more > limits.operations || bytes + size > limits.bytes) {
                again.extend(self.commit(std::mem::take(&mut chunk)).await?);
                (operations, bytes) = (0, 0);
            }
            (operations, bytes) = (operations + more, bytes + size);
            chunk.push(write);
        }
        if !chunk.is_empty() {
            again.extend(self.commit(chunk).await?);
        }
        Ok(again)
    }

    /// The clock has heard of these times.
    pub(super) fn heard_of(&self, times: impl IntoIterator<Item = Hlc>) {
        let now = now_ms();
        for time in times {
            let Some(ahead_ms) = lock(&self.clock).hear(now, time) else { continue };
            self.context.metrics.clamped.inc();
            let mut warned = lock(&self.warned);
            if warned.is_none_or(|at| at.elapsed() > WARN_EVERY) {
                *warned = Some(Instant::now());
                let region = self.region(self.there);
                tracing::warn!(
                    ahead_ms,
                    %region,
                    "a region's clock is too far ahead of ours to be followed, or ours is behind: until that is mended its writes win"
                );
            }
        }
    }

    /// The clock goes on from here: what was said once is not said again.
    pub(super) fn resume(&self, time: Hlc) {
        let _ahead = lock(&self.clock).hear(now_ms(), time);
    }

    /// The source was heard out up to here.
    pub(super) fn heard_out(&self, through: Revision, at_ms: u64) {
        let mut heard = lock(&self.heard);
        if heard.0 == Revision(0) {
            self.met.notify_one();
        }
        *heard = (heard.0.max(through), heard.1.max(at_ms));
    }

    /// Whether a revision of the destination is one of our transactions. Earlier ones are not asked about again.
    pub(super) fn is_ours(&self, at: Revision) -> bool {
        let mut ours = lock(&self.ours);
        *ours = ours.split_off(&at.0);
        ours.remove(&at.0)
    }

    /// Whether a tag is of a delete of so long ago that it is not kept any more.
    pub(super) fn is_forgotten(&self, rest: &[u8], version: &Version) -> bool {
        self.judge(rest, &mut Clock::default()).is_forgotten(version, None)
    }

    fn judge<'a>(&self, rest: &[u8], clock: &'a mut Clock) -> Judge<'a> {
        let remember_ms = u64::try_from(self.overlap.remember.as_millis()).unwrap_or(u64::MAX);
        let disputed = lock(&self.open).contains_key(rest);
        let policy = self.overlap.policy;
        Judge { here: self.here, policy, remember_ms, disputed, clock, now_ms: now_ms() }
    }

    fn plan(&self, Case { rest, foreign, entry }: Case) -> Option<Write> {
        let mut clock = lock(&self.clock);
        let mut judge = self.judge(&rest, &mut clock);
        // By other policies none is left open: what there is was recalled.
        let may_be_open = judge.disputed || judge.policy == Policy::RejectAndAlert;
        let mut plan = decide(&mut judge, &entry, foreign.as_ref())?;
        plan.settles &= may_be_open;
        let Some(((winner, here), there)) = plan.conflict.clone().zip(foreign) else {
            return Some(Write { rest, plan, note: None });
        };
        let pair = [here.rank(), there.version.rank()];
        if winner == Winner::Nobody && lock(&self.open).get(&rest) == Some(&pair) {
            // Found again, as after every comparison of both sides.
            return plan.tag.is_some().then_some(Write { rest, plan, note: None });
        }
        let at = clock.tick(now_ms());
        let conflict = self.conflict(&rest, (winner, &here, &entry), &there).encode();
        let note =
            if winner == Winner::Nobody { Note::Open(pair, conflict) } else { Note::Closed(at, conflict) };
        Some(Write { rest, plan, note: Some(note) })
    }

    fn conflict(
        &self,
        rest: &[u8],
        (winner, here, entry): (Winner, &Version, &Entry),
        there: &Foreign,
    ) -> Conflict {
        let party = |version: &Version, value: Option<&[u8]>| Party {
            region: self.region(version.origin),
            origin: version.origin,
            hlc: version.hlc,
            value: value.map(Kept::of),
        };
        let (local, remote) = (party(here, entry.value()), party(&there.version, there.value.as_deref()));
        let won = match winner {
            Winner::Here => Some(here.origin),
            Winner::There => Some(there.version.origin),
            Winner::Nobody => None,
        };
        let key = under(&self.names.here, rest);
        Conflict::new(&key, Timestamp::now(), self.overlap.policy, won, local, remote)
    }

    fn region(&self, origin: ClusterId) -> Region {
        if origin == self.here {
            self.context.region_here(origin)
        } else if origin == self.there {
            self.context.region_there(origin)
        } else {
            Region::of_cluster(origin)
        }
    }

    /// Carries out one transaction, each key of it by itself; which of them are to be looked at again.
    async fn commit(&self, writes: Vec<Write>) -> Result<Vec<Vec<u8>>, ReplicationError> {
        let (metrics, names) = (&self.context.metrics, &self.names);
        let operations: Vec<TxnOp> = writes.iter().map(|write| write.operation(names)).collect();
        let blame = || {
            let largest = writes.iter().max_by_key(|write| write.cost().1);
            largest
                .map(|write| under(&names.here, &write.rest).escape_ascii().to_string())
                .unwrap_or_default()
        };
        let hold = self.hold.read().await;
        let (answer, response) = self.context.destination.fenced(hold.fence, operations, blame).await;
        let at = match answer {
            Answer::Committed(at) => at,
            Answer::Refused(found) => return Err(Halt::of(&found).into()),
            Answer::Failed(error) => {
                metrics.retries.with_label_values(&["put_off"]).inc();
                return Err(error.into());
            }
            Answer::Unknown(error) => {
                metrics.retries.with_label_values(&["unknown"]).inc();
                return Err(error.into());
            }
        };
        drop(hold);
        metrics.transactions.inc();
        let done: Vec<bool> = response.map_or_else(Vec::new, |response| {
            let each = response.op_responses().into_iter();
            each.map(|one| matches!(one, TxnOpResponse::Txn(txn) if txn.succeeded())).collect()
        });
        // Where nothing was written, the revision that etcd names is somebody else's.
        if done.contains(&true) {
            lock(&self.ours).insert(at);
        }
        let (mut again, mut done) = (Vec::new(), done.into_iter());
        for write in writes {
            if done.next() == Some(true) {
                self.written(write);
            } else {
                again.push(write.rest);
            }
        }
        Ok(again)
    }

    /// Counts and tells what was written.
    fn written(&self, Write { rest, plan, note }: Write) {
        let metrics = &self.context.metrics;
        metrics.operations.inc_by(u64::from(plan.data.is_some()));
        let mut open = lock(&self.open);
        if plan.settles {
            open.remove(&rest);
        }
        let Some((note, (winner, _))) = note.zip(plan.conflict) else { return };
        metrics.conflicts.with_label_values(&[self.overlap.policy.as_str()]).inc();
        let key = under(&self.names.here, &rest).escape_ascii().to_string();
        match note {
            Note::Open(pair, _) => {
                open.insert(rest, pair);
                tracing::error!(
                    key,
                    "two regions wrote a key and neither knew of the other: both keep what they have until somebody decides \
                     (`zonebreak replicate conflicts`)"
                );
            }
            Note::Closed(..) => tracing::warn!(
                key,
                winner = if winner == Winner::Here { "local" } else { "remote" },
                policy = %self.overlap.policy,
                "two regions wrote a key and neither knew of the other; the one that lost is in the log of conflicts"
            ),
        }
    }

    /// Signs of life, and what else has to be done from time to time.
    async fn show(self: Arc<Self>) -> Result<(), ReplicationError> {
        loop {
            if let Err(error) = self.show_once().await {
                if !error.is_transient() || matches!(error, ReplicationError::Halt(_)) {
                    return Err(error);
                }
                tracing::debug!(%error, "a sign of life is late");
                sleep(RETRY).await;
                continue;
            }
            // The first time is told at once: people wait for it.
            let _early = timeout(self.context.options.heartbeat, self.met.notified()).await;
        }
    }

    async fn show_once(&self) -> Result<(), ReplicationError> {
        let (source_revision, source_ms) = *lock(&self.heard);
        let metrics = &self.context.metrics;
        {
            let mut hold = self.hold.write().await;
            let becomes = Checkpoint { source_revision, source_ms, ..hold.checkpoint.clone() };
            let mut checkpoint = hold.checkpoint.clone();
            hold.fence = self.context.settle(hold.fence, &mut checkpoint, becomes).await?;
            hold.checkpoint = checkpoint;
            metrics.epoch.set(i64::try_from(hold.checkpoint.epoch).unwrap_or(i64::MAX));
        }
        metrics.connected("destination", true);
        metrics.revision.set(source_revision.0);
        metrics.safe_time.set(source_ms as f64 / 1000.0);
        let open = self.count(&self.names.open).await?;
        metrics.open_conflicts.set(open);
        let kept = i64::try_from(log::KEPT).unwrap_or(i64::MAX);
        let closed = self.count(&self.names.closed).await?;
        if closed > kept { self.trim(closed - kept).await } else { Ok(()) }
    }

    async fn count(&self, prefix: &[u8]) -> Result<i64, EtcdError> {
        let member = self.context.destination.member().await?;
        let options = GetOptions::new().with_prefix().with_count_only();
        let asking = async { member.kv().get(prefix, Some(options)).await };
        self.context.destination.cluster.ask(asking).await.map(|found| found.count())
    }

    /// Deletes the oldest entries of the log.
    async fn trim(&self, more: i64) -> Result<(), ReplicationError> {
        let (destination, prefix) = (&self.context.destination, &self.names.closed);
        let member = destination.member().await?;
        let oldest = GetOptions::new()
            .with_prefix()
            .with_keys_only()
            .with_limit(more)
            .with_sort(SortTarget::Key, SortOrder::Ascend);
        let asking = async { member.kv().get(prefix.as_slice(), Some(oldest)).await };
        let found = destination.cluster.ask(asking).await?;
        let Some(last) = found.kvs().last().map(|kv| [kv.key(), b"\0"].concat()) else { return Ok(()) };
        debug_assert!(last < after_prefix(prefix));
        let delete = TxnOp::delete(prefix.as_slice(), Some(DeleteOptions::new().with_range(last)));
        self.tidy(vec![delete]).await
    }

    /// Deletes these keys under a prefix of ours, each if it still is what was read.
    pub(super) async fn drop_if(
        &self,
        prefix: &[u8],
        keys: Vec<(Vec<u8>, i64)>,
    ) -> Result<(), ReplicationError> {
        let operation = |(rest, at): &(Vec<u8>, i64)| {
            let key = under(prefix, rest);
            let still = Compare::mod_revision(key.clone(), CompareOp::Equal, *at);
            TxnOp::txn(Txn::new().when([still]).and_then([TxnOp::delete(key, None)]))
        };
        self.tidy(keys.iter().map(operation).collect()).await
    }

    async fn tidy(&self, operations: Vec<TxnOp>) -> Result<(), ReplicationError> {
        let hold = self.hold.read().await;
        match self.context.destination.fenced(hold.fence, operations, String::new).await.0 {
            Answer::Committed(_) => Ok(()),
            Answer::Refused(found) => Err(Halt::of(&found).into()),
            Answer::Failed(error) | Answer::Unknown(error) => Err(error.into()),
        }
    }
}

/// What a thread that died left is as good as any: each value is replaced whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
