//! The few pieces of the protobuf wire format that a response is put together from.
//!
//! It writes length-delimited fields and nothing else, and it never reads: requests are decoded by prost.
//! Rules: protobuf.dev, "Encoding". A field that holds its default (an empty string) is left out, as prost does.

use bytes::BufMut;
use prost::encoding::{encode_varint, encoded_len_varint};

/// The wire type of strings, bytes and messages.
const LENGTH_DELIMITED: u64 = 2;

/// How many bytes [`put_bytes`] will write for a field number below 16.
pub(crate) fn bytes_len(len: usize) -> usize {
    1 + encoded_len_varint(len as u64) + len
}

/// How many bytes [`put_string`] will write: none for an empty string.
pub(crate) fn string_len(value: &str) -> usize {
    if value.is_empty() { 0 } else { bytes_len(value.len()) }
}

/// Writes a length-delimited field even when it is empty, as a repeated or an embedded message is.
pub(crate) fn put_bytes(field: u8, value: &[u8], out: &mut impl BufMut) {
    put_header(field, value.len(), out);
    out.put_slice(value);
}

/// Writes a string field, or nothing when it is empty.
pub(crate) fn put_string(field: u8, value: &str, out: &mut impl BufMut) {
    if !value.is_empty() {
        put_bytes(field, value.as_bytes(), out);
    }
}

/// Writes the tag and length of an embedded message whose `len` bytes the caller writes next.
pub(crate) fn put_header(field: u8, len: usize, out: &mut impl BufMut) {
    encode_varint(u64::from(field) << 3 | LENGTH_DELIMITED, out);
    encode_varint(len as u64, out);
}
