//! One resource, encoded once: the bytes every stream sends, the hash they are compared by, the names they lead to.
//!
//! It never interprets a resource beyond the one link the protocol itself speaks of, from a cluster to its endpoints.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use prost::{Message, Name};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::canonical::canonical;
use crate::links;
use crate::name;
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
    /// Field `ttl` of `envoy.service.discovery.v3.Resource`, which follows `entry` for a client that heeds it.
    tail: Bytes,
    aliases: Vec<Arc<str>>,
    ttl: Option<Duration>,
    children: Vec<(TypeUrl, Arc<str>)>,
}

/// Why a client cannot have a resource at the moment, told to it in `resource_errors`.
///
/// With `UNAVAILABLE`, `INTERNAL` or `UNKNOWN` a client goes on with what it has; with `NOT_FOUND` or `PERMISSION_DENIED` it
/// may drop it (cncf/xds, TP3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceError {
    /// The status code.
    pub code: tonic::Code,
    /// Why, for people.
    pub message: String,
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
        let name = Arc::from(name::normal(name));
        let hash = xxh3_128(&value);
        let version = version.unwrap_or_else(|| Version::of_hash(hash));
        let children = links::children(&name, &type_url, &value);

        // google.protobuf.Any { type_url = 1, value = 2 }.
        let value_len = if value.is_empty() { 0 } else { wire::bytes_len(value.len()) };
        let mut any = BytesMut::with_capacity(wire::string_len(type_url.as_str()) + value_len);
        wire::put_string(1, type_url.as_str(), &mut any);
        if !value.is_empty() {
            wire::put_bytes(2, &value, &mut any);
        }
        let (any, entry, tail) = (any.freeze(), Bytes::new(), Bytes::new());
        Self { name, type_url, version, hash, entry, any, tail, aliases: Vec::new(), ttl: None, children }
            .written()
    }

    /// Writes the bytes anew: `Resource { version = 1, resource = 2, name = 3, aliases = 4, ttl = 6 }`.
    fn written(mut self) -> Self {
        let aliases: usize = self.aliases.iter().map(|alias| wire::bytes_len(alias.len())).sum();
        let len = wire::string_len(self.version.as_str())
            + wire::bytes_len(self.any.len())
            + wire::string_len(&self.name)
            + aliases;
        let mut entry = BytesMut::with_capacity(len);
        wire::put_string(1, self.version.as_str(), &mut entry);
        wire::put_header(2, self.any.len(), &mut entry);
        let any_at = entry.len();
        entry.extend_from_slice(&self.any);
        wire::put_string(3, &self.name, &mut entry);
        self.aliases.iter().for_each(|alias| wire::put_bytes(4, alias.as_bytes(), &mut entry));
        self.entry = entry.freeze();
        self.any = self.entry.slice(any_at..any_at + self.any.len());
        self.tail = self.ttl.map_or_else(Bytes::new, wire::ttl);
        self
    }

    /// The same, with these marks counted as content: in the hash, and in the version unless the publisher chose one.
    fn marked(mut self, mark: &[u8]) -> Self {
        let derived = self.version == Version::of_hash(self.hash);
        let mut hasher = Xxh3::new();
        hasher.update(&self.hash.to_le_bytes());
        hasher.update(mark);
        self.hash = hasher.digest128();
        if derived {
            self.version = Version::of_hash(self.hash);
        }
        self.written()
    }

    /// Lets the resource go from a client that does not hear from this server for so long. The server refreshes it at half that
    /// time, for clients that say they heed it (`xds.config.supports-resource-ttl`); others get the resource without end.
    ///
    /// For what must not outlive its server, such as an injected fault (xds_protocol.rst, "TTL"). Zero means none.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = (!ttl.is_zero()).then_some(ttl);
        self.marked(&ttl.as_nanos().to_le_bytes())
    }

    /// Lets incremental clients ask for the resource by these names as well, as Envoy does for virtual hosts on demand
    /// (vhds.rst; discovery.proto, `Resource.aliases`).
    #[must_use]
    pub fn with_aliases<'a>(mut self, aliases: impl IntoIterator<Item = &'a str>) -> Self {
        self.aliases = aliases.into_iter().map(|alias| Arc::from(name::normal(alias))).collect();
        let mark = self.aliases.iter().flat_map(|alias| alias.bytes().chain([0])).collect::<Vec<u8>>();
        self.marked(&mark)
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

    /// Field `ttl`, encoded; empty without one.
    pub(crate) fn tail(&self) -> &Bytes {
        &self.tail
    }

    /// The other names clients may ask for it by.
    pub fn aliases(&self) -> &[Arc<str>] {
        &self.aliases
    }

    /// How long a client keeps it without hearing from the server; `None` for ever.
    pub fn ttl(&self) -> Option<Duration> {
        self.ttl
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
