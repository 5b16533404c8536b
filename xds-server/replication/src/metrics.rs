//! What Prometheus reads of a replicator: names `zonebreak_replication_*`, base units. Counts; decides nothing.

use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::checkpoint::Role;

/// All metrics of one replicator.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// From a revision's arrival to its commit at the destination, the oldest of each transaction.
    pub lag: Histogram,
    /// Transactions carried out.
    pub transactions: IntCounter,
    /// Keys written or deleted in them.
    pub operations: IntCounter,
    /// Transactions of unknown fate, or put off; comparisons that somebody else's writes kept from an end.
    pub retries: IntCounterVec,
    /// Full comparisons that wrote something or moved the destination, by reason.
    pub resyncs: IntCounterVec,
    /// Keys that a comparison had to write or delete.
    pub repaired: IntCounter,
    /// Revisions of the destination that were not ours.
    pub strangers: IntCounter,
    /// Values read back whose checksum was as sent.
    pub verified: IntCounter,
    /// Digests of both sides compared at one revision.
    pub digests: IntCounter,
    /// 1 while the destination's own account of what it holds is heard, and compared with what was sent.
    pub verifying: IntGauge,
    /// Checksums or digests that were not what they should be.
    pub mismatches: IntCounter,
    /// Keys that two regions wrote without knowing of each other, by policy.
    pub conflicts: IntCounterVec,
    /// Those of them that nobody has decided about.
    pub open_conflicts: IntGauge,
    /// Times from clocks that are too far ahead to be followed.
    pub clamped: IntCounter,
    /// The source's revision that the destination holds.
    pub revision: IntGauge,
    /// Revisions of the source with something in them that the destination has not, though it should by now.
    pub offset: IntGauge,
    /// Revisions of the source, those of other prefixes included, between the last one that the replicator knows of and the one
    /// that the destination holds.
    pub behind: IntGauge,
    /// When what the destination holds reached the replicator, in seconds since 1970.
    pub safe_time: Gauge,
    /// Keys that the destination holds.
    pub keys: IntGauge,
    /// Leased keys of the source: kept under a lease, or counted.
    pub leased: IntGauge,
    /// Bytes of the spool on disk.
    pub spool_bytes: IntGauge,
    /// When the oldest change in the spool reached the replicator, in seconds since 1970; 0 while it is empty.
    pub spool_oldest: Gauge,
    /// 1 while the side answers.
    pub connected: IntGaugeVec,
    /// 1 while the destination is between two revisions.
    pub torn: IntGauge,
    /// Changes of ownership so far.
    pub epoch: IntGauge,
    /// 1 for what the destination is.
    pub role: IntGaugeVec,
    /// 1 for the state that the replicator is in.
    pub state: IntGaugeVec,
}

const STATES: [&str; 5] = ["starting", "standby", "aligning", "streaming", "stopped"];

// === impl Metrics ===

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// When a name is registered twice.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let name = |name: &str| format!("zonebreak_replication_{name}");
        let counter = |short: &str, help: &str| {
            let counter = IntCounter::new(name(short), help)?;
            registry.register(Box::new(counter.clone()))?;
            prometheus::Result::Ok(counter)
        };
        let counters = |short: &str, help: &str, label: &str| {
            let counters = IntCounterVec::new(Opts::new(name(short), help), &[label])?;
            registry.register(Box::new(counters.clone()))?;
            prometheus::Result::Ok(counters)
        };
        let gauge = |short: &str, help: &str| {
            let gauge = IntGauge::new(name(short), help)?;
            registry.register(Box::new(gauge.clone()))?;
            prometheus::Result::Ok(gauge)
        };
        let gauges = |short: &str, help: &str, label: &str| {
            let gauges = IntGaugeVec::new(Opts::new(name(short), help), &[label])?;
            registry.register(Box::new(gauges.clone()))?;
            prometheus::Result::Ok(gauges)
        };
        let lag = Histogram::with_opts(
            HistogramOpts::new(
                name("lag_seconds"),
                "From a revision's arrival to its commit at the destination, the oldest of each transaction.",
            )
            .buckets(prometheus::exponential_buckets(0.000_5, 2.0, 16)?),
        )?;
        registry.register(Box::new(lag.clone()))?;
        let safe_time = Gauge::new(
            name("safe_time_seconds"),
            "When what the destination holds was known to be the source's latest, in seconds since 1970.",
        )?;
        registry.register(Box::new(safe_time.clone()))?;
        let spool_oldest = Gauge::new(
            name("spool_oldest_seconds"),
            "When the oldest change in the spool reached the replicator, in seconds since 1970; 0: it is empty.",
        )?;
        registry.register(Box::new(spool_oldest.clone()))?;
        let metrics = Self {
            lag,
            safe_time,
            spool_oldest,
            transactions: counter("transactions_total", "Transactions carried out at the destination.")?,
            operations: counter("operations_total", "Keys written or deleted in transactions.")?,
            retries: counters(
                "retries_total",
                "Transactions put off, or of unknown fate, and comparisons kept from an end, by which.",
                "kind",
            )?,
            resyncs: counters(
                "resyncs_total",
                "Comparisons of both sides that were needed, by reason.",
                "reason",
            )?,
            repaired: counter("repaired_keys_total", "Keys that a comparison wrote or deleted.")?,
            strangers: counter("stranger_writes_total", "Revisions of the destination that were not ours.")?,
            verified: counter(
                "verified_values_total",
                "Values told back by the destination with the right CRC32.",
            )?,
            digests: counter("digest_comparisons_total", "Digests of both sides compared at one revision.")?,
            verifying: gauge(
                "verifying",
                "1 while the destination's own account of what it holds is compared with what was sent.",
            )?,
            mismatches: counter(
                "mismatches_total",
                "CRC32s or digests that were wrong, and revisions that were missing though nothing waited.",
            )?,
            conflicts: counters(
                "conflicts_total",
                "Keys that two regions wrote without knowing of each other, by policy.",
                "policy",
            )?,
            open_conflicts: gauge("open_conflicts", "Conflicts that nobody has decided about.")?,
            clamped: counter("clamped_clocks_total", "Times from clocks too far ahead to be followed.")?,
            revision: gauge("source_revision", "The source's revision that the destination holds.")?,
            offset: gauge(
                "sync_version_offset",
                "Revisions with a change to replicate that the destination lacks.",
            )?,
            behind: gauge(
                "lag_revisions",
                "Revisions of the source, of whatever prefix, that are known of and not at the destination yet.",
            )?,
            keys: gauge("keys", "Keys that the destination holds.")?,
            leased: gauge("leased_keys", "Leased keys seen in the last comparison.")?,
            spool_bytes: gauge("spool_bytes", "What the spool takes on disk.")?,
            connected: gauges("connected", "1 while the side answers.", "side")?,
            torn: gauge("torn", "1 while the destination is between two revisions of the source.")?,
            epoch: gauge("epoch", "Changes of ownership so far.")?,
            role: gauges("role", "1 for what the destination is.", "role")?,
            state: gauges("state", "1 for the state the replicator is in.", "state")?,
        };
        for side in ["source", "destination"] {
            metrics.connected.with_label_values(&[side]).set(0);
        }
        for kind in ["put_off", "unknown", "contended"] {
            metrics.retries.with_label_values(&[kind]).inc_by(0);
        }
        metrics.is(Role::Replica);
        metrics.enter("starting");
        Ok(metrics)
    }

    /// What the destination is from now on.
    pub(crate) fn is(&self, role: Role) {
        for (known, name) in [(Role::Replica, "replica"), (Role::Primary, "primary")] {
            self.role.with_label_values(&[name]).set(i64::from(known == role));
        }
    }

    /// The replicator is in this state from now on.
    pub(crate) fn enter(&self, state: &str) {
        for known in STATES {
            self.state.with_label_values(&[known]).set(i64::from(known == state));
        }
    }

    /// The state that the replicator is in, and whether it follows the source.
    pub fn state(&self) -> (&'static str, bool) {
        let found = STATES.into_iter().find(|known| self.state.with_label_values(&[known]).get() == 1);
        let state = found.unwrap_or("starting");
        (state, state == "streaming" || state == "standby")
    }

    pub(crate) fn connected(&self, side: &str, yes: bool) {
        self.connected.with_label_values(&[side]).set(i64::from(yes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = include_str!("../../../docs/replication.md");

    /// Whoever is woken by one must find out what it means.
    #[test]
    fn every_metric_is_explained_in_the_docs_and_none_is_that_does_not_exist() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        metrics.resyncs.with_label_values(&["backlog"]).inc_by(0);
        let told: Vec<String> = registry.gather().iter().map(|family| family.name().to_owned()).collect();
        let (_, table) = PAGE.split_once("## Metrics\n").unwrap();
        let table = table.split("\n## ").next().unwrap();
        let explained = |name: &String| {
            let short = name.trim_start_matches("zonebreak_replication_");
            [format!("`{short}`"), format!("`{short}{{")].iter().any(|it| table.contains(it))
        };
        let missing: Vec<&String> = told.iter().filter(|name| !explained(name)).collect();
        assert!(missing.is_empty() && told.len() > 20, "{missing:?}");
        let mut named = PAGE
            .split("zonebreak_replication_")
            .skip(1)
            .map(|rest| rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect::<String>());
        let strange = named.find(|name| {
            let whole = format!("zonebreak_replication_{name}");
            !name.is_empty() && !told.iter().any(|it| *it == whole || whole == format!("{it}_bucket"))
        });
        assert_eq!(strange, None);
    }
}
