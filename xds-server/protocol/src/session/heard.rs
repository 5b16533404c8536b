//! What a client said: a request as it lies in its bytes.
//!
//! A client that comes back says thousands of names and versions, and nearly all of them are what the server knows already. So they
//! are read where they are, one after the other, and none of them is copied: whatever is kept is kept by whoever needs it. A request
//! is checked once, when it is read; later nothing of it can fail. It decides nothing.
//!
//! Field numbers are those of `envoy/service/discovery/v3/discovery.proto`. As everywhere in protobuf the last of several values of
//! one field counts, fields that are not known are passed over, and a message that comes in parts is put together.

use std::ops::Range;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node;
use prost::Message;
use xxhash_rust::xxh3::xxh3_128;

use super::event::Request;
use crate::pieces::{Piece, pieces};
use crate::types::Protocol;

/// A request, read.
#[derive(Clone, Debug)]
pub struct Heard {
    protocol: Protocol,
    message: Bytes,
    node: Option<Box<Node>>,
    type_url: Bytes,
    nonce: Bytes,
    /// `version_info`, in state of the world.
    version: Bytes,
    /// The message of `error_detail`.
    error: Option<Bytes>,
    /// How many names it subscribes to, how many it unsubscribes from, and of how many it tells the version.
    counts: [usize; 3],
    /// Where in the message the names are that it subscribes to.
    names: Range<usize>,
}

/// Why bytes are no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeardError {
    /// They are no protobuf message.
    #[error("it is no protobuf message")]
    Malformed,
    /// A field holds something else than it should.
    #[error("field {0} of it does not hold what it should")]
    Field(u32),
}

/// Texts one after the other.
pub(crate) trait Texts {
    /// How many there are.
    fn count(&self) -> usize;
    /// In the order in which they were said.
    fn texts(&self) -> impl Iterator<Item = &str>;
    /// A hash that is the same only where they are the same, in the same order. It may differ where they are.
    fn digest(&self) -> u128;
}

/// The names in one field of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Said<'a> {
    message: &'a [u8],
    field: u32,
    count: usize,
}

/// Where the fields of a request are; 0 where it has none of the kind.
struct Fields {
    node: u32,
    type_url: u32,
    nonce: u32,
    version: u32,
    error: u32,
    subscribe: u32,
    unsubscribe: u32,
    versions: u32,
}

/// `DiscoveryRequest`.
const SOTW: Fields = Fields {
    version: 1,
    node: 2,
    subscribe: 3,
    type_url: 4,
    nonce: 5,
    error: 6,
    unsubscribe: 0,
    versions: 0,
};

/// `DeltaDiscoveryRequest`.
const DELTA: Fields = Fields {
    node: 1,
    type_url: 2,
    subscribe: 3,
    unsubscribe: 4,
    versions: 5,
    nonce: 6,
    error: 7,
    version: 0,
};

// === impl Heard ===

impl Heard {
    /// Reads a `DiscoveryRequest` or a `DeltaDiscoveryRequest`.
    ///
    /// # Errors
    /// When the bytes are neither.
    pub fn read(protocol: Protocol, message: Bytes) -> Result<Self, HeardError> {
        let fields = Fields::of(protocol);
        let mut heard = Self {
            protocol,
            node: None,
            type_url: Bytes::new(),
            nonce: Bytes::new(),
            version: Bytes::new(),
            error: None,
            counts: [0; 3],
            names: 0..0,
            message: Bytes::new(),
        };
        let mut end = 0;
        for piece in pieces(&message) {
            let Piece { number, all, content } = piece.ok_or(HeardError::Malformed)?;
            let start = end;
            end += all.len();
            let wrong = HeardError::Field(number);
            let content = || content.ok_or(wrong);
            let text = || content().and_then(|bytes| text(bytes).ok_or(wrong));
            let [subscribe, unsubscribe, versions] = &mut heard.counts;
            // Field 0 does not exist: prost refuses its tag.
            if number == fields.subscribe {
                text()?;
                heard.names = if *subscribe == 0 { start..end } else { heard.names.start..end };
                *subscribe += 1;
            } else if number == fields.versions {
                entry(content()?).ok_or(wrong)?;
                *versions += 1;
            } else if number == fields.unsubscribe {
                text()?;
                *unsubscribe += 1;
            } else if number == fields.type_url {
                heard.type_url = message.slice_ref(text()?.as_bytes());
            } else if number == fields.nonce {
                heard.nonce = message.slice_ref(text()?.as_bytes());
            } else if number == fields.version {
                heard.version = message.slice_ref(text()?.as_bytes());
            } else if number == fields.node {
                heard.node.get_or_insert_default().merge(content()?).map_err(|_| wrong)?;
            } else if number == fields.error {
                let said = field(content()?, 2).ok_or(wrong)?.unwrap_or_default();
                if !said.is_empty() || heard.error.is_none() {
                    heard.error = Some(message.slice_ref(said.as_bytes()));
                }
            }
        }
        heard.message = message;
        Ok(heard)
    }

    pub(crate) fn node(&self) -> Option<&Node> {
        self.node.as_deref()
    }

    pub(crate) fn type_url(&self) -> &str {
        checked(&self.type_url)
    }

    pub(crate) fn nonce(&self) -> &str {
        checked(&self.nonce)
    }

    /// `version_info`; empty in an incremental request.
    pub(crate) fn version(&self) -> &str {
        checked(&self.version)
    }

    /// The message of `error_detail`, whose presence makes this a NACK.
    pub(crate) fn error(&self) -> Option<&str> {
        self.error.as_deref().map(checked)
    }

    /// `resource_names`, or `resource_names_subscribe`.
    pub(crate) fn subscribe(&self) -> Said<'_> {
        let message = self.message.get(self.names.clone()).unwrap_or_default();
        Said { message, field: Fields::of(self.protocol).subscribe, count: self.counts[0] }
    }

    /// `resource_names_unsubscribe`.
    pub(crate) fn unsubscribe(&self) -> Said<'_> {
        self.said(Fields::of(self.protocol).unsubscribe, self.counts[1])
    }

    /// `initial_resource_versions`: names, which may repeat, and versions.
    pub(crate) fn versions(&self) -> impl Iterator<Item = (&str, &str)> {
        let said = self.said(Fields::of(self.protocol).versions, self.counts[2]);
        said.contents().map(|content| entry(content).unwrap_or_default())
    }

    /// How many versions it tells.
    pub(crate) fn versions_count(&self) -> usize {
        self.counts[2]
    }

    /// How long it is, in bytes.
    pub(crate) fn len(&self) -> usize {
        self.message.len()
    }

    pub(crate) fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Whether the client says that it brings resources from an earlier stream.
    pub(crate) fn resumes(&self) -> bool {
        !self.version.is_empty() || self.versions_count() > 0
    }

    fn said(&self, field: u32, count: usize) -> Said<'_> {
        Said { message: &self.message, field, count }
    }
}

impl From<Request> for Heard {
    fn from(request: Request) -> Self {
        let (protocol, message) = match request {
            Request::Sotw(request) => (Protocol::Sotw, request.encode_to_vec()),
            Request::Delta(request) => (Protocol::Delta, request.encode_to_vec()),
        };
        Self::read(protocol, message.into()).expect("what prost wrote is a request")
    }
}

// === impl Said ===

impl<'a> Said<'a> {
    fn contents(self) -> impl Iterator<Item = &'a [u8]> {
        // Where there are none, nothing is to be searched.
        let message = if self.count == 0 { &[] } else { self.message };
        let fields = pieces(message).flatten().filter(move |piece| piece.number == self.field);
        fields.filter_map(|piece| piece.content)
    }
}

impl Texts for Said<'_> {
    fn count(&self) -> usize {
        self.count
    }

    fn texts(&self) -> impl Iterator<Item = &str> {
        self.contents().map(checked)
    }

    /// Over their bytes as they lie there, and what is between them: an answer repeats a thousand names, and is not read again.
    fn digest(&self) -> u128 {
        xxh3_128(self.message)
    }
}

#[cfg(test)]
impl Texts for Vec<String> {
    fn count(&self) -> usize {
        self.len()
    }

    fn texts(&self) -> impl Iterator<Item = &str> {
        self.iter().map(String::as_str)
    }

    fn digest(&self) -> u128 {
        xxh3_128(self.join("\0").as_bytes())
    }
}

// === impl Fields ===

impl Fields {
    const fn of(protocol: Protocol) -> &'static Self {
        match protocol {
            Protocol::Sotw => &SOTW,
            Protocol::Delta => &DELTA,
        }
    }
}

/// An entry of a map from text to text.
fn entry(content: &[u8]) -> Option<(&str, &str)> {
    let (mut key, mut value) = ("", "");
    for piece in pieces(content) {
        let Piece { number, content, .. } = piece?;
        match number {
            1 => key = text(content?)?,
            2 => value = text(content?)?,
            _ => {}
        }
    }
    Some((key, value))
}

/// A text field of a message that is not worth decoding otherwise. `None` where the bytes are not well-formed.
fn field(message: &[u8], number: u32) -> Option<Option<&str>> {
    let mut found = None;
    for piece in pieces(message) {
        let piece = piece?;
        if piece.number == number {
            found = Some(text(piece.content?)?);
        }
    }
    Some(found)
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// A text that was found to be one when the request was read.
fn checked(bytes: &[u8]) -> &str {
    text(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
    use envoy_types::pb::google::rpc::Status;
    use proptest::prelude::*;

    use super::*;

    fn node(id: Option<String>) -> Option<Node> {
        id.map(|id| Node { id, ..Default::default() })
    }

    fn status(message: Option<String>) -> Option<Status> {
        message.map(|message| Status { code: 3, message, ..Default::default() })
    }

    fn all(said: &Said<'_>) -> Vec<String> {
        assert_eq!(said.texts().count(), said.count());
        said.texts().map(str::to_owned).collect()
    }

    proptest! {
        #[test]
        fn a_request_says_what_prost_reads_in_it(
            texts in proptest::collection::vec(".{0,40}", 3..4),
            id in proptest::option::of(".{0,9}"),
            error in proptest::option::of(".{0,9}"),
            names in proptest::collection::vec(".{0,9}", 0..5),
            others in proptest::collection::vec(".{0,9}", 0..5),
            versions in proptest::collection::hash_map(".{0,9}", ".{0,9}", 0..5),
        ) {
            let [type_url, nonce, version] = <[String; 3]>::try_from(texts).unwrap();
            let delta = DeltaDiscoveryRequest {
                node: node(id.clone()),
                type_url: type_url.clone(),
                resource_names_subscribe: names.clone(),
                resource_names_unsubscribe: others.clone(),
                initial_resource_versions: versions.clone(),
                response_nonce: nonce.clone(),
                error_detail: status(error.clone()),
                ..Default::default()
            };
            let heard = Heard::read(Protocol::Delta, delta.encode_to_vec().into()).unwrap();
            prop_assert_eq!((heard.type_url(), heard.nonce(), heard.version()), (&*type_url, &*nonce, ""));
            prop_assert_eq!((heard.node().cloned(), heard.error()), (node(id.clone()), error.as_deref()));
            prop_assert_eq!((all(&heard.subscribe()), all(&heard.unsubscribe())), (names.clone(), others));
            let said = heard.versions().map(|(name, version)| (name.to_owned(), version.to_owned()));
            prop_assert_eq!(heard.versions_count(), versions.len());
            prop_assert_eq!(said.collect::<std::collections::HashMap<_, _>>(), versions);

            let sotw = DiscoveryRequest {
                version_info: version.clone(),
                node: node(id.clone()),
                resource_names: names.clone(),
                type_url: type_url.clone(),
                response_nonce: nonce.clone(),
                error_detail: status(error.clone()),
                ..Default::default()
            };
            let heard = Heard::read(Protocol::Sotw, sotw.encode_to_vec().into()).unwrap();
            prop_assert_eq!((heard.type_url(), heard.nonce(), heard.version()), (&*type_url, &*nonce, &*version));
            prop_assert_eq!((heard.node().cloned(), heard.error()), (node(id), error.as_deref()));
            prop_assert_eq!((all(&heard.subscribe()), heard.unsubscribe().count()), (names, 0));
            prop_assert_eq!(heard.versions().count(), 0);
        }

        #[test]
        fn bytes_are_a_request_to_us_when_they_are_one_to_prost(bytes in proptest::collection::vec(any::<u8>(), 0..24)) {
            // What is inside of a refusal, but for its message, is nobody's business here.
            let prost = DeltaDiscoveryRequest::decode(&*bytes).is_ok();
            prop_assert!(!prost || Heard::read(Protocol::Delta, bytes.clone().into()).is_ok());
            let prost = DiscoveryRequest::decode(&*bytes).is_ok();
            prop_assert!(!prost || Heard::read(Protocol::Sotw, bytes.into()).is_ok());
        }
    }

    #[test]
    fn what_is_no_request_is_refused_with_the_field_that_is_wrong() {
        let read =
            |bytes: &'static [u8]| Heard::read(Protocol::Delta, Bytes::from_static(bytes)).unwrap_err();
        assert_eq!(read(b"\xff\xff"), HeardError::Malformed);
        assert_eq!(read(b"\x1a\x05ab"), HeardError::Malformed, "cut off");
        assert_eq!(read(b"\x1a\x02\xff\xff"), HeardError::Field(3), "not text");
        assert_eq!(read(b"\x10\x01"), HeardError::Field(2), "a number for a type");
        assert_eq!(read(b"\x2a\x03\x0a\x01\xff"), HeardError::Field(5), "a name that is not text");
        assert_eq!(read(b"\x0a\x02\x0a\x05"), HeardError::Field(1), "half a node");
    }

    #[test]
    fn lists_are_told_apart_by_their_bytes_and_found_wherever_they_are() {
        let part = |names: &[&str], type_url: &str| {
            let resource_names = names.iter().map(ToString::to_string).collect();
            DiscoveryRequest { resource_names, type_url: type_url.into(), ..Default::default() }
                .encode_to_vec()
        };
        let read = |parts: &[Vec<u8>]| Heard::read(Protocol::Sotw, parts.concat().into()).unwrap();
        let digest = |parts: &[Vec<u8>]| read(parts).subscribe().digest();
        let scattered = [part(&["a"], "t"), part(&["b"], "u"), part(&[], "v")];
        assert_eq!(all(&read(&scattered).subscribe()), ["a", "b"]);
        let one = digest(&[part(&["a", "b"], "t")]);
        assert_eq!(digest(&[part(&["a", "b"], "other")]), one);
        for other in [&["ab"][..], &["a"], &["b", "a"], &["a", "b", ""], &[]] {
            assert_ne!(digest(&[part(other, "t")]), one, "{other:?}");
        }
    }

    #[test]
    fn parts_of_a_message_are_put_together() {
        let part = |node: Node| DeltaDiscoveryRequest { node: Some(node), ..Default::default() };
        let id = part(Node { id: "a".into(), ..Default::default() });
        let cluster = part(Node { cluster: "b".into(), ..Default::default() });
        let bytes = [id.encode_to_vec(), cluster.encode_to_vec()].concat();
        let heard = Heard::read(Protocol::Delta, bytes.into()).unwrap();
        let node = heard.node().unwrap();
        assert_eq!((&*node.id, &*node.cluster), ("a", "b"));
    }
}
