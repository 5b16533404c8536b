//! A client and a server on a simulated network, with delays, cuts and crashes, in virtual time.
//!
//! The client follows its clusters to their endpoints and its listeners to their routes, as Envoy does, and comes back with what it
//! has whenever a connection fails. It must end with exactly what the last view holds, and at no moment may a route that it was
//! given a change of lead to a cluster that is not there, or has no endpoints. The same seed gives the same run.

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
const LDS: TypeUrl = TypeUrl::LISTENER;
const RDS: TypeUrl = TypeUrl::ROUTE;
/// In the order in which a client asks for them.
const TYPES: [TypeUrl; 4] = [CDS, EDS, LDS, RDS];
const PORT: u16 = 18000;

/// How many runs of each protocol.
const SEEDS: u64 = 12;

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
    /// How often the network failed.
    faults: u32,
    /// How many changes of routes were looked at.
    checked: u32,
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

    /// A few changes at a stroke, after which no route leads to what is not there.
    fn change(&mut self, dice: &mut Dice) {
        for _ in 0..=dice.below(3) {
            self.change_one(dice);
        }
        self.publish();
    }

    fn change_one(&mut self, dice: &mut Dice) {
        let cluster = format!("c{}", dice.below(6));
        let (route, listener) = (format!("r{}", dice.below(2)), format!("l{}", dice.below(2)));
        let content = dice.below(1000).to_string();
        match dice.below(8) {
            0 | 1 => {
                self.view.remove(&(CDS, cluster.clone()));
                self.view.remove(&(EDS, cluster.clone()));
                for ((_, _), to) in self.view.iter_mut().filter(|((kind, _), _)| *kind == RDS) {
                    *to = led_to(to).filter(|name| *name != cluster).collect::<Vec<_>>().join(",");
                }
            }
            2 if self.view.contains_key(&(CDS, cluster.clone())) => {
                self.view.insert((EDS, cluster), content);
            }
            3 | 4 => {
                let clusters =
                    self.view.keys().filter(|(kind, _)| *kind == CDS).map(|(_, name)| name.as_str());
                let to: Vec<&str> = clusters.filter(|_| dice.below(2) == 0).collect();
                let to = to.join(",");
                self.view.insert((RDS, route), to);
            }
            5 => {
                let led_to =
                    self.view.keys().filter(|(kind, _)| *kind == RDS).map(|(_, name)| name.clone()).next();
                if let Some(route) = led_to {
                    self.view.insert((LDS, listener), format!("{route} {content}"));
                }
            }
            6 => {
                self.view.remove(&(LDS, listener));
            }
            _ => {
                self.view.insert((CDS, cluster.clone()), content.clone());
                self.view.entry((EDS, cluster)).or_insert(content);
            }
        }
    }
}

/// The clusters of a route's content.
fn led_to(content: &str) -> impl Iterator<Item = &str> {
    content.split(',').filter(|name| !name.is_empty())
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
    asked: bool,
    names: BTreeSet<String>,
    held: BTreeMap<String, (String, String)>,
    version: String,
    last: Option<Said>,
}

struct Client {
    protocol: Protocol,
    kinds: BTreeMap<TypeUrl, Kind>,
    /// Routes the order is answerable for: not those the client was given because it had none, before their clusters were there.
    vouched: BTreeSet<String>,
    /// Whether the order can be vouched for since the client came: not where the network failed while it was still saying what it
    /// has, nor in state of the world, where it cannot say what it has of a rollout; until it was at rest.
    ordered: bool,
    /// Faults there had been when it came.
    faults: u32,
}

impl Client {
    fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            kinds: TYPES.map(|kind| (kind, Kind::default())).into(),
            vouched: BTreeSet::new(),
            ordered: true,
            faults: 0,
        }
    }

    async fn run(mut self, world: Shared) -> turmoil::Result {
        loop {
            if let Ok(mut peer) = self.connect().await {
                world.lock().unwrap().streams += 1;
                if self.follow(&mut peer, &world).await? {
                    return Ok(());
                }
                self.ordered = self.protocol == Protocol::Delta;
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
        for (kind, of) in &self.kinds {
            let versions = of.held.iter().map(|(name, (_, version))| (name.clone(), version.clone()));
            peer.bring(kind, &of.version, versions.collect::<HashMap<_, _>>());
        }
        Ok(peer)
    }

    /// Follows the server until the stream fails, or until all is as it should be in the end and stays so. Fails when a route leads
    /// nowhere.
    async fn follow(&mut self, peer: &mut Peer, world: &Shared) -> Result<bool, String> {
        self.faults = world.lock().unwrap().faults;
        for kind in TYPES {
            let of = self.kinds.get_mut(&kind).unwrap();
            of.last = None;
            if std::mem::take(&mut of.asked) || kind == CDS {
                let names = std::mem::take(&mut of.names);
                self.want(peer, &kind, names).await;
            }
        }
        loop {
            match tokio::time::timeout(Duration::from_secs(5), peer.next()).await {
                Err(_) if self.is_done(&world.lock().unwrap()) => return Ok(true),
                Err(_) => {}
                Ok(Err(_)) => return Ok(false),
                Ok(Ok(said)) => {
                    self.take(peer, said).await;
                    self.check(&mut world.lock().unwrap())?;
                }
            }
        }
    }

    async fn take(&mut self, peer: &mut Peer, said: Said) {
        let type_url = TypeUrl::new(&said.type_url);
        let kind = self.kinds.get_mut(&type_url).unwrap();
        let whole = type_url == CDS || type_url == LDS;
        if whole && self.protocol == Protocol::Sotw {
            kind.held.clear();
        }
        for (at, value) in said.values.iter().enumerate() {
            let text = String::from_utf8(value.clone()).unwrap();
            let (name, content) = text.split_once('=').unwrap();
            let version = said.entries.get(at).map(|(_, version)| version.clone()).unwrap_or_default();
            if whole || kind.names.contains(name) {
                let had = kind.held.insert(name.to_owned(), (content.to_owned(), version));
                if type_url == RDS && had.is_none() {
                    self.vouched.remove(name);
                } else if type_url == RDS {
                    self.vouched.insert(name.to_owned());
                }
            }
        }
        said.removed.iter().for_each(|name| {
            kind.held.remove(name);
        });
        kind.version.clone_from(&said.version);
        kind.last = Some(said.clone());
        let names: Vec<&str> = kind.names.iter().map(String::as_str).collect();
        peer.ack(&said, &names).await;
        self.lead_on(peer).await;
    }

    /// Asks for what the held resources lead to, and no longer for what they do not.
    async fn lead_on(&mut self, peer: &mut Peer) {
        let clusters: BTreeSet<String> = self.kinds[&CDS].held.keys().cloned().collect();
        if clusters != self.kinds[&EDS].names {
            self.want(peer, &EDS, clusters.clone()).await;
        }
        // No listeners before the clusters are warm for the first time.
        let warm = self.kinds[&CDS].last.is_some()
            && clusters.iter().all(|name| self.kinds[&EDS].held.contains_key(name));
        if warm && !self.kinds[&LDS].asked {
            self.want(peer, &LDS, BTreeSet::new()).await;
        }
        let routes = self.kinds[&LDS].held.values().filter_map(|(content, _)| content.split(' ').next());
        let routes: BTreeSet<String> = routes.map(str::to_owned).collect();
        if routes != self.kinds[&RDS].names {
            self.want(peer, &RDS, routes).await;
        }
    }

    async fn want(&mut self, peer: &mut Peer, kind: &TypeUrl, wanted: BTreeSet<String>) {
        let of = self.kinds.get_mut(kind).unwrap();
        of.asked = true;
        let old = std::mem::replace(&mut of.names, wanted);
        if *kind == EDS || *kind == RDS {
            of.held.retain(|name, _| of.names.contains(name));
        }
        let all: Vec<&str> = of.names.iter().map(String::as_str).collect();
        match self.protocol {
            Protocol::Sotw => peer.say(kind, &all, &[], of.last.as_ref(), None).await,
            Protocol::Delta => {
                let added: Vec<&str> = of.names.difference(&old).map(String::as_str).collect();
                let dropped: Vec<&str> = old.difference(&of.names).map(String::as_str).collect();
                peer.say(kind, &added, &dropped, None, None).await;
            }
        }
    }

    fn is_at_rest(&self, world: &World) -> bool {
        let held = self.kinds.iter().flat_map(|(kind, of)| {
            of.held.iter().map(|(name, (content, _))| ((kind.clone(), name.clone()), content.clone()))
        });
        // Of routes those count that a listener leads to.
        let routes: BTreeSet<&str> =
            self.kinds[&LDS].held.values().filter_map(|(content, _)| content.split(' ').next()).collect();
        let mut view = world.view.clone();
        view.retain(|(kind, name), _| *kind != RDS || routes.contains(name.as_str()));
        held.collect::<View>() == view
    }

    fn is_done(&self, world: &World) -> bool {
        world.last && self.is_at_rest(world)
    }

    /// No route in use leads nowhere.
    fn check(&mut self, world: &mut World) -> Result<(), String> {
        if self.is_at_rest(world) {
            self.ordered = true;
            self.faults = u32::MAX;
            self.vouched = self.kinds[&RDS].held.keys().cloned().collect();
        }
        self.ordered &= self.faults == u32::MAX || self.faults == world.faults;
        if !self.ordered {
            return Ok(());
        }
        for (route, (content, _)) in
            self.kinds[&RDS].held.iter().filter(|(name, _)| self.vouched.contains(*name))
        {
            world.checked += 1;
            for cluster in led_to(content) {
                let there = |kind: TypeUrl| self.kinds[&kind].held.contains_key(cluster);
                if !there(CDS) || !there(EDS) {
                    return Err(format!("route {route} leads to {cluster}, which is not there"));
                }
            }
        }
        Ok(())
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
            world.lock().unwrap().faults += 1;
        }
    }
    let world = world.lock().unwrap();
    let (streams, checked) = (world.streams, world.checked);
    assert!(streams > 2, "{protocol:?}, seed {seed}: {streams} streams are no test of coming back");
    assert!(checked > 20, "{protocol:?}, seed {seed}: {checked} looks at routes are no test of their order");
}

#[test]
fn sotw_a_client_ends_with_the_last_view_and_routes_into_nothing_at_no_moment() {
    (0..SEEDS).for_each(|seed| simulate(Protocol::Sotw, seed));
}

#[test]
fn delta_a_client_ends_with_the_last_view_and_routes_into_nothing_at_no_moment() {
    (0..SEEDS).for_each(|seed| simulate(Protocol::Delta, seed));
}
