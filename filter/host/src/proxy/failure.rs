//! What Envoy does about a VM that has crashed. A decision only; [`super::thread`] carries it out.

use std::time::Duration;

/// `failure_policy` of the plugin, with what a real Envoy 1.40 was seen to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailurePolicy {
    /// Every request of that worker gets 503, for ever. So does a policy that is not set, whatever the changelog says.
    Closed,
    /// Every later request goes on without the filter, for ever.
    Open,
    /// The next request reloads the VM; while the last load is more recent than the back-off, requests get 503.
    Reload {
        /// `reload_config.backoff.base_interval`; Envoy adds up to a half of it at random.
        base: Duration,
    },
}

/// What became of crashed VMs (`wasm.<name>.vm_reload_*` in Envoy's stats).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reloads {
    /// Plugins that run again in a new VM.
    pub succeeded: u64,
    /// New VMs that failed or refused as well.
    pub failed: u64,
    /// Requests that found the last load too recent.
    pub backed_off: u64,
}

/// What to do for a request that finds its VM crashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remedy {
    FailRequest,
    Bypass,
    Reload,
    WaitAndFail,
}

// === impl FailurePolicy ===

impl FailurePolicy {
    /// `since_load` is the time since the plugin was last loaded or tried; `chance` is uniform in 0 to 1.
    pub(super) fn remedy(self, since_load: Duration, chance: f64) -> Remedy {
        match self {
            Self::Closed => Remedy::FailRequest,
            Self::Open => Remedy::Bypass,
            Self::Reload { base } if since_load < base.mul_f64(1.0 + chance / 2.0) => Remedy::WaitAndFail,
            Self::Reload { .. } => Remedy::Reload,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_crash_soon_after_a_load_waits() {
        let policy = FailurePolicy::Reload { base: Duration::from_millis(200) };
        for (since_ms, chance, remedy) in [
            (0, 0.0, Remedy::WaitAndFail),
            (199, 0.0, Remedy::WaitAndFail),
            (200, 0.0, Remedy::Reload),
            (299, 1.0, Remedy::WaitAndFail),
            (300, 1.0, Remedy::Reload),
        ] {
            assert_eq!(policy.remedy(Duration::from_millis(since_ms), chance), remedy, "{since_ms} ms");
        }
        assert_eq!(FailurePolicy::Open.remedy(Duration::MAX, 0.0), Remedy::Bypass);
        assert_eq!(FailurePolicy::Closed.remedy(Duration::MAX, 0.0), Remedy::FailRequest);
    }
}
