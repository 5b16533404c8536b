//! The breaker's promises, held in a simulation of a proxy with several workers and of its zones. Deterministic: a failure
//! repeats.

#![cfg(not(target_arch = "wasm32"))]

mod sim;

scenarios!(test);
