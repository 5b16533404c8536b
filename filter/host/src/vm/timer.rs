//! The tick of one root context. Envoy arms it again when the callback is through, so it drifts by what the event loop adds.

use std::time::Duration;

/// When a root context ticks next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timer {
    period: Duration,
    due: Duration,
}

// === impl Timer ===

impl Timer {
    pub fn new(period: Duration, now: Duration) -> Self {
        Self { period, due: now + period }
    }

    pub fn due(&self) -> Duration {
        self.due
    }

    /// Arms it again, `late` after its period.
    pub fn again(&mut self, now: Duration, late: Duration) {
        self.due = now + self.period + late;
    }
}
