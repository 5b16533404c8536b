//! The engine's counters in Prometheus' words. The engine counts in atomics and knows nothing of Prometheus; this reads them
//! when somebody asks.

use prometheus::{
    core::{Collector, Desc},
    proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType},
};
use zonebreak_xds::{Metrics, Server, TypeMetrics};

/// Reads the counters of one server.
pub struct XdsCollector {
    server: Server,
    descs: Vec<Desc>,
}

type Read = fn(&TypeMetrics) -> u64;

/// Counters by type: name, help, and where the number is.
const BY_TYPE: [(&str, &str, Read); 6] = [
    ("zonebreak_xds_requests_total", "Requests received, answers to responses included, by type.", |m| {
        m.requests
    }),
    ("zonebreak_xds_responses_total", "Responses sent, by type.", |m| m.responses),
    ("zonebreak_xds_resources_total", "Resources in the responses sent, by type.", |m| m.resources),
    ("zonebreak_xds_response_bytes_total", "Encoded size of the responses sent, by type.", |m| m.bytes),
    ("zonebreak_xds_acks_total", "Responses that proxies accepted, by type.", |m| m.acks),
    ("zonebreak_xds_nacks_total", "Responses that proxies refused, by type.", |m| m.nacks),
];

type ReadTotal = fn(&Metrics) -> u64;

/// Counters of the whole server.
const TOTALS: [(&str, &str, ReadTotal); 3] = [
    ("zonebreak_xds_streams_opened_total", "Streams opened.", Metrics::streams_total),
    (
        "zonebreak_xds_stream_errors_total",
        "Streams ended because of what the client sent.",
        Metrics::stream_errors,
    ),
    (
        "zonebreak_xds_gates_expired_total",
        "Changes that went on without an acknowledgement that they should have waited for.",
        Metrics::gates_expired,
    ),
];

const STREAMS: (&str, &str) =
    ("zonebreak_xds_streams", "Open streams, by type (ads, or the one type) and protocol.");
const SYNCS: (&str, &str) = (
    "zonebreak_xds_initial_syncs",
    "Streams that get everything for the first time, by state (active, waiting).",
);
const ACK: (&str, &str) = ("zonebreak_xds_ack_seconds", "From sending a response to its acknowledgement.");

// === impl XdsCollector ===

impl XdsCollector {
    /// A collector of the server's counters.
    ///
    /// # Errors
    /// When a name is no metric name, which a test rules out.
    pub fn new(server: Server) -> prometheus::Result<Self> {
        let labels = |labels: &[&str]| labels.iter().map(|label| (*label).to_owned()).collect();
        let desc = |(name, help): (&str, &str), of: &[&str]| {
            Desc::new(name.to_owned(), help.to_owned(), labels(of), std::collections::HashMap::new())
        };
        let mut descs =
            vec![desc(STREAMS, &["type", "protocol"])?, desc(ACK, &[])?, desc(SYNCS, &["state"])?];
        for (name, help, _) in BY_TYPE {
            descs.push(desc((name, help), &["type"])?);
        }
        for (name, help, _) in TOTALS {
            descs.push(desc((name, help), &[])?);
        }
        Ok(Self { server, descs })
    }
}

impl Collector for XdsCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let metrics = self.server.metrics();
        let streams = metrics
            .streams()
            .into_iter()
            .map(|count| gauge(&[("protocol", count.protocol.as_str()), ("type", count.scope)], count.open));
        let (active, waiting) = self.server.initial_syncs();
        let syncs = [("active", active), ("waiting", waiting)]
            .map(|(state, number)| gauge(&[("state", state)], number));
        let mut families = vec![
            family(STREAMS, MetricType::GAUGE, streams.collect()),
            ack_latency(metrics),
            family(SYNCS, MetricType::GAUGE, syncs.to_vec()),
        ];
        let types = metrics.types();
        for (name, help, read) in BY_TYPE {
            let metrics = types.iter().map(|of_type| counter(&[("type", of_type.kind)], read(of_type)));
            families.push(family((name, help), MetricType::COUNTER, metrics.collect()));
        }
        for (name, help, read) in TOTALS {
            families.push(family((name, help), MetricType::COUNTER, vec![counter(&[], read(metrics))]));
        }
        families
    }
}

fn ack_latency(metrics: &Metrics) -> MetricFamily {
    let latency = metrics.ack_latency();
    let mut histogram = Histogram::default();
    histogram.set_sample_count(latency.buckets.last().map_or(0, |(_, count)| *count));
    histogram.set_sample_sum(latency.sum);
    // The encoder adds the infinite bucket by itself.
    let finite = latency.buckets.iter().filter(|(bound, _)| bound.is_finite());
    let buckets = finite.map(|(bound, count)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(*count);
        bucket
    });
    histogram.set_bucket(buckets.collect());
    let mut metric = labelled(&[]);
    metric.set_histogram(histogram);
    family(ACK, MetricType::HISTOGRAM, vec![metric])
}

fn gauge(labels: &[(&str, &str)], value: u64) -> Metric {
    let mut gauge = Gauge::default();
    // Exact up to 2^53.
    gauge.set_value(value as f64);
    let mut metric = labelled(labels);
    metric.set_gauge(gauge);
    metric
}

fn counter(labels: &[(&str, &str)], value: u64) -> Metric {
    let mut counter = Counter::default();
    // Exact up to 2^53.
    counter.set_value(value as f64);
    let mut metric = labelled(labels);
    metric.set_counter(counter);
    metric
}

/// Labels must come in the order of their names.
fn labelled(labels: &[(&str, &str)]) -> Metric {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    Metric::from_label(labels.iter().map(pair).collect())
}

fn family((name, help): (&str, &str), kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}
