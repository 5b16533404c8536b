//! One Envoy: a main thread and workers, each with a VM of its own; plugins that are configured, replaced and reloaded.

mod failure;
mod plugin;
mod proxies;
mod stream;
mod thread;

pub use failure::{FailurePolicy, Reloads};
pub use plugin::Place;
pub use proxies::{Proxy, Settings};
pub use stream::{FilterStream, Opened};
