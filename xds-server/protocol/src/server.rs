//! The server: a hub, the choice of a view, and the streams that are served from them.
//!
//! It owns no socket; [`Server::routes`] goes into a tonic server, where keepalive, TLS and addresses are set.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::Stream;
use tokio::sync::watch;
use tonic::Status;
use xxhash_rust::xxh3::xxh3_64;

use crate::Node;
use crate::hub::Hub;
use crate::inbound::Inbound;
use crate::ledger::{Convergence, Entry, Ledger, ProxyStatus};
use crate::metrics::Metrics;
use crate::service;
use crate::session::{Response, Session, SessionOptions};
use crate::stream;
use crate::types::{Protocol, Scope, StreamId, ViewKey};

/// The server's settings.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// What holds for each stream.
    pub session: SessionOptions,
    /// The largest request that is read, in bytes; a larger one ends its stream. 4 MiB, gRPC's own default, holds the
    /// `initial_resource_versions` of 50,000 resources.
    pub max_request_bytes: usize,
    /// After how long a stream is ended, a tenth more or less so that not all go at once, and at a moment when no answer is
    /// under way. Its client comes back with what it has and is sent nothing again. `None`: never.
    pub max_stream_age: Option<Duration>,
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
    ledger: Ledger,
    metrics: Metrics,
    draining: watch::Sender<bool>,
    streams: AtomicU64,
}

// === impl Server ===

impl Server {
    /// A server of the hub's views. `view_of` says which one a client gets; it is asked once a stream, at its first request.
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
            ledger: Ledger::default(),
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

    /// The server's counters.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Ends every stream, and each one opened from now on, with `UNAVAILABLE`, so that clients go elsewhere. They keep what
    /// they have.
    pub fn drain(&self) {
        self.shared.draining.send_replace(true);
    }
}

// === impl ServerOptions ===

impl Default for ServerOptions {
    fn default() -> Self {
        Self { session: SessionOptions::default(), max_request_bytes: 4 << 20, max_stream_age: None }
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
        let id = StreamId(self.streams.fetch_add(1, Ordering::Relaxed) + 1);
        self.metrics.stream_opened(protocol, &scope);
        let session = Session::new(self.session.clone(), id, protocol, scope);
        let entry = self.ledger.open(id, peer, session);
        stream::serve(self.clone(), entry, requests)
    }

    pub(crate) fn closed(&self, entry: &Entry) {
        self.ledger.close(entry.id());
        self.metrics.stream_closed(entry.protocol(), entry.scope());
    }

    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    pub(crate) fn view_of(&self, node: &Node) -> ViewKey {
        (self.view_of)(node)
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
