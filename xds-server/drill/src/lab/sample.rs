//! What a request through the proxy came to, and sums over many. Arithmetic only.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// One request of a load.
#[derive(Debug, Clone)]
pub struct Sample {
    /// When it was due. Times count from here, so that a stall delays no measurement ("coordinated omission").
    pub due: Instant,
    /// How late the load generator itself was: figures mean little where this is not small.
    pub late: Duration,
    /// From `due` to the end of the body, or to the error.
    pub latency: Duration,
    /// What came back.
    pub outcome: Outcome,
    /// The zone that answered; `None` for the proxy's own answers and for errors before the headers.
    pub zone: Option<Arc<str>>,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A whole response.
    Status(u16),
    /// No response, or half of one.
    Error(String),
}

/// A sum over samples.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Summary {
    /// All of them.
    pub total: ZoneSummary,
    /// By zone that answered.
    pub zones: BTreeMap<String, ZoneSummary>,
    /// Those that no zone answered.
    pub unplaced: ZoneSummary,
    /// Median latency.
    pub p50: Duration,
    /// 99th percentile of the latency.
    pub p99: Duration,
    /// The load generator's own worst lateness.
    pub late: Duration,
}

/// Requests of one zone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ZoneSummary {
    /// All.
    pub requests: u64,
    /// Status 5xx, or no whole response.
    pub failed: u64,
}

// === impl Outcome ===

impl Outcome {
    /// Whether a caller would call it a failure of the service: 5xx, or no whole response.
    pub fn failed(&self) -> bool {
        match self {
            Self::Status(status) => *status >= 500,
            Self::Error(_) => true,
        }
    }
}

// === impl ZoneSummary ===

impl ZoneSummary {
    /// Failed requests in percent; 0 where there were none at all.
    pub fn error_percent(&self) -> f64 {
        percent(self.failed, self.requests)
    }

    fn add(&mut self, failed: bool) {
        self.requests += 1;
        self.failed += u64::from(failed);
    }
}

// === impl Summary ===

impl Summary {
    /// Sums up.
    pub fn of<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> Self {
        let mut summary = Self::default();
        let mut latencies = Vec::new();
        for sample in samples {
            let failed = sample.outcome.failed();
            summary.total.add(failed);
            match &sample.zone {
                Some(zone) => summary.zones.entry(zone.to_string()).or_default().add(failed),
                None => summary.unplaced.add(failed),
            }
            summary.late = summary.late.max(sample.late);
            latencies.push(sample.latency);
        }
        latencies.sort_unstable();
        summary.p50 = quantile(&latencies, 50);
        summary.p99 = quantile(&latencies, 99);
        summary
    }

    /// A zone's share of the requests that a zone answered, in percent.
    pub fn share_percent(&self, zone: &str) -> f64 {
        let placed = self.total.requests - self.unplaced.requests;
        percent(self.zones.get(zone).map_or(0, |zone| zone.requests), placed)
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 }
}

/// The smallest value that at least `percent` % of the sorted values do not exceed; 0 of none.
fn quantile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_sum_up_by_zone() {
        let sample = |zone: Option<&str>, outcome, ms| Sample {
            due: Instant::now(),
            late: Duration::from_millis(1),
            latency: Duration::from_millis(ms),
            outcome,
            zone: zone.map(Into::into),
        };
        let samples = [
            sample(Some("az-a"), Outcome::Status(200), 10),
            sample(Some("az-a"), Outcome::Status(503), 30),
            sample(Some("az-b"), Outcome::Status(404), 20),
            sample(None, Outcome::Error("reset".to_owned()), 40),
        ];
        let summary = Summary::of(&samples);
        assert_eq!(summary.total, ZoneSummary { requests: 4, failed: 2 });
        assert_eq!(summary.zones["az-a"], ZoneSummary { requests: 2, failed: 1 });
        assert_eq!(summary.zones["az-b"].failed, 0);
        assert_eq!(summary.unplaced, ZoneSummary { requests: 1, failed: 1 });
        assert_eq!(summary.zones["az-a"].error_percent(), 50.0);
        assert!((summary.share_percent("az-a") - 66.67).abs() < 0.01);
        assert_eq!(summary.share_percent("az-z"), 0.0);
        assert_eq!((summary.p50, summary.p99), (Duration::from_millis(20), Duration::from_millis(40)));
        assert_eq!(Summary::of([]), Summary::default());
    }
}
