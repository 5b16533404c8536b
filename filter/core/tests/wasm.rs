//! The same promises as in `simulation.rs` and `fuzz.rs`, held by the code that runs in Envoy: wasm32, here under Node.

#![cfg(target_arch = "wasm32")]

#[path = "../fuzz/harness/mod.rs"]
mod harness;
mod sim;

scenarios!(wasm_bindgen_test::wasm_bindgen_test);

#[wasm_bindgen_test::wasm_bindgen_test]
fn everything_fits_into_a_megabyte() {
    sim::memory::everything_fits_into_a_megabyte();
}

/// A length or a counter that fits into the host's `usize` need not fit into this one of 32 bits.
#[wasm_bindgen_test::wasm_bindgen_test]
fn random_bytes_break_no_promise() {
    let mut rng = sim::rng::Rng::new(32);
    for length in 0..1_000 {
        let bytes: Vec<u8> = (0..length).map(|_| rng.next() as u8).collect();
        harness::events::run(&bytes);
        harness::shared_state::run(&bytes[..length % 200]);
    }
}

#[wasm_bindgen_test::wasm_bindgen_test]
fn policies_are_refused_or_usable() {
    let inputs: [&[u8]; 7] = [
        include_bytes!("../../../testdata/fuzz/policy/all-fields-of-a-policy.json"),
        include_bytes!("../../../testdata/fuzz/policy/cut.json"),
        include_bytes!("../../../testdata/fuzz/policy/downstream.json"),
        include_bytes!("../../../testdata/fuzz/policy/extreme-times.json"),
        include_bytes!("../../../testdata/fuzz/policy/long-fraction.json"),
        include_bytes!("../../../testdata/fuzz/policy/nine-zones.json"),
        include_bytes!("../../../testdata/fuzz/policy/not-text.bin"),
    ];
    for input in inputs {
        for end in 0..=input.len() {
            harness::policy::run(&input[..end]);
        }
    }
}
