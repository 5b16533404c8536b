//! Backends in this process, many to a zone, each on its own port, broken one by one or a whole zone at once. Holds faults
//! and counts; speaks no HTTP itself (see `serve.rs`).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use http::HeaderValue;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use super::{Fault, LabError, Port, Timeline, serve};

/// All backends of one service.
#[derive(Debug)]
pub struct Backends {
    zones: Vec<BackendZone>,
}

/// The backends of one zone, which can fail together.
#[derive(Debug)]
pub struct BackendZone {
    state: Arc<ZoneState>,
    backends: Vec<Backend>,
}

/// One backend: answers 200 with `x-backend-zone` and `x-backend-id` unless its fault says otherwise. Stops when dropped.
#[derive(Debug)]
pub struct Backend {
    state: Arc<BackendState>,
    port: Port,
    task: JoinHandle<()>,
}

#[derive(Debug)]
pub(super) struct ZoneState {
    name: String,
    header: HeaderValue,
    fault: watch::Sender<Fault>,
    pub(super) timeline: Timeline,
    leaked: Mutex<BTreeSet<String>>,
}

#[derive(Debug)]
pub(super) struct BackendState {
    id: String,
    header: HeaderValue,
    zone: Arc<ZoneState>,
    /// Goes before the zone's fault.
    own: watch::Sender<Option<Fault>>,
    pub(super) requests: AtomicU64,
}

/// The fault in force at one backend, to be waited on.
#[derive(Debug)]
pub(super) struct Faults {
    zone: watch::Receiver<Fault>,
    own: watch::Receiver<Option<Fault>>,
}

// === impl Backends ===

impl Backends {
    /// Starts `each` backends in every zone, named `ZONE-0`, `ZONE-1` and so on.
    pub async fn start(zones: &[&str], each: usize) -> Result<Self, LabError> {
        let mut started = Vec::with_capacity(zones.len());
        for zone in zones {
            started.push(BackendZone::start(zone, each).await?);
        }
        Ok(Self { zones: started })
    }

    /// The zones, in the order given.
    pub fn zones(&self) -> &[BackendZone] {
        &self.zones
    }

    /// A zone by name.
    ///
    /// # Panics
    /// When no such zone was started: a mistake in the scenario, not in what it tests.
    pub fn zone(&self, name: &str) -> &BackendZone {
        let known = || self.zones.iter().map(BackendZone::name).collect::<Vec<_>>();
        self.zones
            .iter()
            .find(|zone| zone.name() == name)
            .unwrap_or_else(|| panic!("no zone {name} in {:?}", known()))
    }

    /// Breaks or mends every zone.
    pub fn set_fault(&self, fault: Fault) {
        self.zones.iter().for_each(|zone| zone.set_fault(fault));
    }

    /// Requests that reached each zone so far.
    pub fn requests(&self) -> BTreeMap<String, u64> {
        self.zones.iter().map(|zone| (zone.name().to_owned(), zone.requests())).collect()
    }

    /// Names of `x-zonebreak-*` headers that reached any backend. There must be none.
    pub fn leaked_headers(&self) -> BTreeSet<String> {
        self.zones.iter().flat_map(BackendZone::leaked_headers).collect()
    }
}

// === impl BackendZone ===

impl BackendZone {
    /// Starts `count` backends of one zone.
    pub async fn start(name: &str, count: usize) -> Result<Self, LabError> {
        let state = Arc::new(ZoneState {
            name: name.to_owned(),
            header: header(name)?,
            fault: watch::Sender::default(),
            timeline: Timeline::default(),
            leaked: Mutex::default(),
        });
        let mut zone = Self { state, backends: Vec::with_capacity(count) };
        for _ in 0..count {
            zone.add().await?;
        }
        Ok(zone)
    }

    /// Starts one more backend, under the zone's fault.
    pub async fn add(&mut self) -> Result<&Backend, LabError> {
        let id = format!("{}-{}", self.state.name, self.backends.len());
        self.backends.push(Backend::start(id, Arc::clone(&self.state)).await?);
        Ok(&self.backends[self.backends.len() - 1])
    }

    /// The zone's name.
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// Its backends.
    pub fn backends(&self) -> &[Backend] {
        &self.backends
    }

    /// Breaks or mends all backends of the zone at the same instant, but for those with a fault of their own.
    pub fn set_fault(&self, fault: Fault) {
        self.state.fault.send_replace(fault);
    }

    /// Requests that reached the zone so far.
    pub fn requests(&self) -> u64 {
        self.backends.iter().map(Backend::requests).sum()
    }

    /// When requests reached the zone.
    pub fn timeline(&self) -> &Timeline {
        &self.state.timeline
    }

    /// How long after `onset` the zone still got requests: time to the start of the first stretch of `window` without one
    /// that ends by `until`; `None` when it was never left. Connections that were refused do not reach a backend and are not
    /// seen here.
    pub fn left_after(&self, onset: Instant, window: Duration, until: Instant) -> Option<Duration> {
        self.state.timeline.quiet_after(onset, window, until)
    }

    /// Names of `x-zonebreak-*` headers that reached a backend of the zone.
    pub fn leaked_headers(&self) -> BTreeSet<String> {
        self.state.leaked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

// === impl Backend ===

impl Backend {
    async fn start(id: String, zone: Arc<ZoneState>) -> Result<Self, LabError> {
        let port = Port::reserve()?;
        let listener = TcpListener::bind(port.address())
            .await
            .map_err(LabError::io(format!("listen on {} for the backend {id}", port.address())))?;
        let state = Arc::new(BackendState {
            header: header(&id)?,
            id,
            zone,
            own: watch::Sender::default(),
            requests: AtomicU64::default(),
        });
        let task = tokio::spawn(serve::run(Arc::clone(&state), listener, port.address()));
        Ok(Self { state, port, task })
    }

    /// `ZONE-N`.
    pub fn id(&self) -> &str {
        &self.state.id
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Breaks this backend alone; `None` puts it back under the zone's fault.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.state.own.send_replace(fault);
    }

    /// Requests that reached it so far.
    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// === impl ZoneState ===

impl ZoneState {
    pub(super) fn leaked(&self, name: &str) {
        self.leaked.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
    }
}

// === impl BackendState ===

impl BackendState {
    pub(super) fn fault(&self) -> Fault {
        self.own.borrow().unwrap_or_else(|| *self.zone.fault.borrow())
    }

    pub(super) fn faults(&self) -> Faults {
        Faults { zone: self.zone.fault.subscribe(), own: self.own.subscribe() }
    }

    pub(super) fn zone(&self) -> &ZoneState {
        &self.zone
    }

    pub(super) fn zone_header(&self) -> &HeaderValue {
        &self.zone.header
    }

    pub(super) fn id_header(&self) -> &HeaderValue {
        &self.header
    }
}

// === impl Faults ===

impl Faults {
    /// Waits until the fault in force is as wanted.
    pub(super) async fn until(&mut self, wanted: impl Fn(Fault) -> bool) {
        loop {
            let zone = *self.zone.borrow_and_update();
            let own = *self.own.borrow_and_update();
            if wanted(own.unwrap_or(zone)) {
                return;
            }
            let ended = tokio::select! {
                change = self.zone.changed() => change.is_err(),
                change = self.own.changed() => change.is_err(),
            };
            if ended {
                // The backend is gone, and this task will be in a moment.
                std::future::pending::<()>().await;
            }
        }
    }
}

fn header(text: &str) -> Result<HeaderValue, LabError> {
    let invalid =
        |e: http::header::InvalidHeaderValue| std::io::Error::new(std::io::ErrorKind::InvalidInput, e);
    HeaderValue::from_str(text).map_err(invalid).map_err(LabError::io(format!("name a backend {text:?}")))
}
