//! A small mesh around one proxy: clients, a balancer as Envoy's is set up for the filter, and zones that fail as told.

mod balance;
mod ending;
mod fault;
mod flight;
mod journey;
mod queue;
mod record;
mod setup;
mod simulation;

pub use balance::{Locality, Target, choose};
pub use fault::{Effect, Fault};
pub use record::{Attempts, End, Ends, Record};
pub use setup::{Clients, Setup, ZoneSetup};
pub use simulation::Mesh;
