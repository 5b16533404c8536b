//! gRPC's own xDS client (Python's grpcio, the C core that C++, Python, Ruby and PHP share) against this server: it speaks state of
//! the world, names every resource, and warms nothing the way Envoy does. `scripts/setup --foreign` fetches it.

mod support;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig};
use envoy_types::pb::envoy::config::core::v3::address::Address as AddressKind;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{Address, Locality, SocketAddress};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
};
use envoy_types::pb::envoy::config::listener::v3::{ApiListener, Listener};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use envoy_types::pb::envoy::config::route::v3::{
    Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, WeightedCluster,
};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_filter,
};
use envoy_types::pb::google::protobuf::UInt32Value;
use serde_json::json;
use support::resources::{ads, any};
use support::{Running, eventually, start};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use zonebreak_xds::{Resource, ServerOptions};

/// Makes as many calls as it is told to and says who answered how many.
const CLIENT: &str = r#"
import collections, json, sys
import grpc
channel = grpc.insecure_channel("xds:///order")
call = channel.unary_unary("/test.Echo/Who", request_serializer=bytes, response_deserializer=bytes)
for line in sys.stdin:
    answers = collections.Counter()
    for _ in range(int(line)):
        try:
            answers[call(b"", timeout=20, wait_for_ready=True).decode()] += 1
        except grpc.RpcError as error:
            answers[f"{error.code().name}: {error.details()}"] += 1
    print(json.dumps(answers), flush=True)
"#;

/// A gRPC server that answers every call with its name. Its connections go with it.
struct Backend {
    port: u16,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Backend {
    async fn start(name: &'static str) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime
            .spawn(async { tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap() })
            .await
            .unwrap();
        let port = listener.local_addr().unwrap().port();
        let answer = tower::service_fn(move |_: http::Request<axum::body::Body>| async move {
            let message = [&[0, 0, 0, 0, name.len() as u8], name.as_bytes()].concat();
            let trailers = http::HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-status"),
                http::HeaderValue::from_static("0"),
            )]);
            let frames =
                [http_body::Frame::data(bytes::Bytes::from(message)), http_body::Frame::trailers(trailers)];
            let frames = futures::stream::iter(frames.map(Ok::<_, tonic::Status>));
            let mut response =
                http::Response::new(tonic::body::Body::new(http_body_util::StreamBody::new(frames)));
            response
                .headers_mut()
                .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/grpc"));
            Ok::<_, std::convert::Infallible>(response)
        });
        let routes =
            tonic::service::Routes::from(axum::Router::new().route_service("/test.Echo/Who", answer));
        runtime.spawn(async move {
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            tonic::transport::Server::builder().add_routes(routes).serve_with_incoming(incoming).await
        });
        Self { port, runtime: Some(runtime) }
    }

    /// Returns once its sockets are closed: no later call reaches it.
    async fn die(mut self) {
        let runtime = self.runtime.take().unwrap();
        let closed = move || runtime.shutdown_timeout(std::time::Duration::from_secs(10));
        tokio::task::spawn_blocking(closed).await.unwrap();
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A Python with gRPC in it that calls `xds:///order`.
struct Client {
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    _child: Child,
    _dir: TempDir,
}

impl Client {
    /// With the grpcio in the folder that `GRPC` names, or the one that `scripts/setup --foreign` put into the checkout. `None`, and
    /// loudly, where that is not there; where it was named it must be.
    fn start(running: &Running) -> Option<Self> {
        let named = std::env::var_os("GRPC").map(PathBuf::from);
        let own = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../.tools/grpc"));
        let library = named.as_deref().unwrap_or(own);
        if !library.join("grpc").is_dir() {
            let lacks = library.display();
            assert!(
                named.is_none(),
                "GRPC={lacks} has no grpcio in it: `scripts/setup --foreign`, or unset GRPC"
            );
            // Past the harness, which keeps what a test prints to itself.
            let _ = std::io::stderr().write_all(
                b"\nLEFT OUT: the tests with gRPC's own client: it is not here, `scripts/setup --foreign` fetches it\n",
            );
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let bootstrap = dir.path().join("bootstrap.json");
        let config = json!({
            "xds_servers": [{
                "server_uri": running.address.to_string(),
                "channel_creds": [{"type": "insecure"}],
                "server_features": ["xds_v3"],
            }],
            "node": {"id": "grpc-1", "cluster": "front", "locality": {"region": "r", "zone": "az-a"}},
        });
        std::fs::write(&bootstrap, config.to_string()).unwrap();
        let mut child = Command::new("python3")
            .args(["-c", CLIENT])
            .env("PYTHONPATH", library)
            .env("GRPC_XDS_BOOTSTRAP", &bootstrap)
            // How long it sits out a connection that broke is its business; the test need not wait for all of it.
            .env_remove("http_proxy")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let commands = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        Some(Self { commands, answers, _child: child, _dir: dir })
    }

    /// Who answered so many calls, one after the other.
    async fn call(&mut self, times: usize) -> BTreeMap<String, usize> {
        self.commands.write_all(format!("{times}\n").as_bytes()).await.unwrap();
        let line = tokio::time::timeout(std::time::Duration::from_secs(90), self.answers.next_line()).await;
        let line = line.expect("the client is not done after 90 s").unwrap().expect("the client ended");
        serde_json::from_str(&line).unwrap()
    }
}

fn all(name: &str, times: usize) -> BTreeMap<String, usize> {
    BTreeMap::from([(name.to_owned(), times)])
}

fn api_listener() -> Resource {
    let manager = HttpConnectionManager {
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(ads()),
            route_config_name: "routes".into(),
        })),
        http_filters: vec![HttpFilter {
            name: "router".into(),
            config_type: Some(http_filter::ConfigType::TypedConfig(any(&Router::default()))),
            ..Default::default()
        }],
        ..Default::default()
    };
    let message = Listener {
        name: "order".into(),
        api_listener: Some(ApiListener { api_listener: Some(any(&manager)) }),
        ..Default::default()
    };
    Resource::encode("order", &message)
}

/// Routes that split all calls so.
fn routes(weights: &[(&str, u32)]) -> Resource {
    let clusters = weights.iter().map(|(name, weight)| ClusterWeight {
        name: (*name).into(),
        weight: Some(UInt32Value { value: *weight }),
        ..Default::default()
    });
    let action = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: clusters.collect(),
            ..Default::default()
        })),
        ..Default::default()
    };
    let route = Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix(String::new())),
            ..Default::default()
        }),
        action: Some(Action::Route(action)),
        ..Default::default()
    };
    let host = VirtualHost {
        name: "all".into(),
        domains: vec!["*".into()],
        routes: vec![route],
        ..Default::default()
    };
    let message =
        RouteConfiguration { name: "routes".into(), virtual_hosts: vec![host], ..Default::default() };
    Resource::encode("routes", &message)
}

fn cluster(name: &str) -> Resource {
    let message = Cluster {
        name: name.into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig { eds_config: Some(ads()), ..Default::default() }),
        ..Default::default()
    };
    Resource::encode(name, &message)
}

/// Localities by priority, each with one endpoint.
fn endpoints(cluster: &str, localities: &[(&str, u16)]) -> Resource {
    let locality = |(priority, (zone, port)): (usize, &(&str, u16))| {
        let address = SocketAddress {
            address: "127.0.0.1".into(),
            port_specifier: Some(PortSpecifier::PortValue((*port).into())),
            ..Default::default()
        };
        let endpoint = Endpoint {
            address: Some(Address { address: Some(AddressKind::SocketAddress(address)) }),
            ..Default::default()
        };
        LocalityLbEndpoints {
            locality: Some(Locality { region: "r".into(), zone: (*zone).into(), ..Default::default() }),
            load_balancing_weight: Some(UInt32Value { value: 1 }),
            priority: priority as u32,
            lb_endpoints: vec![LbEndpoint {
                host_identifier: Some(HostIdentifier::Endpoint(endpoint)),
                ..Default::default()
            }],
            ..Default::default()
        }
    };
    let message = ClusterLoadAssignment {
        cluster_name: cluster.into(),
        endpoints: localities.iter().enumerate().map(locality).collect(),
        ..Default::default()
    };
    Resource::encode(cluster, &message)
}

async fn converged(running: &Running) {
    eventually("the client has acknowledged everything", || {
        running.server.convergence().streams == 1 && running.server.convergence().converged == 1
    })
    .await;
    assert_eq!(running.server.convergence().refusing, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_fails_over_between_localities_and_follows_a_drain() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let running = start(ServerOptions::default()).await;
    let view = |first: (&'static str, u16), second: (&'static str, u16)| {
        vec![api_listener(), routes(&[("order", 1)]), cluster("order"), endpoints("order", &[first, second])]
    };
    let (in_a, in_b) = (("az-a", a.port), ("az-b", b.port));
    running.publish("front", 1, view(in_a, in_b));
    let Some(mut client) = Client::start(&running) else { return };
    assert_eq!(client.call(50).await, all("a", 50), "the first priority has it all");
    converged(&running).await;

    // An operator drains az-a: the priorities change places, and no call fails.
    running.publish("front", 2, view(in_b, in_a));
    converged(&running).await;
    // The client acknowledges an update before it has connected to the new locality, and goes on with the old one until then:
    // call by call it moves once, and none of them fails.
    let moved = tokio::time::timeout(std::time::Duration::from_secs(60), async {
        loop {
            let who = client.call(1).await;
            if who != all("a", 1) {
                break who;
            }
        }
    });
    assert_eq!(moved.await.expect("it stays with az-a"), all("b", 1));
    assert_eq!(client.call(50).await, all("b", 50));

    // az-b dies: the client leaves it by itself. Calls go one after the other, so one at most is on its way before the client
    // sees the connection close: that one is lost, and no other.
    b.die().await;
    let left = client.call(50).await;
    let (answered, lost) = (left.get("a").copied().unwrap_or(0), left.keys().filter(|who| *who != "a"));
    assert!(answered >= 49 && lost.clone().all(|why| why.starts_with("UNAVAILABLE")), "{left:?}");
    assert_eq!(answered + lost.map(|why| left[why]).sum::<usize>(), 50);
    assert_eq!(client.call(50).await, all("a", 50));
    assert_eq!(running.server.metrics().gates_expired(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_splits_traffic_as_the_routes_say() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let running = start(ServerOptions::default()).await;
    let view = |weights: &[(&str, u32)]| {
        vec![
            api_listener(),
            routes(weights),
            cluster("a"),
            endpoints("a", &[("az-a", a.port)]),
            cluster("b"),
            endpoints("b", &[("az-b", b.port)]),
        ]
    };
    running.publish("front", 1, view(&[("a", 80), ("b", 20)]));
    let Some(mut client) = Client::start(&running) else { return };
    let split = client.call(1000).await;
    // 20 % of 1,000 within five and a half standard deviations of a fair coin: one run in twenty million is further off.
    let to_b = split.get("b").copied().unwrap_or(0);
    assert!(
        (130..=270).contains(&to_b) && split.values().sum::<usize>() == 1000 && split.len() == 2,
        "{split:?}"
    );
    converged(&running).await;

    running.publish("front", 2, view(&[("a", 0), ("b", 100)]));
    converged(&running).await;
    assert_eq!(client.call(100).await, all("b", 100));
}
