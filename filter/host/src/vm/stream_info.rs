//! The attributes of a stream, as measured on Envoy 1.40: which are there, and as what. Looks up; keeps nothing.
//!
//! An integer is 8 bytes, little-endian. What belongs to the chosen host is absent until one is chosen, and for ever when
//! none could be (`no_healthy_upstream`, `overflow`). Flags are what the filter at hand can see of them: an upstream filter
//! sees 0 for a failure of any kind, and only a client that went away shows.

use std::rc::Rc;

use crate::process::{Attributes, Node};

/// Envoy's response flag `DC`: the client went away first (`DownstreamConnectionTermination`).
pub const DOWNSTREAM_GONE: u64 = 1 << 14;

/// What a stream's attributes are drawn from.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StreamInfo {
    /// The route's cluster.
    pub cluster: Option<Rc<str>>,
    /// The chosen host.
    pub host: Option<Rc<Host>>,
    /// Which attempt this is, from 1; 0 before the first.
    pub attempt: u64,
    /// `response.flags`.
    pub flags: u64,
    /// `response.code`.
    pub code: Option<u16>,
    /// `upstream.transport_failure_reason`: there was no connection, and this is why.
    pub transport_failure: Option<&'static str>,
    /// There was no connection, and no reason is given: the time was out before there could be one.
    pub connect_timeout: bool,
}

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Address and port.
    pub address: String,
    /// The zone of its locality.
    pub zone: String,
    /// `filter_metadata.zonebreak.id`, `<service>/<zone>`; endpoints of another control plane have none.
    pub id: Option<String>,
}

// === impl StreamInfo ===

impl StreamInfo {
    /// The attribute at a path whose parts are joined by zero bytes.
    pub(crate) fn attribute(&self, path: &str, node: &Node) -> Option<Vec<u8>> {
        let text = |text: &str| Some(text.as_bytes().to_vec());
        let number = |number: u64| Some(number.to_le_bytes().to_vec());
        let host = self.host.as_deref();
        match path {
            "upstream\0locality\0zone" => text(&host?.zone),
            "upstream\0address" => text(&host?.address),
            "upstream\0local_address" if self.transport_failure.is_some() || self.connect_timeout => None,
            "upstream\0local_address" => host.and(text("10.0.0.9:40000")),
            "upstream\0request_attempt_count" => number(self.attempt),
            "upstream\0transport_failure_reason" => text(self.transport_failure?),
            "response\0flags" => number(self.flags),
            "response\0code" => number(u64::from(self.code?)),
            _ => self.named(path.strip_prefix(node.attributes.prefix())?, node),
        }
    }

    /// Those whose names changed from one Envoy to another.
    fn named(&self, path: &str, node: &Node) -> Option<Vec<u8>> {
        let text = match path {
            "cluster_name" => self.cluster.as_deref(),
            "node\0locality\0zone" => node.zone.as_deref(),
            "upstream_host_metadata\0filter_metadata\0zonebreak\0id" => self.host.as_ref()?.id.as_deref(),
            _ => None,
        };
        text.map(|text| text.as_bytes().to_vec())
    }
}

// === impl Attributes ===

impl Attributes {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Xds => "xds\0",
            Self::Plain => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_the_host_is_absent_without_one() {
        let node = Node::default();
        let mut info = StreamInfo { cluster: Some("svc".into()), ..StreamInfo::default() };
        let zone = "upstream\0locality\0zone";
        let id = "xds\0upstream_host_metadata\0filter_metadata\0zonebreak\0id";
        assert_eq!((info.attribute(zone, &node), info.attribute(id, &node)), (None, None));
        let host = Host { address: "10.0.0.1:80".into(), zone: "az-a".into(), id: Some("svc/az-a".into()) };
        info.host = Some(Rc::new(host));
        assert_eq!(info.attribute(zone, &node).unwrap(), b"az-a");
        assert_eq!(info.attribute(id, &node).unwrap(), b"svc/az-a");
    }

    #[test]
    fn each_age_of_envoy_has_its_own_names_and_not_the_others() {
        let info = StreamInfo { cluster: Some("svc".into()), ..StreamInfo::default() };
        for (attributes, there, absent) in [
            (Attributes::Xds, "xds\0cluster_name", "cluster_name"),
            (Attributes::Plain, "cluster_name", "xds\0cluster_name"),
        ] {
            let node = Node { zone: None, attributes };
            assert_eq!(info.attribute(there, &node).unwrap(), b"svc");
            assert_eq!(info.attribute(absent, &node), None);
        }
    }

    #[test]
    fn numbers_are_eight_bytes() {
        let info = StreamInfo { flags: DOWNSTREAM_GONE, ..StreamInfo::default() };
        let flags = info.attribute("response\0flags", &Node::default()).unwrap();
        assert_eq!(u64::from_le_bytes(flags.try_into().unwrap()), 16_384);
        assert_eq!(info.attribute("response\0code", &Node::default()), None);
    }
}
