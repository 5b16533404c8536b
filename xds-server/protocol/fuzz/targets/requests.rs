//! Bytes as the requests, answers and changes of one stream. What is held stands in `harness/mod.rs`.

#![no_main]

#[path = "../harness/mod.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| harness::requests(bytes));
