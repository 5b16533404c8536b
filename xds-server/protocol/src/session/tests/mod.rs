//! The rules of the protocol, one test each, named by their number in the list that this crate was built to.

mod answers;
mod client;
mod model;
mod order;
mod refusals;
mod resume;
mod subscriptions;
