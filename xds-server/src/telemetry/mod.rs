//! What the server tells about itself: the log, audit events and metrics.

pub mod audit;
pub mod log;
pub mod metrics;
mod xds;
