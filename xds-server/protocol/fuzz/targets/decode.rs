//! Bytes as a request on the wire. What is held stands in `harness/mod.rs`.

#![no_main]

#[path = "../harness/mod.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| harness::decode(bytes));
