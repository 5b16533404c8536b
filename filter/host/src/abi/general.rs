//! Host calls of no particular kind: log, time, ticks, buffers, local responses, contexts.

use std::time::Duration;

use wasmtime::Caller;

use super::{
    Call, Status,
    guest::{Out, serve},
    pairs,
};
use crate::{
    process::Level,
    vm::{LocalResponse, VmState},
};

type Guest<'a> = Caller<'a, VmState>;
type Result = wasmtime::Result<u32>;

/// `PluginConfiguration` of `proxy_buffer_type_t`.
const PLUGIN_CONFIGURATION: u32 = 7;
/// `HttpRequest` of `proxy_stream_type_t`.
const HTTP_REQUEST: u32 = 0;
/// The last buffer type of the ABI.
const LAST_BUFFER: u32 = 8;

pub(super) fn log(caller: Guest<'_>, level: u32, text: u32, size: u32) -> Result {
    serve(caller, Call::Log, |guest| {
        let level = Level::from_abi(level).ok_or(Status::BadArgument)?;
        let text = guest.text(text, size)?;
        let state = guest.state();
        state.process.log(state.thread, level, text);
        Ok(())
    })
}

pub(super) fn get_log_level(caller: Guest<'_>, out: u32) -> Result {
    serve(caller, Call::GetLogLevel, |guest| guest.put_u32(out, Level::Info as u32))
}

pub(super) fn get_time(caller: Guest<'_>, out: u32) -> Result {
    serve(caller, Call::GetTime, |guest| {
        let now = guest.state().process.unix_ns();
        guest.put_u64(out, now)
    })
}

/// A period of 0 ends the ticks. The timer belongs to the root context, whichever context asks.
pub(super) fn set_tick(caller: Guest<'_>, period_ms: u32) -> Result {
    serve(caller, Call::SetTick, |guest| {
        guest.state().set_tick(Duration::from_millis(period_ms.into()));
        Ok(())
    })
}

/// Only the plugin's configuration is kept: it is there while the plugin is being configured.
pub(super) fn get_buffer(
    caller: Guest<'_>,
    buffer: u32,
    start: u32,
    length: u32,
    pointer: u32,
    size: u32,
) -> Result {
    serve(caller, Call::GetBuffer, |guest| {
        let bytes = guest.state().buffer(buffer == PLUGIN_CONFIGURATION).filter(|_| buffer <= LAST_BUFFER);
        let bytes =
            bytes.ok_or(if buffer <= LAST_BUFFER { Status::NotFound } else { Status::BadArgument })?;
        let end = start.checked_add(length).ok_or(Status::BadArgument)? as usize;
        match bytes.get(start as usize..end.min(bytes.len())) {
            // Envoy leaves the addresses alone when there is nothing to give.
            None | Some([]) => Ok(()),
            Some(part) => guest.give(part, Out { pointer, size }),
        }
    })
}

pub(super) fn get_buffer_status(caller: Guest<'_>, buffer: u32, length: u32, flags: u32) -> Result {
    serve(caller, Call::GetBufferStatus, |guest| {
        let bytes = guest.state().buffer(buffer == PLUGIN_CONFIGURATION).ok_or(Status::NotFound)?;
        guest.put_u32(length, bytes.len() as u32)?;
        guest.put_u32(flags, 0)
    })
}

/// Kept until the callback is over: Envoy defers it too, so that the filter's own encoding callbacks do not run inside.
#[expect(clippy::too_many_arguments, reason = "the ABI has them")]
pub(super) fn send_local_response(
    caller: Guest<'_>,
    status: u32,
    _details: u32,
    _details_size: u32,
    body: u32,
    body_size: u32,
    headers: u32,
    headers_size: u32,
    grpc_status: i32,
) -> Result {
    serve(caller, Call::SendLocalResponse, |guest| {
        let body = guest.bytes(body, body_size)?;
        let headers = pairs::unmarshal(&guest.bytes(headers, headers_size)?).unwrap_or_default();
        if let Some(stream) = guest.state().stream() {
            stream.local_response = Some(LocalResponse { status, headers, body, grpc_status });
        }
        Ok(())
    })
}

pub(super) fn set_effective_context(caller: Guest<'_>, context: u32) -> Result {
    serve(caller, Call::SetEffectiveContext, |guest| match guest.state().set_effective(context) {
        true => Ok(()),
        false => Err(Status::BadArgument.into()),
    })
}

/// Noted, and done after the callback: Envoy defers it too, so that filters that come next do not run inside. A stream that is gone
/// is left alone.
pub(super) fn continue_stream(caller: Guest<'_>, stream: u32) -> Result {
    serve(caller, Call::ContinueStream, |guest| match stream {
        HTTP_REQUEST => {
            if let Some(stream) = guest.state().stream() {
                stream.resumed = true;
            }
            Ok(())
        }
        _ => Err(Status::Unimplemented.into()),
    })
}

/// A root context says it is done only when `on_done` said it is not, which this host does not wait for.
pub(super) fn done(caller: Guest<'_>) -> Result {
    serve(caller, Call::Done, |_| Err(Status::NotFound.into()))
}

/// The header mutations of ABI 0.2.1 clear the route cache by themselves; asking for it is allowed all the same.
pub(super) fn call_foreign_function(
    caller: Guest<'_>,
    name: u32,
    name_size: u32,
    _arguments: u32,
    _arguments_size: u32,
    pointer: u32,
    size: u32,
) -> Result {
    serve(caller, Call::Foreign, |guest| match guest.text(name, name_size)?.as_str() {
        "clear_route_cache" => guest.give(&[], Out { pointer, size }),
        _ => Err(Status::NotFound.into()),
    })
}
