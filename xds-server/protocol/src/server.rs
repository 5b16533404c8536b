//! The server: a hub, the choice of a view, and the streams that are served from them.
//!
//! It owns no socket; [`Server::routes`] goes into a tonic server, where TLS and addresses are set:
//! [`crate::TransportOptions::server`] makes one whose connections are looked after.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::Stream;
use tokio::sync::watch;
use tonic::Status;
use xxhash_rust::xxh3::xxh3_64;

use crate::Node;
use crate::admission::Admission;
use crate::hub::Hub;
use crate::inbound::Inbound;
use crate::journal::{ChangeStatus, Journal};
use crate::ledger::{Convergence, Entry, Follower, Ledger, ProxyStatus, Trial};
use crate::metrics::Metrics;
use crate::resource::Resource;
use crate::service;
use crate::session::{ResourceStatus, Response, Session, SessionOptions};
use crate::snapshot::NamesByType;
use crate::stream;
use crate::types::{ChangeId, Protocol, Scope, StreamId, TypeUrl, ViewKey};

/// The server's settings.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// What holds for each stream.
    pub session: SessionOptions,
    /// The largest request that is read, in bytes; a larger one ends its stream. 4 MiB, gRPC's own default, holds the
    /// `initial_resource_versions` of 50,000 resources.
    pub max_request_bytes: usize,
    /// After how long a stream is ended, a tenth more or less so that not all go at once, and at a moment when no answer is
    /// under way. Its client comes back with what it has and is sent nothing again. Load reports end likewise. `None`: never.
    pub max_stream_age: Option<Duration>,
    /// How many streams are brought up at once; the rest wait, in the order of their coming. 128: a start on two cores is
    /// bound by the processor well below that, and a proxy far away needs several round trips.
    pub max_initial_syncs: usize,
}

/// A discovery server. Clones are the same server.
#[derive(Clone, Debug)]
pub struct Server {
    shared: Arc<Shared>,
}

/// What all streams of a server share.
pub(crate) struct Shared {
    hub: Arc<Hub>,
    view_of: Box<dyn Fn(&Node) -> ViewKey + Send + Sync>,
    session: Arc<SessionOptions>,
    max_request_bytes: usize,
    max_stream_age: Option<Duration>,
    admission: Admission,
    ledger: Ledger,
    journal: Journal,
    metrics: Metrics,
    draining: watch::Sender<bool>,
    streams: AtomicU64,
}

// === impl Server ===

impl Server {
    /// A server of the hub's views. `view_of` says which one a client gets. It is asked once for each stream (of
    /// discovery, and of load reports), at its first request, and the stream keeps to the answer.
    pub fn new(
        hub: Arc<Hub>,
        view_of: impl Fn(&Node) -> ViewKey + Send + Sync + 'static,
        options: ServerOptions,
    ) -> Self {
        let shared = Shared {
            hub,
            view_of: Box::new(view_of),
            session: Arc::new(options.session),
            max_request_bytes: options.max_request_bytes,
            max_stream_age: options.max_stream_age,
            admission: Admission::new(options.max_initial_syncs),
            ledger: Ledger::default(),
            journal: Journal::default(),
            metrics: Metrics::default(),
            draining: watch::channel(false).0,
            streams: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The discovery services: aggregated, and one for each known type, both protocols.
    pub fn routes(&self) -> tonic::service::Routes {
        service::routes(&self.shared)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The hub whose views are served.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.shared.hub
    }

    /// Every connected stream, what it was sent and what it said, oldest first.
    pub fn proxies(&self) -> Vec<ProxyStatus> {
        self.shared.ledger.proxies(&self.shared.hub)
    }

    /// How many streams there are and how many of them hold what they should.
    pub fn convergence(&self) -> Convergence {
        self.shared.ledger.convergence(&self.shared.hub)
    }

    /// Says that `change` is about to be published and makes these views others than they were, so that it can be told what
    /// becomes of it; for the publisher to call just before [`Hub::publish`], with changes in order. Without it nothing is
    /// counted and all else is the same.
    pub fn announce(&self, change: ChangeId, views: impl IntoIterator<Item = ViewKey>) {
        let views: BTreeSet<ViewKey> = views.into_iter().collect();
        let (journal, ledger) = (&self.shared.journal, &self.shared.ledger);
        journal.announce(change, views.clone(), || ledger.following(&views));
    }

    /// The streams that watch some of these names in their view, from whom to choose for [`Hub::try_out`]: those first that
    /// watch most of them, and of those the oldest.
    pub fn followers(&self, changed: &BTreeMap<ViewKey, NamesByType>) -> Vec<Follower> {
        self.shared.ledger.followers(changed)
    }

    /// Whether the stream watches this resource and has acknowledged it in this content.
    pub fn holds(&self, stream: StreamId, type_url: &TypeUrl, resource: &Arc<Resource>) -> bool {
        self.shared.ledger.holds(stream, type_url, resource)
    }

    /// How the streams of a trial stand with what they were given since `since`; those that went away are left out.
    pub fn trial(&self, streams: &BTreeSet<StreamId>, since: Instant) -> Vec<Trial> {
        self.shared.ledger.trial(&self.shared.hub, streams, since)
    }

    /// The streams that refuse something now, and the `node.id` of each.
    pub fn refusing(&self) -> BTreeMap<StreamId, String> {
        self.shared.ledger.refusing()
    }

    /// How many streams are being brought up, and how many wait for that.
    pub fn initial_syncs(&self) -> (u64, u64) {
        (self.shared.admission.inside(), self.shared.admission.waiting())
    }

    /// What became of the last changes that were announced, the newest first.
    pub fn changes(&self) -> Vec<ChangeStatus> {
        self.shared.ledger.credit(&self.shared.hub, &self.shared.journal);
        self.shared.journal.changes()
    }

    /// The server's counters.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Ends every stream, and each one opened from now on, with `UNAVAILABLE`, so that clients go elsewhere. They keep what
    /// they have.
    pub fn drain(&self) {
        self.shared.draining.send_replace(true);
        self.shared.ledger.wake_all();
    }
}

// === impl ServerOptions ===

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            session: SessionOptions::default(),
            max_request_bytes: 4 << 20,
            max_stream_age: None,
            max_initial_syncs: 128,
        }
    }
}

// === impl Shared ===

impl Shared {
    /// Opens a stream.
    pub(crate) fn serve(
        self: &Arc<Self>,
        protocol: Protocol,
        scope: Scope,
        peer: Option<SocketAddr>,
        requests: Inbound,
    ) -> impl Stream<Item = Result<Response, Status>> + Send + 'static {
        let id = self.number();
        self.metrics.stream_opened(protocol, &scope);
        let session = Session::new(self.session.clone(), id, protocol, scope);
        let entry = self.ledger.open(id, peer, session);
        stream::serve(self.clone(), entry, requests)
    }

    /// The number of a stream that is opened.
    pub(crate) fn number(&self) -> StreamId {
        StreamId(self.streams.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// A row without its stream.
    #[cfg(test)]
    pub(crate) fn entry(&self, session: Session) -> Arc<Entry> {
        self.ledger.open(StreamId(1), None, session)
    }

    pub(crate) fn closed(&self, entry: &Entry) {
        self.ledger.close(entry.id());
        entry.credit_newest(&self.hub, &self.journal);
        entry.leave(&self.journal);
        self.metrics.stream_closed(entry.protocol(), entry.scope());
    }

    /// The streams of the clients that are `wanted` by their id, and what they have.
    pub(crate) fn clients(
        &self,
        wanted: impl Fn(&str) -> bool,
    ) -> impl Iterator<Item = (ProxyStatus, Vec<ResourceStatus>)> {
        self.ledger.clients(&self.hub, wanted)
    }

    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    pub(crate) fn view_of(&self, node: &Node) -> ViewKey {
        (self.view_of)(node)
    }

    pub(crate) fn admission(&self) -> &Admission {
        &self.admission
    }

    pub(crate) fn journal(&self) -> &Journal {
        &self.journal
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(crate) fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    /// How old this stream may get: ages are spread by a hash of its number.
    pub(crate) fn age_of(&self, id: StreamId) -> Option<Duration> {
        let spread = xxh3_64(&id.0.to_le_bytes()) % 1000;
        self.max_stream_age.map(|age| age.mul_f64(0.9 + 0.2 * spread as f64 / 1000.0))
    }

    pub(crate) fn max_request_bytes(&self) -> usize {
        self.max_request_bytes
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("hub", &self.hub)
            .field("metrics", &self.metrics)
            .finish_non_exhaustive()
    }
}
