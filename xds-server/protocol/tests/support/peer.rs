//! A client of the discovery protocol over a real channel, of either protocol, aggregated or on a type's own service.

use std::collections::HashMap;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::google::rpc;
use http::uri::PathAndQuery;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;
use zonebreak_xds::{Protocol, TypeUrl};

use super::PATIENCE;

const ADS: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/{}AggregatedResources";

/// Where the resources of a type may be asked for, besides the aggregated service.
pub fn own_service(kind: &TypeUrl) -> &'static str {
    match kind.short() {
        "cds" => "/envoy.service.cluster.v3.ClusterDiscoveryService/{}Clusters",
        "eds" => "/envoy.service.endpoint.v3.EndpointDiscoveryService/{}Endpoints",
        "leds" => "/envoy.service.endpoint.v3.LocalityEndpointDiscoveryService/{}LocalityEndpoints",
        "lds" => "/envoy.service.listener.v3.ListenerDiscoveryService/{}Listeners",
        "ecds" => "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/{}ExtensionConfigs",
        "rds" => "/envoy.service.route.v3.RouteDiscoveryService/{}Routes",
        "srds" => "/envoy.service.route.v3.ScopedRoutesDiscoveryService/{}ScopedRoutes",
        "vhds" => "/envoy.service.route.v3.VirtualHostDiscoveryService/{}VirtualHosts",
        "sds" => "/envoy.service.secret.v3.SecretDiscoveryService/{}Secrets",
        "rtds" => "/envoy.service.runtime.v3.RuntimeDiscoveryService/{}Runtime",
        _ => ADS,
    }
}

/// The kinds of streams there are: protocol, and whether aggregated.
pub const STREAMS: [(Protocol, bool); 4] =
    [(Protocol::Sotw, true), (Protocol::Sotw, false), (Protocol::Delta, true), (Protocol::Delta, false)];

/// The method by which a type is asked for on this kind of stream.
pub fn path((protocol, aggregated): (Protocol, bool), kind: &TypeUrl) -> String {
    let verb = if protocol == Protocol::Sotw { "Stream" } else { "Delta" };
    if aggregated { ADS } else { own_service(kind) }.replace("{}", verb)
}

/// An open stream.
pub struct Peer {
    protocol: Protocol,
    node: Option<Node>,
    /// What the first request of a type says of an earlier stream: `version_info`, or name and version of each resource.
    brings: HashMap<TypeUrl, (String, HashMap<String, String>)>,
    wire: Wire,
}

enum Wire {
    Sotw(mpsc::Sender<DiscoveryRequest>, Streaming<DiscoveryResponse>),
    Delta(mpsc::Sender<DeltaDiscoveryRequest>, Streaming<DeltaDiscoveryResponse>),
}

/// What the server said, in the words both protocols share.
#[derive(Clone, Debug)]
pub struct Said {
    pub type_url: String,
    pub version: String,
    pub nonce: String,
    /// The bytes inside the `Any`s.
    pub values: Vec<Vec<u8>>,
    /// The types that the `Any`s say they are of.
    pub kinds: Vec<String>,
    /// Name and version of each; incremental only.
    pub entries: Vec<(String, String)>,
    /// Incremental only.
    pub removed: Vec<String>,
}

impl Peer {
    /// Opens a stream of this kind for a type; nothing is said yet.
    pub async fn of(
        channel: Channel,
        node: Node,
        stream: (Protocol, bool),
        kind: &TypeUrl,
    ) -> Result<Self, Status> {
        let (protocol, path) = (stream.0, path(stream, kind));
        let wire = match protocol {
            Protocol::Sotw => {
                let (requests, responses) = call(channel, &path).await?;
                Wire::Sotw(requests, responses)
            }
            Protocol::Delta => {
                let (requests, responses) = call(channel, &path).await?;
                Wire::Delta(requests, responses)
            }
        };
        Ok(Self { protocol, node: Some(node), brings: HashMap::new(), wire })
    }

    /// Subscribes to these names: all of them in state of the world, besides others in incremental.
    pub async fn ask(&mut self, kind: &TypeUrl, names: &[&str]) {
        self.say(kind, names, &[], None, None).await;
    }

    /// Subscribes to names besides those it has, with what a state-of-the-world client has to say besides.
    pub async fn ask_more(&mut self, kind: &TypeUrl, all: &[&str], last: &Said) {
        match self.protocol {
            Protocol::Sotw => self.say(kind, all, &[], Some(last), None).await,
            Protocol::Delta => self.say(kind, &all[all.len() - 1..], &[], None, None).await,
        }
    }

    /// Accepts what was said, repeating the names where the protocol has it so.
    pub async fn ack(&mut self, said: &Said, names: &[&str]) {
        let names = if self.protocol == Protocol::Sotw { names } else { &[] };
        self.say(&TypeUrl::new(&said.type_url), names, &[], Some(said), None).await;
    }

    /// Refuses what was said.
    pub async fn nack(&mut self, said: &Said, names: &[&str], why: &str) {
        let names = if self.protocol == Protocol::Sotw { names } else { &[] };
        self.say(&TypeUrl::new(&said.type_url), names, &[], Some(said), Some(why)).await;
    }

    /// Has the first request of this type say what an earlier stream brought.
    pub fn bring(&mut self, kind: &TypeUrl, version: &str, resources: HashMap<String, String>) {
        self.brings.insert(kind.clone(), (version.to_owned(), resources));
    }

    /// Says anything.
    pub async fn say(
        &mut self,
        kind: &TypeUrl,
        names: &[&str],
        dropped: &[&str],
        answered: Option<&Said>,
        error: Option<&str>,
    ) {
        let node = self.node.take();
        let (brought_version, brought) = self.brings.remove(kind).unwrap_or_default();
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let response_nonce = answered.map(|said| said.nonce.clone()).unwrap_or_default();
        let error_detail =
            error.map(|why| rpc::Status { code: 3, message: why.into(), ..rpc::Status::default() });
        match &mut self.wire {
            Wire::Sotw(requests, _) => {
                let accepted = answered.filter(|_| error.is_none());
                let request = DiscoveryRequest {
                    node,
                    type_url: kind.to_string(),
                    version_info: accepted.map_or(brought_version, |said| said.version.clone()),
                    resource_names: owned(names),
                    response_nonce,
                    error_detail,
                    ..Default::default()
                };
                let _ = requests.send(request).await;
            }
            Wire::Delta(requests, _) => {
                let request = DeltaDiscoveryRequest {
                    node,
                    type_url: kind.to_string(),
                    resource_names_subscribe: owned(names),
                    resource_names_unsubscribe: owned(dropped),
                    initial_resource_versions: brought,
                    response_nonce,
                    error_detail,
                    ..Default::default()
                };
                let _ = requests.send(request).await;
            }
        }
    }

    /// Says it without a node, even first.
    pub fn forget_node(&mut self) {
        self.node = None;
    }

    /// The next response, or how the stream ended.
    pub async fn next(&mut self) -> Result<Said, Status> {
        let ended = || Status::ok("the stream ended");
        match &mut self.wire {
            Wire::Sotw(_, responses) => {
                let said = responses.message().await?.ok_or_else(ended)?;
                Ok(Said {
                    type_url: said.type_url,
                    version: said.version_info,
                    nonce: said.nonce,
                    kinds: said.resources.iter().map(|any| any.type_url.clone()).collect(),
                    values: said.resources.into_iter().map(|any| any.value).collect(),
                    entries: Vec::new(),
                    removed: Vec::new(),
                })
            }
            Wire::Delta(_, responses) => {
                let said = responses.message().await?.ok_or_else(ended)?;
                let entries = said.resources.iter().map(|entry| (entry.name.clone(), entry.version.clone()));
                Ok(Said {
                    type_url: said.type_url,
                    version: said.system_version_info,
                    nonce: said.nonce,
                    entries: entries.collect(),
                    kinds: said
                        .resources
                        .iter()
                        .filter_map(|e| Some(e.resource.as_ref()?.type_url.clone()))
                        .collect(),
                    values: said.resources.into_iter().filter_map(|e| Some(e.resource?.value)).collect(),
                    removed: said.removed_resources,
                })
            }
        }
    }

    /// The next response, which must come.
    #[track_caller]
    pub fn expect(&mut self) -> impl Future<Output = Said> {
        let at = std::panic::Location::caller();
        async move {
            match tokio::time::timeout(PATIENCE, self.next()).await {
                Ok(Ok(said)) => said,
                other => panic!("{at}: a response was due: {other:?}"),
            }
        }
    }

    /// How the stream ends, which it must.
    #[track_caller]
    pub fn end(&mut self) -> impl Future<Output = Status> {
        let at = std::panic::Location::caller();
        async move {
            let ended = async {
                loop {
                    if let Err(status) = self.next().await {
                        return status;
                    }
                }
            };
            let ended = tokio::time::timeout(PATIENCE, ended).await;
            ended.unwrap_or_else(|_| panic!("{at}: the stream goes on"))
        }
    }

    /// Whether nothing is said for this long.
    pub async fn is_silent(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.next()).await.is_err()
    }
}

async fn call<Q: Message + 'static, R: Message + Default + 'static>(
    channel: Channel,
    path: &str,
) -> Result<(mpsc::Sender<Q>, Streaming<R>), Status> {
    let (requests, outgoing) = mpsc::channel(64);
    let mut grpc = Grpc::new(channel).max_decoding_message_size(64 << 20);
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::try_from(path).unwrap();
    let request = Request::new(ReceiverStream::new(outgoing));
    let responses = grpc.streaming(request, path, ProstCodec::<Q, R>::default()).await?;
    Ok((requests, responses.into_inner()))
}
