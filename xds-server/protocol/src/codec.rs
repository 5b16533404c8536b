//! Responses to bytes.
//!
//! A response is written from the bytes its resources were encoded to once; nothing of a resource is ever encoded or decoded
//! for a stream. It is written piece by piece, as the connection takes it: what a client has not read is not written either. Those
//! who are sent all of a set at the same time share even what was written.
//!
//! Field numbers are those of `envoy/service/discovery/v3/discovery.proto`; fields are written by ascending number, as every
//! protobuf library does, so the bytes equal those of prost.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use crate::resource::{Resource, ResourceError};
use crate::session::{Resources, Response};
use crate::type_set::TypeSet;
use crate::types::{Protocol, Version};
use crate::wire;

#[cfg(test)]
mod tests;

/// How much is written at once, where no single resource is larger: what fits into one HTTP/2 frame, and small enough for the
/// memory to be used again at once.
const PIECE: usize = 16 << 10;

/// gRPC's length prefix: a flag and four bytes (PROTOCOL-HTTP2.md, "Length-Prefixed-Message").
const PREFIX: usize = 5;

/// A response on its way out: a gRPC message in pieces.
#[derive(Debug)]
pub(crate) struct Pieces {
    response: Response,
    /// What is still to be written, in bytes.
    left: usize,
    begun: bool,
    /// The next resource.
    next: usize,
    /// The resources, if somebody wrote them already, and the next piece of them.
    shared: Option<(Arc<Vec<Bytes>>, usize)>,
}

// === impl Response ===

/// `envoy.service.discovery.v3.Resource`, as the `Any` of a state-of-the-world response that carries one.
const WRAPPER: &str = "type.googleapis.com/envoy.service.discovery.v3.Resource";

impl Response {
    /// The exact length of what [`Response::encode`] writes, in bytes.
    pub fn encoded_len(&self) -> usize {
        let control_plane = wire::string_len(&self.control_plane);
        let resources = match self.whole() {
            Some(set) => set.response_len(self.protocol),
            None => {
                self.resources.iter().map(|resource| wire::bytes_len(self.body_len(resource))).sum::<usize>()
            }
        };
        let refreshed: usize =
            self.refreshed.iter().map(|resource| wire::bytes_len(beat_len(resource))).sum();
        let unresolved: usize =
            self.unresolved.iter().map(|alias| wire::bytes_len(unresolved_len(&self.version, alias))).sum();
        let removed: usize = match self.protocol {
            Protocol::Sotw => 0,
            Protocol::Delta => self.removed.iter().map(|name| wire::bytes_len(name.len())).sum(),
        };
        let errors: usize =
            self.errors.iter().map(|(name, error)| wire::bytes_len(error_len(name, error))).sum();
        wire::string_len(self.version.as_str())
            + resources
            + refreshed
            + unresolved
            + wire::string_len(self.type_url.as_str())
            + wire::string_len(&self.nonce)
            + removed
            + if control_plane == 0 { 0 } else { wire::bytes_len(control_plane) }
            + errors
    }

    /// The set that this brings all of, where each of its resources goes to every client in the same words.
    fn whole(&self) -> Option<&TypeSet> {
        match &self.resources {
            Resources::All(set) if set.is_plain() => Some(set),
            _ => None,
        }
    }

    /// Writes a `DiscoveryResponse` or a `DeltaDiscoveryResponse`.
    pub fn encode(&self, out: &mut impl BufMut) {
        self.put_head(out);
        self.resources.iter().for_each(|resource| self.put_resource(resource, out));
        self.put_rest(out);
    }

    fn put_head(&self, out: &mut impl BufMut) {
        wire::put_string(1, self.version.as_str(), out);
    }

    fn put_resource(&self, resource: &Resource, out: &mut impl BufMut) {
        wire::put_header(2, self.body_len(resource), out);
        self.put_body(resource, out);
    }

    /// What follows the resources.
    fn put_rest(&self, out: &mut impl BufMut) {
        for resource in &self.refreshed {
            wire::put_header(2, beat_len(resource), out);
            wire::put_string(1, resource.version().as_str(), out);
            wire::put_string(3, resource.name(), out);
            out.put_slice(resource.tail());
        }
        for alias in &self.unresolved {
            wire::put_header(2, unresolved_len(&self.version, alias), out);
            wire::put_string(1, self.version.as_str(), out);
            wire::put_string(3, alias, out);
            wire::put_bytes(4, alias.as_bytes(), out);
        }
        wire::put_string(4, self.type_url.as_str(), out);
        wire::put_string(5, &self.nonce, out);
        match self.protocol {
            Protocol::Sotw => {
                self.put_control_plane(6, out);
                self.errors.iter().for_each(|(name, error)| put_error(7, name, error, out));
            }
            Protocol::Delta => {
                for name in &self.removed {
                    wire::put_bytes(6, name.as_bytes(), out);
                }
                self.put_control_plane(7, out);
                self.errors.iter().for_each(|(name, error)| put_error(9, name, error, out));
            }
        }
    }

    fn body_len(&self, resource: &Resource) -> usize {
        body_len(self.protocol, self.with_ttl, resource)
    }

    fn put_body(&self, resource: &Resource, out: &mut impl BufMut) {
        match self.protocol {
            Protocol::Sotw if !wraps(self.with_ttl, resource) => return out.put_slice(resource.any()),
            Protocol::Sotw => {
                wire::put_string(1, WRAPPER, out);
                wire::put_header(2, entry_len(self.with_ttl, resource), out);
            }
            Protocol::Delta => {}
        }
        out.put_slice(resource.entry());
        if self.with_ttl {
            out.put_slice(resource.tail());
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

/// Whether a state-of-the-world resource goes as a `Resource` inside the `Any`, which is where there is room for its time to live
/// (xds_protocol.rst, "TTL": "the relevant resources must be wrapped in a Resource message").
fn wraps(with_ttl: bool, resource: &Resource) -> bool {
    with_ttl && resource.ttl().is_some()
}

fn entry_len(with_ttl: bool, resource: &Resource) -> usize {
    resource.entry().len() + if with_ttl { resource.tail().len() } else { 0 }
}

/// A resource with its content, in the words of the protocol.
pub(crate) fn body_len(protocol: Protocol, with_ttl: bool, resource: &Resource) -> usize {
    match protocol {
        Protocol::Delta => entry_len(with_ttl, resource),
        Protocol::Sotw if wraps(with_ttl, resource) => {
            wire::string_len(WRAPPER) + wire::bytes_len(entry_len(with_ttl, resource))
        }
        Protocol::Sotw => resource.any().len(),
    }
}

/// `Resource { version = 1, name = 3, ttl = 6 }`.
pub(crate) fn beat_len(resource: &Resource) -> usize {
    let version = wire::string_len(resource.version().as_str());
    version + wire::string_len(resource.name()) + resource.tail().len()
}

/// `Resource { version = 1, name = 3, aliases = 4 }`.
pub(crate) fn unresolved_len(version: &Version, alias: &str) -> usize {
    wire::string_len(version.as_str()) + wire::string_len(alias) + wire::bytes_len(alias.len())
}

/// `ResourceError { resource_name = 1 { name = 1 }, error_detail = 2 { code = 1, message = 2 } }`.
pub(crate) fn error_len(name: &str, error: &ResourceError) -> usize {
    wire::bytes_len(wire::string_len(name)) + wire::bytes_len(status_len(error))
}

fn status_len(error: &ResourceError) -> usize {
    wire::int_len(error.code as u64) + wire::string_len(&error.message)
}

fn put_error(field: u8, name: &str, error: &ResourceError, out: &mut impl BufMut) {
    wire::put_header(field, error_len(name, error), out);
    wire::put_header(1, wire::string_len(name), out);
    wire::put_string(1, name, out);
    wire::put_header(2, status_len(error), out);
    wire::put_int(1, error.code as u64, out);
    wire::put_string(2, &error.message, out);
}

/// All resources of a response, in pieces.
fn written(response: &Response) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    let mut out = BytesMut::new();
    for resource in response.resources.iter() {
        let len = wire::bytes_len(response.body_len(resource));
        if !out.is_empty() && out.len() + len > PIECE {
            pieces.push(std::mem::take(&mut out).freeze());
        }
        if out.is_empty() {
            out.reserve(PIECE.max(len));
        }
        response.put_resource(resource, &mut out);
    }
    pieces.push(out.freeze());
    pieces
}

// === impl Pieces ===

impl Pieces {
    pub(crate) fn new(response: Response) -> Self {
        let left = PREFIX + response.encoded_len();
        let written = response.whole().map(|set| set.written(response.protocol, || written(&response)));
        let shared = written.map(|pieces| (pieces, 0));
        Self { left, response, begun: false, next: 0, shared }
    }

    /// The next piece; `None` after the last.
    pub(crate) fn next(&mut self) -> Option<Bytes> {
        if self.begun
            && let Some((pieces, at)) = &mut self.shared
            && let Some(piece) = pieces.get(*at)
        {
            *at += 1;
            self.next = self.response.resources.len();
            self.left -= piece.len();
            return Some(piece.clone());
        }
        let response = &self.response;
        let first = response.resources.get(self.next).map_or(0, |resource| response.body_len(resource));
        let alone = self.shared.is_some() && !self.begun;
        let len = if alone { PIECE / 64 } else { PIECE.max(first) + PIECE / 4 };
        let mut out = BytesMut::with_capacity(self.left.min(len));
        if !self.begun {
            self.begun = true;
            out.put_u8(0);
            // The server's own bound on responses is far below 4 GiB; one that is not is refused by every client.
            out.put_u32(u32::try_from(self.left - PREFIX).unwrap_or(u32::MAX));
            response.put_head(&mut out);
        }
        if alone {
            self.left -= out.len();
            return Some(out.freeze());
        }
        while let Some(resource) = response.resources.get(self.next) {
            if !out.is_empty() && out.len() + response.body_len(resource) > PIECE && self.next > 0 {
                break;
            }
            response.put_resource(resource, &mut out);
            self.next += 1;
        }
        if self.next == response.resources.len() && out.len() < self.left {
            response.put_rest(&mut out);
        }
        self.left -= out.len();
        (!out.is_empty()).then(|| out.freeze())
    }
}
