//! Host calls on the data that the VMs of one `vm_id` share.

use wasmtime::Caller;

use super::{
    Call, Status,
    guest::{Out, serve},
};
use crate::vm::VmState;

type Result = wasmtime::Result<u32>;

pub(super) fn get(
    caller: Caller<'_, VmState>,
    key: u32,
    key_size: u32,
    pointer: u32,
    size: u32,
    stamp: u32,
) -> Result {
    serve(caller, Call::GetShared, |guest| {
        let key = guest.text(key, key_size)?;
        let state = guest.state();
        let found = state.process.shared_data().get(&state.vm_id, &key);
        let (value, cas) = found.ok_or(Status::NotFound)?;
        guest.give(&value, Out { pointer, size })?;
        guest.put_u32(stamp, cas)
    })
}

pub(super) fn set(
    caller: Caller<'_, VmState>,
    key: u32,
    key_size: u32,
    value: u32,
    value_size: u32,
    stamp: u32,
) -> Result {
    serve(caller, Call::SetShared, |guest| {
        let (key, value) = (guest.text(key, key_size)?, guest.bytes(value, value_size)?);
        let state = guest.state();
        match state.process.shared_data().set(&state.vm_id, &key, value, stamp) {
            true => Ok(()),
            false => Err(Status::CasMismatch.into()),
        }
    })
}
