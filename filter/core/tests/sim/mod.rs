//! A simulation of a proxy and its zones, and the promises that are held against it. Shared by the native tests and by those that
//! run as wasm32 under Node.

#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used)]
#![allow(clippy::panic)]

pub mod envoy;
pub mod kinds;
#[cfg(target_arch = "wasm32")]
pub mod memory;
pub mod rng;
pub mod scenarios;
pub mod storm;
pub mod world;
