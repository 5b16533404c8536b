//! What can go wrong in the host itself, as against in the filter it hosts.

use std::path::PathBuf;

use zonebreak_core::names::InvalidName;

/// Why the host could not do what a test asked for. Each finishes the sentence "failed to ...".
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The module is not there, or not readable.
    #[error("read the module {path}: {why}; scripts/build makes it, ZONEBREAK_FILTER names another one")]
    Read {
        /// Where it was looked for.
        path: PathBuf,
        /// What the system says.
        why: std::io::Error,
    },
    /// The module is older than what it is made of.
    #[error("trust {path}: {newer} was changed after it was built; run scripts/build")]
    Stale {
        /// The module.
        path: PathBuf,
        /// A source that is newer.
        newer: PathBuf,
    },
    /// Not a module that wasmtime accepts.
    #[error("compile the module: {0:#}")]
    Compile(wasmtime::Error),
    /// It imports what a proxy-wasm host does not have.
    #[error("link the module: {0:#}")]
    Link(wasmtime::Error),
    /// A callback that the host needs is missing, or of another shape.
    #[error("find the callback {name} in the module: {why:#}")]
    Export {
        /// The callback.
        name: &'static str,
        /// What wasmtime says.
        why: wasmtime::Error,
    },
    /// The module failed while it was started.
    #[error("start a VM: {0}")]
    Start(#[from] Crashed),
    /// A mesh names a zone as no zone can be named.
    #[error("lay out the mesh: {0}")]
    Name(#[from] InvalidName),
    /// The plugin said no to its configuration. In Envoy: a NACK, and the configuration before goes on.
    #[error("configure the plugin: it refused; it said: {said}")]
    Refused {
        /// What it wrote to the log meanwhile.
        said: String,
    },
}

/// A VM has failed and runs no more: a trap, which is how a panic ends in wasm, now or earlier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the VM has crashed: {why}")]
pub struct Crashed {
    /// The trap, and the callback it happened in.
    pub why: String,
}
