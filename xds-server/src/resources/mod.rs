//! A topology view in Envoy's words: the one place that knows both worlds.

mod cluster;
mod endpoint;
mod filter;
mod listener;
mod moment;
mod route;
mod snapshot;
mod sources;

pub use filter::Module;
pub use listener::name as listener_name;
pub use moment::of_the_moment;
pub use snapshot::{Clash, Options, snapshot};

use envoy_types::pb::google::protobuf::Any;
use prost::{Message, Name};

/// A message in its envelope.
fn packed<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

#[cfg(test)]
mod tests;
