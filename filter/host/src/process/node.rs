//! What Envoy's bootstrap says of the proxy, and how old that Envoy is. Plain data.

/// The proxy itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// `node.locality.zone`, when the bootstrap gives one.
    pub zone: Option<String>,
    /// By which names the attributes go.
    pub attributes: Attributes,
}

/// By which names an Envoy knows the attributes of node and cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Attributes {
    /// `xds.cluster_name`, `xds.node.*` and `xds.upstream_host_metadata`: 1.40, where the old ones are gone.
    #[default]
    Xds,
    /// `cluster_name` and `node.*`: before that.
    Plain,
}
