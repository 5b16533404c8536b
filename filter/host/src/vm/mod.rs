//! One VM: an instance of a module, its contexts, and the callbacks that Envoy makes into it.

mod callbacks;
mod exports;
mod headers;
mod instance;
mod module;
#[cfg(test)]
mod probe;
mod root;
mod state;
mod stream;
mod stream_info;
mod timer;

pub use callbacks::Verdict;
pub use headers::Headers;
pub use instance::Vm;
pub use module::Module;
pub use state::{CrashPoint, VmState};
pub use stream::{LocalResponse, MapKind, Stream};
pub use stream_info::{DOWNSTREAM_GONE, Host, StreamInfo};
