//! What time it is. Everything here that looks at a clock looks at this one.

use std::time::Instant;

/// The runtime's clock, which is the machine's, or a simulation's.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
