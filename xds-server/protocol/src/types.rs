//! The names this crate passes around: type URLs, versions, view keys, change ids and the two protocols.
//!
//! Each is a newtype so that a version is never taken for a nonce and a view key never for a node id. Nothing here knows
//! what a resource contains.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// The type URL of a resource, such as `type.googleapis.com/envoy.config.cluster.v3.Cluster`.
///
/// The engine treats every type alike except where the protocol itself does not: see [`TypeUrl::is_full_state`]
/// and the order in which types are sent.
///
/// Types are ordered as [`TypeUrl::KNOWN`] is, then by URL: a map keyed by type iterates in the order of sending.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeUrl(Repr);

/// A known type is its place in [`NAMES`], so that naming, cloning and comparing one costs nothing: streams do little else. Any
/// other type is shared.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Repr {
    Known(usize),
    Other(Arc<str>),
}

/// The URLs and short names of the types this crate knows, in the order in which a change to them is sent
/// (xds_protocol.rst, "Eventual consistency considerations").
const NAMES: [(&str, &str); TypeUrl::KNOWN_COUNT] = [
    ("type.googleapis.com/envoy.config.cluster.v3.Cluster", "cds"),
    ("type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment", "eds"),
    ("type.googleapis.com/envoy.config.endpoint.v3.LbEndpoint", "leds"),
    ("type.googleapis.com/envoy.config.listener.v3.Listener", "lds"),
    ("type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig", "ecds"),
    ("type.googleapis.com/envoy.config.route.v3.RouteConfiguration", "rds"),
    ("type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration", "srds"),
    ("type.googleapis.com/envoy.config.route.v3.VirtualHost", "vhds"),
    ("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret", "sds"),
    ("type.googleapis.com/envoy.service.runtime.v3.Runtime", "rtds"),
];

/// The version of one resource or of one type's whole content, as it travels in `version` and `version_info`.
///
/// Usually 32 hex digits of a content hash, so that two servers, or one server before and after a restart, give the same
/// content the same version (xds_protocol.rst, "ACK/NACK and resource type instance version").
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(Arc<str>);

/// Which snapshot a client gets. Many clients share one view; the engine does not interpret the key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ViewKey(Arc<str>);

/// The publisher's label for what caused a snapshot, carried along so that an ACK can be traced to its cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChangeId(pub u64);

/// One stream of this process, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u64);

/// The two variants of the discovery protocol (xds_protocol.rst, "Variants of the xDS Transport Protocol").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// State of the world: `DiscoveryRequest` and `DiscoveryResponse`.
    Sotw,
    /// Incremental: `DeltaDiscoveryRequest` and `DeltaDiscoveryResponse`.
    Delta,
}

/// What one stream may carry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Every type on one stream (ADS): the engine orders changes across types.
    Aggregated,
    /// One type only, as the per-type services have it: nothing to order.
    Single(TypeUrl),
}

// === impl TypeUrl ===

impl TypeUrl {
    /// CDS.
    pub const CLUSTER: Self = Self(Repr::Known(0));
    /// EDS.
    pub const ENDPOINT: Self = Self(Repr::Known(1));
    /// LEDS.
    pub const LOCALITY_ENDPOINT: Self = Self(Repr::Known(2));
    /// LDS.
    pub const LISTENER: Self = Self(Repr::Known(3));
    /// RDS.
    pub const ROUTE: Self = Self(Repr::Known(5));
    /// SRDS.
    pub const SCOPED_ROUTE: Self = Self(Repr::Known(6));
    /// VHDS.
    pub const VIRTUAL_HOST: Self = Self(Repr::Known(7));
    /// ECDS.
    pub const EXTENSION_CONFIG: Self = Self(Repr::Known(4));
    /// RTDS.
    pub const RUNTIME: Self = Self(Repr::Known(9));
    /// SDS.
    pub const SECRET: Self = Self(Repr::Known(8));

    pub(crate) const KNOWN_COUNT: usize = 10;

    /// The types this crate knows by name, in the order in which a change to them is sent
    /// (xds_protocol.rst, "Eventual consistency considerations").
    pub const KNOWN: [Self; Self::KNOWN_COUNT] = [
        Self::CLUSTER,
        Self::ENDPOINT,
        Self::LOCALITY_ENDPOINT,
        Self::LISTENER,
        Self::EXTENSION_CONFIG,
        Self::ROUTE,
        Self::SCOPED_ROUTE,
        Self::VIRTUAL_HOST,
        Self::SECRET,
        Self::RUNTIME,
    ];

    /// Any type URL; a known one becomes its constant.
    pub fn new(url: &str) -> Self {
        let known = NAMES.iter().position(|(known, _)| same(known.as_bytes(), url.as_bytes()));
        Self(known.map_or_else(|| Repr::Other(Arc::from(url)), Repr::Known))
    }

    /// The URL as it travels.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Repr::Known(place) => NAMES.get(*place).map_or("", |(url, _)| url),
            Repr::Other(url) => url,
        }
    }

    /// The short name operators use (`cds`, `eds`, ...); `other` for a type this crate has no name for, so that it can
    /// label a metric without letting clients invent labels.
    pub fn short(&self) -> &'static str {
        NAMES.get(self.position()).map_or("other", |(_, short)| short)
    }

    /// Where the type stands in [`TypeUrl::KNOWN`]; its length for any other type.
    pub fn position(&self) -> usize {
        match self.0 {
            Repr::Known(place) => place,
            Repr::Other(_) => Self::KNOWN_COUNT,
        }
    }

    /// Whether a state-of-the-world response must hold everything the client should have, so that what is absent is deleted
    /// (xds_protocol.rst, "Grouping Resources into Responses"; Envoy reads SRDS the same way).
    pub fn is_full_state(&self) -> bool {
        *self == Self::LISTENER || *self == Self::CLUSTER || *self == Self::SCOPED_ROUTE
    }

    /// Whether a client that never named a resource means "all of them" (xds_protocol.rst, "How the client specifies what
    /// resources to return"; Envoy subscribes to SRDS the same way).
    pub fn is_wildcard_by_default(&self) -> bool {
        self.is_full_state()
    }
}

/// Whether two texts are the same, eight bytes at a time: musl compares one after the other, and type URLs are long and begin alike.
fn same(a: &[u8], b: &[u8]) -> bool {
    let ((words, rest), (of_words, of_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let alike = |(a, b): (&[u8; 8], &[u8; 8])| u64::from_ne_bytes(*a) == u64::from_ne_bytes(*b);
    a.len() == b.len() && words.iter().zip(of_words).all(alike) && rest == of_rest
}

impl fmt::Display for TypeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for TypeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.short() {
            "other" => write!(f, "TypeUrl({})", self.as_str()),
            short => write!(f, "TypeUrl({short})"),
        }
    }
}

// === impl Version ===

impl Version {
    /// A version the publisher chose.
    pub fn new(version: &str) -> Self {
        Self(Arc::from(version))
    }

    /// The version of content with this hash: 32 hex digits.
    pub(crate) fn of_hash(hash: u128) -> Self {
        Self(Arc::from(format!("{hash:032x}")))
    }

    /// The version as it travels.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl ViewKey ===

impl ViewKey {
    /// A key; any text will do.
    pub fn new(key: &str) -> Self {
        Self(Arc::from(key))
    }

    /// The key's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for ViewKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ViewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl ChangeId, StreamId, Protocol, Scope ===

impl fmt::Display for ChangeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl Protocol {
    /// `sotw` or `delta`, as in logs and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sotw => "sotw",
            Self::Delta => "delta",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Scope {
    /// `ads`, or the short name of the one type.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Aggregated => "ads",
            Self::Single(type_url) => type_url.short(),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_type_is_found_by_its_url_at_its_place() {
        for (place, known) in TypeUrl::KNOWN.into_iter().enumerate() {
            assert_eq!(known.position(), place);
            assert_eq!(TypeUrl::new(known.as_str()), known);
        }
        let named = [TypeUrl::CLUSTER, TypeUrl::SECRET, TypeUrl::RUNTIME].map(|kind| kind.short());
        assert_eq!(named, ["cds", "sds", "rtds"]);
        let other = TypeUrl::new("a/b");
        assert!(other > TypeUrl::RUNTIME && other < TypeUrl::new("a/c"));
        assert_eq!((other.short(), other.as_str(), other.position()), ("other", "a/b", TypeUrl::KNOWN_COUNT));
    }
}
