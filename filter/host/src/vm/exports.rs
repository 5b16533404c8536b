//! The callbacks that a module exports. Finds them; calls none.

use wasmtime::{Instance, Store, TypedFunc, WasmParams, WasmResults};

use super::VmState;
use crate::HostError;

/// A callback: its name for messages, and the function; a module need not have it.
pub(super) struct Callback<P, R> {
    pub name: &'static str,
    pub function: Option<TypedFunc<P, R>>,
}

/// The callbacks of ABI 0.2.1 that an HTTP filter can have.
pub(super) struct Exports {
    pub initialize: Callback<(), ()>,
    pub on_context_create: Callback<(u32, u32), ()>,
    pub on_vm_start: Callback<(u32, u32), u32>,
    pub on_configure: Callback<(u32, u32), u32>,
    pub on_tick: Callback<u32, ()>,
    pub on_request_headers: Callback<(u32, u32, u32), u32>,
    pub on_request_body: Callback<(u32, u32, u32), u32>,
    pub on_response_headers: Callback<(u32, u32, u32), u32>,
    pub on_response_body: Callback<(u32, u32, u32), u32>,
    pub on_response_trailers: Callback<(u32, u32), u32>,
    pub on_done: Callback<u32, u32>,
    pub on_log: Callback<u32, ()>,
    pub on_delete: Callback<u32, ()>,
}

// === impl Exports ===

impl Exports {
    pub fn find(instance: &Instance, store: &mut Store<VmState>) -> Result<Self, HostError> {
        Ok(Self {
            initialize: find(instance, store, "_initialize")?,
            on_context_create: find(instance, store, "proxy_on_context_create")?,
            on_vm_start: find(instance, store, "proxy_on_vm_start")?,
            on_configure: find(instance, store, "proxy_on_configure")?,
            on_tick: find(instance, store, "proxy_on_tick")?,
            on_request_headers: find(instance, store, "proxy_on_request_headers")?,
            on_request_body: find(instance, store, "proxy_on_request_body")?,
            on_response_headers: find(instance, store, "proxy_on_response_headers")?,
            on_response_body: find(instance, store, "proxy_on_response_body")?,
            on_response_trailers: find(instance, store, "proxy_on_response_trailers")?,
            on_done: find(instance, store, "proxy_on_done")?,
            on_log: find(instance, store, "proxy_on_log")?,
            on_delete: find(instance, store, "proxy_on_delete")?,
        })
    }
}

/// A function of the module; absent is fine, another shape is not.
pub(super) fn find<P: WasmParams, R: WasmResults>(
    instance: &Instance,
    store: &mut Store<VmState>,
    name: &'static str,
) -> Result<Callback<P, R>, HostError> {
    let function = instance.get_func(&mut *store, name);
    let function = function.map(|function| function.typed(&*store)).transpose();
    Ok(Callback { name, function: function.map_err(|why| HostError::Export { name, why })? })
}
