//! Host calls on the attributes of the stream at hand and of the node.

use wasmtime::Caller;

use super::{
    Call, Status,
    guest::{Out, serve},
};
use crate::vm::VmState;

type Result = wasmtime::Result<u32>;

/// The path is its parts, joined by zero bytes.
pub(super) fn get(caller: Caller<'_, VmState>, path: u32, path_size: u32, pointer: u32, size: u32) -> Result {
    serve(caller, Call::GetProperty, |guest| {
        let path = guest.text(path, path_size)?;
        let value = guest.state().property(&path).ok_or(Status::NotFound)?;
        guest.give(&value, Out { pointer, size })
    })
}

/// Filter state is not kept: nothing reads it here.
pub(super) fn set(
    caller: Caller<'_, VmState>,
    path: u32,
    path_size: u32,
    value: u32,
    value_size: u32,
) -> Result {
    serve(caller, Call::SetProperty, |guest| {
        guest.text(path, path_size)?;
        guest.bytes(value, value_size)?;
        Ok(())
    })
}
