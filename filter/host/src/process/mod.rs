//! What all VMs of one Envoy process share: the clock, the metrics, the shared data, the log and the node.

mod level;
mod metrics;
mod node;
mod shared;
mod shared_data;

pub use level::{Level, LogLine};
pub use metrics::{MetricKind, Metrics};
pub use node::{Attributes, Node};
pub use shared::Process;
pub use shared_data::SharedData;
