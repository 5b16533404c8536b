//! The host calls the filter makes, each with its failure turned into "nothing there". Never panics on what the host says,
//! never keeps anything.

use proxy_wasm::{
    hostcalls,
    types::{Bytes, LogLevel, MapType, MetricType, Status},
};
use std::{num::NonZeroU32, time::UNIX_EPOCH};

/// Carries the subset key from the decision to Envoy's `header_to_metadata`, which takes it off again.
pub const SERVE_HEADER: &str = "x-zonebreak-serve";

/// Unix time in nanoseconds.
pub fn now_ns() -> u64 {
    hostcalls::get_current_time()
        .ok()
        .and_then(|now| now.duration_since(UNIX_EPOCH).ok())
        .and_then(|since| u64::try_from(since.as_nanos()).ok())
        .unwrap_or_default()
}

/// A property that is there and not empty.
pub fn property(path: &[&str]) -> Option<Bytes> {
    hostcalls::get_property(path.to_vec()).ok().flatten().filter(|value| !value.is_empty())
}

/// The first of two properties that is there, as text: the second is what older Envoys call it.
pub fn text_property(path: &[&str], older: &[&str]) -> Option<String> {
    property(path).or_else(|| property(older)).and_then(|value| String::from_utf8(value).ok())
}

/// An integer property: 8 bytes, little-endian.
pub fn int_property(path: &[&str]) -> Option<i64> {
    property(path).and_then(|value| <[u8; 8]>::try_from(value).ok()).map(i64::from_le_bytes)
}

/// `:status` of the response at hand; 0 when it is absent or no number.
pub fn status() -> u16 {
    header(MapType::HttpResponseHeaders, ":status").and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// One header or trailer as text.
pub fn header(map: MapType, name: &str) -> Option<String> {
    hostcalls::get_map_value_bytes(map, name).ok().flatten().and_then(|value| String::from_utf8(value).ok())
}

/// Sets a request header, or takes it off.
pub fn set_request_header(name: &str, value: Option<&str>) {
    // A failure leaves the request as it came, which is what a filter that is not there would do.
    let _ = match value {
        Some(value) => hostcalls::set_map_value(MapType::HttpRequestHeaders, name, Some(value)),
        None => hostcalls::remove_map_value(MapType::HttpRequestHeaders, name),
    };
}

/// Adds a header to the response at hand.
pub fn set_response_header(name: &str, value: &str) {
    let _ = hostcalls::set_map_value(MapType::HttpResponseHeaders, name, Some(value));
}

/// Lets a request that was paused go on, by the number of its context. Envoy does so after the callback at hand. One that is gone
/// does not matter.
pub fn resume_request(context: u32) {
    if hostcalls::set_effective_context(context).is_ok() {
        let _ = hostcalls::resume_http_request();
    }
}

/// A line in Envoy's log.
pub fn log(level: LogLevel, line: &str) {
    let _ = hostcalls::log(level, line);
}

/// A process-wide counter or gauge, the same one in every worker. Its number is kept inverted (no host gives out the largest), so
/// that one that may be missing takes no more room: 256 services of eight zones have 25,000 of them.
#[derive(Debug, Clone, Copy)]
pub struct Metric(NonZeroU32);

impl Metric {
    /// Defines a counter, or finds the one of that name.
    pub fn counter(name: &str) -> Option<Self> {
        Self::define(MetricType::Counter, name)
    }

    /// Defines a gauge, or finds the one of that name.
    pub fn gauge(name: &str) -> Option<Self> {
        Self::define(MetricType::Gauge, name)
    }

    fn define(kind: MetricType, name: &str) -> Option<Self> {
        hostcalls::define_metric(kind, name).ok().and_then(|id| NonZeroU32::new(!id)).map(Self)
    }

    fn id(self) -> u32 {
        !self.0.get()
    }

    /// Adds one.
    pub fn bump(self) {
        self.add(1);
    }

    /// Adds some. Nothing is left out: the host takes a zero for a mistake.
    pub fn add(self, count: u32) {
        if count > 0 {
            let _ = hostcalls::increment_metric(self.id(), i64::from(count));
        }
    }

    /// Sets a gauge.
    pub fn set(self, value: u64) {
        let _ = hostcalls::record_metric(self.id(), value);
    }

    /// The value summed over all workers.
    pub fn get(self) -> u64 {
        hostcalls::get_metric(self.id()).unwrap_or_default()
    }
}

/// A value shared by the workers' VMs, with the stamp that [`share`] wants to replace it.
pub fn shared(key: &str) -> Option<(Bytes, u32)> {
    match hostcalls::get_shared_data(key) {
        Ok((Some(value), stamp)) => Some((value, stamp.unwrap_or_default())),
        _ => None,
    }
}

/// Replaces a shared value if it still carries `stamp`; with no stamp, whatever is there. False when another VM was first.
pub fn share(key: &str, value: &[u8], stamp: Option<u32>) -> bool {
    !matches!(hostcalls::set_shared_data(key, Some(value), stamp), Err(Status::CasMismatch))
}
