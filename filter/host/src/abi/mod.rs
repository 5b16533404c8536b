//! The proxy-wasm ABI 0.2.1 as a host offers it.

mod calls;
mod general;
mod guest;
mod headers;
mod link;
mod metric;
mod pairs;
mod property;
mod shared;
mod status;
#[cfg(test)]
mod tests;

pub use calls::{Call, Calls};
pub(crate) use link::link;
pub use status::Status;
