//! Replication beside the server, where `replicate.enabled` asks for it: the same replicator that `zonebreak replicate run` is, with the
//! same snapshots, and its condition among the health checks. Never ends the server: one that has lost its replica still serves its proxies.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prometheus::Registry;
use tokio_util::sync::CancellationToken;
use zonebreak_replication::{
    Metrics, ReplicationOptions,
    snapshot::keeper::{self, KeeperMetrics, Policy},
};

use super::checks::{Check, Condition};

/// After an end that does not heal by itself: an operator may have mended it, or another region was promoted.
const AGAIN: Duration = Duration::from_secs(30);

/// A replicator in this process.
#[derive(Debug)]
pub struct Replica {
    options: ReplicationOptions,
    metrics: Metrics,
    /// What snapshots of its source are taken by, where they are.
    snapshots: Option<(Policy, KeeperMetrics)>,
    /// Why it ended, while it has.
    ended: Mutex<Option<String>>,
}

// === impl Replica ===

impl Replica {
    /// One that does not run yet; its metrics are among the server's.
    ///
    /// # Errors
    /// When a name is registered twice.
    pub fn new(
        options: ReplicationOptions,
        snapshots: Option<Policy>,
        registry: &Registry,
    ) -> prometheus::Result<Arc<Self>> {
        let metrics = Metrics::new(registry)?;
        let snapshots = snapshots.map(|policy| KeeperMetrics::new(registry).map(|counted| (policy, counted)));
        let snapshots = snapshots.transpose()?;
        Ok(Arc::new(Self { options, metrics, snapshots, ended: Mutex::default() }))
    }

    /// Replicates until `stop`, and takes snapshots while it does.
    ///
    /// # Errors
    /// Never: what ends it is told by [`Self::check`], and it begins again later.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        if let Some((policy, counted)) = self.snapshots.clone() {
            let (options, metrics) = (self.options.clone(), self.metrics.clone());
            tokio::spawn(keeper::keep(policy, options, metrics, counted, stop.clone()));
        }
        while !stop.is_cancelled() {
            tracing::info!(stream = self.options.stream, "replicating");
            // Boxed: it is large, and a worker's stack is not.
            let running =
                zonebreak_replication::run(self.options.clone(), self.metrics.clone(), stop.clone());
            let Err(error) = Box::pin(running).await else { break };
            tracing::error!(again_s = AGAIN.as_secs(), "replication ended: failed to {error}");
            self.note(Some(format!("ended: failed to {error}")));
            let _stopped = stop.run_until_cancelled(tokio::time::sleep(AGAIN)).await;
            self.note(None);
        }
        stop.cancelled().await;
        Ok(())
    }

    /// How it is. Degraded at worst: proxies are served all the same.
    pub fn check(&self) -> Check {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let condition = match (ended, self.metrics.state()) {
            (Some(why), _) => Condition::Degraded(why),
            (None, (_, true)) => Condition::Ok,
            (None, (state, false)) => Condition::Degraded(format!(
                "stream {}: {state}, not following the source yet",
                self.options.stream
            )),
        };
        Check::new("replication", condition)
    }

    fn note(&self, why: Option<String>) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }
}
