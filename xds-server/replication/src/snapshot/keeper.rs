//! Snapshots from time to time, beside a replicator, and which of them stay. The first one is read from the source; each one after
//! it is the one before and the change log, so that neither etcd is asked. Where the log has a gap, the source is read again; where
//! it has nothing new, the last snapshot stands for the next.
//!
//! A failure is logged and counted, and tried again; the stream does not notice.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use tokio_util::sync::CancellationToken;

use super::{
    SnapshotError,
    catalog::{Catalog, Listed, Retention},
    save::{self, Rolled, blocking},
};
use crate::{Metrics, options::ReplicationOptions, spool::History, watch::now_ms};

/// Between two looks at whether the replicator follows its source, and after a failure.
const AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// What a keeper is told.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Where snapshots lie.
    pub directory: PathBuf,
    /// Between two of them.
    pub every: Duration,
    /// Which of them stay.
    pub retention: Retention,
}

/// What Prometheus reads of a keeper: names `zonebreak_snapshot_*`.
#[derive(Debug, Clone)]
pub struct KeeperMetrics {
    /// When the last one was made, or found to be still what the log says, in seconds since 1970.
    pub last: Gauge,
    /// Bytes of the last one.
    pub bytes: IntGauge,
    /// How many there are of what is replicated.
    pub count: IntGauge,
    /// How many were made, by `source` or `log`.
    pub taken: IntCounterVec,
    /// How many could not be.
    pub failures: IntCounter,
}

// === impl KeeperMetrics ===

impl KeeperMetrics {
    /// Registers everything.
    ///
    /// # Errors
    /// When a name is registered twice.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let taken =
            Opts::new("zonebreak_snapshot_taken_total", "Snapshots made, by what they were made from.");
        let metrics = Self {
            last: Gauge::new(
                "zonebreak_snapshot_last_success_seconds",
                "When the last snapshot was made, or found to be still what it would be, in seconds since 1970.",
            )?,
            bytes: IntGauge::new("zonebreak_snapshot_bytes", "Bytes of the last snapshot.")?,
            count: IntGauge::new(
                "zonebreak_snapshot_count",
                "Snapshots of the replicated prefix that can be used.",
            )?,
            taken: IntCounterVec::new(taken, &["from"])?,
            failures: IntCounter::new(
                "zonebreak_snapshot_failures_total",
                "Snapshots that could not be made.",
            )?,
        };
        registry.register(Box::new(metrics.last.clone()))?;
        registry.register(Box::new(metrics.bytes.clone()))?;
        registry.register(Box::new(metrics.count.clone()))?;
        registry.register(Box::new(metrics.taken.clone()))?;
        registry.register(Box::new(metrics.failures.clone()))?;
        for from in ["source", "log"] {
            metrics.taken.with_label_values(&[from]).inc_by(0);
        }
        Ok(metrics)
    }
}

/// Takes snapshots of what a replicator follows, until `cancel`.
pub async fn keep(
    policy: Policy,
    options: ReplicationOptions,
    replicator: Metrics,
    metrics: KeeperMetrics,
    cancel: CancellationToken,
) {
    let catalog = Catalog::new(&policy.directory);
    let prefix = String::from_utf8_lossy(options.rules.source_prefix()).into_owned();
    // At a start, one is due when the last one is old enough.
    let last =
        catalog.of_prefix(&prefix).ok().and_then(|all| all.iter().map(Listed::at_ms).max()).unwrap_or(0);
    let mut wait = policy.every.saturating_sub(Duration::from_millis(now_ms().saturating_sub(last)));
    metrics.last.set(last as f64 / 1000.0);
    while cancel.run_until_cancelled(tokio::time::sleep(wait)).await.is_some() {
        // Before, the log does not begin where a snapshot would end.
        if replicator.state().0 != "streaming" {
            wait = AGAIN.0;
            continue;
        }
        wait = match cancel.run_until_cancelled(take(&catalog, &options, &prefix, &metrics)).await {
            None => return,
            Some(Ok(())) => policy.every,
            Some(Err(error)) => {
                metrics.failures.inc();
                tracing::warn!("failed to {error}; taking a snapshot again later");
                policy.every.min(AGAIN.1)
            }
        };
        let (retention, pruned, of) = (policy.retention, catalog.clone(), prefix.clone());
        let prune = move || {
            pruned.prune(&of, retention, now_ms()).and_then(|gone| Ok((gone, pruned.of_prefix(&of)?)))
        };
        match blocking(prune).await {
            Ok(Ok((gone, left))) => {
                metrics.count.set(i64::try_from(left.len()).unwrap_or(i64::MAX));
                if !gone.is_empty() {
                    tracing::info!(removed = gone.join(", "), left = left.len(), "removed old snapshots");
                }
            }
            Ok(Err(error)) | Err(error) => tracing::warn!("failed to {error}; old snapshots stay"),
        }
    }
}

async fn take(
    catalog: &Catalog,
    options: &ReplicationOptions,
    prefix: &str,
    metrics: &KeeperMetrics,
) -> Result<(), SnapshotError> {
    let begun = Instant::now();
    let rolled = {
        let (catalog, spool, prefix) = (catalog.clone(), options.spool.clone(), prefix.to_owned());
        blocking(move || roll(&catalog, &spool, &prefix)).await?
    };
    let (taken, from) = match rolled {
        Ok(Some(Rolled::Taken(taken))) => (taken, "log"),
        Ok(Some(Rolled::Unchanged(same))) => {
            metrics.last.set(now_ms() as f64 / 1000.0);
            metrics.bytes.set(i64::try_from(same.bytes).unwrap_or(i64::MAX));
            tracing::debug!(name = same.name, "nothing has changed since the last snapshot");
            return Ok(());
        }
        Ok(None) => (save::save(&options.source, prefix, catalog, Arc::default()).await?, "source"),
        // A damaged snapshot or log is no reason to have no snapshot at all.
        Err(error @ (SnapshotError::Damaged { .. } | SnapshotError::Spool(_))) => {
            tracing::warn!("failed to {error}; reading the source instead");
            (save::save(&options.source, prefix, catalog, Arc::default()).await?, "source")
        }
        Err(error) => return Err(error),
    };
    let (keys, revision) = taken.content.as_ref().map_or((0, 0), |(head, foot)| (foot.keys, head.revision.0));
    metrics.taken.with_label_values(&[from]).inc();
    metrics.last.set(now_ms() as f64 / 1000.0);
    metrics.bytes.set(i64::try_from(taken.bytes).unwrap_or(i64::MAX));
    let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(name = taken.name, revision, keys, bytes = taken.bytes, from, ms, "took a snapshot");
    Ok(())
}

fn roll(catalog: &Catalog, spool: &Path, prefix: &str) -> Result<Option<Rolled>, SnapshotError> {
    match History::open(spool)? {
        Some(history) => save::roll(catalog, &history, prefix),
        None => Ok(None),
    }
}
