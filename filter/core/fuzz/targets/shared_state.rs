//! Bytes as the state that workers share. What is held stands in `harness/shared_state.rs`.

#![no_main]

#[path = "../harness/mod.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| harness::shared_state::run(bytes));
