//! The few pieces of the protobuf wire format that a response is put together from.
//!
//! It writes length-delimited fields and small integers, and it never reads: requests are decoded by prost.
//! Rules: protobuf.dev, "Encoding". A field that holds its default (an empty string) is left out, as prost does.

use std::time::Duration;

use bytes::{BufMut, Bytes};
use prost::Message;
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

/// How many bytes [`put_int`] will write: none for zero.
pub(crate) fn int_len(value: u64) -> usize {
    if value == 0 { 0 } else { 1 + encoded_len_varint(value) }
}

/// Writes an integer field, or nothing when it is zero.
pub(crate) fn put_int(field: u8, value: u64, out: &mut impl BufMut) {
    if value != 0 {
        encode_varint(u64::from(field) << 3, out);
        encode_varint(value, out);
    }
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

/// `Resource { ttl = 6 }` of discovery.proto, and nothing else of it.
pub(crate) fn ttl(ttl: Duration) -> Bytes {
    #[derive(Clone, PartialEq, Message)]
    struct Tail {
        #[prost(message, optional, tag = "6")]
        ttl: Option<Time>,
    }
    /// `google.protobuf.Duration`.
    #[derive(Clone, PartialEq, Message)]
    struct Time {
        #[prost(int64, tag = "1")]
        seconds: i64,
        #[prost(int32, tag = "2")]
        nanos: i32,
    }
    // What a protobuf duration can say: 10,000 years.
    let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX).min(315_576_000_000);
    let nanos = i32::try_from(ttl.subsec_nanos()).unwrap_or_default();
    Tail { ttl: Some(Time { seconds, nanos }) }.encode_to_vec().into()
}
