//! For tests of what Envoy does about a filter that panics, under the feature `test-panic` and in no build that is shipped: panics
//! where a request asks for it. Decides nothing else.

use proxy_wasm::types::MapType;

use crate::host;

/// Names the role that is to panic: `downstream` or `upstream`. No header of ours, so that a backend may see it.
const HEADER: &str = "x-test-panic";

/// Panics if the request at hand wants this role to.
#[expect(clippy::panic, reason = "that is what it is for")]
pub fn if_asked(role: &str) {
    if host::header(MapType::HttpRequestHeaders, HEADER).as_deref() == Some(role) {
        panic!("a request asked the {role} role to panic");
    }
}
