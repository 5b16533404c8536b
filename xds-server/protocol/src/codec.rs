//! Responses to bytes, bytes to requests.
//!
//! A response is written from the bytes its resources were encoded to once; nothing of a resource is ever encoded or decoded
//! for a stream. Requests are small and are decoded by prost.
//!
//! Field numbers are those of `envoy/service/discovery/v3/discovery.proto`; fields are written by ascending number, as every
//! protobuf library does, so the bytes equal those of prost.

use bytes::BufMut;
use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use crate::session::{Request, Response};
use crate::types::Protocol;
use crate::wire;

#[cfg(test)]
mod tests;

/// What tonic allocates for each direction of each stream before anything is said: small, for streams are mostly idle.
const BUFFER: usize = 1024;

/// How much is collected before it is handed on: tonic's default.
const YIELD: usize = 32 * 1024;

/// The codec of one protocol's streams.
#[derive(Clone, Copy, Debug)]
pub struct XdsCodec {
    /// Which requests are read and which responses written.
    pub protocol: Protocol,
}

// === impl Response ===

impl Response {
    /// The exact length of what [`Response::encode`] writes, in bytes.
    pub fn encoded_len(&self) -> usize {
        let control_plane = wire::string_len(&self.control_plane);
        let resources: usize =
            self.resources.iter().map(|resource| wire::bytes_len(self.body(resource).len())).sum();
        let removed = match self.protocol {
            Protocol::Sotw => 0,
            Protocol::Delta => self.removed.iter().map(|name| wire::bytes_len(name.len())).sum(),
        };
        wire::string_len(self.version.as_str())
            + resources
            + wire::string_len(self.type_url.as_str())
            + wire::string_len(&self.nonce)
            + removed
            + if control_plane == 0 { 0 } else { wire::bytes_len(control_plane) }
    }

    /// Writes a `DiscoveryResponse` or a `DeltaDiscoveryResponse`.
    pub fn encode(&self, out: &mut impl BufMut) {
        wire::put_string(1, self.version.as_str(), out);
        for resource in &self.resources {
            wire::put_bytes(2, self.body(resource), out);
        }
        wire::put_string(4, self.type_url.as_str(), out);
        wire::put_string(5, &self.nonce, out);
        match self.protocol {
            Protocol::Sotw => self.put_control_plane(6, out),
            Protocol::Delta => {
                for name in &self.removed {
                    wire::put_bytes(6, name.as_bytes(), out);
                }
                self.put_control_plane(7, out);
            }
        }
    }

    fn body<'a>(&self, resource: &'a crate::Resource) -> &'a [u8] {
        match self.protocol {
            Protocol::Sotw => resource.any(),
            Protocol::Delta => resource.entry(),
        }
    }

    /// `ControlPlane { identifier = 1 }`.
    fn put_control_plane(&self, field: u8, out: &mut impl BufMut) {
        let len = wire::string_len(&self.control_plane);
        if len > 0 {
            wire::put_header(field, len, out);
            wire::put_string(1, &self.control_plane, out);
        }
    }
}

// === impl XdsCodec ===

impl Codec for XdsCodec {
    type Encode = Response;
    type Decode = Request;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for XdsCodec {
    type Item = Response;
    type Error = Status;

    fn encode(&mut self, response: Response, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(response.encoded_len());
        response.encode(out);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, YIELD)
    }
}

impl Decoder for XdsCodec {
    type Item = Request;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Request>, Status> {
        let request = match self.protocol {
            Protocol::Sotw => Message::decode(bytes).map(|request| Request::Sotw(Box::new(request))),
            Protocol::Delta => Message::decode(bytes).map(|request| Request::Delta(Box::new(request))),
        };
        request.map(Some).map_err(|error| {
            Status::invalid_argument(format!(
                "the message is not a {} discovery request: {error}",
                self.protocol
            ))
        })
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, YIELD)
    }
}
