//! Host calls on the headers and trailers of the stream at hand. Absent maps are `BadArgument`, absent names `NotFound`.

use wasmtime::Caller;

use super::{
    Call, Status,
    guest::{Guest, Out, Stop, serve},
    pairs,
};
use crate::vm::{Headers, MapKind, VmState};

type Vm<'a> = Caller<'a, VmState>;
type Result = wasmtime::Result<u32>;

fn map<'a>(guest: &'a mut Guest<'_>, kind: u32) -> std::result::Result<&'a mut Headers, Stop> {
    let kind = MapKind::from_abi(kind).ok_or(Status::BadArgument)?;
    guest.state().stream().and_then(|stream| stream.map(kind)).ok_or_else(|| Status::BadArgument.into())
}

pub(super) fn get(caller: Vm<'_>, kind: u32, name: u32, name_size: u32, pointer: u32, size: u32) -> Result {
    serve(caller, Call::GetHeader, |guest| {
        let name = guest.text(name, name_size)?;
        let value = map(guest, kind)?.get(&name).ok_or(Status::NotFound)?.to_owned();
        guest.give(value.as_bytes(), Out { pointer, size })
    })
}

pub(super) fn replace(
    caller: Vm<'_>,
    kind: u32,
    name: u32,
    name_size: u32,
    value: u32,
    value_size: u32,
) -> Result {
    serve(caller, Call::SetHeader, |guest| {
        let (name, value) = (guest.text(name, name_size)?, guest.text(value, value_size)?);
        map(guest, kind)?.set(&name, &value);
        Ok(())
    })
}

pub(super) fn add(
    caller: Vm<'_>,
    kind: u32,
    name: u32,
    name_size: u32,
    value: u32,
    value_size: u32,
) -> Result {
    serve(caller, Call::SetHeader, |guest| {
        let (name, value) = (guest.text(name, name_size)?, guest.text(value, value_size)?);
        map(guest, kind)?.add(&name, &value);
        Ok(())
    })
}

pub(super) fn remove(caller: Vm<'_>, kind: u32, name: u32, name_size: u32) -> Result {
    serve(caller, Call::SetHeader, |guest| {
        let name = guest.text(name, name_size)?;
        map(guest, kind)?.remove(&name);
        Ok(())
    })
}

/// An absent map is an empty one here, in Envoy as well.
pub(super) fn get_all(caller: Vm<'_>, kind: u32, pointer: u32, size: u32) -> Result {
    serve(caller, Call::GetHeaders, |guest| {
        let kind = MapKind::from_abi(kind).ok_or(Status::BadArgument)?;
        let map = guest.state().stream().and_then(|stream| stream.map(kind));
        let bytes = map.map(|map| pairs::marshal(map)).unwrap_or_default();
        guest.give(&bytes, Out { pointer, size })
    })
}

pub(super) fn set_all(caller: Vm<'_>, kind: u32, bytes: u32, size: u32) -> Result {
    serve(caller, Call::SetHeaders, |guest| {
        let headers = pairs::unmarshal(&guest.bytes(bytes, size)?).unwrap_or_default();
        *map(guest, kind)? = headers;
        Ok(())
    })
}

pub(super) fn size(caller: Vm<'_>, kind: u32, out: u32) -> Result {
    serve(caller, Call::GetHeadersSize, |guest| {
        let size = map(guest, kind)?.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        guest.put_u32(out, size as u32)
    })
}
