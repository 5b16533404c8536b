//! Who is connected, what each client was sent and what it said.
//!
//! One row a stream: a proxy that uses the per-type services has several. A row goes when its stream does. The ledger reads
//! sessions and never moves them.
//!
//! Locks are taken in the order journal, rows, and, once no row is held any more, how far a stream has come, its session: a
//! session's lock may be waited for while its stream is stepped, and nobody else is to wait for that.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::{Instant, SystemTime};

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::config::core::v3::node::UserAgentVersionType;
use futures::task::AtomicWaker;

use crate::hub::Hub;
use crate::journal::{Journal, Reached, Refusal};
use crate::resource::Resource;
use crate::session::{Nack, ResourceStatus, Session, TypeStatus};
use crate::snapshot::{NamesByType, Snapshot};
use crate::types::{ChangeId, Protocol, Scope, StreamId, TypeUrl, ViewKey};

/// The most bytes of each text by which a client says who and where it is.
const TEXT: usize = 1024;

/// One client's stream.
#[derive(Clone, Debug)]
pub struct ProxyStatus {
    /// The stream.
    pub stream: StreamId,
    /// `node.id`, its first KiB; empty before the first request.
    pub node_id: String,
    /// `node.cluster`.
    pub cluster: String,
    /// `node.locality`.
    pub locality: Locality,
    /// The client's program and version, such as `envoy 1.40.0`.
    pub user_agent: String,
    /// Where it connects from.
    pub peer: Option<SocketAddr>,
    /// Which protocol it speaks.
    pub protocol: Protocol,
    /// ADS, or one type's service.
    pub scope: Scope,
    /// The view it gets.
    pub view: Option<ViewKey>,
    /// The change that made the newest snapshot the stream was given.
    pub change: Option<ChangeId>,
    /// When the stream was opened.
    pub connected_since: SystemTime,
    /// Every type it watches.
    pub types: Vec<TypeStatus>,
    /// Whether it acknowledged all that its view holds now. A stream without a view has not.
    pub converged: bool,
}

/// Where a client runs, as it says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Locality {
    /// `locality.region`.
    pub region: String,
    /// `locality.zone`.
    pub zone: String,
    /// `locality.sub_zone`.
    pub sub_zone: String,
}

/// How far the fleet has come, in streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Convergence {
    /// Connected.
    pub streams: usize,
    /// Of those, the ones that acknowledged all that their view holds now.
    pub converged: usize,
    /// Of those, the ones that refuse something now.
    pub refusing: usize,
}

/// A stream that a change concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Follower {
    /// The stream.
    pub stream: StreamId,
    /// The view it follows.
    pub view: ViewKey,
    /// The types of which it watches something that the change makes another.
    pub types: BTreeSet<TypeUrl>,
    /// How many resources that are.
    pub resources: usize,
}

/// What one stream made of what it was given on trial.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The stream.
    pub stream: StreamId,
    /// `node.id`.
    pub node: String,
    /// The view it follows.
    pub view: ViewKey,
    /// What it said.
    pub answer: TrialAnswer,
}

/// What a stream said of what it was given on trial.
#[derive(Clone, Debug)]
pub enum TrialAnswer {
    /// Not all that it has to say.
    Waiting,
    /// It has acknowledged all of it that it watches: see [`crate::Server::holds`].
    Took,
    /// It refused something: one refusal for each type.
    Refused(Vec<Refusal>),
}

/// All streams of one server.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    streams: Mutex<BTreeMap<StreamId, Arc<Entry>>>,
}

/// One stream: its session, which only the stream moves, and who it belongs to.
#[derive(Debug)]
pub(crate) struct Entry {
    id: StreamId,
    peer: Option<SocketAddr>,
    connected_since: SystemTime,
    protocol: Protocol,
    scope: Scope,
    identity: OnceLock<(Identity, ViewKey)>,
    /// The stream's, for what concerns all streams.
    waker: AtomicWaker,
    session: Mutex<Session>,
    /// How far the stream has come in the journal, once it is identified.
    reached: Mutex<Option<Reached>>,
}

/// What a stream did with the newest snapshot it was given.
#[derive(Debug)]
pub(crate) enum Progress<'a> {
    /// It was sent something.
    Sent,
    /// It may hold all of it by now.
    Answered(Instant),
    /// It refused something.
    Refused(&'a TypeUrl, &'a Nack),
}

/// What of a node is worth keeping: it goes into every log line about the stream.
#[derive(Debug)]
struct Identity {
    node_id: String,
    cluster: String,
    locality: Locality,
    user_agent: String,
}

// === impl Ledger ===

impl Ledger {
    pub(crate) fn open(&self, id: StreamId, peer: Option<SocketAddr>, session: Session) -> Arc<Entry> {
        let entry = Arc::new(Entry {
            id,
            peer,
            connected_since: SystemTime::now(),
            protocol: session.protocol(),
            scope: session.scope().clone(),
            identity: OnceLock::new(),
            waker: AtomicWaker::new(),
            session: Mutex::new(session),
            reached: Mutex::new(None),
        });
        self.streams().insert(id, entry.clone());
        entry
    }

    /// Has every stream look again at what it waits for.
    pub(crate) fn wake_all(&self) {
        self.entries().iter().for_each(|entry| entry.waker.wake());
    }

    pub(crate) fn close(&self, id: StreamId) {
        self.streams().remove(&id);
    }

    /// The streams that watch something that is another in their view, those first that watch most of it, and of those the
    /// oldest.
    pub(crate) fn followers(&self, changed: &BTreeMap<ViewKey, NamesByType>) -> Vec<Follower> {
        let of = |entry: Arc<Entry>| {
            let view = entry.view()?;
            let (types, resources) = entry.session().watches_of(changed.get(view)?);
            (resources > 0).then(|| Follower { stream: entry.id, view: view.clone(), types, resources })
        };
        let mut followers: Vec<Follower> = self.entries().into_iter().filter_map(of).collect();
        followers.sort_by_key(|follower| Reverse(follower.resources));
        followers
    }

    /// Whether the stream has acknowledged this resource in this content.
    pub(crate) fn holds(&self, stream: StreamId, type_url: &TypeUrl, resource: &Arc<Resource>) -> bool {
        let entry = self.streams().get(&stream).cloned();
        entry.is_some_and(|entry| entry.session().holds(type_url, resource))
    }

    /// How these streams stand with what they were given on trial since `since`. Streams that went away are left out.
    pub(crate) fn trial(&self, hub: &Hub, streams: &BTreeSet<StreamId>, since: Instant) -> Vec<Trial> {
        let of = |entry: Arc<Entry>| {
            let view = entry.view()?.clone();
            let session = entry.session();
            let refused = session.refusals().filter(|(_, nack)| nack.at >= since);
            let refusals: Vec<Refusal> =
                refused.map(|(type_url, nack)| Refusal::of(entry.node_id(), type_url, nack)).collect();
            let answer = if !refusals.is_empty() {
                TrialAnswer::Refused(refusals)
            } else if hub.snapshot_for(entry.id, &view).is_some_and(|all| session.converged(&all)) {
                TrialAnswer::Took
            } else {
                TrialAnswer::Waiting
            };
            Some(Trial { stream: entry.id, node: entry.node_id().to_owned(), view, answer })
        };
        self.among(streams).into_iter().filter_map(of).collect()
    }

    /// The streams that refuse something now, and whose they are.
    pub(crate) fn refusing(&self) -> BTreeMap<StreamId, String> {
        let refusing = self.entries().into_iter().filter(|entry| entry.session().refuses());
        refusing.map(|entry| (entry.id, entry.node_id().to_owned())).collect()
    }

    /// The streams of the clients that are `wanted` by their id, and what they have; made one at a time.
    pub(crate) fn clients(
        &self,
        hub: &Hub,
        wanted: impl Fn(&str) -> bool,
    ) -> impl Iterator<Item = (ProxyStatus, Vec<ResourceStatus>)> {
        let now = Instant::now();
        let entries = self.entries().into_iter().filter(move |entry| wanted(entry.node_id()));
        entries.map(move |entry| {
            let view = entry.view().and_then(|view| hub.snapshot_for(entry.id, view)).unwrap_or_default();
            let resources = entry.session().resources(&view);
            (entry.status(now, hub), resources)
        })
    }

    /// Tells the journal who holds the newest of its view without having been woken for it.
    pub(crate) fn credit(&self, hub: &Hub, journal: &Journal) {
        self.entries().iter().for_each(|entry| entry.credit_newest(hub, journal));
    }

    /// How many streams follow one of these views.
    pub(crate) fn following(&self, views: &BTreeSet<ViewKey>) -> usize {
        self.streams().values().filter(|entry| entry.view().is_some_and(|view| views.contains(view))).count()
    }

    pub(crate) fn proxies(&self, hub: &Hub) -> Vec<ProxyStatus> {
        let now = Instant::now();
        self.entries().iter().map(|entry| entry.status(now, hub)).collect()
    }

    pub(crate) fn convergence(&self, hub: &Hub) -> Convergence {
        let mut total = Convergence::default();
        for entry in self.entries() {
            let session = entry.session();
            let view = entry.view().and_then(|view| hub.snapshot_for(entry.id, view));
            total.streams += 1;
            total.converged += usize::from(view.is_some_and(|view| session.converged(&view)));
            total.refusing += usize::from(session.refuses());
        }
        total
    }

    /// Those of these streams that are still there.
    fn among(&self, ids: &BTreeSet<StreamId>) -> Vec<Arc<Entry>> {
        let streams = self.streams();
        ids.iter().filter_map(|id| streams.get(id).cloned()).collect()
    }

    /// The streams of this moment, so that reading them holds up no new one.
    fn entries(&self) -> Vec<Arc<Entry>> {
        self.streams().values().cloned().collect()
    }

    fn streams(&self) -> MutexGuard<'_, BTreeMap<StreamId, Arc<Entry>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Entry ===

impl Entry {
    pub(crate) fn id(&self) -> StreamId {
        self.id
    }

    /// From now on [`Ledger::wake_all`] wakes this.
    pub(crate) fn listen(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    pub(crate) fn scope(&self) -> &Scope {
        &self.scope
    }

    pub(crate) fn protocol(&self) -> Protocol {
        self.protocol
    }

    pub(crate) fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn identify(&self, node: &Node, view: ViewKey, journal: &Journal) {
        let reached = journal.join(|| {
            // A stream is identified once; a second time changes nothing.
            let _ = self.identity.set((Identity::of(node), view));
        });
        *self.reached() = Some(reached);
    }

    /// Tells the journal how far the stream has come with what it was just given, sent or told.
    pub(crate) fn report(&self, journal: &Journal, progress: Progress<'_>) {
        let (Some(view), mut reached) = (self.view(), self.reached()) else { return };
        let Some(reached) = reached.as_mut() else { return };
        let session = self.session();
        let Some(snapshot) = session.snapshot() else { return };
        let change = snapshot.change();
        match progress {
            Progress::Sent => journal.sent(view, reached, change),
            Progress::Answered(now) if session.converged(snapshot) => {
                journal.acked(view, reached, change, now)
            }
            Progress::Answered(_) => {}
            Progress::Refused(type_url, nack) => {
                journal.refused(view, reached, nack.change, || Refusal::of(self.node_id(), type_url, nack));
            }
        }
    }

    /// Tells the journal what the stream holds without having been woken for it, for what does not concern a stream passes it over:
    /// the newest of its view, or else all before the change that it was woken for.
    pub(crate) fn credit(&self, newest: &Snapshot, woken_for: Option<ChangeId>, journal: &Journal) {
        let (Some(view), mut reached) = (self.view(), self.reached()) else { return };
        let Some(reached) = reached.as_mut().filter(|reached| reached.acked() < newest.change()) else {
            return;
        };
        let session = self.session();
        let Some(last) = session.snapshot() else { return };
        if session.converged(newest) {
            journal.held(view, reached, newest.change());
        } else if let Some(ChangeId(first)) = woken_for
            && session.converged(last)
        {
            journal.held(view, reached, ChangeId(first.saturating_sub(1)));
        }
    }

    /// The same for who asks how things stand.
    pub(crate) fn credit_newest(&self, hub: &Hub, journal: &Journal) {
        if let Some(newest) = self.view().and_then(|view| hub.snapshot_for(self.id, view)) {
            self.credit(&newest, None, journal);
        }
    }

    /// Whether the stream has acknowledged all that it was given.
    pub(crate) fn has_all(&self) -> bool {
        let session = self.session();
        session.snapshot().is_some_and(|snapshot| session.converged(snapshot))
    }

    /// Tells the journal that the stream is gone.
    pub(crate) fn leave(&self, journal: &Journal) {
        if let (Some(view), Some(reached)) = (self.view(), self.reached().take()) {
            journal.left(view, reached);
        }
    }

    fn reached(&self) -> MutexGuard<'_, Option<Reached>> {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn node_id(&self) -> &str {
        self.identity.get().map_or("", |(identity, _)| &identity.node_id)
    }

    fn view(&self) -> Option<&ViewKey> {
        self.identity.get().map(|(_, view)| view)
    }

    fn status(&self, now: Instant, hub: &Hub) -> ProxyStatus {
        let session = self.session();
        let current = self.view().and_then(|view| hub.snapshot_for(self.id, view));
        let identity = self.identity.get().map(|(identity, _)| identity);
        let text = |field: fn(&Identity) -> &String| identity.map(|id| field(id).clone()).unwrap_or_default();
        ProxyStatus {
            stream: self.id,
            node_id: text(|identity| &identity.node_id),
            cluster: text(|identity| &identity.cluster),
            locality: identity.map(|identity| identity.locality.clone()).unwrap_or_default(),
            user_agent: text(|identity| &identity.user_agent),
            peer: self.peer,
            protocol: self.protocol,
            scope: self.scope.clone(),
            view: self.view().cloned(),
            change: session.snapshot().map(|snapshot| snapshot.change()),
            connected_since: self.connected_since,
            types: session.status(now, current.as_deref().unwrap_or(&Default::default())),
            converged: current.is_some_and(|view| session.converged(&view)),
        }
    }
}

// === impl Identity ===

impl Identity {
    fn of(node: &Node) -> Self {
        let version = match &node.user_agent_version_type {
            Some(UserAgentVersionType::UserAgentVersion(version)) => version.clone(),
            Some(UserAgentVersionType::UserAgentBuildVersion(build)) => build
                .version
                .as_ref()
                .map(|v| format!("{}.{}.{}", v.major_number, v.minor_number, v.patch))
                .unwrap_or_default(),
            None => String::new(),
        };
        let locality = node.locality.clone().unwrap_or_default();
        let user_agent = format!("{} {version}", node.user_agent_name);
        Self {
            node_id: shortened(&node.id),
            cluster: shortened(&node.cluster),
            locality: Locality {
                region: shortened(&locality.region),
                zone: shortened(&locality.zone),
                sub_zone: shortened(&locality.sub_zone),
            },
            user_agent: shortened(user_agent.trim()),
        }
    }
}

/// What a client calls itself, as far as anybody would.
fn shortened(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT)].to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
    use envoy_types::pb::google::rpc::Status;

    use super::*;
    use crate::session::{Effect, Event, Request, SessionOptions};
    use crate::snapshot::Snapshot;

    #[test]
    fn a_stream_that_is_busy_holds_up_who_looks_at_it_and_nobody_else() {
        let (ledger, hub) = (Ledger::default(), Hub::new());
        let session = Session::new(
            Arc::new(SessionOptions::default()),
            StreamId(1),
            Protocol::Delta,
            Scope::Aggregated,
        );
        let entry = ledger.open(StreamId(1), None, session);
        let _ = entry.identity.set((Identity::of(&Node::default()), ViewKey::new("")));
        let (done, finished) = mpsc::channel();
        let freed = std::thread::scope(|scope| {
            let busy = entry.session();
            let (ledger, hub) = (&ledger, &hub);
            scope.spawn(move || ledger.trial(hub, &[StreamId(1)].into(), Instant::now()).len());
            // The look at the trial waits for the session by now, or soon.
            std::thread::sleep(Duration::from_millis(50));
            scope.spawn(move || {
                ledger.following(&BTreeSet::new());
                // Nobody listens after the time is up.
                _ = done.send(());
            });
            let freed = finished.recv_timeout(Duration::from_secs(5));
            drop(busy);
            freed
        });
        assert!(freed.is_ok(), "the rows stayed locked for as long as one session was");
    }

    #[test]
    fn a_stream_that_a_change_does_not_concern_has_it_as_soon_as_it_is_published() {
        let (ledger, hub, journal) = (Ledger::default(), Hub::new(), Journal::default());
        let session = Session::new(
            Arc::new(SessionOptions::default()),
            StreamId(1),
            Protocol::Delta,
            Scope::Aggregated,
        );
        let entry = ledger.open(StreamId(1), None, session);
        let view = ViewKey::new("az-a");
        let publish = |change, content: &'static [u8]| {
            let mut next = Snapshot::builder(ChangeId(change));
            next.put(Resource::from_value("a", TypeUrl::CLUSTER, content)).unwrap();
            let next = Arc::new(next.build());
            journal.announce(ChangeId(change), [view.clone()].into(), || 1);
            hub.publish([(view.clone(), next.clone())]);
            next
        };
        let acked = || {
            ledger.credit(&hub, &journal);
            journal.changes().iter().map(|change| change.acked).collect::<Vec<_>>()
        };
        let first = publish(1, b"1");
        entry.identify(&Node::default(), view.clone(), &journal);
        publish(2, b"2");
        assert_eq!(acked(), [0, 0], "it was given nothing yet");
        // It watches nothing, so nothing concerns it.
        entry.session().step(Instant::now(), Event::Snapshot(first));
        publish(3, b"3");
        assert_eq!(acked(), [1, 1, 0], "the first came before it");
        assert_eq!(acked(), [1, 1, 0], "each once");
        let wanted = DeltaDiscoveryRequest {
            node: Some(Node::default()),
            type_url: TypeUrl::CLUSTER.to_string(),
            ..DeltaDiscoveryRequest::default()
        };
        entry.session().step(Instant::now(), Event::Request(Request::Delta(Box::new(wanted))));
        publish(4, b"4");
        assert_eq!(acked(), [0, 1, 1, 0], "now it does");
        let passed_over = &journal.changes()[1];
        assert_eq!((passed_over.last, passed_over.sent), (None, 0), "it concerned nobody");
    }

    #[test]
    fn a_refusal_is_of_the_change_that_brought_what_is_refused_whatever_came_meanwhile() {
        let (ledger, journal, view) = (Ledger::default(), Journal::default(), ViewKey::new("a"));
        let options = Arc::new(SessionOptions::default());
        let entry = ledger.open(
            StreamId(1),
            None,
            Session::new(options, StreamId(1), Protocol::Delta, Scope::Aggregated),
        );
        entry.identify(&Node::default(), view.clone(), &journal);
        let given = |change: u64, cluster: &'static str, endpoints: &'static str| {
            journal.announce(ChangeId(change), [view.clone()].into(), || 1);
            let mut builder = Snapshot::builder(ChangeId(change));
            builder.put(Resource::from_value("c", TypeUrl::CLUSTER, cluster)).unwrap();
            builder.put(Resource::from_value("c", TypeUrl::ENDPOINT, endpoints)).unwrap();
            entry.session().step(Instant::now(), Event::Snapshot(Arc::new(builder.build())))
        };
        let says = |nonce: &str, error: Option<&str>| {
            let request = DeltaDiscoveryRequest {
                node: Some(Node::default()),
                type_url: TypeUrl::CLUSTER.to_string(),
                response_nonce: nonce.to_owned(),
                error_detail: error.map(|text| Status { message: text.to_owned(), ..Status::default() }),
                ..DeltaDiscoveryRequest::default()
            };
            entry.session().step(Instant::now(), Event::Request(Request::Delta(Box::new(request))))
        };
        says("", None);
        let sent = given(20, "bad", "1");
        let [Effect::Send(response)] = &sent[..] else { panic!("{sent:?}") };
        given(21, "bad", "2");
        let heard = says(&response.nonce, Some("no"));
        let Some(Effect::Nacked { type_url, nack }) =
            heard.iter().find(|effect| matches!(effect, Effect::Nacked { .. }))
        else {
            panic!("{heard:?}")
        };
        entry.report(&journal, Progress::Refused(type_url, nack));
        let refused: Vec<_> = journal.changes().iter().map(|row| (row.change.0, row.refused)).collect();
        assert_eq!(refused, [(21, 0), (20, 1)]);
    }

    #[test]
    fn a_change_concerns_who_watches_something_of_it_and_those_first_who_watch_most() {
        let (ledger, journal, view) = (Ledger::default(), Journal::default(), ViewKey::new("a"));
        let watching = |id: u64, type_url: &TypeUrl, names: &[&str]| {
            let options = Arc::new(SessionOptions::default());
            let session = Session::new(options, StreamId(id), Protocol::Delta, Scope::Aggregated);
            let entry = ledger.open(StreamId(id), None, session);
            entry.identify(&Node::default(), view.clone(), &journal);
            let request = DeltaDiscoveryRequest {
                node: Some(Node::default()),
                type_url: type_url.to_string(),
                resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
                ..DeltaDiscoveryRequest::default()
            };
            entry.session().step(Instant::now(), Event::Request(Request::Delta(Box::new(request))));
        };
        watching(1, &TypeUrl::ENDPOINT, &["x", "y"]);
        watching(2, &TypeUrl::CLUSTER, &["x"]);
        watching(3, &TypeUrl::CLUSTER, &[]);
        watching(4, &TypeUrl::CLUSTER, &["other"]);
        let names = BTreeSet::from([Arc::from("x"), Arc::from("y")]);
        let changed = BTreeMap::from([(view.clone(), BTreeMap::from([(TypeUrl::CLUSTER, names)]))]);
        let found: Vec<_> =
            ledger.followers(&changed).into_iter().map(|it| (it.stream.0, it.resources)).collect();
        assert_eq!(found, [(3, 2), (2, 1)]);
        let resource = Arc::new(Resource::from_value("x", TypeUrl::CLUSTER, "1"));
        assert!(!ledger.holds(StreamId(1), &TypeUrl::CLUSTER, &resource), "it does not watch it");
        assert!(!ledger.holds(StreamId(3), &TypeUrl::CLUSTER, &resource), "it was not given it");
    }
}
