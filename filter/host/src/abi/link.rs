//! The table of host functions. Everything that a module of ABI 0.2.1 may import links; what no zone breaker needs is there
//! and says `Unimplemented`.

use wasmtime::{Engine, FuncType, Linker, Val, ValType};

use super::{Call, Status, general, headers, metric, property, shared};
use crate::vm::VmState;

/// Functions that are there in name only, each with its number of parameters, all of them `i32`.
const UNSUPPORTED: [(&str, usize); 13] = [
    ("proxy_set_buffer_bytes", 5),
    ("proxy_register_shared_queue", 3),
    ("proxy_resolve_shared_queue", 5),
    ("proxy_dequeue_shared_queue", 3),
    ("proxy_enqueue_shared_queue", 3),
    ("proxy_close_stream", 1),
    ("proxy_http_call", 10),
    ("proxy_grpc_call", 12),
    ("proxy_grpc_stream", 9),
    ("proxy_grpc_send", 4),
    ("proxy_grpc_cancel", 1),
    ("proxy_grpc_close", 1),
    ("proxy_get_status", 3),
];

/// All functions of the module `env`.
pub(crate) fn link(engine: &Engine) -> wasmtime::Result<Linker<VmState>> {
    let mut linker = Linker::new(engine);
    linker
        .func_wrap("env", "proxy_log", general::log)?
        .func_wrap("env", "proxy_get_log_level", general::get_log_level)?
        .func_wrap("env", "proxy_get_current_time_nanoseconds", general::get_time)?
        .func_wrap("env", "proxy_set_tick_period_milliseconds", general::set_tick)?
        .func_wrap("env", "proxy_get_buffer_bytes", general::get_buffer)?
        .func_wrap("env", "proxy_get_buffer_status", general::get_buffer_status)?
        .func_wrap("env", "proxy_send_local_response", general::send_local_response)?
        .func_wrap("env", "proxy_set_effective_context", general::set_effective_context)?
        .func_wrap("env", "proxy_continue_stream", general::continue_stream)?
        .func_wrap("env", "proxy_done", general::done)?
        .func_wrap("env", "proxy_call_foreign_function", general::call_foreign_function)?
        .func_wrap("env", "proxy_get_header_map_value", headers::get)?
        .func_wrap("env", "proxy_replace_header_map_value", headers::replace)?
        .func_wrap("env", "proxy_add_header_map_value", headers::add)?
        .func_wrap("env", "proxy_remove_header_map_value", headers::remove)?
        .func_wrap("env", "proxy_get_header_map_pairs", headers::get_all)?
        .func_wrap("env", "proxy_set_header_map_pairs", headers::set_all)?
        .func_wrap("env", "proxy_get_header_map_size", headers::size)?
        .func_wrap("env", "proxy_get_property", property::get)?
        .func_wrap("env", "proxy_set_property", property::set)?
        .func_wrap("env", "proxy_get_shared_data", shared::get)?
        .func_wrap("env", "proxy_set_shared_data", shared::set)?
        .func_wrap("env", "proxy_define_metric", metric::define)?
        .func_wrap("env", "proxy_increment_metric", metric::increment)?
        .func_wrap("env", "proxy_record_metric", metric::record)?
        .func_wrap("env", "proxy_get_metric", metric::get)?;
    for (name, parameters) in UNSUPPORTED {
        let shape = FuncType::new(engine, vec![ValType::I32; parameters], [ValType::I32]);
        linker.func_new("env", name, shape, |mut caller, _, results| {
            caller.data_mut().calls.count(Call::Unsupported);
            if let Some(result) = results.first_mut() {
                *result = Val::I32(Status::Unimplemented as i32);
            }
            Ok(())
        })?;
    }
    Ok(linker)
}
