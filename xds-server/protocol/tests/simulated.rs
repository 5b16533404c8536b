//! A client and a server on a simulated network, with delays, cuts and crashes, in virtual time.
//!
//! The client follows its clusters to their endpoints, comes back with what it has whenever a connection fails, and must end with
//! exactly what the last view holds. The same seed gives the same run.

mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use hyper_util::rt::TokioIo;
use support::peer::{Peer, Said};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint};
use turmoil::net::{TcpListener, TcpStream};
use zonebreak_xds::{
    ChangeId, Hub, Protocol, Resource, Server, ServerOptions, Snapshot, TransportOptions, TypeUrl, ViewKey,
};

const CDS: TypeUrl = TypeUrl::CLUSTER;
const EDS: TypeUrl = TypeUrl::ENDPOINT;
const PORT: u16 = 18000;

/// How many runs of each protocol.
const SEEDS: u64 = 4;

/// Type and name, and what the view says of it.
type View = BTreeMap<(TypeUrl, String), String>;

/// What outlives a crash of the server: the view, and how to publish it.
#[derive(Default)]
struct World {
    view: View,
    changes: u64,
    hub: Option<Arc<Hub>>,
    /// Whether the view is the last there will be.
    last: bool,
    /// How often the client came back.
    streams: u32,
}

type Shared = Arc<Mutex<World>>;

/// A small deterministic source of choices.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

impl World {
    fn publish(&mut self) {
        self.changes += 1;
        let key = ViewKey::new("sim");
        let Some(hub) = &self.hub else { return };
        let mut builder = Snapshot::builder(ChangeId(self.changes));
        if let Some(previous) = hub.snapshot(&key) {
            builder = builder.based_on(&previous);
        }
        for ((kind, name), content) in &self.view {
            // So that a state-of-the-world client can tell resources apart without decoding them.
            let resource = Resource::from_value(name, kind.clone(), format!("{name}={content}").into_bytes());
            let resource = if *kind == CDS { resource.with_child(EDS, name) } else { resource };
            builder.put(resource).unwrap();
        }
        hub.publish([(key, Arc::new(builder.build()))]);
    }

    fn change(&mut self, dice: &mut Dice) {
        let name = format!("c{}", dice.below(6));
        let content = dice.below(1000).to_string();
        match dice.below(4) {
            0 => {
                self.view.remove(&(CDS, name.clone()));
                self.view.remove(&(EDS, name));
            }
            1 if self.view.contains_key(&(CDS, name.clone())) => {
                self.view.insert((EDS, name), content);
            }
            _ => {
                self.view.insert((CDS, name.clone()), content.clone());
                self.view.entry((EDS, name)).or_insert(content);
            }
        }
        self.publish();
    }
}

/// A simulated connection, as tonic wants one.
struct Wire(TcpStream);

impl Connected for Wire {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

async fn serve(world: Shared) -> turmoil::Result {
    let hub = Hub::new();
    let server = Server::new(hub.clone(), |node| ViewKey::new(&node.cluster), ServerOptions::default());
    {
        let mut world = world.lock().unwrap();
        world.hub = Some(hub);
        world.publish();
    }
    let listener = TcpListener::bind((IpAddr::V4(Ipv4Addr::UNSPECIFIED), PORT)).await?;
    let incoming = futures::stream::unfold(listener, |listener| async {
        let accepted = listener.accept().await.map(|(stream, _)| Wire(stream));
        Some((accepted, listener))
    });
    let transport = TransportOptions {
        keepalive: Duration::from_secs(2),
        keepalive_timeout: Duration::from_secs(2),
        ..TransportOptions::default()
    };
    transport.server().add_routes(server.routes()).serve_with_incoming(incoming).await?;
    Ok(())
}

/// What the client has of a type: content and version by name, and how it stands with the server.
#[derive(Default)]
struct Kind {
    held: BTreeMap<String, (String, String)>,
    version: String,
    last: Option<Said>,
}

struct Client {
    protocol: Protocol,
    clusters: Kind,
    endpoints: Kind,
    wanted: BTreeSet<String>,
}

impl Client {
    fn new(protocol: Protocol) -> Self {
        Self { protocol, clusters: Kind::default(), endpoints: Kind::default(), wanted: BTreeSet::new() }
    }

    async fn run(mut self, world: Shared) -> turmoil::Result {
        loop {
            if let Ok(mut peer) = self.connect().await {
                world.lock().unwrap().streams += 1;
                if self.follow(&mut peer, &world).await {
                    return Ok(());
                }
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    async fn connect(&self) -> Result<Peer, Box<dyn std::error::Error>> {
        let connector = tower::service_fn(|_: http::Uri| async {
            TcpStream::connect(("server", PORT)).await.map(TokioIo::new)
        });
        let endpoint = Endpoint::from_static("http://server:18000")
            .http2_keep_alive_interval(Duration::from_secs(2))
            .keep_alive_timeout(Duration::from_secs(2))
            .keep_alive_while_idle(true);
        let connect = endpoint.connect_with_connector(connector);
        let channel: Channel = tokio::time::timeout(Duration::from_secs(3), connect).await??;
        let node = Node { id: "sim".into(), cluster: "sim".into(), ..Node::default() };
        let open = async { Peer::of(channel, node, (self.protocol, true), &CDS).await };
        let mut peer = tokio::time::timeout(Duration::from_secs(3), open).await??;
        for (kind, of) in [(CDS, &self.clusters), (EDS, &self.endpoints)] {
            let versions = of.held.iter().map(|(name, (_, version))| (name.clone(), version.clone()));
            peer.bring(&kind, &of.version, versions.collect::<HashMap<_, _>>());
        }
        Ok(peer)
    }

    /// Follows the server until the stream fails, or until all is as it should be in the end and stays so.
    async fn follow(&mut self, peer: &mut Peer, world: &Shared) -> bool {
        (self.clusters.last, self.endpoints.last) = (None, None);
        peer.ask(&CDS, &[]).await;
        if !self.wanted.is_empty() {
            let names: Vec<&str> = self.wanted.iter().map(String::as_str).collect();
            peer.ask(&EDS, &names).await;
        }
        loop {
            match tokio::time::timeout(Duration::from_secs(5), peer.next()).await {
                Err(_) if self.is_done(&world.lock().unwrap()) => return true,
                Err(_) => {}
                Ok(Err(_)) => return false,
                Ok(Ok(said)) => self.take(peer, said).await,
            }
        }
    }

    async fn take(&mut self, peer: &mut Peer, said: Said) {
        let full = self.protocol == Protocol::Sotw && said.type_url == CDS.as_str();
        let kind = if said.type_url == CDS.as_str() { &mut self.clusters } else { &mut self.endpoints };
        if full {
            kind.held.clear();
        }
        for (at, value) in said.values.iter().enumerate() {
            let text = String::from_utf8(value.clone()).unwrap();
            let (name, content) = text.split_once('=').unwrap();
            let version = said.entries.get(at).map(|(_, version)| version.clone()).unwrap_or_default();
            if full || said.type_url == CDS.as_str() || self.wanted.contains(name) {
                kind.held.insert(name.to_owned(), (content.to_owned(), version));
            }
        }
        said.removed.iter().for_each(|name| {
            kind.held.remove(name);
        });
        kind.version.clone_from(&said.version);
        kind.last = Some(said.clone());
        let names: Vec<&str> = if said.type_url == EDS.as_str() {
            self.wanted.iter().map(String::as_str).collect()
        } else {
            Vec::new()
        };
        peer.ack(&said, &names).await;

        let wanted: BTreeSet<String> = self.clusters.held.keys().cloned().collect();
        if wanted != self.wanted {
            let old = std::mem::replace(&mut self.wanted, wanted);
            self.endpoints.held.retain(|name, _| self.wanted.contains(name));
            let all: Vec<&str> = self.wanted.iter().map(String::as_str).collect();
            match self.protocol {
                Protocol::Sotw => peer.say(&EDS, &all, &[], self.endpoints.last.as_ref(), None).await,
                Protocol::Delta => {
                    let added: Vec<&str> = self.wanted.difference(&old).map(String::as_str).collect();
                    let dropped: Vec<&str> = old.difference(&self.wanted).map(String::as_str).collect();
                    peer.say(&EDS, &added, &dropped, None, None).await;
                }
            }
        }
    }

    fn is_done(&self, world: &World) -> bool {
        let of = |kind: &TypeUrl, of: &Kind| -> View {
            of.held
                .iter()
                .map(|(name, (content, _))| ((kind.clone(), name.clone()), content.clone()))
                .collect()
        };
        let mut held = of(&CDS, &self.clusters);
        held.extend(of(&EDS, &self.endpoints));
        world.last && held == world.view
    }
}

/// Forty changes within a minute of virtual time, and a fault every few seconds of it.
fn simulate(protocol: Protocol, seed: u64) {
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .simulation_duration(Duration::from_secs(300))
        .tick_duration(Duration::from_millis(5))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(150))
        .tcp_capacity(4096)
        .build();
    let world = Shared::default();
    let served = world.clone();
    sim.host("server", move || serve(served.clone()));
    sim.client("client", Client::new(protocol).run(world.clone()));
    let changed = world.clone();
    sim.client("publisher", async move {
        let mut dice = Dice(seed);
        for _ in 0..40 {
            tokio::time::sleep(Duration::from_millis(dice.below(3000))).await;
            changed.lock().unwrap().change(&mut dice);
        }
        changed.lock().unwrap().last = true;
        Ok(())
    });

    let mut dice = Dice(seed ^ 0xfa_17);
    let (mut next, mut cut) = (Duration::from_secs(2), false);
    loop {
        match sim.step() {
            Ok(true) => break,
            Ok(false) => {}
            Err(error) => panic!("{protocol:?}, seed {seed}: {error}"),
        }
        if sim.elapsed() < next {
            continue;
        }
        next = sim.elapsed() + Duration::from_millis(500 + dice.below(6000));
        if std::mem::take(&mut cut) {
            sim.repair("client", "server");
            sim.release("client", "server");
        } else if world.lock().unwrap().last {
            // From here on the network is well.
            next = Duration::from_secs(1000);
        } else {
            match dice.below(3) {
                0 => sim.bounce("server"),
                1 => sim.partition("client", "server"),
                _ => sim.hold("client", "server"),
            }
            cut = true;
        }
    }
    let streams = world.lock().unwrap().streams;
    assert!(streams > 2, "{protocol:?}, seed {seed}: {streams} streams are no test of coming back");
}

#[test]
fn sotw_a_client_ends_with_the_last_view_whatever_the_network_does() {
    (0..SEEDS).for_each(|seed| simulate(Protocol::Sotw, seed));
}

#[test]
fn delta_a_client_ends_with_the_last_view_whatever_the_network_does() {
    (0..SEEDS).for_each(|seed| simulate(Protocol::Delta, seed));
}
