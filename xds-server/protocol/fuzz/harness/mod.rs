//! What must hold of the engine for any bytes whatsoever: each function takes them and panics when it does not. The fuzz targets
//! call these with bytes that a fuzzer breeds, the ordinary tests with the corpus in `testdata/fuzz` and with random ones
//! (`tests/fuzzed.rs`). Finds nothing by itself.

#![allow(dead_code, reason = "each fuzz target calls one of these")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use envoy_types::pb::google::rpc::Status;
use prost::{Message, Name};
use zonebreak_xds::{
    ChangeId, Effect, Event, Heard, Protocol, Request, Resource, ResourceError, Response, Scope, Session,
    SessionOptions, Snapshot, StreamId, TypeUrl,
};

const NAMES: [&str; 12] = [
    "a",
    "b",
    "c",
    "*",
    "",
    "r/a",
    "r/a.example",
    "xdstp://x/t/s/1?k=1&j=2",
    "xdstp://x/t/s/2?j=2&k=1",
    "xdstp://x/t/s/*?j=2&k=1",
    "xdstp:",
    "xdstp://x/t/s/*",
];

/// Bytes as a source of choices; zeros when they run out.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound
    }

    fn of<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }

    fn names(&mut self) -> Vec<String> {
        (0..self.below(4)).map(|_| self.of(&NAMES).to_owned()).collect()
    }
}

/// Any order of requests, snapshots and moments into one session: it never panics, never says anything twice in a response, has
/// at most one response of a type under way, and never goes on and on by itself.
pub fn requests(data: &[u8]) {
    let mut choices = Choices(data);
    let flags = choices.byte();
    let protocol = if flags & 1 == 0 { Protocol::Sotw } else { Protocol::Delta };
    let kinds = [
        TypeUrl::CLUSTER,
        TypeUrl::ENDPOINT,
        TypeUrl::LISTENER,
        TypeUrl::ROUTE,
        TypeUrl::VIRTUAL_HOST,
        TypeUrl::new("type.googleapis.com/x.Y"),
    ];
    let scope = if flags & 2 == 0 { Scope::Aggregated } else { Scope::Single(choices.of(&kinds)) };
    let node = Node {
        user_agent_name: if flags & 4 == 0 { "envoy".into() } else { "gRPC".into() },
        client_features: if flags & 8 == 0 {
            Vec::new()
        } else {
            vec!["xds.config.supports-resource-ttl".into(), "xds.config.resource-in-sotw".into()]
        },
        ..Node::default()
    };
    let options = SessionOptions { max_response_bytes: 300, max_names: 9, ..SessionOptions::default() };
    let mut session = Session::new(Arc::new(options), StreamId(1), protocol, scope);
    let mut now = Instant::now();
    let mut view: Arc<Snapshot> = Arc::default();
    let mut open: BTreeMap<TypeUrl, Response> = BTreeMap::new();
    let mut lists: BTreeMap<TypeUrl, Vec<String>> = BTreeMap::new();
    let mut nonces = BTreeSet::new();
    let mut said_node = false;
    let mut ended = false;
    for step in 0..200u64 {
        if choices.0.is_empty() {
            break;
        }
        let event = match choices.below(8) {
            0 | 1 => {
                view = Arc::new(snapshot(&mut choices, &view, &kinds, step));
                Event::Snapshot(view.clone())
            }
            2 => {
                now += Duration::from_millis(choices.byte().into()) * 100;
                Event::Timer
            }
            _ => {
                let kind = choices.of(&kinds);
                let answered = open.get(&kind).filter(|_| flags & 16 == 0 || step % 3 != 0);
                let request = request(&mut choices, protocol, &kind, answered);
                if request.1 {
                    open.remove(&kind);
                }
                if let Request::Sotw(request) = &request.0 {
                    lists.insert(TypeUrl::new(&request.type_url), request.resource_names.clone());
                }
                let with_node = !std::mem::replace(&mut said_node, true) && flags & 32 == 0;
                Event::Request(given(request.0, with_node.then(|| node.clone())))
            }
        };
        let effects = session.step(now, event);
        assert!(effects.len() < 100, "the session goes on and on");
        for effect in effects {
            match effect {
                Effect::Send(response) => {
                    check(&response, &mut nonces);
                    let before = open.insert(response.type_url.clone(), response);
                    assert!(before.is_none(), "two responses of a type under way");
                }
                Effect::End(_) => ended = true,
                _ => {}
            }
        }
        if let Some(at) = session.deadline(now) {
            assert!(at >= now, "a timer {:?} past would be woken for again and again", now - at);
        }
        let _ = (session.status(now, &view), session.converged(&view));
    }
    if !ended && session.snapshot().is_some() {
        come_to_rest(&mut session, protocol, now, &view, open, &lists);
    }
}

/// From wherever it was led, a session whose client accepts everything from now on comes to rest, and in sync but for what was
/// refused. In state of the world it goes on to ask for what it last asked for: `lists`.
fn come_to_rest(
    session: &mut Session,
    protocol: Protocol,
    mut now: Instant,
    view: &Snapshot,
    mut open: BTreeMap<TypeUrl, Response>,
    lists: &BTreeMap<TypeUrl, Vec<String>>,
) {
    let mut rounds = 0;
    for _ in 0..3 {
        while let Some((kind, response)) = open.pop_first() {
            rounds += 1;
            assert!(rounds < 500, "the session does not come to rest");
            let (type_url, response_nonce) = (kind.to_string(), response.nonce.to_string());
            let request = match protocol {
                Protocol::Sotw => Request::Sotw(Box::new(DiscoveryRequest {
                    version_info: response.version.to_string(),
                    resource_names: lists.get(&kind).cloned().unwrap_or_default(),
                    type_url,
                    response_nonce,
                    ..Default::default()
                })),
                Protocol::Delta => Request::Delta(Box::new(DeltaDiscoveryRequest {
                    type_url,
                    response_nonce,
                    ..Default::default()
                })),
            };
            for effect in session.step(now, Event::Request(request)) {
                if let Effect::Send(response) = effect {
                    open.insert(response.type_url.clone(), response);
                }
            }
        }
        // Time enough for every wait, but for heartbeats.
        now += Duration::from_secs(20);
        for effect in session.step(now, Event::Timer) {
            if let Effect::Send(response) = effect
                && !response.heartbeat
            {
                open.insert(response.type_url.clone(), response);
            }
        }
    }
    assert!(session.refuses() || open.is_empty(), "still talking: {open:?}");
    if !session.refuses() && open.is_empty() && session.status(now, view).iter().all(|kind| !kind.in_flight) {
        assert!(session.converged(view), "at rest and not in sync: {:#?}", session.status(now, view));
    }
}

fn given(request: Request, node: Option<Node>) -> Request {
    match request {
        Request::Sotw(request) => Request::Sotw(Box::new(DiscoveryRequest { node, ..*request })),
        Request::Delta(request) => Request::Delta(Box::new(DeltaDiscoveryRequest { node, ..*request })),
    }
}

/// A request, and whether it answers the response under way.
fn request(
    choices: &mut Choices<'_>,
    protocol: Protocol,
    kind: &TypeUrl,
    open: Option<&Response>,
) -> (Request, bool) {
    let how = choices.byte();
    let answers = open.filter(|_| how & 3 != 0);
    let response_nonce = match answers {
        Some(response) => response.nonce.to_string(),
        None if how & 4 != 0 => "garbage".to_owned(),
        None => String::new(),
    };
    let message = choices.of(&["no", "a: bad", "'b' and \"c\"", ""]).to_owned();
    let error_detail = (how & 8 != 0).then(|| Status { message, ..Status::default() });
    let type_url = if how & 0xf0 == 0xf0 { choices.of(&["", "what"]).to_owned() } else { kind.to_string() };
    // On a type's own service, no type means that one.
    let answered = answers.is_some() && (type_url == kind.as_str() || type_url.is_empty());
    let request = match protocol {
        Protocol::Sotw => Request::Sotw(Box::new(DiscoveryRequest {
            version_info: choices.of(&["", "1", "stale"]).to_owned(),
            resource_names: choices.names(),
            type_url,
            response_nonce,
            error_detail,
            ..Default::default()
        })),
        Protocol::Delta => Request::Delta(Box::new(DeltaDiscoveryRequest {
            resource_names_subscribe: choices.names(),
            resource_names_unsubscribe: choices.names(),
            initial_resource_versions: choices
                .names()
                .into_iter()
                .map(|name| (name, "1".to_owned()))
                .collect(),
            type_url,
            response_nonce,
            error_detail,
            ..Default::default()
        })),
    };
    (request, answered)
}

fn snapshot(choices: &mut Choices<'_>, view: &Arc<Snapshot>, kinds: &[TypeUrl], change: u64) -> Snapshot {
    let mut builder = match choices.below(4) {
        0 => Snapshot::builder(ChangeId(change)).based_on(view),
        _ => view.edit(ChangeId(change)),
    };
    for _ in 0..choices.below(5) {
        let (kind, name) = (choices.of(kinds), choices.of(&NAMES));
        match choices.below(8) {
            0 => {
                builder.remove(&kind, name);
            }
            1 => {
                builder.fail(&kind, name, ResourceError { code: 5.into(), message: "gone".into() });
            }
            made => {
                let content = [choices.byte() % 3; 40];
                let mut resource = Resource::from_value(name, kind.clone(), content.to_vec());
                if made == 2 {
                    resource = resource.with_ttl(Duration::from_secs(2));
                }
                if made == 3 {
                    resource = resource.with_aliases(["r/a.example", "b"]);
                }
                if kind == TypeUrl::CLUSTER {
                    resource = resource.with_child(TypeUrl::ENDPOINT, name);
                }
                // Names that mean many, and duplicates, are refused: that is their answer.
                let _ = builder.put(resource);
            }
        }
    }
    builder.build()
}

fn check(response: &Response, nonces: &mut BTreeSet<Arc<str>>) {
    assert!(nonces.insert(response.nonce.clone()), "a nonce is used twice");
    let mut seen = BTreeSet::new();
    for resource in response.resources.iter().chain(&response.refreshed) {
        assert!(seen.insert(resource.name().clone()), "{} is in a response twice", resource.name());
        assert_eq!(resource.type_url(), &response.type_url);
    }
    for name in response.removed.iter().chain(&response.unresolved) {
        assert!(seen.insert(name.clone()), "{name} is sent and removed at once: {response:?}");
    }
    let mut bytes = Vec::new();
    response.encode(&mut bytes);
    assert_eq!(bytes.len(), response.encoded_len());
}

/// Any bytes as a resource or a request: what decodes encodes to one form, whatever the order of its maps, and means the same;
/// as a request it ends its stream at most.
pub fn decode(data: &[u8]) {
    let Some((which, data)) = data.split_first() else { return };
    match which % 6 {
        0 => canonical::<Cluster>(data),
        1 => canonical::<ClusterLoadAssignment>(data),
        2 => canonical::<Listener>(data),
        3 => canonical::<RouteConfiguration>(data),
        4 => hear(Protocol::Sotw, data, DiscoveryRequest::decode(data).is_ok()),
        _ => hear(Protocol::Delta, data, DeltaDiscoveryRequest::decode(data).is_ok()),
    }
    // As published by somebody who does not decode.
    let resource = Resource::from_value("x", TypeUrl::CLUSTER, data.to_vec());
    assert!(resource.children().len() <= 1);
}

fn canonical<M: Message + Name + Default + PartialEq + Clone>(data: &[u8]) {
    let Ok(message) = M::decode(data) else { return };
    let once = Resource::encode("x", &message);
    // Another copy of the message has its maps in another order.
    let again = Resource::encode("x", &M::decode(data).expect("it decoded before"));
    assert_eq!(once.version(), again.version());
    let any = envoy_types::pb::google::protobuf::Any::decode(once.any().as_ref()).expect("an Any");
    // Compared as bytes: not even a message with a NaN in it equals itself.
    let back = Resource::encode("x", &M::decode(any.value.as_slice()).expect("the canonical form decodes"));
    assert_eq!(back.version(), once.version());
}

/// What prost takes for a request must be one to us.
fn hear(protocol: Protocol, data: &[u8], is_one: bool) {
    let request = match Heard::read(protocol, data.to_vec().into()) {
        Ok(request) => request,
        Err(error) => return assert!(!is_one, "prost reads it, and we do not: {error}"),
    };
    let mut session = Session::new(Arc::default(), StreamId(1), protocol, Scope::Aggregated);
    let now = Instant::now();
    session.step(now, Event::Snapshot(Arc::default()));
    session.step(now, Event::Heard(request.clone()));
    session.step(now, Event::Heard(request));
}
