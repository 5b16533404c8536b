//! The same promises as in `simulation.rs`, held by the code that runs in Envoy: wasm32, here under Node.

#![cfg(target_arch = "wasm32")]

mod sim;

scenarios!(wasm_bindgen_test::wasm_bindgen_test);

#[wasm_bindgen_test::wasm_bindgen_test]
fn everything_fits_into_a_megabyte() {
    sim::memory::everything_fits_into_a_megabyte();
}
