//! The filter as it runs in Envoy, the real module in several workers, through faults, crashes and new policies.

mod actuation;
mod calm;
mod compatibility;
mod cost;
mod counting;
mod crashes;
mod endings;
mod endurance;
mod faults;
mod policies;
mod refusals;
mod support;
mod workers;
