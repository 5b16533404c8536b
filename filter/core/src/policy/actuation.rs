//! The part of a policy that says where requests go and which are held back: stickiness, spread, aborts, delays, spill.
//! Describes; decides nothing.

use serde::{Deserialize, Serialize};

use crate::{
    instant::Instant,
    names::Zone,
    policy::InvalidPolicy,
    units::{Millis, Percent},
    words::words,
};

/// What keeps a user in his zone: written `{"header": "x-user-id"}` or `{"cookie": "session"}`.
///
/// The zone of a request is then drawn by a hash of that value ([`crate::sticky`]), the same in every proxy, instead of by
/// chance; a request without it is drawn by chance. Two things to know: pick a value that many users differ in, since shares are
/// only as exact as the hash is even; and a user outside his proxy's own zone is bound to one zone by name, so that a retry of
/// his goes to another endpoint of that zone and not to another zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sticky {
    /// The value of a request header.
    Header(String),
    /// The value of a cookie.
    Cookie(String),
}

/// How what goes to other zones than the own one is spread over them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Spread {
    /// By weight alone.
    #[default]
    ByWeight,
    /// By weight, and more to the faster ones: a zone is drawn to in proportion to weight / (typical response time + 5 ms), but
    /// never gets more than one and a half times its part by weight, so that the fastest is not overrun by every proxy at once.
    /// What goes beyond a zone's part by weight is retried within that zone.
    ByLatency,
}

/// Requests failed, or delayed, on purpose. Trial requests to a half-open zone are left alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AbortPolicy {
    /// Share of the requests to fail, in steps of 0.1 (default 0).
    pub percent: Percent,
    /// Status to fail them with (default 503).
    pub status: u16,
    /// When (default `zone_degraded`).
    pub when: AbortWhen,
    /// Only requests that would go to one of these zones; all when empty. While such a drill runs, requests to other zones than
    /// the own one name their zone, so that a retry of theirs stays in it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<Zone>,
    /// Until when, in RFC 3339 (`2026-11-25T22:00:00Z`) or as a Unix time in ms; without end when absent. The filter ends it by
    /// its own clock, with or without a control plane.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Instant>,
    /// How long to hold a request back before it goes on, for drills: to the nearest 100 ms tick, 100ms to 1m; none when absent.
    /// Of no account for how fast a zone is taken to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<Millis>,
    /// Share of the requests to hold back, of those that are not failed (default 100).
    pub delay_percent: Percent,
}

/// When requests are failed or delayed on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AbortWhen {
    /// At all times: a drill.
    Always,
    /// While any zone of the service is not closed: open, half-open, ramping, shed or drained.
    #[default]
    ZoneDegraded,
    /// While a zone is open.
    ZoneOpen,
}

/// What the surviving zones may take over at most, by the breaker's doing or the operator's. Requests over it are failed with
/// 503, and a `retry-after` that grows from 1 s to 10 s with the share that is failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpillPolicy {
    /// Requests a second that each worker of a proxy may move out of left zones; no bound when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rps: Option<u32>,
    /// Fraction of all requests, 0 to 1, that this proxy may move out of left zones; no bound when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_share: Option<f64>,
    /// How much more than usual the surviving zones may carry, as a fraction of what they usually do, 0 to 10; no bound when
    /// absent. Of what is moved at most `headroom * capacity of the survivors / capacity lost` is, and each of them gets at most
    /// its part of that; capacity is the sum of the endpoints' weights. With three equal zones one can be lost whole at 0.5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headroom: Option<f64>,
    /// Whether moved requests are throttled further while the surviving zones do not answer them (default true): once fewer
    /// than half of those of the last 10 s were answered, with the probability of [`crate::throttle`].
    pub adaptive: bool,
}

/// The longest delay; what is longer is a hang, and an abort says so sooner.
const LONGEST_DELAY: Millis = Millis::secs(60);
/// The filter ticks so often; a shorter delay would be none.
const SHORTEST_DELAY: Millis = Millis(100);

// === impl Sticky ===

impl Sticky {
    pub(super) fn validate(&self) -> Result<(), InvalidPolicy> {
        let (Self::Header(name) | Self::Cookie(name)) = self;
        // A token (RFC 9110, 5.6.2), which is what names of headers and of cookies are. Pseudo headers begin with a colon.
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".chars().any(|one| one == c);
        let bare =
            if matches!(self, Self::Header(_)) { name.strip_prefix(':').unwrap_or(name) } else { name };
        if !bare.is_empty() && bare.chars().all(token) {
            return Ok(());
        }
        let why = "must be the name of a header or a cookie: letters, digits and any of !#$%&'*+-.^_`|~";
        Err(InvalidPolicy { field: "sticky", why: why.to_owned() })
    }
}

words! { Spread { ByWeight = "by_weight", ByLatency = "by_latency" } }

words! { AbortWhen { Always = "always", ZoneDegraded = "zone_degraded", ZoneOpen = "zone_open" } }

// === impl AbortPolicy ===

impl Default for AbortPolicy {
    fn default() -> Self {
        Self {
            percent: Percent::ZERO,
            status: 503,
            when: AbortWhen::default(),
            zones: Vec::new(),
            until: None,
            delay: None,
            delay_percent: Percent::FULL,
        }
    }
}

impl AbortPolicy {
    pub(super) fn validate(&self) -> Result<(), InvalidPolicy> {
        let fail = |field, why: &str| Err(InvalidPolicy { field, why: why.to_owned() });
        if !(400..=599).contains(&self.status) {
            return fail("abort.status", "must be 400 to 599");
        }
        if self.percent == Percent::ZERO && self.delay.is_none() {
            return fail("abort.percent", "must be above 0, or abort.delay given: this would do nothing");
        }
        if self.delay.is_some_and(|delay| !(SHORTEST_DELAY..=LONGEST_DELAY).contains(&delay)) {
            return fail("abort.delay", "must be 100ms to 1m");
        }
        Ok(())
    }
}

// === impl SpillPolicy ===

impl Default for SpillPolicy {
    fn default() -> Self {
        Self { max_rps: None, max_share: None, headroom: None, adaptive: true }
    }
}

impl SpillPolicy {
    pub(super) fn validate(&self) -> Result<(), InvalidPolicy> {
        let fail = |field, why: &str| Err(InvalidPolicy { field, why: why.to_owned() });
        if self.max_share.is_some_and(|share| !(0.0..=1.0).contains(&share)) {
            return fail("spill.max_share", "must be 0 to 1");
        }
        if self.headroom.is_some_and(|headroom| !(0.0..=10.0).contains(&headroom)) {
            return fail("spill.headroom", "must be 0 to 10; 0.5 lets the rest carry half as much again");
        }
        Ok(())
    }
}
