//! For tests: what the filter runs in, without Envoy. Worker threads with a wasm VM each, the host calls of proxy-wasm ABI
//! 0.2.1 as Envoy answers them, plugins that are configured and replaced, VMs that crash and are reloaded
//! ([`proxy`]); and around it a small mesh of zones that fail in every way a zone can ([`mesh`]). All under a virtual clock
//! and on one thread: hours pass in seconds, and a run repeats exactly.
//!
//! It runs the real module, the same file that Envoy loads. What it claims of Envoy is written where it is done; the claims
//! themselves are checked against a real Envoy by the end-to-end tests, never here.

pub mod abi;
mod error;
pub mod mesh;
pub mod process;
pub mod proxy;
pub mod vm;

pub use error::{Crashed, HostError};
