//! What must hold of core for any bytes whatsoever: each module has a `run` that takes them and panics when it does not. The fuzz
//! targets call these with bytes that a fuzzer breeds, the ordinary tests with the corpus in `testdata/fuzz` and with random ones
//! (`tests/fuzz.rs`). Finds nothing by itself.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a harness panics when a promise is broken, and runs in no sidecar"
)]
#![allow(dead_code, reason = "each fuzz target calls one of these")]

pub mod engine;
pub mod events;
pub mod policy;
pub mod proxy;
pub mod script;
pub mod shared_state;
