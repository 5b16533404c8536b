//! How a mesh is laid out and how its clients behave. Data, with defaults that most tests keep.

use std::time::Duration;

use crate::proxy::Settings;

/// A service in some zones, and one proxy that calls it.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Name of the service and its cluster.
    pub service: String,
    /// Its zones. The one that the node is in has priority 0, the others have 1; all have 0 when the node's is not among them.
    pub zones: Vec<ZoneSetup>,
    /// The proxy.
    pub proxy: Settings,
    /// Requests a second, Poisson.
    pub rate: f64,
    /// Further attempts after a failed one (`num_retries`, on 5xx, reset and connect-failure).
    pub retries: u32,
    /// `retry_budget.budget_percent` as a fraction; 3 retries at once are always allowed, as in Envoy.
    pub retry_budget: f64,
    /// The route's timeout.
    pub timeout: Duration,
    /// The endpoints' metadata say which zone of which service they are. Those of other control planes do not.
    pub host_ids: bool,
    /// Share of the answers that fail in any zone at any time, 0 to 1.
    pub base_errors: f64,
    /// Median time to answer; the spread is log-normal with sigma 0.4.
    pub median: Duration,
    /// Of all that is left to chance.
    pub seed: u64,
}

/// The endpoints of one zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneSetup {
    /// Its name.
    pub name: String,
    /// Its weight among the zones of its priority, and its capacity.
    pub weight: u32,
}

/// How clients behave.
#[derive(Debug, Clone, PartialEq)]
pub struct Clients {
    /// Share of requests whose client goes away, and after how long; an answer that comes before that is taken.
    pub leave: Option<(f64, Duration)>,
    /// Share of requests that are not idempotent (`POST`).
    pub posts: f64,
    /// A subset key that clients put into the filter's internal header themselves.
    pub forged_key: Option<String>,
    /// Weight of each worker when a connection is given to one; even when empty.
    pub workers: Vec<u32>,
}

// === impl Setup ===

impl Default for Setup {
    /// Three zones of equal weight, two workers, 200 requests a second, no retry, 0.5 % base errors, 8 ms.
    fn default() -> Self {
        let zone = |name: &str| ZoneSetup { name: name.to_owned(), weight: 4 };
        Self {
            service: "order-svc".to_owned(),
            zones: ["az-a", "az-b", "az-c"].map(zone).to_vec(),
            proxy: Settings::default(),
            rate: 200.0,
            retries: 0,
            retry_budget: 0.2,
            timeout: Duration::from_secs(15),
            host_ids: true,
            base_errors: 0.005,
            median: Duration::from_millis(8),
            seed: 1,
        }
    }
}

// === impl Clients ===

impl Default for Clients {
    /// Patient clients that only read, spread evenly.
    fn default() -> Self {
        Self { leave: None, posts: 0.0, forged_key: None, workers: Vec::new() }
    }
}
