//! The other side of a host call: the memory of the VM that made it. Every pointer is checked, as Envoy does.

use wasmtime::{Caller, Memory};

use super::{Call, Status};
use crate::vm::VmState;

/// The VM that makes a host call.
pub(super) struct Guest<'a> {
    caller: Caller<'a, VmState>,
    memory: Memory,
}

/// Why a host call ends before it is through.
pub(super) enum Stop {
    /// The VM is told so and goes on.
    Status(Status),
    /// The VM goes down.
    Trap(wasmtime::Error),
}

/// Where a host call leaves bytes for the VM: the addresses of a pointer and of a size.
#[derive(Clone, Copy)]
pub(super) struct Out {
    pub pointer: u32,
    pub size: u32,
}

/// Runs one host call: counts it, lets it crash if the test wants so, and turns its end into what the VM sees.
pub(super) fn serve(
    mut caller: Caller<'_, VmState>,
    call: Call,
    body: impl FnOnce(&mut Guest<'_>) -> Result<(), Stop>,
) -> wasmtime::Result<u32> {
    let state = caller.data_mut();
    state.calls.count(call);
    if state.crash_now(call) {
        return Err(wasmtime::Error::msg("the test made it crash"));
    }
    let Some(memory) = state.memory else { return Ok(Status::InternalFailure as u32) };
    match body(&mut Guest { caller, memory }) {
        Ok(()) => Ok(Status::Ok as u32),
        Err(Stop::Status(status)) => Ok(status as u32),
        Err(Stop::Trap(error)) => Err(error),
    }
}

// === impl Stop ===

impl From<Status> for Stop {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<wasmtime::Error> for Stop {
    fn from(error: wasmtime::Error) -> Self {
        Self::Trap(error)
    }
}

// === impl Guest ===

impl Guest<'_> {
    /// What the host knows of the VM.
    pub fn state(&mut self) -> &mut VmState {
        self.caller.data_mut()
    }

    /// A copy of `size` bytes at `pointer`.
    pub fn bytes(&self, pointer: u32, size: u32) -> Result<Vec<u8>, Stop> {
        let start = pointer as usize;
        let range = start..start + size as usize;
        let bytes = self.memory.data(&self.caller).get(range).ok_or(Status::InvalidMemoryAccess)?;
        Ok(bytes.to_vec())
    }

    /// The same as text; what is not UTF-8 is replaced.
    pub fn text(&self, pointer: u32, size: u32) -> Result<String, Stop> {
        Ok(match String::from_utf8(self.bytes(pointer, size)?) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        })
    }

    /// Writes a little-endian number of 4 bytes.
    pub fn put_u32(&mut self, pointer: u32, value: u32) -> Result<(), Stop> {
        self.put(pointer, &value.to_le_bytes())
    }

    /// Writes a little-endian number of 8 bytes.
    pub fn put_u64(&mut self, pointer: u32, value: u64) -> Result<(), Stop> {
        self.put(pointer, &value.to_le_bytes())
    }

    /// Leaves bytes in memory that the VM's own allocator gives; a null pointer for no bytes, as Envoy does.
    pub fn give(&mut self, bytes: &[u8], out: Out) -> Result<(), Stop> {
        let mut pointer = 0;
        if !bytes.is_empty() {
            let malloc = self.state().malloc.clone().ok_or(Status::InternalFailure)?;
            pointer = malloc.call(&mut self.caller, bytes.len() as u32)?;
            self.put(pointer, bytes)?;
            self.state().calls.count_returned();
        }
        self.put_u32(out.pointer, pointer)?;
        self.put_u32(out.size, bytes.len() as u32)
    }

    fn put(&mut self, pointer: u32, bytes: &[u8]) -> Result<(), Stop> {
        let start = pointer as usize;
        let range = start..start + bytes.len();
        let place = self.memory.data_mut(&mut self.caller).get_mut(range);
        place.ok_or(Status::InvalidMemoryAccess)?.copy_from_slice(bytes);
        Ok(())
    }
}
