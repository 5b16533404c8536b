//! A service looked at for `zonebreak explain`. The filter never calls it, so the linker leaves it out of the module.

use super::Service;
use crate::breaker::machine::{ZoneAssessment, assess};

// === impl Service ===

impl Service {
    /// How near each zone is to being left, as of the last tick.
    pub fn assess(&self, now: u64) -> Vec<ZoneAssessment> {
        assess(&self.state, &self.tuning, &self.sights(now), now)
    }
}
