//! The server over real TCP, driven by tonic's generated clients.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::service::cluster::v3::cluster_discovery_service_client::ClusterDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::envoy::service::endpoint::v3::endpoint_discovery_service_client::EndpointDiscoveryServiceClient;
use envoy_types::pb::envoy::service::endpoint::v3::locality_endpoint_discovery_service_client::LocalityEndpointDiscoveryServiceClient;
use envoy_types::pb::envoy::service::extension::v3::extension_config_discovery_service_client::ExtensionConfigDiscoveryServiceClient;
use envoy_types::pb::envoy::service::listener::v3::listener_discovery_service_client::ListenerDiscoveryServiceClient;
use envoy_types::pb::envoy::service::route::v3::route_discovery_service_client::RouteDiscoveryServiceClient;
use envoy_types::pb::envoy::service::route::v3::scoped_routes_discovery_service_client::ScopedRoutesDiscoveryServiceClient;
use envoy_types::pb::envoy::service::route::v3::virtual_host_discovery_service_client::VirtualHostDiscoveryServiceClient;
use envoy_types::pb::envoy::service::runtime::v3::runtime_discovery_service_client::RuntimeDiscoveryServiceClient;
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use envoy_types::pb::google::rpc;
use prost::Message;
use support::peer::{Peer, STREAMS};
use support::{PATIENCE, Running, eventually, node, serve, start, start_with};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use zonebreak_xds::{
    ChangeId, Hub, Node, Protocol, Resource, Scope, Server, ServerOptions, SessionOptions, Snapshot,
    TransportOptions, TypeUrl, ViewKey,
};

const EDS: TypeUrl = TypeUrl::ENDPOINT;

#[tokio::test]
async fn r17_every_resource_on_the_wire_is_of_the_responses_type_and_there_once() {
    let running = start(ServerOptions::default()).await;
    let secret = |name: &str| Resource::from_value(name, TypeUrl::SECRET, name.as_bytes().to_vec());
    let all = || vec![endpoints("a", 101), endpoints("b", 102), secret("a"), secret("b")];
    running.publish("front", 1, all());
    for stream in STREAMS {
        for kind in [EDS, TypeUrl::SECRET] {
            let node = node("front").unwrap();
            let mut peer = Peer::of(channel(&running).await, node, stream, &kind).await.unwrap();
            peer.ask(&kind, &["a", "b", "a", "*"]).await;
            let said = peer.expect().await;
            assert_eq!(said.type_url, kind.as_str());
            assert_eq!(said.kinds, [kind.as_str(), kind.as_str()], "{stream:?}");
            assert_ne!(said.values[0], said.values[1], "{stream:?}");
        }
    }
}

#[tokio::test]
async fn which_view_a_client_gets_is_asked_once_a_stream() {
    let (hub, asked) = (Hub::new(), Arc::new(AtomicUsize::new(0)));
    let count = asked.clone();
    let choose = move |node: &Node| {
        count.fetch_add(1, Ordering::Relaxed);
        ViewKey::new(&node.cluster)
    };
    let server = Server::new(hub.clone(), choose, ServerOptions::default());
    let at = SocketAddr::from(([127, 0, 0, 1], 0));
    let (address, _runtime) = serve(at, server.routes(), TransportOptions::default()).await;
    let mut view = Snapshot::builder(ChangeId(1));
    view.put(endpoints("a", 101)).unwrap();
    hub.publish([(ViewKey::new("front"), Arc::new(view.build()))]);
    for (before, stream) in STREAMS.into_iter().enumerate() {
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        let mut peer = Peer::of(channel, node("front").unwrap(), stream, &EDS).await.unwrap();
        peer.ask(&EDS, &["a"]).await;
        let said = peer.expect().await;
        peer.ack(&said, &["a"]).await;
        eventually("it has it", || server.convergence().converged == 1).await;
        assert_eq!(asked.load(Ordering::Relaxed), before + 1, "{stream:?}");
        drop(peer);
        eventually("it has gone", || server.convergence().streams == 0).await;
    }
}

fn endpoints(name: &str, policy: u32) -> Resource {
    use envoy_types::pb::envoy::config::endpoint::v3::cluster_load_assignment::Policy;
    use envoy_types::pb::google::protobuf::UInt32Value;
    let policy =
        Policy { overprovisioning_factor: Some(UInt32Value { value: policy }), ..Default::default() };
    let message =
        ClusterLoadAssignment { cluster_name: name.into(), policy: Some(policy), ..Default::default() };
    Resource::encode(name, &message)
}

async fn channel(running: &Running) -> Channel {
    Channel::from_shared(running.url()).unwrap().connect().await.unwrap()
}

/// An open stream: where requests go, where responses come from.
struct Open<Q, R> {
    requests: mpsc::Sender<Q>,
    responses: Streaming<R>,
}

impl<Q, R> Open<Q, R> {
    async fn next(&mut self) -> Result<R, Status> {
        let response = tokio::time::timeout(PATIENCE, self.responses.message()).await;
        response.expect("no answer").map(|response| response.expect("the stream ended"))
    }
}

async fn sotw(running: &Running, first: DiscoveryRequest) -> Open<DiscoveryRequest, DiscoveryResponse> {
    let (requests, outgoing) = mpsc::channel(64);
    requests.send(first).await.unwrap();
    let mut client = AggregatedDiscoveryServiceClient::new(channel(running).await);
    let responses = client.stream_aggregated_resources(ReceiverStream::new(outgoing)).await.unwrap();
    Open { requests, responses: responses.into_inner() }
}

async fn delta(
    running: &Running,
    first: DeltaDiscoveryRequest,
) -> Open<DeltaDiscoveryRequest, DeltaDiscoveryResponse> {
    let (requests, outgoing) = mpsc::channel(64);
    requests.send(first).await.unwrap();
    let mut client = AggregatedDiscoveryServiceClient::new(channel(running).await);
    let responses = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await.unwrap();
    Open { requests, responses: responses.into_inner() }
}

fn ask_sotw(names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        node: node("front"),
        type_url: EDS.to_string(),
        resource_names: names.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

fn ask_delta(names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: node("front"),
        type_url: EDS.to_string(),
        resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

#[tokio::test]
async fn sotw_resources_arrive_change_and_are_acknowledged() {
    let running = start(ServerOptions::default()).await;
    let mut stream = sotw(&running, ask_sotw(&["a", "b"])).await;
    eventually("the proxy shows", || running.server.proxies().len() == 1).await;
    assert!(!running.server.proxies()[0].converged, "its view does not exist yet");

    running.publish("front", 1, vec![endpoints("a", 1), endpoints("b", 1)]);
    let first = stream.next().await.unwrap();
    assert_eq!(first.type_url, EDS.as_str());
    let names: Vec<_> = first
        .resources
        .iter()
        .map(|any| ClusterLoadAssignment::decode(any.value.as_slice()).unwrap().cluster_name)
        .collect();
    assert_eq!(names, ["a", "b"]);
    let ack = DiscoveryRequest {
        node: None,
        version_info: first.version_info.clone(),
        response_nonce: first.nonce.clone(),
        ..ask_sotw(&["a", "b"])
    };
    stream.requests.send(ack).await.unwrap();
    eventually("the ACK is known", || running.server.convergence().converged == 1).await;

    running.publish("front", 2, vec![endpoints("a", 2), endpoints("b", 1)]);
    let second = stream.next().await.unwrap();
    assert_eq!(second.resources.len(), 1, "what did not change is not sent again");
    assert_ne!(second.version_info, first.version_info);
}

#[tokio::test]
async fn delta_resources_arrive_change_go_and_are_acknowledged() {
    let running = start(ServerOptions::default()).await;
    running.publish("front", 1, vec![endpoints("a", 1)]);
    let mut stream = delta(&running, ask_delta(&["a", "absent"])).await;
    let first = stream.next().await.unwrap();
    assert_eq!(first.removed_resources, ["absent"]);
    let resource = &first.resources[0];
    assert_eq!(resource.name, "a");
    assert_eq!(resource.version.len(), 32);
    let any = resource.resource.as_ref().unwrap();
    assert_eq!(any.type_url, EDS.as_str());
    assert_eq!(ClusterLoadAssignment::decode(any.value.as_slice()).unwrap().cluster_name, "a");

    let nack = DeltaDiscoveryRequest {
        type_url: EDS.to_string(),
        response_nonce: first.nonce.clone(),
        error_detail: Some(rpc::Status { code: 3, message: "a: bad".into(), ..Default::default() }),
        ..Default::default()
    };
    stream.requests.send(nack).await.unwrap();
    eventually("the NACK is known", || running.server.convergence().refusing == 1).await;
    let status = running.server.proxies().remove(0);
    let kind = &status.types[0];
    let refusal = kind.nack.as_ref().unwrap();
    assert_eq!((refusal.message.as_str(), refusal.resources.as_slice()), ("a: bad", &["a".to_owned()][..]));
    assert_eq!(refusal.nonce, first.nonce);
    assert!(!kind.converged && kind.acked.is_none());

    running.publish("front", 2, vec![endpoints("a", 2)]);
    let fixed = stream.next().await.unwrap();
    let ack = DeltaDiscoveryRequest {
        type_url: EDS.to_string(),
        response_nonce: fixed.nonce.clone(),
        ..Default::default()
    };
    stream.requests.send(ack).await.unwrap();
    eventually("all is well", || running.server.proxies()[0].converged).await;
    let eds = running.server.metrics().types()[EDS.position()];
    assert_eq!((eds.responses, eds.acks, eds.nacks), (2, 1, 1));
}

#[tokio::test]
async fn the_ledger_says_who_is_connected_and_forgets_who_left() {
    use envoy_types::pb::envoy::config::core::v3::node::UserAgentVersionType;
    use envoy_types::pb::envoy::config::core::v3::{BuildVersion, Locality};
    use envoy_types::pb::envoy::r#type::v3::SemanticVersion;
    let running = start(ServerOptions::default()).await;
    let mut first = ask_delta(&["a"]);
    let node = first.node.as_mut().unwrap();
    node.locality = Some(Locality { region: "r".into(), zone: "az-a".into(), ..Default::default() });
    node.user_agent_name = "envoy".into();
    node.user_agent_version_type = Some(UserAgentVersionType::UserAgentBuildVersion(BuildVersion {
        version: Some(SemanticVersion { major_number: 1, minor_number: 40, patch: 0 }),
        ..Default::default()
    }));
    let stream = delta(&running, first).await;
    eventually("the proxy is identified", || {
        running.server.proxies().first().is_some_and(|proxy| proxy.view.is_some())
    })
    .await;
    let proxy = running.server.proxies().remove(0);
    assert_eq!((proxy.node_id.as_str(), proxy.cluster.as_str()), ("front-1", "front"));
    assert_eq!((proxy.locality.zone.as_str(), proxy.user_agent.as_str()), ("az-a", "envoy 1.40.0"));
    assert_eq!((proxy.protocol, proxy.scope), (Protocol::Delta, Scope::Aggregated));
    assert!(proxy.peer.unwrap().ip().is_loopback());
    assert_eq!(running.server.metrics().streams()[1].open, 1);
    drop(stream);
    eventually("the proxy is gone", || running.server.proxies().is_empty()).await;
    assert_eq!(running.server.metrics().streams()[1].open, 0);
    assert_eq!(running.server.metrics().streams_total(), 1);
}

#[tokio::test]
async fn a_drained_server_ends_its_streams_and_takes_no_more() {
    let running = start(ServerOptions::default()).await;
    running.publish("front", 1, vec![endpoints("a", 1)]);
    let mut stream = delta(&running, ask_delta(&["a"])).await;
    stream.next().await.unwrap();
    running.server.drain();
    assert_eq!(stream.next().await.unwrap_err().code(), Code::Unavailable);
    let mut late = delta(&running, ask_delta(&["a"])).await;
    assert_eq!(late.next().await.unwrap_err().code(), Code::Unavailable);
    eventually("no proxy is left", || running.server.proxies().is_empty()).await;
}

#[tokio::test]
async fn a_stream_that_has_had_its_time_ends_and_its_client_comes_back_to_nothing_new() {
    // Long beside what a busy machine takes for the first exchange.
    let options = ServerOptions { max_stream_age: Some(Duration::from_secs(2)), ..ServerOptions::default() };
    let running = start(options).await;
    running.publish("front", 1, vec![endpoints("a", 1)]);
    let mut stream = delta(&running, ask_delta(&["a"])).await;
    let first = stream.next().await.unwrap();
    let version = first.resources[0].version.clone();
    // It waits for the answer under way.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(running.server.convergence().streams, 1);
    let ack = DeltaDiscoveryRequest {
        type_url: EDS.to_string(),
        response_nonce: first.nonce.clone(),
        ..Default::default()
    };
    stream.requests.send(ack).await.unwrap();
    assert_eq!(stream.next().await.unwrap_err().code(), Code::Unavailable);

    let mut again = ask_delta(&["a"]);
    again.initial_resource_versions.insert("a".into(), version);
    let mut stream = delta(&running, again).await;
    assert_eq!(stream.next().await.unwrap_err().code(), Code::Unavailable, "nothing was said before its end");
}

/// Its streams go on until they end by themselves; the next one is opened on another connection.
#[tokio::test]
async fn a_connection_that_has_had_its_time_takes_no_more_streams_and_keeps_those_it_has() {
    let transport =
        TransportOptions { max_connection_age: Some(Duration::from_secs(2)), ..TransportOptions::default() };
    let loopback = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let running = start_with(loopback, ServerOptions::default(), transport).await;
    running.publish("front", 1, vec![endpoints("a", 1)]);
    let channel = channel(&running).await;
    let open = async || {
        let (requests, outgoing) = mpsc::channel(64);
        requests.send(ask_delta(&["a"])).await.unwrap();
        let mut client = AggregatedDiscoveryServiceClient::new(channel.clone());
        let responses = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await?;
        Ok::<_, Status>(Open { requests, responses: responses.into_inner() })
    };
    let mut first: Open<DeltaDiscoveryRequest, DeltaDiscoveryResponse> = open().await.unwrap();
    let said = first.next().await.unwrap();
    let ports = || {
        let peers = running.server.proxies().into_iter().filter_map(|proxy| proxy.peer);
        peers.map(|peer| peer.port()).collect::<std::collections::BTreeSet<u16>>()
    };
    assert_eq!(ports().len(), 1);
    // How soon after its time the client hears of it is the system's affair.
    let mut later = Vec::new();
    for tries in 1.. {
        assert!(tries < 100, "every stream is on the connection that has had its time");
        tokio::time::sleep(Duration::from_millis(100)).await;
        // One that was on its way when the connection ended is refused, and to be opened again.
        let Ok(mut stream) = open().await else { continue };
        if stream.next().await.is_ok() {
            later.push(stream);
        }
        if ports().len() > 1 {
            break;
        }
    }
    let ack =
        DeltaDiscoveryRequest { type_url: EDS.to_string(), response_nonce: said.nonce, ..Default::default() };
    first.requests.send(ack).await.unwrap();
    running.publish("front", 2, vec![endpoints("a", 2)]);
    assert_eq!(first.next().await.unwrap().resources.len(), 1, "the old stream goes on");
}

/// The one wait that ends by the clock is seen when it does.
#[tokio::test]
async fn a_change_that_goes_on_without_an_ack_is_counted() {
    let session = SessionOptions { gate_timeout: Duration::from_millis(200), ..SessionOptions::default() };
    let running = start(ServerOptions { session, ..ServerOptions::default() }).await;
    let view = |content: &'static str| {
        let of = |kind: TypeUrl| Resource::from_value("a", kind, content);
        vec![of(TypeUrl::CLUSTER), of(TypeUrl::LISTENER)]
    };
    running.publish("front", 1, view("1"));
    let node = node("front").unwrap();
    let stream = (Protocol::Delta, true);
    let mut peer = Peer::of(channel(&running).await, node, stream, &TypeUrl::CLUSTER).await.unwrap();
    for kind in [TypeUrl::CLUSTER, TypeUrl::LISTENER] {
        peer.ask(&kind, &["a"]).await;
        let first = peer.expect().await;
        peer.ack(&first, &[]).await;
    }
    eventually("it has the view", || running.server.convergence().converged == 1).await;
    assert_eq!(running.server.metrics().gates_expired(), 0);
    running.publish("front", 2, view("2"));
    assert_eq!(peer.expect().await.type_url, TypeUrl::CLUSTER.as_str());
    // The cluster is never acknowledged, and the listener comes all the same.
    assert_eq!(peer.expect().await.type_url, TypeUrl::LISTENER.as_str());
    assert_eq!(running.server.metrics().gates_expired(), 1);
}

#[tokio::test]
async fn a_client_that_never_reads_is_sent_one_response_and_costs_no_more() {
    let running = start(ServerOptions::default()).await;
    running.publish("front", 1, vec![endpoints("a", 1)]);
    let stream = delta(&running, ask_delta(&["a"])).await;
    let sent = || running.server.metrics().types()[EDS.position()].responses;
    eventually("the first response is sent", || sent() == 1).await;
    for change in 2..200 {
        running.publish("front", change, vec![endpoints("a", change as u32)]);
    }
    // The session has seen the last change and still waits for the answer to the first.
    let seen = || running.server.proxies()[0].change.map(|change| change.0);
    eventually("the stream has the newest snapshot", || seen() == Some(199)).await;
    assert_eq!(sent(), 1);
    drop(stream);
}

/// Opens a stream of a per-type service and returns the type of what it answers.
macro_rules! answers {
    ($running:expr, $client:ident . $method:ident, $request:expr) => {{
        let (requests, outgoing) = mpsc::channel(1);
        requests.send($request).await.unwrap();
        let mut client = $client::new(channel($running).await);
        let mut responses = client.$method(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
        let response = tokio::time::timeout(PATIENCE, responses.message()).await;
        response.expect("no answer").unwrap().unwrap().type_url
    }};
}

#[tokio::test]
async fn r25_every_service_answers_in_both_protocols() {
    let running = start(ServerOptions::default()).await;
    let all = TypeUrl::KNOWN.map(|type_url| Resource::from_value("x", type_url, &b""[..]));
    running.publish("front", 1, all.into());
    let names = vec!["x".to_owned()];
    let sotw =
        || DiscoveryRequest { node: node("front"), resource_names: names.clone(), ..Default::default() };
    let delta = || DeltaDiscoveryRequest {
        node: node("front"),
        resource_names_subscribe: names.clone(),
        ..Default::default()
    };
    let r = &running;
    let got = [
        answers!(r, ClusterDiscoveryServiceClient.stream_clusters, sotw()),
        answers!(r, ClusterDiscoveryServiceClient.delta_clusters, delta()),
        answers!(r, EndpointDiscoveryServiceClient.stream_endpoints, sotw()),
        answers!(r, EndpointDiscoveryServiceClient.delta_endpoints, delta()),
        answers!(r, ListenerDiscoveryServiceClient.stream_listeners, sotw()),
        answers!(r, ListenerDiscoveryServiceClient.delta_listeners, delta()),
        answers!(r, ExtensionConfigDiscoveryServiceClient.stream_extension_configs, sotw()),
        answers!(r, ExtensionConfigDiscoveryServiceClient.delta_extension_configs, delta()),
        answers!(r, RouteDiscoveryServiceClient.stream_routes, sotw()),
        answers!(r, RouteDiscoveryServiceClient.delta_routes, delta()),
        answers!(r, ScopedRoutesDiscoveryServiceClient.stream_scoped_routes, sotw()),
        answers!(r, ScopedRoutesDiscoveryServiceClient.delta_scoped_routes, delta()),
        answers!(r, SecretDiscoveryServiceClient.stream_secrets, sotw()),
        answers!(r, SecretDiscoveryServiceClient.delta_secrets, delta()),
        answers!(r, RuntimeDiscoveryServiceClient.stream_runtime, sotw()),
        answers!(r, RuntimeDiscoveryServiceClient.delta_runtime, delta()),
    ];
    let delta_only = [TypeUrl::VIRTUAL_HOST, TypeUrl::LOCALITY_ENDPOINT];
    let served = TypeUrl::KNOWN.into_iter().filter(|type_url| !delta_only.contains(type_url));
    let want: Vec<_> = served.flat_map(|type_url| [type_url.to_string(), type_url.to_string()]).collect();
    assert_eq!(got.as_slice(), want.as_slice());
    let vhds = answers!(r, VirtualHostDiscoveryServiceClient.delta_virtual_hosts, delta());
    assert_eq!(vhds, TypeUrl::VIRTUAL_HOST.as_str());
    let leds = answers!(r, LocalityEndpointDiscoveryServiceClient.delta_locality_endpoints, delta());
    assert_eq!(leds, TypeUrl::LOCALITY_ENDPOINT.as_str());
}
