//! The zone breaker inside Envoy: proxy-wasm host calls around `zonebreak-core`, and no decision of its own.
//!
//! One module, two roles under one `vm_id`, so that both share the VM of their worker and with it the thread-local
//! [`worker`]: as a *downstream* HTTP filter it decides where a request may go and sees what the client got; as an *upstream*
//! HTTP filter it sees every attempt, retried ones too, with the zone that served it.
//!
//! Whatever goes wrong here, the request goes on as if the filter were not there: an unknown cluster, a property that is
//! absent, a host call that fails. The one thing that can stop traffic is a panic, so nothing here can panic (see the lints).

#![expect(missing_docs, reason = "the one public item is the start function that the SDK's macro writes")]

mod downstream;
mod host;
mod meters;
mod root;
#[cfg(feature = "test-panic")]
mod test_panic;
mod upstream;
mod worker;

use proxy_wasm::types::LogLevel;

proxy_wasm::main! {{
    // Also installs the hook that writes a panic's words to Envoy's log.
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(root::Root::default()));
}}
