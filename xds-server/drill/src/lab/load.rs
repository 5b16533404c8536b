//! Open-loop load: requests leave on schedule at a constant rate, whether or not earlier ones were answered, as a service's
//! callers do. Measures; judges nothing.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::task::TaskTracker;

use super::{LabError, Outcome, Sample, Summary, error::chain};

/// Samples kept: over an hour at 200 a second, and a bound for a lab that runs all day.
const KEPT: usize = 1_000_000;

/// What to send, and how fast.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// The proxy's listener.
    pub target: SocketAddr,
    /// `Host` of the requests.
    pub authority: String,
    /// Path, query included.
    pub path: String,
    /// Further headers.
    pub headers: HeaderMap,
    /// Requests a second.
    pub rate: f64,
    /// For one request, from its due time on.
    pub timeout: Duration,
}

/// A running load. Stops when dropped; [`stop`](Self::stop) waits for what is under way.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    rate: watch::Sender<f64>,
    scheduler: JoinHandle<()>,
    requests: TaskTracker,
}

#[derive(Debug)]
struct Shared {
    client: Client<HttpConnector, Empty<Bytes>>,
    uri: Uri,
    headers: HeaderMap,
    timeout: Duration,
    samples: Mutex<VecDeque<Sample>>,
    /// The few zone names, so that a sample does not allocate its own.
    zones: Mutex<Vec<Arc<str>>>,
}

// === impl LoadOptions ===

impl LoadOptions {
    /// GET / with `authority` as its host; 5 s for an answer.
    pub fn new(target: SocketAddr, authority: &str, rate: f64) -> Self {
        Self {
            target,
            authority: authority.to_owned(),
            path: "/".to_owned(),
            headers: HeaderMap::new(),
            rate,
            timeout: Duration::from_secs(5),
        }
    }
}

// === impl Load ===

impl Load {
    /// Starts at once.
    pub fn start(options: LoadOptions) -> Result<Self, LabError> {
        let LoadOptions { target, authority, path, mut headers, rate, timeout } = options;
        let invalid =
            |e: String| LabError::Http { method: "GET", url: format!("http://{target}{path}"), why: e };
        let uri = format!("http://{target}{path}").parse::<Uri>().map_err(|e| invalid(e.to_string()))?;
        let host = HeaderValue::from_str(&authority).map_err(|e| invalid(e.to_string()))?;
        headers.insert(header::HOST, host);
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        // Connections are kept and reused, like a service's. A request that meets a connection which closed before a byte of
        // it was written goes out on another one (hyper's default): it never left the client.
        let client = Client::builder(TokioExecutor::new()).pool_idle_timeout(None).build(connector);
        let shared = Arc::new(Shared {
            client,
            uri,
            headers,
            timeout,
            samples: Mutex::default(),
            zones: Mutex::default(),
        });
        let (rate, rates) = watch::channel(rate);
        let requests = TaskTracker::new();
        let scheduler = tokio::spawn(schedule(Arc::clone(&shared), rates, requests.clone()));
        Ok(Self { shared, rate, scheduler, requests })
    }

    /// Changes the rate, in requests a second, from the next request on. Zero pauses.
    pub fn set_rate(&self, rate: f64) {
        self.rate.send_replace(rate);
    }

    /// The requests due from `from` (included) to `to` (excluded) that have come to an end.
    pub fn samples(&self, from: Instant, to: Instant) -> Vec<Sample> {
        let samples = self.shared.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.iter().filter(|sample| (from..to).contains(&sample.due)).cloned().collect()
    }

    /// The sum over [`samples`](Self::samples).
    pub fn summary(&self, from: Instant, to: Instant) -> Summary {
        let samples = self.shared.samples.lock().unwrap_or_else(PoisonError::into_inner);
        Summary::of(samples.iter().filter(|sample| (from..to).contains(&sample.due)))
    }

    /// The sum over the last `span`.
    pub fn recent(&self, span: Duration) -> Summary {
        let now = Instant::now();
        self.summary(now.checked_sub(span).unwrap_or(now), now)
    }

    /// Stops and waits for the requests under way, at most their timeout; then all samples are in, in the order of due times.
    pub async fn stop(mut self) -> Vec<Sample> {
        self.scheduler.abort();
        // Until the scheduler is gone it might start one more.
        let _ = (&mut self.scheduler).await;
        self.requests.close();
        self.requests.wait().await;
        let mut samples: Vec<_> =
            self.shared.samples.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect();
        samples.sort_by_key(|sample| sample.due);
        samples
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.scheduler.abort();
    }
}

/// Starts a request at each due time. The due times follow from the rate alone: a late start delays none of the next.
async fn schedule(shared: Arc<Shared>, mut rates: watch::Receiver<f64>, requests: TaskTracker) {
    let mut due = Instant::now();
    loop {
        let rate = *rates.borrow_and_update();
        if rate <= 0.0 {
            if rates.changed().await.is_err() {
                return;
            }
            due = Instant::now();
            continue;
        }
        tokio::time::sleep_until(due.into()).await;
        requests.spawn(request(Arc::clone(&shared), due));
        due += Duration::from_secs_f64(1.0 / rate);
    }
}

async fn request(shared: Arc<Shared>, due: Instant) {
    let late = due.elapsed();
    let limit = shared.timeout.saturating_sub(late);
    let mut zone = None;
    let outcome = match tokio::time::timeout(limit, exchange(&shared, &mut zone)).await {
        Ok(Ok(status)) => Outcome::Status(status),
        Ok(Err(error)) => Outcome::Error(error),
        Err(_) => Outcome::Error(format!("no answer within {:?}", shared.timeout)),
    };
    let sample = Sample { due, late, latency: due.elapsed(), outcome, zone };
    let mut samples = shared.samples.lock().unwrap_or_else(PoisonError::into_inner);
    if samples.len() >= KEPT {
        samples.pop_front();
    }
    samples.push_back(sample);
}

async fn exchange(shared: &Shared, zone: &mut Option<Arc<str>>) -> Result<u16, String> {
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = shared.uri.clone();
    *request.headers_mut() = shared.headers.clone();
    let response = shared.client.request(request).await.map_err(|e| chain(&e))?;
    const ZONE: HeaderName = HeaderName::from_static("x-backend-zone");
    *zone = response.headers().get(&ZONE).and_then(|value| Some(shared.zone(value.to_str().ok()?)));
    let status = response.status().as_u16();
    // To the end: a body cut in the middle is a failure, and a connection can only then be reused.
    response.into_body().collect().await.map_err(|e| chain(&e))?;
    Ok(status)
}

// === impl Shared ===

impl Shared {
    fn zone(&self, name: &str) -> Arc<str> {
        let mut zones = self.zones.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = zones.iter().find(|zone| &***zone == name) {
            return Arc::clone(known);
        }
        let new: Arc<str> = name.into();
        zones.push(Arc::clone(&new));
        new
    }
}
