//! What the server counts, in atomics, for whoever exports it.
//!
//! Labels come from fixed sets only, so no client can make a metric grow. Nothing here knows Prometheus.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::types::{Protocol, Scope, TypeUrl};

/// Upper bounds of the ACK latency buckets, in seconds. From a proxy on the same host to one about to be given up on.
const BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Known types and "other".
const TYPES: usize = TypeUrl::KNOWN_COUNT + 1;

/// ADS, known types and "other".
const SCOPES: usize = TYPES + 1;

/// All counters of one server.
#[derive(Debug, Default)]
pub struct Metrics {
    types: [TypeCounters; TYPES],
    /// By protocol, then scope.
    streams: [[AtomicU64; SCOPES]; 2],
    streams_total: AtomicU64,
    stream_errors: AtomicU64,
    gates_expired: AtomicU64,
    latency: [AtomicU64; BUCKETS.len() + 1],
    latency_micros: AtomicU64,
}

#[derive(Debug, Default)]
struct TypeCounters {
    requests: AtomicU64,
    responses: AtomicU64,
    resources: AtomicU64,
    bytes: AtomicU64,
    acks: AtomicU64,
    nacks: AtomicU64,
    heartbeats: AtomicU64,
}

/// One type's counters since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeMetrics {
    /// `cds`, `eds`, ... or `other`.
    pub kind: &'static str,
    /// Requests received: first ones, ACKs, NACKs, changes of subscription.
    pub requests: u64,
    /// Responses sent.
    pub responses: u64,
    /// Resources in them.
    pub resources: u64,
    /// Their encoded size, in bytes.
    pub bytes: u64,
    /// Responses accepted.
    pub acks: u64,
    /// Responses refused.
    pub nacks: u64,
    /// Heartbeats sent, which are not among the responses.
    pub heartbeats: u64,
}

/// How many streams are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamCount {
    /// Which protocol they speak.
    pub protocol: Protocol,
    /// `ads`, or the type of a per-type service.
    pub scope: &'static str,
    /// How many.
    pub open: u64,
}

/// From sending a response to its ACK.
#[derive(Clone, Debug, PartialEq)]
pub struct AckLatency {
    /// Upper bound in seconds and how many were at most that, cumulative; the last bound is infinite.
    pub buckets: Vec<(f64, u64)>,
    /// The sum, in seconds.
    pub sum: f64,
}

// === impl Metrics ===

impl Metrics {
    /// Counters by type, in the order of [`TypeUrl::KNOWN`].
    pub fn types(&self) -> Vec<TypeMetrics> {
        let row = |(kind, counters): (&'static str, &TypeCounters)| TypeMetrics {
            kind,
            requests: counters.requests.load(Relaxed),
            responses: counters.responses.load(Relaxed),
            resources: counters.resources.load(Relaxed),
            bytes: counters.bytes.load(Relaxed),
            acks: counters.acks.load(Relaxed),
            nacks: counters.nacks.load(Relaxed),
            heartbeats: counters.heartbeats.load(Relaxed),
        };
        kinds().zip(&self.types).map(row).collect()
    }

    /// Open streams by protocol and scope; scopes no stream has are left out, except ADS.
    pub fn streams(&self) -> Vec<StreamCount> {
        let scopes = || ["ads"].into_iter().chain(kinds());
        [Protocol::Sotw, Protocol::Delta]
            .into_iter()
            .zip(&self.streams)
            .flat_map(|(protocol, row)| scopes().zip(row).map(move |(scope, open)| (protocol, scope, open)))
            .map(|(protocol, scope, open)| StreamCount { protocol, scope, open: open.load(Relaxed) })
            .filter(|count| count.open > 0 || count.scope == "ads")
            .collect()
    }

    /// Streams opened since the start.
    pub fn streams_total(&self) -> u64 {
        self.streams_total.load(Relaxed)
    }

    /// Streams ended because of what the client sent.
    pub fn stream_errors(&self) -> u64 {
        self.stream_errors.load(Relaxed)
    }

    /// Changes that went on without an ACK they should have waited for.
    pub fn gates_expired(&self) -> u64 {
        self.gates_expired.load(Relaxed)
    }

    /// The distribution of ACK latency over all types.
    pub fn ack_latency(&self) -> AckLatency {
        let mut seen = 0;
        let bounds = BUCKETS.into_iter().chain([f64::INFINITY]);
        let buckets = bounds.zip(&self.latency).map(|(bound, count)| {
            seen += count.load(Relaxed);
            (bound, seen)
        });
        let sum = self.latency_micros.load(Relaxed) as f64 / 1e6;
        AckLatency { buckets: buckets.collect(), sum }
    }

    pub(crate) fn stream_opened(&self, protocol: Protocol, scope: &Scope) {
        self.streams_total.fetch_add(1, Relaxed);
        self.open(protocol, scope).fetch_add(1, Relaxed);
    }

    pub(crate) fn stream_closed(&self, protocol: Protocol, scope: &Scope) {
        self.open(protocol, scope).fetch_sub(1, Relaxed);
    }

    pub(crate) fn stream_failed(&self) {
        self.stream_errors.fetch_add(1, Relaxed);
    }

    pub(crate) fn gate_expired(&self) {
        self.gates_expired.fetch_add(1, Relaxed);
    }

    pub(crate) fn request(&self, type_url: &TypeUrl) {
        self.counters(type_url).requests.fetch_add(1, Relaxed);
    }

    pub(crate) fn response(&self, type_url: &TypeUrl, resources: usize, bytes: usize) {
        let counters = self.counters(type_url);
        counters.responses.fetch_add(1, Relaxed);
        counters.resources.fetch_add(resources as u64, Relaxed);
        counters.bytes.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn heartbeat(&self, type_url: &TypeUrl) {
        self.counters(type_url).heartbeats.fetch_add(1, Relaxed);
    }

    pub(crate) fn acked(&self, type_url: &TypeUrl, latency: Duration) {
        self.counters(type_url).acks.fetch_add(1, Relaxed);
        let seconds = latency.as_secs_f64();
        let bucket = BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS.len());
        if let Some(count) = self.latency.get(bucket) {
            count.fetch_add(1, Relaxed);
        }
        self.latency_micros.fetch_add(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    pub(crate) fn nacked(&self, type_url: &TypeUrl) {
        self.counters(type_url).nacks.fetch_add(1, Relaxed);
    }

    fn counters(&self, type_url: &TypeUrl) -> &TypeCounters {
        // In range: a position is at most the number of known types.
        &self.types[type_url.position()]
    }

    fn open(&self, protocol: Protocol, scope: &Scope) -> &AtomicU64 {
        let at = match scope {
            Scope::Aggregated => 0,
            Scope::Single(type_url) => 1 + type_url.position(),
        };
        match protocol {
            Protocol::Sotw => &self.streams[0][at],
            Protocol::Delta => &self.streams[1][at],
        }
    }
}

/// The labels of types, in the order of their counters.
fn kinds() -> impl Iterator<Item = &'static str> {
    TypeUrl::KNOWN.into_iter().map(|type_url| type_url.short()).chain(["other"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_fall_into_cumulative_buckets() {
        let metrics = Metrics::default();
        for millis in [1, 2, 40, 60_000] {
            metrics.acked(&TypeUrl::CLUSTER, Duration::from_millis(millis));
        }
        let latency = metrics.ack_latency();
        let at = |bound: f64| latency.buckets.iter().find(|(b, _)| *b == bound).unwrap().1;
        assert_eq!((at(0.001), at(0.0025), at(0.05), at(30.0), at(f64::INFINITY)), (1, 2, 3, 3, 4));
        assert!((latency.sum - 60.043).abs() < 1e-9);
        assert_eq!(metrics.types()[0].acks, 4);
    }

    #[test]
    fn a_type_a_client_made_up_is_counted_as_other() {
        let metrics = Metrics::default();
        metrics.request(&TypeUrl::new("type.googleapis.com/x.Y"));
        metrics.stream_opened(Protocol::Delta, &Scope::Single(TypeUrl::RUNTIME));
        let other = *metrics.types().last().unwrap();
        assert_eq!((other.kind, other.requests), ("other", 1));
        let open: Vec<_> = metrics.streams().into_iter().map(|s| (s.protocol, s.scope, s.open)).collect();
        let (sotw, delta) = (Protocol::Sotw, Protocol::Delta);
        assert_eq!(open, [(sotw, "ads", 0), (delta, "ads", 0), (delta, "rtds", 1)]);
    }
}
