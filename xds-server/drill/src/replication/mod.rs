//! Replication measured: `etcdctl make-mirror` and ours between real etcds, by a client that knows neither of them. It writes to
//! the source, watches the destination, and keeps its own account of what was acknowledged.

mod contender;
mod kills;
mod load;
mod machine;
mod reads;
mod restore;
mod scenario;
mod section;
mod server;
mod table;
mod targets;

pub use kills::{Kills, kill_loop};
pub use load::{Lag, percentile};
pub use machine::{cores, free};
pub use scenario::Effort;
pub use section::Section;
pub use server::Server;
pub use table::put_into;

/// What is replicated in every measurement.
pub const PREFIX: &str = "/bench/";
