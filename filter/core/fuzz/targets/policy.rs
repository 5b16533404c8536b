//! Bytes as a configuration of the filter and as a policy of a service. What is held stands in `harness/policy.rs`.

#![no_main]

#[path = "../harness/mod.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| harness::policy::run(bytes));
