//! The rules of the protocol, one test each, named by their number in the list that this crate was built to.

mod answers;
mod client;
mod errors;
mod model;
mod names;
mod order;
mod refusals;
mod resume;
mod subscriptions;
mod ttl;
