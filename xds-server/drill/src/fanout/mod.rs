//! What one change costs an xDS server with many clients: a swarm of clients that cost next to nothing, the same measurements on
//! our engine and on go-control-plane, and the figures as Markdown.
//!
//! A client here subscribes, acknowledges and reconnects as Envoy does, and decodes no resource: two cores are shared with the
//! server that is measured, so every microsecond a client takes is one the server does not have.

mod client;
mod contender;
mod frames;
mod measure;
mod messages;
mod plan;
mod scan;
mod swarm;
mod table;
mod targets;

pub use contender::{Cache, Servers};
pub use measure::{Figures, Storm, Sustained, floor, measure};
pub use plan::{Plan, Speaks};
pub use table::table;
pub use targets::targets;
