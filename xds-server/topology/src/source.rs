//! Where topologies come from: a watched etcd prefix or a watched file. Runs the task that feeds the registry and publishes
//! what it says; decides nothing itself.

mod etcd;
mod file;
mod session;

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::watch;

pub use etcd::watch_etcd;
pub use file::{FileError, watch_file};

use crate::model::Topology;

/// A running source. It ends when its cancellation token is cancelled; dropping this leaves it running.
#[derive(Debug, Clone)]
pub struct Source {
    /// The latest topology; `None` until the first was read. A new value means that something changed.
    pub topology: watch::Receiver<Option<Arc<Topology>>>,
    /// How the source is doing. Set after the topology that it speaks of.
    pub status: watch::Receiver<SourceStatus>,
}

/// How a source is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceStatus {
    /// Whether it hears of changes now. The topology published last stays good when it does not.
    pub connected: bool,
    /// Everything up to this revision has been taken in, changes that made no difference included; 0 before the first.
    pub revision: i64,
    /// What went wrong last, while it has not been put right.
    pub last_error: Option<String>,
    /// Since when `connected` is what it is.
    pub since: Timestamp,
    /// Why the topology published is not what the source says now: an etcd that came back without its data.
    pub held: Option<String>,
    /// The etcd cluster; 0 while it is not known, and with a file.
    pub cluster: u64,
    /// When the topology published was true, while it is one from disk that the source has not yet confirmed or replaced.
    pub saved_at: Option<Timestamp>,
}

/// The sending end of a [`Source`].
struct Publisher {
    topology: watch::Sender<Option<Arc<Topology>>>,
    status: watch::Sender<SourceStatus>,
}

// === impl SourceStatus ===

impl SourceStatus {
    /// Of a source that nothing was heard of since `since`.
    pub const fn unconnected(since: Timestamp) -> Self {
        Self {
            connected: false,
            revision: 0,
            last_error: None,
            since,
            held: None,
            cluster: 0,
            saved_at: None,
        }
    }
}

// === impl Publisher ===

impl Publisher {
    fn new(now: Timestamp) -> (Self, Source) {
        let status = SourceStatus::unconnected(now);
        let (topology, topologies) = watch::channel(None);
        let (status, statuses) = watch::channel(status);
        (Self { topology, status }, Source { topology: topologies, status: statuses })
    }

    /// Publishes a topology and logs the problems that are new in it, or gone.
    fn topology(&self, new: Arc<Topology>) {
        let old = self.topology.send_replace(Some(Arc::clone(&new)));
        let none = std::collections::BTreeMap::new();
        let before = old.as_ref().map_or(&none, |old| &old.problems);
        for problem in new.problems.values().filter(|p| before.get(&p.key) != Some(p)) {
            tracing::warn!(key = problem.key, revision = problem.revision, "refused: {problem}");
        }
        for key in before.keys().filter(|key| !new.problems.contains_key(*key)) {
            tracing::info!(key, "no longer refused: mended or deleted");
        }
    }

    /// Publishes how it goes, and logs what is new in that.
    fn status(&self, new: SourceStatus) {
        let old = self.status.borrow().clone();
        if old == new {
            return;
        }
        if new.held != old.held {
            match &new.held {
                Some(held) => tracing::error!("the topology is held: {held}"),
                None => tracing::warn!(revision = new.revision, "the topology is no longer held"),
            }
        }
        if let Some(error) = new.last_error.as_ref().filter(|_| new.last_error != old.last_error) {
            let stays =
                if old.revision > 0 { "the last good topology stays" } else { "there is no topology yet" };
            tracing::warn!(revision = old.revision, "{stays}: failed to {error}");
        }
        if new.connected && !old.connected {
            tracing::info!(revision = new.revision, "the topology is followed");
        }
        self.status.send_replace(new);
    }
}
