//! Replication measured: `etcdctl make-mirror` and ours between real etcds, by a client that knows neither of them. It writes to
//! the source, watches the destination, and keeps its own account of what was acknowledged.

mod contender;
mod kills;
mod load;
mod restore;
mod scenario;
mod table;

pub use contender::Contender;
pub use kills::{Kills, kill_loop};
pub use load::{Lag, percentile};
pub use restore::{Restored, restores, restores_table};
pub use scenario::{Effort, Scenario, measure};
pub use table::{Row, table};

/// What is replicated in every measurement.
pub const PREFIX: &str = "/bench/";
