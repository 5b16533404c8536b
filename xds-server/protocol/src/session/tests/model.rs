//! A simulated client that behaves as Envoy does, against a reference model of what it must hold in the end.
//!
//! Random services come, change and go, some of them with content the client refuses; requests and responses are delayed,
//! streams break. Two things are checked:
//! - *after every response*: no route the client uses names a cluster that is not there, or that has no endpoints;
//! - *at rest, after a last good snapshot*: the client holds exactly what that snapshot holds for it, and the session knows.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use envoy_types::pb::google::protobuf::Any;
use envoy_types::pb::google::rpc::Status;
use proptest::prelude::*;

use super::cases;
use super::client::{CDS, EDS, LDS, RDS};
use super::follower::Follower;
use crate::session::{Effect, Event, Request, Response, Session, SessionOptions};
use crate::types::{ChangeId, Protocol, Scope, StreamId, TypeUrl};
use crate::{Resource, Snapshot};

const SERVICES: [&str; 4] = ["a", "b", "c", "d"];
const ROUTES: [&str; 2] = ["r", "s"];

/// What a publisher wants: services by name with the content of cluster and endpoints, and for each route configuration the
/// services it leads to. Contents that begin with `!` are refused.
#[derive(Clone, Debug)]
struct Spec {
    services: BTreeMap<&'static str, (String, String)>,
    routes: BTreeMap<&'static str, (bool, Vec<&'static str>)>,
    listeners: u8,
    /// Whether every content differs from all before it.
    last: bool,
}

#[derive(Clone, Debug)]
enum Op {
    Publish(Spec),
    /// The client reads this many responses.
    Read(usize),
    /// The server reads this many requests.
    Serve(usize),
    Wait(u64),
    Reconnect,
    /// The client refuses the next response whatever it holds.
    Refuse,
}

fn spec() -> impl Strategy<Value = Spec> {
    let content = || prop_oneof![9 => (0..4u8).prop_map(|n| n.to_string()), 1 => Just("!bad".to_owned())];
    let service = (0..SERVICES.len(), content(), content());
    let route = (0..ROUTES.len(), any::<bool>(), proptest::collection::vec(0..SERVICES.len(), 0..3));
    let parts = (proptest::collection::vec(service, 1..6), proptest::collection::vec(route, 1..4), 0..6u8);
    parts.prop_map(|(services, routes, listeners)| {
        let services: BTreeMap<_, _> =
            services.into_iter().map(|(at, cluster, eds)| (SERVICES[at], (cluster, eds))).collect();
        let routes = routes.into_iter().map(|(at, good, to)| {
            let to = to.into_iter().map(|at| SERVICES[at]).filter(|name| services.contains_key(name));
            (ROUTES[at], (good || at == 0, to.collect()))
        });
        Spec { routes: routes.collect(), services, listeners, last: false }
    })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => spec().prop_map(Op::Publish),
        6 => (1..4usize).prop_map(Op::Read),
        6 => (1..4usize).prop_map(Op::Serve),
        1 => (0..800u64).prop_map(Op::Wait),
        1 => Just(Op::Reconnect),
        1 => Just(Op::Refuse),
    ]
}

impl Spec {
    fn resources(&self) -> Vec<Resource> {
        let make = |kind: &TypeUrl, name: &str, mut content: String| {
            content.push_str(if self.last { ";last" } else { "" });
            Resource::from_value(name, kind.clone(), content.into_bytes())
        };
        let mut made = Vec::new();
        for (name, (cluster, endpoints)) in &self.services {
            made.push(make(&CDS, name, cluster.clone()).with_child(EDS, name));
            made.push(make(&EDS, name, endpoints.clone()));
        }
        for (name, (good, to)) in &self.routes {
            let mark = if *good { "" } else { "!" };
            made.push(make(&RDS, name, format!("{mark}{}", to.join(","))));
            // A listener for each route configuration; its content changes now and then.
            made.push(make(&LDS, &format!("l-{name}"), format!("{name} {}", self.listeners)));
        }
        made
    }

    /// The same without what the client would refuse, and without what it may have refused for no reason.
    fn good(mut self) -> Self {
        self.last = true;
        for (cluster, endpoints) in self.services.values_mut() {
            *cluster = cluster.replace('!', "");
            *endpoints = endpoints.replace('!', "");
        }
        self.routes.values_mut().for_each(|(good, _)| *good = true);
        self
    }
}

/// How the client takes a response with something bad in it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Manner {
    /// As Envoy: takes the good part and names the bad one.
    Partial,
    /// Takes nothing and says little.
    Whole,
}

/// One type at the client.
#[derive(Clone, Debug, Default)]
struct Kind {
    subscribed: bool,
    names: BTreeSet<String>,
    /// Content and version by name.
    held: BTreeMap<String, (String, String)>,
    version: String,
    nonce: String,
}

struct World {
    protocol: Protocol,
    manner: Manner,
    session: Session,
    now: Instant,
    view: Arc<Snapshot>,
    change: u64,
    streams: u64,
    identified: bool,
    follower: Follower,
    kinds: BTreeMap<TypeUrl, Kind>,
    requests: VecDeque<Request>,
    /// With each response, whether it was sent after the first clusters were released.
    responses: VecDeque<(Response, bool)>,
    /// Routes the order is answerable for: not those a client was given because it had none, before its clusters were there.
    vouched: BTreeSet<String>,
    refuse_next: bool,
    /// Whether the order can be vouched for: not for a state-of-the-world client that came back in the middle of a rollout,
    /// whose version says nothing of what it holds.
    ordered: bool,
    started: bool,
}

impl World {
    fn new(protocol: Protocol, manner: Manner) -> Self {
        let mut world = Self {
            protocol,
            manner,
            session: session(protocol, 1),
            now: Instant::now(),
            view: Arc::default(),
            change: 0,
            streams: 1,
            identified: false,
            follower: Follower::new(),
            kinds: [CDS, EDS, LDS, RDS].map(|kind| (kind, Kind::default())).into(),
            requests: VecDeque::new(),
            responses: VecDeque::new(),
            vouched: BTreeSet::new(),
            refuse_next: false,
            ordered: true,
            started: false,
        };
        world.subscribe(&CDS, BTreeSet::new());
        world
    }

    fn apply(&mut self, op: Op) {
        self.now += Duration::from_millis(1);
        match op {
            Op::Publish(spec) => self.publish(&spec),
            Op::Read(count) => (0..count).for_each(|_| {
                self.read();
            }),
            Op::Serve(count) => (0..count).for_each(|_| {
                self.serve();
            }),
            Op::Wait(millis) => {
                // What a client says in one burst does not take half a second to be heard.
                while self.serve() {}
                self.wait(Duration::from_millis(millis));
            }
            Op::Reconnect => self.reconnect(),
            Op::Refuse => self.refuse_next = true,
        }
    }

    fn publish(&mut self, spec: &Spec) {
        self.change += 1;
        let mut builder = Snapshot::builder(ChangeId(self.change)).based_on(&self.view);
        for resource in spec.resources() {
            builder.put(resource).unwrap();
        }
        let old = std::mem::replace(&mut self.view, Arc::new(builder.build()));
        if self.identified && self.follower.is_concerned(&self.session, &old, &self.view) {
            self.step(Event::Snapshot(self.view.clone()));
        }
    }

    fn catch_up(&mut self) {
        if self.follower.catches_up() {
            self.step(Event::Snapshot(self.view.clone()));
        }
    }

    fn serve(&mut self) -> bool {
        let Some(request) = self.requests.pop_front() else { return false };
        let first = !self.identified;
        self.identified = true;
        self.catch_up();
        self.step(Event::Request(request));
        if first && self.change > 0 {
            self.step(Event::Snapshot(self.view.clone()));
        }
        true
    }

    fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(at) = self.session.deadline(self.now).filter(|at| *at <= until) {
            self.now = at.max(self.now + Duration::from_nanos(1));
            self.catch_up();
            self.step(Event::Timer);
        }
        self.now = until;
    }

    fn step(&mut self, event: Event) {
        for effect in self.session.step(self.now, event) {
            match effect {
                Effect::Send(response) => {
                    let released = self.session.has_released();
                    self.responses.push_back((response, released));
                }
                Effect::End(error) => panic!("a well-behaved client was thrown out: {error}"),
                Effect::GateExpired { waiting_for, .. } => panic!("nothing was late: {waiting_for:?}"),
                Effect::Identified(_) | Effect::Acked { .. } | Effect::Nacked { .. } => {}
            }
        }
        self.follower.listen(&mut self.session);
        let types: BTreeSet<_> = self.responses.iter().map(|(response, _)| &response.type_url).collect();
        assert_eq!(types.len(), self.responses.len(), "more than one response of a type under way");
    }

    fn reconnect(&mut self) {
        let at_rest = self.requests.is_empty() && self.session.converged(&self.view);
        if self.protocol == Protocol::Sotw && !at_rest {
            self.ordered = false;
        }
        self.streams += 1;
        self.session = session(self.protocol, self.streams);
        self.identified = false;
        self.follower = Follower::new();
        self.requests.clear();
        self.responses.clear();
        for kind in [CDS, EDS, LDS, RDS] {
            let state = self.kinds.get_mut(&kind).unwrap();
            state.nonce.clear();
            if std::mem::take(&mut state.subscribed) {
                let names = state.names.clone();
                self.subscribe(&kind, names);
            }
        }
    }

    /// Reads one response, answers it, and follows where it leads.
    fn read(&mut self) -> bool {
        let Some((response, released)) = self.responses.pop_front() else { return false };
        let kind = response.type_url.clone();
        let content = |resource: &Resource| {
            let any: Any = prost::Message::decode(resource.any().as_ref()).unwrap();
            String::from_utf8(any.value).unwrap().replace(";last", "")
        };
        let offered: BTreeMap<String, (String, String)> = response
            .resources
            .iter()
            .map(|r| (r.name().to_string(), (content(r), r.version().to_string())))
            .collect();
        let bad: Vec<&String> = offered
            .iter()
            .filter(|(_, (content, _))| content.starts_with('!'))
            .map(|(name, _)| name)
            .collect();
        let refused = std::mem::take(&mut self.refuse_next) || !bad.is_empty();
        let takes = |name: &String| !refused || self.manner == Manner::Partial && !bad.contains(&name);
        let full = self.protocol == Protocol::Sotw && kind.is_full_state();

        let state = self.kinds.get_mut(&kind).unwrap();
        let partial_or_good = !refused || self.manner == Manner::Partial && !bad.is_empty();
        if partial_or_good {
            if full {
                state.held.retain(|name, _| offered.contains_key(name));
            }
            response.removed.iter().for_each(|name| {
                state.held.remove(&**name);
            });
            for (name, value) in offered.iter().filter(|(name, _)| takes(name)) {
                if kind.is_full_state() || state.names.contains(name) {
                    state.held.insert(name.clone(), value.clone());
                    if kind == RDS && released {
                        self.vouched.insert(name.clone());
                    } else if kind == RDS {
                        self.vouched.remove(name);
                    }
                }
            }
        }
        let error = refused.then(|| match (self.manner, bad.is_empty()) {
            (Manner::Partial, false) => {
                bad.iter().map(|name| format!("{name}: bad")).collect::<Vec<_>>().join(", ")
            }
            _ => "no".to_owned(),
        });
        state.nonce = response.nonce.to_string();
        if !refused {
            state.version = response.version.to_string();
        }
        self.send(&kind, &[], &[], error);
        self.follow();
        self.check(&response);
        true
    }

    /// Asks for what the held resources lead to, and no longer for what they do not.
    fn follow(&mut self) {
        let clusters: BTreeSet<String> = self.kinds[&CDS].held.keys().cloned().collect();
        self.want(&EDS, clusters);
        // As Envoy: no listeners before the clusters are warm for the first time.
        let warm = self.kinds[&CDS].held.keys().all(|name| self.kinds[&EDS].held.contains_key(name));
        if !self.started && warm && !self.kinds[&CDS].version.is_empty() | (self.protocol == Protocol::Delta)
        {
            self.started = true;
            self.subscribe(&LDS, BTreeSet::new());
        }
        let routes = self.kinds[&LDS].held.values().filter_map(|(content, _)| content.split(' ').next());
        let routes: BTreeSet<String> = routes.map(str::to_owned).collect();
        self.want(&RDS, routes);
    }

    fn want(&mut self, kind: &TypeUrl, names: BTreeSet<String>) {
        let state = &self.kinds[kind];
        if state.names != names {
            self.subscribe(kind, names);
        }
    }

    fn subscribe(&mut self, kind: &TypeUrl, names: BTreeSet<String>) {
        let state = self.kinds.get_mut(kind).unwrap();
        let first = !std::mem::replace(&mut state.subscribed, true);
        let add: Vec<String> =
            names.iter().filter(|name| first || !state.names.contains(*name)).cloned().collect();
        let drop: Vec<String> = state.names.difference(&names).cloned().collect();
        state.held.retain(|name, _| kind.is_full_state() || names.contains(name));
        state.names = names;
        if first && self.protocol == Protocol::Delta {
            let initial = self.kinds[kind].held.iter().map(|(name, (_, v))| (name.clone(), v.clone()));
            let request = DeltaDiscoveryRequest {
                node: Some(Node::default()),
                type_url: kind.to_string(),
                resource_names_subscribe: add,
                initial_resource_versions: initial.collect(),
                ..Default::default()
            };
            self.requests.push_back(Request::Delta(Box::new(request)));
        } else {
            self.send(kind, &add, &drop, None);
        }
    }

    fn send(&mut self, kind: &TypeUrl, add: &[String], drop: &[String], error: Option<String>) {
        let state = self.kinds.get_mut(kind).unwrap();
        let error_detail = error.map(|message| Status { message, ..Default::default() });
        let request = match self.protocol {
            Protocol::Sotw => Request::Sotw(Box::new(DiscoveryRequest {
                node: Some(Node::default()),
                type_url: kind.to_string(),
                version_info: state.version.clone(),
                response_nonce: state.nonce.clone(),
                resource_names: state.names.iter().cloned().collect(),
                error_detail,
                ..Default::default()
            })),
            Protocol::Delta => Request::Delta(Box::new(DeltaDiscoveryRequest {
                type_url: kind.to_string(),
                response_nonce: std::mem::take(&mut state.nonce),
                resource_names_subscribe: add.to_vec(),
                resource_names_unsubscribe: drop.to_vec(),
                error_detail,
                ..Default::default()
            })),
        };
        self.requests.push_back(request);
    }

    /// No route in use leads nowhere.
    fn check(&self, response: &Response) {
        if !self.ordered {
            return;
        }
        for (route, (content, _)) in
            self.kinds[&RDS].held.iter().filter(|(name, _)| self.vouched.contains(*name))
        {
            for cluster in content.split(',').filter(|name| !name.is_empty()) {
                assert!(
                    self.kinds[&CDS].held.contains_key(cluster)
                        && self.kinds[&EDS].held.contains_key(cluster),
                    "after {response:?}: route {route} leads to {cluster}, which is not there: {:?}",
                    self.kinds
                );
            }
        }
    }

    /// Lets everything arrive that is under way, and time enough pass.
    fn rest(&mut self) {
        for _ in 0..3 {
            let mut rounds = 0;
            while self.serve() | self.read() {
                rounds += 1;
                assert!(rounds < 10_000, "client and server do not come to rest");
            }
            self.wait(Duration::from_secs(1));
        }
    }
}

fn session(protocol: Protocol, id: u64) -> Session {
    Session::new(Arc::new(SessionOptions::default()), StreamId(id), protocol, Scope::Aggregated)
}

fn run(protocol: Protocol, manner: Manner, ops: Vec<Op>, last: Spec) {
    let mut world = World::new(protocol, manner);
    ops.into_iter().for_each(|op| world.apply(op));
    world.refuse_next = false;
    world.publish(&last.clone().good());
    world.rest();

    let want: BTreeMap<(TypeUrl, String), String> = last
        .good()
        .resources()
        .iter()
        .map(|resource| {
            ((resource.type_url().clone(), resource.name().to_string()), resource.version().to_string())
        })
        .collect();
    let have: BTreeMap<(TypeUrl, String), String> = world
        .kinds
        .iter()
        .flat_map(|(kind, state)| {
            state.held.iter().map(|(name, (_, version))| ((kind.clone(), name.clone()), version.clone()))
        })
        .collect();
    let extra: Vec<_> = have.iter().filter(|(key, version)| want.get(*key) != Some(*version)).collect();
    let missing: Vec<_> = want.iter().filter(|(key, version)| have.get(*key) != Some(*version)).collect();
    assert!(extra.is_empty() && missing.is_empty(), "the client has {extra:?} and should have {missing:?}");
    assert!(world.session.converged(&world.view), "the session does not know it");
    assert!(!world.session.refuses());
}

/// A find of the model: a refused response held a cluster, and the client's version said that it had it.
#[test]
fn a_route_waits_for_a_cluster_that_was_refused_for_no_reason() {
    let of = |services: &[(&'static str, &str)], to: &[&'static str]| Spec {
        services: services
            .iter()
            .map(|(name, cluster)| (*name, ((*cluster).to_owned(), "0".to_owned())))
            .collect(),
        routes: [("r", (true, to.to_vec()))].into(),
        listeners: 0,
        last: false,
    };
    let ops = vec![
        Op::Publish(of(&[("b", "0")], &[])),
        Op::Serve(1),
        Op::Read(1),
        Op::Serve(2),
        Op::Read(1),
        Op::Serve(2),
        Op::Publish(of(&[("a", "0"), ("d", "0")], &[])),
        Op::Publish(of(&[("a", "!bad")], &[])),
        Op::Read(2),
        Op::Wait(0),
        Op::Read(3),
        Op::Refuse,
        Op::Publish(of(&[("d", "0")], &["d"])),
        Op::Serve(2),
        Op::Read(1),
        Op::Wait(500),
        Op::Publish(of(&[("a", "0")], &[])),
    ];
    run(Protocol::Sotw, Manner::Partial, ops, of(&[("a", "0")], &[]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(2000), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_client_ends_with_what_its_view_holds_and_never_routes_into_nothing(
        delta in any::<bool>(),
        partial in any::<bool>(),
        ops in proptest::collection::vec(op(), 0..60),
        last in spec(),
    ) {
        let protocol = if delta { Protocol::Delta } else { Protocol::Sotw };
        let manner = if partial { Manner::Partial } else { Manner::Whole };
        run(protocol, manner, ops, last);
    }
}
