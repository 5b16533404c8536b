//! What an operator says about a service, in etcd or a file, and what the filter is told: one type for both sides.
//! Every default stands in this file and nowhere else. Describes; decides nothing.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

mod actuation;

pub use actuation::{AbortPolicy, AbortWhen, SpillPolicy, Spread, Sticky};

use crate::{
    config::MAX_ZONES,
    names::Zone,
    units::{Millis, Percent},
    words::words,
};

/// How a service is reached and protected. Unknown fields are errors; absent ones take the defaults below.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServicePolicy {
    /// `Host` names that reach the service through the sidecar; the service's own name when empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Port on which sidecars listen for it (default 8080).
    pub port: u16,
    /// How the zones share the load (default `strong`).
    pub mode: Mode,
    /// Shares by zone, relative to each other; a zone that is not named gets none while others live. Empty: in `eventual`
    /// mode 80 for the caller's own zone, 20 for the rest by their endpoints' weights.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<Zone, u32>,
    /// In `strong` mode, the share of the requests that goes to the other zones all the same, by their weights, 0 to 50 % (default
    /// 0): so that there are peers to compare the own zone with, at the price of so much traffic between zones. 5 % to 10 %
    /// are enough. In `eventual` mode the weights say it.
    #[serde(skip_serializing_if = "is_default")]
    pub explore: Percent,
    /// How what goes to other zones than the own one is spread over them (default `by_weight`).
    #[serde(skip_serializing_if = "is_default")]
    pub spread: Spread,
    /// What keeps a user in his zone; nothing when absent, and each request is drawn by chance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Sticky>,
    /// When a zone is left and how it is taken back.
    pub breaker: BreakerPolicy,
    /// Requests failed or delayed on purpose: so that callers back off before the surviving zones drown, or as a drill.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abort: Option<AbortPolicy>,
    /// What a surviving zone may take over at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spill: Option<SpillPolicy>,
    /// A failed attempt is tried again in another zone.
    pub retry: RetryPolicy,
    /// For a whole exchange, retries included; none when absent, so that streams and downloads run as long as they like.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Millis>,
    /// Active health checks, run by every Envoy; none when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbePolicy>,
}

/// How the zones share the load of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Everything to the caller's own zone; another zone only when the own one is broken.
    #[default]
    Strong,
    /// Weighted shares, 80 % in the caller's own zone unless `weights` says otherwise; so that there are peers to compare.
    Eventual,
}

/// When a zone is left and how it is taken back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerPolicy {
    /// What trips (default `peers`).
    pub detector: DetectorKind,
    /// How much evidence `peers` asks for (default `normal`).
    pub sensitivity: Sensitivity,
    /// Share of failures, in steps of 0.1, that a zone may have for `peers` when there are no other zones to compare it with (default
    /// 10; 1 to 90). More of it than that, beyond chance, and it is left; taken back if that did not help.
    pub absolute: Percent,
    /// Failures in a row that trip `consecutive` (default 5).
    pub consecutive_failures: u32,
    /// How long a zone stays open before it is tried again (default 5s with `peers`, 30s with `consecutive`). Doubles at each
    /// reopening up to 60s or this value, whichever is more, with 10 % jitter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open: Option<Millis>,
    /// Requests let through to a half-open zone before it is judged (default 100 with `consecutive`, 20 with `peers`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub half_open_max_requests: Option<u32>,
    /// What counts as a slow call (default `50ms over peers`).
    pub slow: Slow,
    /// How long a zone takes from its first probe share back to its full share (default 20s).
    pub ramp: Millis,
    /// How many zones the breaker may leave by itself at the same time, 1 to 7 (default 1). Zones on trial and on the way back
    /// count. The last zone that has endpoints and is in full use is never left, whatever the number.
    #[serde(skip_serializing_if = "is_one")]
    pub max_open_zones: u32,
    /// Whether a zone that looks worse than its peers sheds load before there is evidence enough to leave it (default false; with
    /// detector `peers` only). See [`crate::breaker::shed`].
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub shed: bool,
    /// Whether decisions are carried out (default `enforce`).
    pub enforcement: Enforcement,
}

/// What trips a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DetectorKind {
    /// A zone whose failures, slow calls or connect failures its peers' rate cannot explain.
    #[default]
    Peers,
    /// A run of failures, as in gobreaker.
    Consecutive,
}

/// How much evidence the `peers` detector asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sensitivity {
    /// Wilson z = 2, KL 9: faster, about one false trip a day at 5 % errors where shares are uneven.
    Fast,
    /// Wilson z = 3, KL 9.
    #[default]
    Normal,
    /// Wilson z = 3, KL 12: for services with a rough baseline.
    Safe,
}

/// Whether the breaker's decisions are carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Enforcement {
    /// Decide and act.
    #[default]
    Enforce,
    /// Decide, count and log, and leave the traffic alone.
    Shadow,
    /// Neither watch nor act; drains still hold.
    Disabled,
}

/// What counts as a slow call: written `50ms over peers` or `2s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slow {
    /// Slower than the peers' typical response by more than this.
    OverPeers(Millis),
    /// Slower than this, whatever the peers do.
    Absolute(Millis),
}

/// A failed attempt is tried again in another zone, by Envoy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetryPolicy {
    /// Further attempts after the first (default 1; 0 turns it off).
    pub attempts: u32,
    /// Retries in flight, as a share of the active requests (default 20).
    pub budget_percent: Percent,
    /// Also retry POST, PATCH and CONNECT after failures that the service may have acted on (default false: those are tried
    /// again only where the request cannot have arrived, and gRPC where the service answered UNAVAILABLE).
    pub non_idempotent: bool,
}

/// Active health checks by every Envoy, on each endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProbePolicy {
    /// Path to GET; a plain TCP connect when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// Connect only (what happens anyway when `http` is absent).
    pub tcp: bool,
    /// Between two checks (default 3s).
    pub interval: Millis,
    /// For one check (default 5s).
    pub timeout: Millis,
    /// Failures in a row that make an endpoint unhealthy (default 3).
    pub unhealthy_after: u32,
    /// Successes in a row that make it healthy (default 2).
    pub healthy_after: u32,
    /// Status classes that count as success (default `2xx`).
    pub expected: Vec<StatusClass>,
}

/// A class of HTTP statuses, written `2xx`; or one status, written `204`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusClass {
    /// First status of the class.
    pub first: u16,
    /// Last status of the class.
    pub last: u16,
}

/// Why a policy that parses cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct InvalidPolicy {
    /// Dotted path of the field.
    pub field: &'static str,
    /// What is wrong and what is allowed.
    pub why: String,
}

fn is_one(number: &u32) -> bool {
    *number == 1
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

words! { Mode { Strong = "strong", Eventual = "eventual" } }

words! { DetectorKind { Peers = "peers", Consecutive = "consecutive" } }

words! { Sensitivity { Fast = "fast", Normal = "normal", Safe = "safe" } }

words! { Enforcement { Enforce = "enforce", Shadow = "shadow", Disabled = "disabled" } }

// === impl ServicePolicy ===

impl Default for ServicePolicy {
    fn default() -> Self {
        Self {
            hosts: Vec::new(),
            port: 8080,
            mode: Mode::default(),
            weights: BTreeMap::new(),
            explore: Percent::ZERO,
            spread: Spread::default(),
            sticky: None,
            breaker: BreakerPolicy::default(),
            abort: None,
            spill: None,
            retry: RetryPolicy::default(),
            timeout: None,
            probe: None,
        }
    }
}

impl ServicePolicy {
    /// The weight of a zone's locality in EDS: what `weights` says, or without any its `capacity`, the sum of its endpoints'
    /// weights. The control plane emits it, and the filter counts on it wherever it leaves the choice among zones to Envoy.
    pub fn zone_weight(&self, zone: &Zone, capacity: u32) -> u32 {
        if self.weights.is_empty() { capacity } else { self.weights.get(zone).copied().unwrap_or_default() }
    }

    /// Checks what types alone cannot: ranges, and fields that only make sense together.
    pub fn validate(&self) -> Result<(), InvalidPolicy> {
        let fail = |field, why: &str| Err(InvalidPolicy { field, why: why.to_owned() });
        if self.port == 0 {
            return fail("port", "must be 1 to 65535");
        }
        if self
            .hosts
            .iter()
            .any(|h| h.is_empty() || h.contains(|c: char| c.is_whitespace() || c == '/' || c == ':'))
        {
            return fail(
                "hosts",
                "a host is a name such as order-svc.prod, without scheme, port, path or spaces",
            );
        }
        if !self.weights.is_empty() && self.weights.values().all(|w| *w == 0) {
            return fail("weights", "at least one zone needs a weight above 0");
        }
        if self.weights.values().any(|w| *w > 10_000) {
            return fail("weights", "a weight is at most 10000");
        }
        if !(10..=900).contains(&self.breaker.absolute.permille()) {
            return fail("breaker.absolute", "must be 1 to 90: a percentage of failed attempts");
        }
        if self.breaker.consecutive_failures == 0 {
            return fail("breaker.consecutive_failures", "must be at least 1");
        }
        if self.breaker.open.is_some_and(|open| open.0 < 100) {
            return fail("breaker.open", "must be at least 100ms");
        }
        if self.breaker.slow.time() < Millis(1) {
            return fail("breaker.slow", "must be at least 1ms: every answer takes longer than 0ms");
        }
        if self.breaker.half_open_max_requests == Some(0) {
            return fail("breaker.half_open_max_requests", "must be at least 1");
        }
        if !(1..MAX_ZONES as u32).contains(&self.breaker.max_open_zones) {
            return fail("breaker.max_open_zones", "must be 1 to 7");
        }
        if self.breaker.shed && self.breaker.detector != DetectorKind::Peers {
            return fail(
                "breaker.shed",
                "needs the detector peers: a run of failures says nothing about shares",
            );
        }
        if self.explore.permille() > 500 {
            return fail("explore", "must be 0 to 50");
        }
        if self.explore != Percent::ZERO && self.mode == Mode::Eventual {
            return fail(
                "explore",
                "is for mode strong; in mode eventual the weights say what other zones get",
            );
        }
        self.sticky.iter().try_for_each(Sticky::validate)?;
        self.abort.iter().try_for_each(AbortPolicy::validate)?;
        self.spill.iter().try_for_each(SpillPolicy::validate)?;
        if self.retry.attempts > 3 {
            return fail("retry.attempts", "must be 0 to 3: more turns a fault into a storm");
        }
        if let Some(probe) = &self.probe {
            if probe.http.as_ref().is_some_and(|path| !path.starts_with('/')) {
                return fail("probe.http", "must be a path that starts with /");
            }
            if probe.interval.0 == 0 || probe.timeout.0 == 0 {
                return fail("probe.interval", "interval and timeout must be above 0");
            }
            if probe.unhealthy_after == 0 || probe.healthy_after == 0 {
                return fail("probe.unhealthy_after", "unhealthy_after and healthy_after must be at least 1");
            }
        }
        Ok(())
    }
}

// === impl BreakerPolicy ===

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self {
            detector: DetectorKind::default(),
            sensitivity: Sensitivity::default(),
            absolute: Percent::new(10.0).unwrap_or_default(),
            consecutive_failures: 5,
            open: None,
            half_open_max_requests: None,
            slow: Slow::default(),
            ramp: Millis::secs(20),
            max_open_zones: 1,
            shed: false,
            enforcement: Enforcement::default(),
        }
    }
}

impl BreakerPolicy {
    /// The first time that a tripped zone stays open.
    pub fn open_time(&self) -> Millis {
        self.open.unwrap_or(match self.detector {
            DetectorKind::Peers => Millis::secs(5),
            DetectorKind::Consecutive => Millis::secs(30),
        })
    }

    /// Trial requests to a half-open zone.
    pub fn half_open_requests(&self) -> u32 {
        self.half_open_max_requests.unwrap_or(match self.detector {
            DetectorKind::Peers => 20,
            DetectorKind::Consecutive => 100,
        })
    }
}

// === impl Slow ===

impl Default for Slow {
    fn default() -> Self {
        Self::OverPeers(Millis(50))
    }
}

impl Slow {
    /// The time in it.
    const fn time(self) -> Millis {
        match self {
            Self::OverPeers(time) | Self::Absolute(time) => time,
        }
    }
}

impl FromStr for Slow {
    type Err = crate::units::InvalidUnit;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_suffix(" over peers") {
            Some(over) => over.parse().map(Self::OverPeers),
            None => text.parse().map(Self::Absolute),
        }
    }
}

impl fmt::Display for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OverPeers(over) => write!(f, "{over} over peers"),
            Self::Absolute(limit) => write!(f, "{limit}"),
        }
    }
}

impl Serialize for Slow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Slow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

// === impl RetryPolicy ===

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts: 1, budget_percent: Percent::new(20.0).unwrap_or_default(), non_idempotent: false }
    }
}

// === impl ProbePolicy ===

impl Default for ProbePolicy {
    fn default() -> Self {
        Self {
            http: None,
            tcp: true,
            interval: Millis::secs(3),
            timeout: Millis::secs(5),
            unhealthy_after: 3,
            healthy_after: 2,
            expected: vec![StatusClass { first: 200, last: 299 }],
        }
    }
}

// === impl StatusClass ===

impl Serialize for StatusClass {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.first == self.last {
            serializer.collect_str(&self.first)
        } else {
            serializer.collect_str(&format_args!("{}xx", self.first.checked_div(100).unwrap_or_default()))
        }
    }
}

impl<'de> Deserialize<'de> for StatusClass {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bad = || D::Error::custom(format!("a status is written 2xx or 204, not {text:?}"));
        let (first, last) = match text.strip_suffix("xx") {
            Some(class) => {
                let class = class.parse::<u16>().map_err(|_| bad())?;
                let first = class.saturating_mul(100);
                (first, first.saturating_add(99))
            }
            None => {
                let one = text.parse::<u16>().map_err(|_| bad())?;
                (one, one)
            }
        };
        if (100..=599).contains(&first) { Ok(Self { first, last }) } else { Err(bad()) }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    const EXAMPLE: &str = r#"{ "hosts": ["order-svc", "order-svc.prod"], "port": 8080,
        "mode": "eventual", "weights": {"az-a": 80, "az-b": 20},
        "breaker": {"detector": "peers", "sensitivity": "normal", "consecutive_failures": 5, "open": "30s",
                    "half_open_max_requests": 100, "slow": "50ms over peers", "ramp": "20s",
                    "max_open_zones": 2, "shed": true},
        "spread": "by_latency", "sticky": {"cookie": "session"},
        "abort": {"percent": 5, "status": 503, "when": "zone_degraded", "zones": ["az-b"],
                  "until": "2026-11-25T22:00:00Z", "delay": "200ms", "delay_percent": 12.5},
        "spill": {"max_rps": 500, "max_share": 0.5, "headroom": 0.5, "adaptive": false},
        "retry": {"attempts": 1, "budget_percent": 20},
        "probe": {"http": "/health", "tcp": true, "interval": "3s", "timeout": "5s",
                  "unhealthy_after": 3, "healthy_after": 2, "expected": ["2xx", "3xx"]} }"#;

    #[test]
    fn the_documented_example_reads_and_prints_the_same() {
        let policy: ServicePolicy = serde_json::from_str(EXAMPLE).unwrap();
        policy.validate().unwrap();
        assert_eq!(policy.breaker.slow, Slow::OverPeers(Millis(50)));
        let again: ServicePolicy = serde_json::from_str(&serde_json::to_string(&policy).unwrap()).unwrap();
        assert_eq!(policy, again);
    }

    #[test]
    fn an_empty_policy_is_all_defaults_and_valid() {
        let policy: ServicePolicy = serde_json::from_str("{}").unwrap();
        assert_eq!(policy, ServicePolicy::default());
        policy.validate().unwrap();
    }

    #[test]
    fn unknown_and_senseless_fields_are_refused() {
        for (bad, says) in [
            (r#"{"breaker": {"detektor": "peers"}}"#, "unknown field `detektor`"),
            (r#"{"mode": "fast"}"#, "unknown variant `fast`"),
            (r#"{"breaker": {"open": "soon"}}"#, "a duration is a whole number with a unit"),
            (r#"{"abort": {"percent": 101}}"#, "between 0 and 100"),
            (r#"{"sticky": {"header": "a", "cookie": "b"}}"#, "line 1"),
            (r#"{"sticky": {"query": "a"}}"#, "unknown variant `query`"),
            (r#"{"spread": "by_distance"}"#, "unknown variant `by_distance`"),
            (r#"{"abort": {"until": "tomorrow"}}"#, "a time is written 2026-"),
            (r#"{"abort": {"zones": ["az a"]}}"#, "a zone name holds"),
            (r#"{"probe": {"expected": ["9xx"]}}"#, "a status is written 2xx or 204"),
        ] {
            let error = serde_json::from_str::<ServicePolicy>(bad).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        for (bad, field) in [
            (r#"{"port": 0}"#, "port"),
            (r#"{"hosts": ["order-svc:8080"]}"#, "hosts"),
            (r#"{"weights": {"az-a": 0}}"#, "weights"),
            (r#"{"abort": {"percent": 5, "status": 200}}"#, "abort.status"),
            (r#"{"breaker": {"absolute": 0.5}}"#, "breaker.absolute"),
            (r#"{"breaker": {"slow": "0ms"}}"#, "breaker.slow"),
            (r#"{"breaker": {"slow": "0ms over peers"}}"#, "breaker.slow"),
            (r#"{"retry": {"attempts": 9}}"#, "retry.attempts"),
            (r#"{"spill": {"max_share": 2}}"#, "spill.max_share"),
            (r#"{"spill": {"headroom": -0.5}}"#, "spill.headroom"),
            (r#"{"abort": {}}"#, "abort.percent"),
            (r#"{"abort": {"delay": "50ms"}}"#, "abort.delay"),
            (r#"{"abort": {"delay": "2m"}}"#, "abort.delay"),
            (r#"{"sticky": {"header": "x user"}}"#, "sticky"),
            (r#"{"sticky": {"cookie": ":path"}}"#, "sticky"),
            (r#"{"explore": 60}"#, "explore"),
            (r#"{"explore": 5, "mode": "eventual"}"#, "explore"),
            (r#"{"breaker": {"max_open_zones": 0}}"#, "breaker.max_open_zones"),
            (r#"{"breaker": {"max_open_zones": 8}}"#, "breaker.max_open_zones"),
            (r#"{"breaker": {"shed": true, "detector": "consecutive"}}"#, "breaker.shed"),
        ] {
            let policy: ServicePolicy = serde_json::from_str(bad).unwrap();
            assert_eq!(policy.validate().unwrap_err().field, field);
        }
    }
}
