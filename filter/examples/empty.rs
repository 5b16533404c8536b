//! The emptiest filter that can be written with the SDK: called for whatever Zonebreak's is called for, and does nothing. What
//! `scripts/bench-overhead` sets Zonebreak's filter against, to tell what wasm costs from what Zonebreak costs.

#![expect(missing_docs, reason = "the one public item is the start function that the SDK's macro writes")]

use proxy_wasm::{
    traits::{Context, HttpContext, RootContext},
    types::ContextType,
};

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| Box::new(Empty));
}}

struct Empty;

impl Context for Empty {}

impl HttpContext for Empty {}

impl RootContext for Empty {
    fn create_http_context(&self, _context_id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Empty))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}
