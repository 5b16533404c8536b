//! Bytes as a configuration and a stream of events. What is held stands in `harness/events.rs`.

#![no_main]

#[path = "../harness/mod.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| harness::events::run(bytes));
