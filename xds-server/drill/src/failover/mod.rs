//! What a broken zone costs, side by side: Envoy's own means, Istio's use of them, and Zonebreak, each under the same faults
//! with the same load. The program is `bench-failover`.

mod contender;
mod drain;
mod native;
mod scenario;
mod table;
mod trial;
mod verdict;

pub use contender::Contender;
pub use drain::{Drained, drain_table, drains};
pub use scenario::Scenario;
pub use table::table;
pub use trial::{Timing, Trial, run};
pub use verdict::Verdict;
