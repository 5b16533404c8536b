//! One resource, encoded once: the bytes every stream sends, the hash they are compared by, the names they lead to.
//!
//! It never interprets a resource beyond the one link the protocol itself speaks of, from a cluster to its endpoints.

use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use prost::{Message, Name};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::canonical::canonical;
use crate::links;
use crate::types::{TypeUrl, Version};
use crate::wire;

/// A named resource, immutable and shared by every stream that sends it.
pub struct Resource {
    name: Arc<str>,
    type_url: TypeUrl,
    version: Version,
    hash: u128,
    /// `envoy.service.discovery.v3.Resource`, which a delta response repeats.
    entry: Bytes,
    /// `google.protobuf.Any`, which a state-of-the-world response repeats: a slice of `entry`.
    any: Bytes,
    children: Vec<(TypeUrl, Arc<str>)>,
}

/// An order-free hash over a set of resources: the sum of a hash for each.
///
/// A sum, so that it follows a change without reading the whole set: the version of any subset a client holds stays at
/// hand. It is no defence against somebody who crafts resources to collide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fingerprint(u128);

// === impl Resource ===

impl Resource {
    /// Encodes `message` under `name`, with the hash of its bytes for a version.
    ///
    /// The bytes are the same wherever and whenever the same content is encoded, or every rebuild would look like a change:
    /// map fields have no fixed order in prost, so they are put into one.
    pub fn encode<M: Message + Name>(name: &str, message: &M) -> Self {
        let type_url = M::type_url();
        let value = canonical(&type_url, message.encode_to_vec());
        Self::build(name, TypeUrl::new(&type_url), value.into(), None)
    }

    /// A resource whose `message` (the bytes inside the `Any`) was serialized elsewhere, hashed as it is.
    pub fn from_value(name: &str, type_url: TypeUrl, value: impl Into<Bytes>) -> Self {
        Self::build(name, type_url, value.into(), None)
    }

    /// As [`Resource::from_value`], with a version of the publisher's own choice.
    ///
    /// Whether to send is still decided by content; the version is what the client is told and what it says on reconnect.
    pub fn with_version(name: &str, type_url: TypeUrl, value: impl Into<Bytes>, version: Version) -> Self {
        Self::build(name, type_url, value.into(), Some(version))
    }

    fn build(name: &str, type_url: TypeUrl, value: Bytes, version: Option<Version>) -> Self {
        let hash = xxh3_128(&value);
        let version = version.unwrap_or_else(|| Version::of_hash(hash));

        // google.protobuf.Any { type_url = 1, value = 2 }, inside Resource { version = 1, resource = 2, name = 3 }.
        let value_len = if value.is_empty() { 0 } else { wire::bytes_len(value.len()) };
        let any_len = wire::string_len(type_url.as_str()) + value_len;
        let len = wire::string_len(version.as_str()) + wire::bytes_len(any_len) + wire::string_len(name);
        let mut entry = BytesMut::with_capacity(len);
        wire::put_string(1, version.as_str(), &mut entry);
        wire::put_header(2, any_len, &mut entry);
        let any_at = entry.len();
        wire::put_string(1, type_url.as_str(), &mut entry);
        if !value.is_empty() {
            wire::put_bytes(2, &value, &mut entry);
        }
        wire::put_string(3, name, &mut entry);
        let entry = entry.freeze();
        let any = entry.slice(any_at..any_at + any_len);

        let children = links::children(name, &type_url, &value);
        Self { name: Arc::from(name), type_url, version, hash, entry, any, children }
    }

    /// Declares that a client which takes this resource will ask for `name` of `type_url` on the same stream and will not
    /// use this resource before it has it.
    ///
    /// A cluster's endpoints are found without being told; this is for what only the publisher knows.
    #[must_use]
    pub fn with_child(mut self, type_url: TypeUrl, name: &str) -> Self {
        self.children.push((type_url, Arc::from(name)));
        self
    }

    /// The name clients subscribe to.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The resource's type.
    pub fn type_url(&self) -> &TypeUrl {
        &self.type_url
    }

    /// The version clients are told.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// The encoded `google.protobuf.Any`.
    pub fn any(&self) -> &Bytes {
        &self.any
    }

    /// The encoded `envoy.service.discovery.v3.Resource`.
    pub fn entry(&self) -> &Bytes {
        &self.entry
    }

    /// What a client asks for because it took this resource, and waits for before it uses it.
    pub fn children(&self) -> &[(TypeUrl, Arc<str>)] {
        &self.children
    }

    /// Whether a client that holds one has no use for the other: same type, name and content, whatever the version says.
    pub fn same_content(&self, other: &Self) -> bool {
        self.hash == other.hash && self.name == other.name && self.type_url == other.type_url
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        let mut hasher = Xxh3::new();
        hasher.update(&self.hash.to_le_bytes());
        hasher.update(self.name.as_bytes());
        Fingerprint(hasher.digest128())
    }
}

/// What identifies it, without its bytes.
impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{} ({} bytes)", self.type_url.short(), self.name, self.version, self.entry.len())
    }
}

// === impl Fingerprint ===

impl Fingerprint {
    pub(crate) fn add(&mut self, resource: &Resource) {
        self.0 = self.0.wrapping_add(resource.fingerprint().0);
    }

    pub(crate) fn remove(&mut self, resource: &Resource) {
        self.0 = self.0.wrapping_sub(resource.fingerprint().0);
    }

    pub(crate) fn version(self) -> Version {
        Version::of_hash(self.0)
    }
}
