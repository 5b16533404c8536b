//! The breaker's part of a policy, worked out once: no strings, no options left to resolve. Holds numbers; decides nothing.

use crate::{
    detector::Bar,
    latency::Yardstick,
    policy::{BreakerPolicy, DetectorKind, Enforcement, Slow},
    units::Millis,
};

/// What the machine needs to know of a policy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tuning {
    /// What trips.
    pub detector: DetectorKind,
    /// Whether decisions are carried out.
    pub enforcement: Enforcement,
    /// Evidence that `peers` asks for.
    pub bar: Bar,
    /// Failures in a row that `consecutive` asks for.
    pub run: u32,
    /// First time in the open state, in ms.
    pub open_ms: u64,
    /// Trial requests to be judged.
    pub trials: u32,
    /// From the first share back to the full one, in ms.
    pub ramp_ms: u64,
    /// Zones that may be away at a time.
    pub max_open: usize,
    /// Whether a zone sheds load on lesser evidence.
    pub shed: bool,
    /// What is slow.
    pub slow: Yardstick,
}

// === impl Tuning ===

impl From<&BreakerPolicy> for Tuning {
    fn from(policy: &BreakerPolicy) -> Self {
        let ns = |ms: Millis| ms.0.saturating_mul(1_000_000);
        Self {
            detector: policy.detector,
            enforcement: policy.enforcement,
            bar: policy.into(),
            run: policy.consecutive_failures.max(1),
            open_ms: policy.open_time().0,
            trials: policy.half_open_requests().max(1),
            ramp_ms: policy.ramp.0,
            max_open: policy.max_open_zones.max(1) as usize,
            shed: policy.shed,
            slow: match policy.slow {
                Slow::Absolute(limit) => Yardstick::Absolute(ns(limit)),
                Slow::OverPeers(over) => Yardstick::OverPeers(ns(over)),
            },
        }
    }
}

impl Tuning {
    /// Whether traffic follows the decisions.
    pub fn acts(&self) -> bool {
        self.enforcement == Enforcement::Enforce
    }
}

impl Default for Tuning {
    fn default() -> Self {
        Self::from(&BreakerPolicy::default())
    }
}
