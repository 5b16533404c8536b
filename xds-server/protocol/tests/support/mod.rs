//! A server on a free port, and what tests of it share.

#![allow(dead_code, reason = "each test program uses a part")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::core::v3::Node;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::service::Routes;
use zonebreak_xds::{
    ChangeId, ClientStatus, Hub, Resource, Server, ServerOptions, Snapshot, TransportOptions, ViewKey,
};

pub mod envoy;
pub mod peer;
pub mod resources;

/// For anything that a test waits for. Far longer than it takes, so that a busy machine fails no test.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running server on threads of its own; dropping it is a crash: its connections go with it.
pub struct Running {
    pub hub: Arc<Hub>,
    pub server: Server,
    pub address: SocketAddr,
    _runtime: Background,
}

/// Threads that nobody waits for at the end.
pub struct Background(Option<Runtime>);

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Starts a server whose clients get the view named by their `node.cluster`.
pub async fn start(options: ServerOptions) -> Running {
    start_at(SocketAddr::from(([127, 0, 0, 1], 0)), options).await
}

/// Starts it at an address that was free a moment ago.
pub async fn start_at(address: SocketAddr, options: ServerOptions) -> Running {
    start_with(address, options, TransportOptions::default()).await
}

/// Starts it with connections looked after in this way.
pub async fn start_with(address: SocketAddr, options: ServerOptions, transport: TransportOptions) -> Running {
    let hub = Hub::new();
    let server = Server::new(hub.clone(), |node| ViewKey::new(&node.cluster), options);
    let routes = server.routes().add_service(ClientStatus::new(&server).into_service());
    let (address, runtime) = serve(address, routes, transport).await;
    Running { hub, server, address, _runtime: runtime }
}

/// Serves these on threads of their own.
pub async fn serve(
    address: SocketAddr,
    routes: Routes,
    transport: TransportOptions,
) -> (SocketAddr, Background) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let listener = runtime.spawn(bind(address)).await.unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move {
        let incoming = transport.incoming(listener);
        transport.server().add_routes(routes).serve_with_incoming(incoming).await.unwrap();
    });
    (address, Background(Some(runtime)))
}

/// Binds, waiting for the connections of a server that just ended.
async fn bind(address: SocketAddr) -> TcpListener {
    let started = Instant::now();
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => assert!(started.elapsed() < PATIENCE, "{address}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Running {
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Publishes a view that holds exactly these resources.
    pub fn publish(&self, view: &str, change: u64, resources: Vec<Resource>) {
        let view = ViewKey::new(view);
        let mut builder = Snapshot::builder(ChangeId(change));
        if let Some(previous) = self.hub.snapshot(&view) {
            builder = builder.based_on(&previous);
        }
        for resource in resources {
            builder.put(resource).unwrap();
        }
        self.hub.publish([(view, Arc::new(builder.build()))]);
    }
}

pub fn node(cluster: &str) -> Option<Node> {
    Some(Node { id: format!("{cluster}-1"), cluster: cluster.into(), ..Node::default() })
}

/// Waits until `condition` holds; fails the test with what it was waiting for when [`PATIENCE`] is over.
#[track_caller]
pub fn eventually(what: &str, condition: impl Fn() -> bool) -> impl Future<Output = ()> {
    let at = std::panic::Location::caller();
    async move {
        let started = Instant::now();
        while !condition() {
            assert!(started.elapsed() < PATIENCE, "{at}: {what} did not come true");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
