//! A client of the discovery protocol, as plain as one can be: it says what a test tells it to and keeps what it needs for that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use envoy_types::pb::google::rpc::Status;

use super::follower::Follower;
use crate::error::ProtocolError;
use crate::session::{Effect, Event, Nack, Request, Response, Session, SessionOptions};
use crate::snapshot::{Snapshot, SnapshotBuilder};
use crate::types::{ChangeId, Protocol, Scope, StreamId, TypeUrl};
use crate::{Resource, Version};

pub(super) const CDS: TypeUrl = TypeUrl::CLUSTER;
pub(super) const EDS: TypeUrl = TypeUrl::ENDPOINT;
pub(super) const LDS: TypeUrl = TypeUrl::LISTENER;
pub(super) const RDS: TypeUrl = TypeUrl::ROUTE;
pub(super) const ECDS: TypeUrl = TypeUrl::EXTENSION_CONFIG;

/// Both protocols.
pub(super) const PROTOCOLS: [Protocol; 2] = [Protocol::Sotw, Protocol::Delta];

/// A resource of a test: type, name, content.
pub(super) type Item = (TypeUrl, &'static str, &'static str);

/// A client and the session that serves it.
pub(super) struct Client {
    pub session: Session,
    pub now: Instant,
    pub protocol: Protocol,
    kinds: BTreeMap<TypeUrl, Kind>,
    identified: bool,
    scope: Scope,
    options: SessionOptions,
    /// `node.client_features` and `node.user_agent_name`.
    pub features: Vec<&'static str>,
    pub user_agent: &'static str,
    view: Arc<Snapshot>,
    follower: Follower,
    changes: u64,
    pub nacks: Vec<Nack>,
    pub acks: usize,
    pub expired: Vec<Vec<TypeUrl>>,
    pub error: Option<ProtocolError>,
    nonces: BTreeSet<Arc<str>>,
}

/// What the client remembers of one type.
#[derive(Default)]
struct Kind {
    names: Vec<String>,
    version: String,
    nonce: String,
    initial: Vec<(String, String)>,
}

/// A client on each kind of stream that can carry `type_url`.
pub(super) fn everywhere(type_url: &TypeUrl) -> Vec<Client> {
    everywhere_with(type_url, &SessionOptions::default())
}

/// The same with these limits and waits.
pub(super) fn everywhere_with(type_url: &TypeUrl, options: &SessionOptions) -> Vec<Client> {
    let scopes = [Scope::Aggregated, Scope::Single(type_url.clone())];
    let all = PROTOCOLS.iter().flat_map(|protocol| scopes.iter().map(|scope| (*protocol, scope.clone())));
    all.map(|(protocol, scope)| Client::with(protocol, scope, options.clone())).collect()
}

/// The same for one protocol.
pub(super) fn both(protocol: Protocol, type_url: &TypeUrl) -> Vec<Client> {
    everywhere(type_url).into_iter().filter(|client| client.protocol == protocol).collect()
}

/// The names of a response's resources.
pub(super) fn names(response: &Response) -> Vec<&str> {
    let mut names: Vec<&str> = response.resources.iter().map(|resource| &**resource.name()).collect();
    names.sort_unstable();
    names
}

/// The names of a response's removed resources.
pub(super) fn removed(response: &Response) -> Vec<&str> {
    response.removed.iter().map(|name| &**name).collect()
}

/// The one response there must be.
#[track_caller]
pub(super) fn only(mut responses: Vec<Response>) -> Response {
    assert_eq!(responses.len(), 1, "one response was due: {responses:#?}");
    responses.remove(0)
}

/// A resource with these bytes as its content; a cluster leads to the endpoints of its name.
pub(super) fn resource((type_url, name, content): &Item) -> Resource {
    let made = Resource::from_value(name, type_url.clone(), content.as_bytes());
    if *type_url == CDS { made.with_child(EDS, name) } else { made }
}

impl Client {
    pub fn new(protocol: Protocol) -> Self {
        Self::with(protocol, Scope::Aggregated, SessionOptions::default())
    }

    pub fn with(protocol: Protocol, scope: Scope, options: SessionOptions) -> Self {
        Self {
            session: Session::new(Arc::new(options.clone()), StreamId(1), protocol, scope.clone()),
            now: Instant::now(),
            protocol,
            kinds: BTreeMap::new(),
            identified: false,
            scope,
            options,
            features: Vec::new(),
            user_agent: "envoy",
            view: Arc::default(),
            follower: Follower::new(),
            changes: 0,
            nacks: Vec::new(),
            acks: 0,
            expired: Vec::new(),
            error: None,
            nonces: BTreeSet::new(),
        }
    }

    /// Its protocol, and whether its stream is the aggregated service's.
    pub fn kind(&self) -> (Protocol, bool) {
        (self.protocol, self.scope == Scope::Aggregated)
    }

    /// The same client on a new stream to a server with this view, with what it has.
    pub fn reconnect(self, brings: &[Item], view: &[Item]) -> Self {
        let mut fresh = Self::with(self.protocol, self.scope, self.options);
        (fresh.features, fresh.user_agent) = (self.features, self.user_agent);
        for (type_url, mut kind) in self.kinds {
            kind.nonce.clear();
            let brought = brings.iter().filter(|(of, ..)| *of == type_url).map(resource);
            kind.initial = brought.map(|r| (r.name().to_string(), r.version().to_string())).collect();
            fresh.kinds.insert(type_url, kind);
        }
        // The server went on while the client was away.
        fresh.view = self.view;
        fresh.publish(view);
        fresh
    }

    /// The client does not know any more what version of this type it had.
    pub fn forget_version(&mut self, type_url: &TypeUrl) {
        self.kinds.entry(type_url.clone()).or_default().version.clear();
    }

    /// The client asks for nothing of this type any more, and has not said so: it is away.
    pub fn forget_names(&mut self, type_url: &TypeUrl) {
        self.kinds.entry(type_url.clone()).or_default().names.clear();
    }

    /// The view holds exactly this now.
    pub fn publish(&mut self, items: &[Item]) -> Vec<Response> {
        self.changes += 1;
        let mut builder = Snapshot::builder(ChangeId(self.changes)).based_on(&self.view);
        for item in items {
            builder.put(resource(item)).unwrap();
        }
        self.replace(builder)
    }

    /// The view changes so.
    pub fn edit(&mut self, change: impl FnOnce(&mut SnapshotBuilder)) -> Vec<Response> {
        self.changes += 1;
        let mut builder = self.view.edit(ChangeId(self.changes));
        change(&mut builder);
        self.replace(builder)
    }

    fn replace(&mut self, next: SnapshotBuilder) -> Vec<Response> {
        let old = std::mem::replace(&mut self.view, Arc::new(next.build()));
        let concerned = self.follower.is_concerned(&self.session, &old, &self.view);
        if concerned { self.step(Event::Snapshot(self.view.clone())) } else { Vec::new() }
    }

    /// Subscribes to everything the old way: by naming nothing.
    pub fn wildcard(&mut self, type_url: &TypeUrl) -> Vec<Response> {
        self.send(type_url, &[], &[], None)
    }

    /// Subscribes to these names besides those it has.
    pub fn subscribe(&mut self, type_url: &TypeUrl, names: &[&str]) -> Vec<Response> {
        self.send(type_url, names, &[], None)
    }

    /// Unsubscribes from these names.
    pub fn unsubscribe(&mut self, type_url: &TypeUrl, names: &[&str]) -> Vec<Response> {
        self.send(type_url, &[], names, None)
    }

    /// Accepts a response.
    pub fn ack(&mut self, response: &Response) -> Vec<Response> {
        self.ack_with(response, &[], &[])
    }

    /// Accepts a response and changes the subscription in the same request.
    pub fn ack_with(&mut self, response: &Response, add: &[&str], drop: &[&str]) -> Vec<Response> {
        let kind = self.kinds.entry(response.type_url.clone()).or_default();
        kind.version = response.version.to_string();
        kind.nonce = response.nonce.to_string();
        self.send(&response.type_url, add, drop, None)
    }

    /// Refuses a response.
    pub fn nack(&mut self, response: &Response, message: &str) -> Vec<Response> {
        self.kinds.entry(response.type_url.clone()).or_default().nonce = response.nonce.to_string();
        self.send(&response.type_url, &[], &[], Some(message))
    }

    /// Accepts these responses and all that follow; answers all of them in the order in which they came.
    pub fn ack_all(&mut self, responses: Vec<Response>) -> Vec<Response> {
        let mut queue = std::collections::VecDeque::from(responses);
        let mut seen = Vec::new();
        while let Some(response) = queue.pop_front() {
            queue.extend(self.ack(&response));
            seen.push(response);
            assert!(seen.len() < 1000, "the server does not come to rest");
        }
        seen
    }

    /// Lets time pass, and the timer with it.
    pub fn wait(&mut self, time: Duration) -> Vec<Response> {
        let until = self.now + time;
        let mut responses = Vec::new();
        while let Some(at) = self.session.deadline(self.now).filter(|at| *at <= until) {
            assert!(at >= self.now, "a timer in the past");
            self.now = at.max(self.now + Duration::from_nanos(1));
            responses.extend(self.step(Event::Timer));
        }
        self.now = until;
        responses
    }

    /// What the client's status says of a type.
    pub fn converged(&self) -> bool {
        self.session.converged(&self.view)
    }

    /// Sends a request with the client's nonce and version.
    fn send(
        &mut self,
        type_url: &TypeUrl,
        add: &[&str],
        drop: &[&str],
        error: Option<&str>,
    ) -> Vec<Response> {
        let kind = self.kinds.entry(type_url.clone()).or_default();
        kind.names.retain(|name| !drop.contains(&name.as_str()));
        for name in add {
            if !kind.names.iter().any(|known| known == name) {
                kind.names.push((*name).to_owned());
            }
        }
        let node = (!self.identified).then(|| Node {
            id: "test".into(),
            client_features: self.features.iter().map(ToString::to_string).collect(),
            user_agent_name: self.user_agent.into(),
            ..Node::default()
        });
        let error_detail = error.map(|message| Status { message: message.into(), ..Status::default() });
        let request = match self.protocol {
            Protocol::Sotw => Request::Sotw(Box::new(DiscoveryRequest {
                node,
                type_url: type_url.to_string(),
                version_info: kind.version.clone(),
                response_nonce: kind.nonce.clone(),
                resource_names: kind.names.clone(),
                error_detail,
                ..Default::default()
            })),
            Protocol::Delta => Request::Delta(Box::new(DeltaDiscoveryRequest {
                node,
                type_url: type_url.to_string(),
                response_nonce: std::mem::take(&mut kind.nonce),
                resource_names_subscribe: add.iter().map(ToString::to_string).collect(),
                resource_names_unsubscribe: drop.iter().map(ToString::to_string).collect(),
                initial_resource_versions: std::mem::take(&mut kind.initial).into_iter().collect(),
                error_detail,
                ..Default::default()
            })),
        };
        self.raw(request)
    }

    /// Sends any request.
    pub fn raw(&mut self, request: Request) -> Vec<Response> {
        self.identified = true;
        self.step(Event::Request(request))
    }

    fn step(&mut self, event: Event) -> Vec<Response> {
        let mut responses = Vec::new();
        let mut effects = Vec::new();
        if self.follower.catches_up() {
            effects.extend(self.session.step(self.now, Event::Snapshot(self.view.clone())));
        }
        effects.extend(self.session.step(self.now, event));
        self.follower.listen(&mut self.session);
        for effect in effects {
            match effect {
                Effect::Identified(node) => assert_eq!(node.id, "test"),
                Effect::Send(response) => responses.push(response),
                Effect::Acked { .. } => self.acks += 1,
                Effect::Nacked { nack, .. } => self.nacks.push(nack),
                Effect::GateExpired { waiting_for, .. } => self.expired.push(waiting_for),
                Effect::End(error) => self.error = Some(error),
            }
        }
        for response in &responses {
            // Rules that hold for whatever is sent: R17, and no nonce twice.
            let mut seen = BTreeSet::new();
            for resource in response.resources.iter().chain(&response.refreshed) {
                assert!(seen.insert(resource.name().clone()), "{} is in a response twice", resource.name());
                assert_eq!(resource.type_url(), &response.type_url);
            }
            assert!(
                response.removed.iter().chain(&response.unresolved).all(|name| seen.insert(name.clone())),
                "removed and sent at once, or twice: {response:?}"
            );
            let incremental = [&response.removed, &response.unresolved];
            assert!(self.protocol == Protocol::Delta || incremental.iter().all(|names| names.is_empty()));
            assert!(self.protocol == Protocol::Delta || response.refreshed.is_empty());
            assert!(self.nonces.insert(response.nonce.clone()), "a nonce is used twice");
        }
        responses
    }
}

/// A state-of-the-world request, field by field.
pub(super) fn sotw(type_url: &TypeUrl, names: &[&str], nonce: &str) -> DiscoveryRequest {
    DiscoveryRequest {
        node: Some(Node { id: "test".into(), ..Node::default() }),
        type_url: type_url.to_string(),
        resource_names: names.iter().map(ToString::to_string).collect(),
        response_nonce: nonce.to_owned(),
        ..Default::default()
    }
}

/// An incremental request, field by field.
pub(super) fn delta(type_url: &TypeUrl, add: &[&str], drop: &[&str], nonce: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: Some(Node { id: "test".into(), ..Node::default() }),
        type_url: type_url.to_string(),
        resource_names_subscribe: add.iter().map(ToString::to_string).collect(),
        resource_names_unsubscribe: drop.iter().map(ToString::to_string).collect(),
        response_nonce: nonce.to_owned(),
        ..Default::default()
    }
}

/// The version of a resource with this content.
pub(super) fn version(item: &Item) -> Version {
    resource(item).version().clone()
}
