//! The load reporting service over real gRPC: what clients are asked for, and what becomes of what they say. That Envoy itself
//! reports so is an end-to-end test's to show (`drill/tests/e2e/feedback.rs`).

mod support;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::core::v3::{Locality, Node};
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterStats, UpstreamLocalityStats};
use envoy_types::pb::envoy::service::load_stats::v3::load_reporting_service_client::LoadReportingServiceClient;
use envoy_types::pb::envoy::service::load_stats::v3::{LoadStatsRequest, LoadStatsResponse};
use envoy_types::pb::google::protobuf;
use support::{Background, PATIENCE, eventually, node, serve};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use zonebreak_xds::{
    ChangeId, Hub, LoadMetrics, LoadReport, LoadReporting, LocalityLoad, Resource, Server, ServerOptions,
    Snapshot, TransportOptions, TypeUrl, ViewKey,
};

const INTERVAL: Duration = Duration::from_millis(2500);

/// A server that collects reports, with the node id of whoever made each.
struct Collecting {
    server: Server,
    address: SocketAddr,
    metrics: Arc<LoadMetrics>,
    reports: Arc<Mutex<Vec<(String, LoadReport)>>>,
    _runtime: Background,
}

/// One client's stream.
struct Reporter {
    requests: mpsc::Sender<LoadStatsRequest>,
    responses: Streaming<LoadStatsResponse>,
}

async fn start() -> Collecting {
    let collecting = start_empty(ServerOptions::default()).await;
    collecting.publish();
    collecting
}

/// A server that knows of no view yet.
async fn start_empty(options: ServerOptions) -> Collecting {
    let server = Server::new(Hub::new(), |node| ViewKey::new(&node.cluster), options);
    let reports = Arc::new(Mutex::new(Vec::new()));
    let seen = reports.clone();
    let sink = move |node: &Node, report| seen.lock().unwrap().push((node.id.clone(), report));
    let service = LoadReporting::new(&server, INTERVAL, sink);
    let metrics = service.metrics();
    let routes = server.routes().add_service(service.into_service());
    let at = SocketAddr::from(([127, 0, 0, 1], 0));
    let (address, runtime) = serve(at, routes, TransportOptions::default()).await;
    Collecting { server, address, metrics, reports, _runtime: runtime }
}

impl Collecting {
    fn publish(&self) {
        let mut view = Snapshot::builder(ChangeId(1));
        for name in ["order", "pay"] {
            view.put(Resource::from_value(name, TypeUrl::CLUSTER, name)).unwrap();
        }
        self.server.hub().publish([(ViewKey::new("front"), Arc::new(view.build()))]);
    }

    async fn reporter(&self, first: LoadStatsRequest) -> Reporter {
        let (requests, outgoing) = mpsc::channel(8);
        requests.send(first).await.unwrap();
        let mut client =
            LoadReportingServiceClient::connect(format!("http://{}", self.address)).await.unwrap();
        let responses = client.stream_load_stats(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
        Reporter { requests, responses }
    }
}

impl Reporter {
    async fn next(&mut self) -> Result<LoadStatsResponse, Status> {
        let answer = tokio::time::timeout(PATIENCE, self.responses.message()).await;
        answer.expect("no answer").map(|answer| answer.expect("the stream ended"))
    }
}

fn hello(features: &[&str]) -> LoadStatsRequest {
    let client_features = features.iter().map(ToString::to_string).collect();
    LoadStatsRequest {
        node: node("front").map(|node| Node { client_features, ..node }),
        ..Default::default()
    }
}

fn stats(cluster: &str, service: &str, zone: &str, good: u64, bad: u64) -> ClusterStats {
    let locality = Locality { region: "eu".into(), zone: zone.into(), sub_zone: "1".into() };
    ClusterStats {
        cluster_name: cluster.into(),
        cluster_service_name: service.into(),
        upstream_locality_stats: vec![UpstreamLocalityStats {
            locality: Some(locality),
            total_successful_requests: good,
            total_error_requests: bad,
            // A gauge, which nobody can sum.
            total_requests_in_progress: 1000,
            priority: 1,
            ..Default::default()
        }],
        total_dropped_requests: 3,
        load_report_interval: Some(protobuf::Duration { seconds: 2, nanos: 700_000_000 }),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_client_is_asked_for_all_clusters_or_for_those_of_its_view() {
    let collecting = start().await;
    for (features, all, clusters) in [
        (&["envoy.lrs.supports_send_all_clusters"][..], true, vec![]),
        (&["envoy.lrs.something_else"][..], false, vec!["order".to_owned(), "pay".to_owned()]),
    ] {
        let asked = collecting.reporter(hello(features)).await.next().await.unwrap();
        assert_eq!((asked.send_all_clusters, asked.clusters), (all, clusters));
        let interval = protobuf::Duration { seconds: 2, nanos: 500_000_000 };
        assert_eq!(asked.load_reporting_interval, Some(interval));
    }
    eventually("both have gone", || collecting.metrics.open() == 0).await;
}

/// The node comes once; clusters with an EDS service name are called by that; the interval is the measured one.
#[tokio::test]
async fn reports_are_handed_on_as_they_were_measured() {
    let collecting = start().await;
    let mut reporter = collecting.reporter(hello(&[])).await;
    reporter.next().await.unwrap();
    assert!(collecting.reports.lock().unwrap().is_empty(), "nothing was reported, so there is no sample");
    let cluster_stats = vec![stats("outbound|order", "order", "az-a", 7, 2), stats("pay", "", "az-b", 0, 1)];
    let report = LoadStatsRequest { node: None, cluster_stats };
    reporter.requests.send(report).await.unwrap();
    eventually("both clusters are there", || collecting.reports.lock().unwrap().len() == 2).await;
    let reports = collecting.reports.lock().unwrap();
    let load = |zone: &str, successes, errors| LocalityLoad {
        locality: zonebreak_xds::Locality { region: "eu".into(), zone: zone.into(), sub_zone: "1".into() },
        priority: 1,
        successes,
        errors,
    };
    let report = |service: &str, load| LoadReport {
        service: service.into(),
        interval: Duration::from_millis(2700),
        localities: vec![load],
        dropped: 3,
    };
    let first = ("front-1".to_owned(), report("order", load("az-a", 7, 2)));
    assert_eq!(*reports, [first, ("front-1".to_owned(), report("pay", load("az-b", 0, 1)))]);
    assert_eq!((collecting.metrics.open(), collecting.metrics.reports()), (1, 2));
}

#[tokio::test]
async fn a_client_that_does_not_say_who_it_is_is_told_so() {
    let collecting = start().await;
    let cluster_stats = vec![stats("order", "", "az-a", 1, 0)];
    let mut reporter = collecting.reporter(LoadStatsRequest { node: None, cluster_stats }).await;
    let error = reporter.next().await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    assert!(error.message().contains("node"), "{error}");
    assert!(collecting.reports.lock().unwrap().is_empty());
}

/// A server that starts takes connections before it knows what there is.
#[tokio::test]
async fn a_client_that_comes_before_its_view_is_asked_as_soon_as_there_is_one() {
    let collecting = start_empty(ServerOptions::default()).await;
    let mut reporter = collecting.reporter(hello(&[])).await;
    let early = tokio::time::timeout(Duration::from_millis(300), reporter.responses.message()).await;
    assert!(early.is_err(), "there is nothing to ask for: {early:?}");
    // What it reports of its own accord is taken all the same.
    let report = LoadStatsRequest { node: None, cluster_stats: vec![stats("order", "", "az-a", 1, 0)] };
    reporter.requests.send(report).await.unwrap();
    eventually("it is taken", || collecting.metrics.reports() == 1).await;
    collecting.publish();
    let asked = reporter.next().await.unwrap();
    assert_eq!((asked.send_all_clusters, asked.clusters), (false, vec!["order".into(), "pay".into()]));
    assert_eq!(asked.load_reporting_interval, Some(protobuf::Duration { seconds: 2, nanos: 500_000_000 }));
    // Who can report on all of them waits for nothing.
    let unknown = node("nobody")
        .map(|node| Node { client_features: vec!["envoy.lrs.supports_send_all_clusters".into()], ..node });
    let mut other = collecting.reporter(LoadStatsRequest { node: unknown, ..Default::default() }).await;
    assert!(other.next().await.unwrap().send_all_clusters);
}

/// Else it would keep its connection here for good, while the streams beside it move to another server.
#[tokio::test]
async fn reports_that_have_had_their_time_end_and_may_go_on_elsewhere() {
    // Long beside what a busy machine takes for the first exchange.
    let age = Duration::from_secs(3);
    let options = ServerOptions { max_stream_age: Some(age), ..ServerOptions::default() };
    let collecting = start_empty(options).await;
    collecting.publish();
    let started = Instant::now();
    let mut reporter = collecting.reporter(hello(&[])).await;
    reporter.next().await.unwrap();
    let end = reporter.next().await.unwrap_err();
    assert_eq!(end.code(), Code::Unavailable, "{end}");
    assert!(end.message().contains("had its time"), "{end}");
    assert!(started.elapsed() >= age.mul_f64(0.9), "{:?}", started.elapsed());
    eventually("it has gone", || collecting.metrics.open() == 0).await;
    collecting.reporter(hello(&[])).await.next().await.unwrap();
}

#[tokio::test]
async fn a_drained_server_ends_reports_too() {
    let collecting = start().await;
    let mut reporter = collecting.reporter(hello(&[])).await;
    reporter.next().await.unwrap();
    collecting.server.drain();
    assert_eq!(reporter.next().await.unwrap_err().code(), Code::Unavailable);
    eventually("it has gone", || collecting.metrics.open() == 0).await;
}
