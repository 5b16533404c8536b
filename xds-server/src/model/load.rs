//! How requests fare from zone to zone, as the proxies report it.

use serde::{Deserialize, Serialize};
use zonebreak_core::names::{ServiceName, Zone};

/// One service, from one zone to one zone, over the last minute. There is no row where nobody reported a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadRow {
    /// The service.
    pub service: ServiceName,
    /// The proxies' zone; absent for those of no known zone.
    pub client_zone: Option<Zone>,
    /// The endpoints' zone.
    pub target_zone: Zone,
    /// Attempts that ended.
    pub requests: u64,
    /// Of those, the ones that failed: 5xx, a gRPC error of the server's, no answer.
    pub errors: u64,
    /// Errors as a share of the requests, 0 to 1.
    pub error_rate: f64,
    /// The least that the true rate may plausibly be (Wilson score interval, 95 %).
    pub error_lower: f64,
    /// The most.
    pub error_upper: f64,
}
