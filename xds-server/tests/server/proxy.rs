//! A proxy of the tests' own: an incremental ADS client that takes clusters and endpoints, acknowledges what it gets, and can
//! be told to refuse.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use envoy_types::pb::{
    envoy::{
        config::{
            cluster::v3::Cluster,
            core::v3::{Locality, Node},
            endpoint::v3::ClusterLoadAssignment,
            route::v3::RouteConfiguration,
        },
        service::discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse,
            aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        },
    },
    google::rpc::Status,
};
use prost::Message as _;
use tokio::sync::mpsc;
use tonic::{Streaming, transport::Channel};

const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const ENDPOINT: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";

/// One connected client and what it holds.
pub struct Proxy {
    requests: mpsc::UnboundedSender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    /// Clusters by name.
    pub clusters: BTreeSet<String>,
    /// Those of them that come with active health checks.
    pub probed: BTreeSet<String>,
    /// Assignments by cluster.
    pub endpoints: BTreeMap<String, ClusterLoadAssignment>,
    /// Virtual hosts of its routes.
    pub routes: BTreeSet<String>,
    /// Refuse what comes, with these words.
    pub refuse: Option<String>,
    /// Refuse clusters that these words name, with these words.
    pub refuse_clusters: Option<String>,
}

// === impl Proxy ===

impl Proxy {
    /// Connects as `id` in `zone` and subscribes to all clusters.
    pub async fn connect(server: SocketAddr, id: &str, zone: &str) -> Self {
        Self::subscribe(server, id, zone, CLUSTER, &[]).await
    }

    /// Connects as `id` in `zone` and subscribes to the endpoints of these clusters, and to nothing else.
    pub async fn connect_for(server: SocketAddr, id: &str, zone: &str, clusters: &[&str]) -> Self {
        Self::subscribe(server, id, zone, ENDPOINT, clusters).await
    }

    /// Connects as `id` in `zone` and subscribes to the routes of this name, and to nothing else.
    pub async fn connect_for_routes(server: SocketAddr, id: &str, zone: &str, name: &str) -> Self {
        Self::subscribe(server, id, zone, ROUTE, &[name]).await
    }

    async fn subscribe(server: SocketAddr, id: &str, zone: &str, kind: &str, names: &[&str]) -> Self {
        let channel = Channel::from_shared(format!("http://{server}")).unwrap().connect().await.unwrap();
        let (requests, outgoing) = mpsc::unbounded_channel();
        let locality = Locality { zone: zone.to_owned(), ..Locality::default() };
        let node = Node {
            id: id.to_owned(),
            cluster: "tests".to_owned(),
            locality: Some(locality),
            ..Node::default()
        };
        let first = DeltaDiscoveryRequest {
            node: Some(node),
            type_url: kind.to_owned(),
            resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
            ..DeltaDiscoveryRequest::default()
        };
        requests.send(first).unwrap();
        let stream = tokio_stream::wrappers::UnboundedReceiverStream::new(outgoing);
        let responses =
            AggregatedDiscoveryServiceClient::new(channel).delta_aggregated_resources(stream).await;
        let (clusters, endpoints) = (BTreeSet::new(), BTreeMap::new());
        Self {
            requests,
            responses: responses.unwrap().into_inner(),
            clusters,
            probed: BTreeSet::new(),
            endpoints,
            routes: BTreeSet::new(),
            refuse: None,
            refuse_clusters: None,
        }
    }

    /// Takes responses until `enough` of what it holds; fails with what it holds when the stream ends or time is up.
    pub async fn until(&mut self, what: &str, enough: impl Fn(&Self) -> bool) {
        while !enough(self) {
            match tokio::time::timeout(super::LIMIT, self.responses.message()).await {
                Ok(Ok(Some(response))) => self.take(response),
                other => panic!("waiting for {what} with {:?}: {other:?}", self.by_zone()),
            }
        }
    }

    /// Takes responses for ever, in the background, until the returned task is aborted or the stream ends.
    pub fn run(mut self) -> tokio::task::JoinHandle<Option<tonic::Status>> {
        tokio::spawn(async move {
            loop {
                match self.responses.message().await {
                    Ok(Some(response)) => self.take(response),
                    Ok(None) => return None,
                    Err(status) => return Some(status),
                }
            }
        })
    }

    /// Endpoints held, as `service: {zone: (priority, number)}`.
    pub fn by_zone(&self) -> BTreeMap<&str, BTreeMap<&str, (u32, usize)>> {
        let mut all = BTreeMap::new();
        for (service, assignment) in &self.endpoints {
            let mut zones = BTreeMap::new();
            for locality in &assignment.endpoints {
                let zone = locality.locality.as_ref().map_or("", |locality| locality.zone.as_str());
                zones.insert(zone, (locality.priority, locality.lb_endpoints.len()));
            }
            all.insert(service.as_str(), zones);
        }
        all
    }

    fn take(&mut self, response: DeltaDiscoveryResponse) {
        let mut answer = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        };
        let named = |message: &&String| response.resources.iter().any(|it| message.contains(&it.name));
        let clusters = self.refuse_clusters.as_ref().filter(|_| response.type_url == CLUSTER).filter(named);
        if let Some(message) = self.refuse.as_ref().or(clusters) {
            answer.error_detail = Some(Status { code: 3, message: message.clone(), ..Status::default() });
            let _gone = self.requests.send(answer);
            return;
        }
        match response.type_url.as_str() {
            CLUSTER => {
                self.clusters.extend(response.resources.iter().map(|resource| resource.name.clone()));
                response.removed_resources.iter().for_each(|name| drop(self.clusters.take(name)));
                for resource in &response.resources {
                    let value = resource.resource.as_ref().unwrap().value.as_slice();
                    match Cluster::decode(value).unwrap().health_checks.is_empty() {
                        true => _ = self.probed.take(&resource.name),
                        false => _ = self.probed.insert(resource.name.clone()),
                    }
                }
                let wanted = self.clusters.iter().filter(|name| !self.endpoints.contains_key(*name));
                let subscribe = DeltaDiscoveryRequest {
                    type_url: ENDPOINT.to_owned(),
                    resource_names_subscribe: wanted.cloned().collect(),
                    ..DeltaDiscoveryRequest::default()
                };
                let _gone = self.requests.send(answer);
                if !subscribe.resource_names_subscribe.is_empty() {
                    let _gone = self.requests.send(subscribe);
                }
            }
            ROUTE => {
                for resource in response.resources {
                    let value = resource.resource.unwrap().value;
                    let routes = RouteConfiguration::decode(value.as_slice()).unwrap();
                    self.routes = routes.virtual_hosts.into_iter().map(|host| host.name).collect();
                }
                let _gone = self.requests.send(answer);
            }
            _ => {
                for resource in response.resources {
                    let value = resource.resource.unwrap().value;
                    self.endpoints
                        .insert(resource.name, ClusterLoadAssignment::decode(value.as_slice()).unwrap());
                }
                let _gone = self.requests.send(answer);
            }
        }
    }
}
