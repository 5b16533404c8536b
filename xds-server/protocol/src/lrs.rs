//! The load reporting service: asks clients how many of their requests succeeded and failed by locality, and hands on what they
//! say. Keeps nothing and judges nothing.
//!
//! What implementers get wrong, and what is done here (`load_stats.proto`, `load_report.proto`):
//!
//! - the node comes with the first message alone: it is remembered for the stream;
//! - a client that cannot report on all clusters (no feature `envoy.lrs.supports_send_all_clusters`) is asked for those that
//!   its view holds when it connects, or as soon as there is one: it would report on nothing for as long as it stays;
//! - a stream ends when it has had its time, like those of the discovery services: one that stayed would keep its connection, and
//!   so its client here when the others go elsewhere;
//! - the interval that counts is the measured one in the report, not the one that was asked for;
//! - clusters that share an EDS service name are one service: the name of the EDS service is handed on where there is one;
//! - only localities with requests are reported. What is not reported is no sample, and not a good one;
//! - requests in progress are a gauge; they are not handed on, since nobody could sum them.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::endpoint::v3::ClusterStats;
use envoy_types::pb::envoy::service::load_stats::v3::load_reporting_service_server::{
    LoadReportingService, LoadReportingServiceServer,
};
use envoy_types::pb::envoy::service::load_stats::v3::{LoadStatsRequest, LoadStatsResponse};
use futures::Stream;
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use crate::Node;
use crate::clock::now;
use crate::hub::Subscription;
use crate::ledger::Locality;
use crate::server::{Server, Shared};
use crate::snapshot::Snapshot;
use crate::types::{StreamId, TypeUrl};

/// The feature by which a client says that it can report on all of its clusters.
const ALL_CLUSTERS: &str = "envoy.lrs.supports_send_all_clusters";

/// What a client reports of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadReport {
    /// The name of the EDS service, or that of the cluster where there is none.
    pub service: String,
    /// How long was counted for.
    pub interval: Duration,
    /// Requests by locality of the endpoint; only of those that had any.
    pub localities: Vec<LocalityLoad>,
    /// Requests that were not sent at all.
    pub dropped: u64,
}

/// Requests to one locality.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalityLoad {
    /// Where the endpoints are.
    pub locality: Locality,
    /// The locality's priority.
    pub priority: u32,
    /// Answered well.
    pub successes: u64,
    /// Answered with 5xx, a gRPC error of the server's, or not at all.
    pub errors: u64,
}

/// What the load reporting service counts.
#[derive(Debug, Default)]
pub struct LoadMetrics {
    open: AtomicU64,
    reports: AtomicU64,
}

type Sink = dyn Fn(&Node, LoadReport) + Send + Sync;

/// The service of one server.
pub struct LoadReporting {
    shared: Arc<Shared>,
    interval: Duration,
    sink: Arc<Sink>,
    metrics: Arc<LoadMetrics>,
}

/// One client's reports.
struct Reports {
    id: StreamId,
    shared: Arc<Shared>,
    sink: Arc<Sink>,
    metrics: Arc<LoadMetrics>,
    interval: Duration,
    requests: Streaming<LoadStatsRequest>,
    draining: watch::Receiver<bool>,
    /// When the stream has had its time.
    aged: Option<Instant>,
    node: Option<Node>,
    /// The view whose clusters the client is to be asked for, until it was.
    view: Option<Subscription>,
    over: bool,
}

/// What woke the stream.
enum Wake {
    Drained,
    Aged,
    View(Arc<Snapshot>),
    Request(Box<LoadStatsRequest>),
    /// The client closed its side, or went away.
    Closed,
}

// === impl LoadReporting ===

impl LoadReporting {
    /// Asks every client for a report each `interval`, and gives each to `sink` with the client's node. The sink runs on the
    /// stream's task: it should only count.
    pub fn new(
        server: &Server,
        interval: Duration,
        sink: impl Fn(&Node, LoadReport) + Send + Sync + 'static,
    ) -> Self {
        let metrics = Arc::default();
        Self { shared: server.shared().clone(), interval, sink: Arc::new(sink), metrics }
    }

    /// What it counts.
    pub fn metrics(&self) -> Arc<LoadMetrics> {
        self.metrics.clone()
    }

    /// The gRPC service, to be added to the routes of [`Server::routes`].
    pub fn into_service(self) -> LoadReportingServiceServer<impl LoadReportingService> {
        let limit = self.shared.max_request_bytes();
        LoadReportingServiceServer::new(self).max_decoding_message_size(limit)
    }
}

#[tonic::async_trait]
impl LoadReportingService for LoadReporting {
    type StreamLoadStatsStream = Pin<Box<dyn Stream<Item = Result<LoadStatsResponse, Status>> + Send>>;

    async fn stream_load_stats(
        &self,
        request: Request<Streaming<LoadStatsRequest>>,
    ) -> Result<Response<Self::StreamLoadStatsStream>, Status> {
        self.metrics.open.fetch_add(1, Relaxed);
        let id = self.shared.number();
        let reports = Reports {
            id,
            draining: self.shared.draining(),
            aged: self.shared.age_of(id).map(|age| now() + age),
            shared: self.shared.clone(),
            sink: self.sink.clone(),
            metrics: self.metrics.clone(),
            interval: self.interval,
            requests: request.into_inner(),
            node: None,
            view: None,
            over: false,
        };
        let answers = futures::stream::unfold(reports, async |mut reports| {
            reports.next().await.map(|item| (item, reports))
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

// === impl Reports ===

impl Reports {
    /// The answer to the first message, when it can be made; nothing after it but the end.
    async fn next(&mut self) -> Option<Result<LoadStatsResponse, Status>> {
        while !self.over {
            let end = match self.wake().await {
                Wake::View(view) => return Some(Ok(self.ask_for_those_of(&view))),
                Wake::Request(request) => match self.hear(*request) {
                    Ok(None) => continue,
                    Ok(Some(answer)) => return Some(Ok(answer)),
                    Err(status) => status,
                },
                Wake::Closed => return None,
                Wake::Drained => Status::unavailable("the server is shutting down; connect to another"),
                Wake::Aged => {
                    Status::unavailable("the stream has had its time; open another, here or elsewhere")
                }
            };
            self.over = true;
            return Some(Err(end));
        }
        None
    }

    async fn wake(&mut self) -> Wake {
        let aged = self.aged;
        let age = async {
            match aged {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let view = async {
            match &mut self.view {
                Some(view) => view.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            // An error means that the server is gone, which ends its streams as well.
            _ = self.draining.wait_for(|draining| *draining) => Wake::Drained,
            // Before the requests: a client may have one ready at any time.
            () = age => Wake::Aged,
            view = view => Wake::View(view),
            request = self.requests.message() => match request {
                Ok(Some(request)) => Wake::Request(Box::new(request)),
                Ok(None) | Err(_) => Wake::Closed,
            },
        }
    }

    /// Takes a message's reports. The first message may be answered at once, or when its view is there.
    fn hear(&mut self, request: LoadStatsRequest) -> Result<Option<LoadStatsResponse>, Status> {
        let mut answer = None;
        if self.node.is_none() {
            let node = request.node.ok_or(Status::invalid_argument("the first message must carry a node"))?;
            if node.client_features.iter().any(|feature| feature == ALL_CLUSTERS) {
                answer = Some(LoadStatsResponse { send_all_clusters: true, ..self.ask() });
            } else {
                self.view = Some(self.shared.hub().subscribe(self.id, self.shared.view_of(&node)));
            }
            self.node = Some(node);
        }
        if let Some(node) = &self.node {
            for stats in request.cluster_stats {
                self.metrics.reports.fetch_add(1, Relaxed);
                (self.sink)(node, LoadReport::of(stats));
            }
        }
        Ok(answer)
    }

    fn ask_for_those_of(&mut self, view: &Snapshot) -> LoadStatsResponse {
        self.view = None;
        let clusters = view.set(&TypeUrl::CLUSTER).iter().map(|cluster| cluster.name().to_string());
        LoadStatsResponse { clusters: clusters.collect(), ..self.ask() }
    }

    fn ask(&self) -> LoadStatsResponse {
        LoadStatsResponse {
            load_reporting_interval: Some(duration(self.interval)),
            ..LoadStatsResponse::default()
        }
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        self.metrics.open.fetch_sub(1, Relaxed);
    }
}

// === impl LoadReport ===

impl LoadReport {
    fn of(stats: ClusterStats) -> Self {
        let ClusterStats { cluster_name, cluster_service_name, upstream_locality_stats, .. } = stats;
        let service = if cluster_service_name.is_empty() { cluster_name } else { cluster_service_name };
        let localities = upstream_locality_stats.into_iter().map(|stats| {
            let locality = stats.locality.unwrap_or_default();
            LocalityLoad {
                locality: Locality {
                    region: locality.region,
                    zone: locality.zone,
                    sub_zone: locality.sub_zone,
                },
                priority: stats.priority,
                successes: stats.total_successful_requests,
                errors: stats.total_error_requests,
            }
        });
        let interval = stats.load_report_interval.map(|interval| {
            // A negative one is no interval.
            let (seconds, nanos) = (u64::try_from(interval.seconds), u32::try_from(interval.nanos));
            Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0).min(999_999_999))
        });
        Self {
            service,
            interval: interval.unwrap_or_default(),
            localities: localities.collect(),
            dropped: stats.total_dropped_requests,
        }
    }
}

fn duration(span: Duration) -> envoy_types::pb::google::protobuf::Duration {
    envoy_types::pb::google::protobuf::Duration {
        seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(span.subsec_nanos()).unwrap_or(0),
    }
}

// === impl LoadMetrics ===

impl LoadMetrics {
    /// Clients that report now.
    pub fn open(&self) -> u64 {
        self.open.load(Relaxed)
    }

    /// Reports received, one for each cluster of each message.
    pub fn reports(&self) -> u64 {
        self.reports.load(Relaxed)
    }
}
