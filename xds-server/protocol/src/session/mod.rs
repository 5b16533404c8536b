//! One stream's side of the protocol, as a state machine without I/O. It begins in `machine.rs`.

mod attribution;
mod event;
mod heard;
mod held;
mod machine;
mod names;
mod order;
mod release;
mod settle;
mod status;
mod subscription;
#[cfg(test)]
mod tests;
mod watch;

pub use event::{Effect, Event, Nack, Request, Resources, Response};
pub use heard::{Heard, HeardError};
pub use machine::{Session, SessionOptions};
pub use status::{NackStatus, TypeStatus};
pub(crate) use status::{ResourceState, ResourceStatus};
