//! Follows the source: its watch into the spool, for as long as it takes. Reconnects and resumes by itself; what it cannot mend
//! it tells. Writes nothing to the source.
//!
//! | the source | then |
//! |---|---|
//! | stops answering, or cuts the watch | another member, and on from the end of the spool |
//! | has compacted what comes next, or is too far ahead to be read revision by revision | the sides are compared instead |
//! | has compacted what would tell whether it is the etcd of before | the same, once [`crate::anchors`] or both sides have told |
//! | is another cluster than before, is at an earlier revision, or knows nothing of a change that it made | nothing more is taken from it: it was rebuilt or restored |
//! | breaks the order that etcd promises | the watch is opened again at the last whole revision |

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    anchors::Word,
    checkpoint::ClusterId,
    client::{Cluster, EtcdError},
    queue::{self, Load},
    revision::Revision,
    spool::{Entry, Spool, SpoolError},
    watch::{News, Watch, WatchEnd, now_ms},
    witness::Witness,
};

/// Bytes of revisions that wait for the disk.
const QUEUE_BYTES: usize = 64 << 20;

/// Revisions that are written as one group at most.
const GROUP: usize = 4096;

/// Between two tries to connect.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What the source does, for those who ask.
#[derive(Debug)]
pub(crate) enum SourceNews {
    /// It answers; this was its revision.
    Connected { head: Revision },
    /// There is nothing else for us up to here, once what was sent up to `after` has been read.
    Progress { revision: Revision, after: Revision, ms: u64 },
    /// It does not answer; tried again.
    Lost(String),
    /// The sides must be compared.
    Compare(&'static str),
    /// It is not the source that we knew.
    Strange(String),
    /// The spool failed, or is full.
    Spool(SpoolError),
}

/// What to follow.
pub(crate) struct Follow {
    pub cluster: Arc<Cluster>,
    pub id: ClusterId,
    pub prefix: Vec<u8>,
    pub backlog: u64,
    pub ask_every: Duration,
    /// Up to here there is nothing for us beyond what the spool has.
    pub known: Revision,
    /// A change of it that the spool has.
    pub witness: Option<Witness>,
}

/// How far the source was followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    /// The last revision that was sent to the spool.
    sent: Revision,
    /// From where a watch goes on: what it names is known to have nothing for us beyond `sent`, so that a quiet prefix in a busy
    /// etcd never falls behind.
    resume: Revision,
}

/// What the spool takes on disk, and since when.
#[derive(Debug, Default)]
struct Disk {
    bytes: AtomicU64,
    oldest_ms: AtomicU64,
}

/// A source that is being followed.
pub(crate) struct Feed {
    pub news: mpsc::Receiver<SourceNews>,
    released: Arc<AtomicI64>,
    disk: Arc<Disk>,
    task: AbortOnDropHandle<()>,
    writer: JoinHandle<Option<Spool>>,
}

// === impl Feed ===

impl Feed {
    /// Begins where the spool ends. The destination has everything up to `released`.
    pub(crate) fn start(follow: Follow, spool: Spool, released: Revision) -> Self {
        let (tell, news) = mpsc::channel(64);
        let (entries, jobs) = queue::bounded(QUEUE_BYTES);
        let at = Position::new(spool.tail().revision, follow.known);
        let released = Arc::new(AtomicI64::new(released.0));
        let disk = Arc::new(Disk::default());
        disk.note(&spool);
        let writer = {
            let (tell, released, disk) = (tell.clone(), Arc::clone(&released), Arc::clone(&disk));
            tokio::task::spawn_blocking(move || write(spool, jobs, &tell, &released, &disk))
        };
        let task = tokio::spawn({
            let mut follow = follow;
            async move { follow.run(at, &entries, &tell).await }
        });
        Self { news, released, disk, task: AbortOnDropHandle::new(task), writer }
    }

    /// The destination has everything up to here.
    pub(crate) fn release(&self, through: Revision) {
        self.released.store(through.0, Ordering::Relaxed);
    }

    /// What the spool takes on disk.
    pub(crate) fn spool_bytes(&self) -> u64 {
        self.disk.bytes.load(Ordering::Relaxed)
    }

    /// When the oldest change in it reached us, in milliseconds since 1970; 0 while it is empty.
    pub(crate) fn spool_oldest_ms(&self) -> u64 {
        self.disk.oldest_ms.load(Ordering::Relaxed)
    }

    /// Lets go of the source, and hands the spool back unless it failed.
    pub(crate) async fn stop(self) -> Option<Spool> {
        self.task.abort();
        let _aborted = self.task.await;
        drop(self.news);
        self.writer.await.ok().flatten()
    }
}

/// Appends what comes, all that has come at a time, until nobody sends any more.
fn write(
    mut spool: Spool,
    mut jobs: mpsc::UnboundedReceiver<Load>,
    tell: &mpsc::Sender<SourceNews>,
    released: &AtomicI64,
    disk: &Disk,
) -> Option<Spool> {
    while let Some(first) = jobs.blocking_recv() {
        // The room that they take in the queue is free when they are safe.
        let mut loads = vec![first];
        let mut group =
            loads.iter_mut().flat_map(|load| std::mem::take(&mut load.entries)).collect::<Vec<_>>();
        while group.len() < GROUP
            && let Ok(mut more) = jobs.try_recv()
        {
            group.append(&mut more.entries);
            loads.push(more);
        }
        spool.release(Revision(released.load(Ordering::Relaxed)));
        if let Err(error) = spool.append(&group) {
            let full = matches!(error, SpoolError::Full { .. });
            let _gone = tell.blocking_send(SourceNews::Spool(error));
            return full.then_some(spool);
        }
        disk.note(&spool);
    }
    Some(spool)
}

// === impl Disk ===

impl Disk {
    fn note(&self, spool: &Spool) {
        self.bytes.store(spool.bytes(), Ordering::Relaxed);
        self.oldest_ms.store(spool.oldest_ms(), Ordering::Relaxed);
    }
}

// === impl Position ===

impl Position {
    fn new(sent: Revision, known: Revision) -> Self {
        Self { sent, resume: sent.max(known) }
    }
}

// === impl Follow ===

impl Follow {
    async fn run(&mut self, mut at: Position, entries: &queue::Sender, tell: &mpsc::Sender<SourceNews>) {
        let mut wait = RETRY.0;
        loop {
            let before = at;
            let ended = self.follow(&mut at, entries, tell).await;
            if at.resume > before.resume {
                wait = RETRY.0;
            }
            let (news, done) = match ended {
                End::Etcd(error) => {
                    self.cluster.lost();
                    (SourceNews::Lost(error.to_string()), false)
                }
                End::Order(why) => (SourceNews::Lost(why), false),
                End::Compare(why) => (SourceNews::Compare(why), true),
                End::Strange(why) => (SourceNews::Strange(why), true),
                End::Closed => return,
            };
            if tell.send(news).await.is_err() || done {
                return;
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RETRY.1);
        }
    }

    /// One connection.
    async fn follow(
        &mut self,
        at: &mut Position,
        entries: &queue::Sender,
        tell: &mpsc::Sender<SourceNews>,
    ) -> End {
        let member = match self.cluster.connect().await {
            Ok(member) => member,
            Err(error) => return End::Etcd(error),
        };
        if member.cluster != self.id {
            return End::Strange(format!("it is cluster {} now, not {}", member.cluster, self.id));
        }
        let after = at.resume;
        if member.head < after {
            return End::Strange(format!("it is at revision {} and was at {after} before", member.head));
        }
        if let Some(witness) = self.witness.clone() {
            match witness.ask(&self.cluster, &member).await {
                Ok(Word::Same(_)) => {}
                Ok(Word::Other(why)) => return End::Strange(why),
                // More than one change must tell, or both sides.
                Ok(Word::Silent) => return End::Compare("unproven"),
                Err(error) => return End::Etcd(error),
            }
        }
        if member.head.since(after) > self.backlog {
            return End::Compare("backlog");
        }
        let trusted = is_progress_trusted(&version(&member).await);
        let opened = Watch::open(&self.cluster, &member, &self.prefix, after, self.ask_every).await;
        let mut watch = match opened {
            Ok(watch) => watch,
            Err(end) => return end.into(),
        };
        tracing::info!(
            endpoint = member.endpoint,
            after = after.0,
            head = member.head.0,
            "following the source"
        );
        if tell.send(SourceNews::Connected { head: member.head }).await.is_err() {
            return End::Closed;
        }
        loop {
            match watch.next().await {
                Ok(News::Revisions(revisions)) => {
                    let last = revisions.last().map_or(at.sent, |last| last.revision);
                    self.witness = revisions.iter().rev().find_map(Witness::of).or(self.witness.take());
                    if !entries.send(revisions.into_iter().map(Entry::Revision).collect()).await {
                        return End::Closed;
                    }
                    *at = Position::new(last, at.resume);
                }
                Ok(News::Progress(revision)) => {
                    // Before the versions named below, it may run ahead of the events: no more than a sign of life.
                    if !trusted {
                        continue;
                    }
                    *at = Position::new(at.sent, at.resume.max(revision));
                    let news = SourceNews::Progress { revision, after: at.sent, ms: now_ms() };
                    if tell.send(news).await.is_err() {
                        return End::Closed;
                    }
                }
                Err(end) => return end.into(),
            }
        }
    }
}

/// Why a connection ended.
enum End {
    Etcd(EtcdError),
    Order(String),
    Compare(&'static str),
    Strange(String),
    Closed,
}

// === impl End ===

impl From<WatchEnd> for End {
    fn from(end: WatchEnd) -> Self {
        match end {
            WatchEnd::Etcd(error) => Self::Etcd(error),
            WatchEnd::Order(violation) => Self::Order(violation.to_string()),
            WatchEnd::Compacted { .. } => Self::Compare("compaction"),
        }
    }
}

/// The server's version, or nothing where it will not say.
pub(crate) async fn version(member: &crate::client::Member) -> String {
    let mut client = member.client.clone();
    let asked = tokio::time::timeout(Duration::from_secs(3), client.status()).await;
    asked.ok().and_then(Result::ok).map(|status| status.version().to_owned()).unwrap_or_default()
}

/// etcd issue 15220: before 3.4.25 and 3.5.8 a watch's progress may be ahead of its events.
pub(crate) fn is_progress_trusted(version: &str) -> bool {
    let mut parts = version.split(['.', '-', '+']).map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    match (next(), next(), next()) {
        (3, 4, patch) => patch >= 25,
        (3, 5, patch) => patch >= 8,
        (3, minor, _) => minor > 5,
        (major, ..) => major > 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_believed_from_the_versions_that_keep_it_honest() {
        for (version, trusted) in [
            ("3.5.1", false),
            ("3.5.7", false),
            ("3.5.8", true),
            ("3.4.23", false),
            ("3.4.25", true),
            ("3.3.99", false),
            ("3.6.0", true),
            ("3.7.3-rc.1", true),
            ("4.0.0", true),
            ("", false),
        ] {
            assert_eq!(is_progress_trusted(version), trusted, "{version}");
        }
    }
}
