//! Which endpoints a cluster makes its client ask for.
//!
//! It reads the few fields of a cluster that say so, and nothing else of any resource. A resource that does not decode has
//! no links; its client will say what is wrong with it.

use std::sync::Arc;

use prost::Message;

use crate::types::TypeUrl;

/// `Cluster.DiscoveryType.EDS`.
const EDS: i32 = 3;

/// The fields of `envoy.config.cluster.v3.Cluster` that name its endpoints.
#[derive(Clone, PartialEq, Message)]
struct Cluster {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int32, tag = "2")]
    discovery_type: i32,
    #[prost(message, optional, tag = "3")]
    eds: Option<EdsClusterConfig>,
}

/// `Cluster.EdsClusterConfig`.
#[derive(Clone, PartialEq, Message)]
struct EdsClusterConfig {
    #[prost(message, optional, tag = "1")]
    source: Option<ConfigSource>,
    #[prost(string, tag = "2")]
    service_name: String,
}

/// `envoy.config.core.v3.ConfigSource`: the two sources that mean "the stream this came on".
#[derive(Clone, PartialEq, Message)]
struct ConfigSource {
    #[prost(message, optional, tag = "3")]
    ads: Option<()>,
    #[prost(message, optional, tag = "5")]
    own: Option<()>,
}

/// What a client that takes this resource asks for on the same stream before it uses it.
pub(crate) fn children(name: &str, type_url: &TypeUrl, value: &[u8]) -> Vec<(TypeUrl, Arc<str>)> {
    if *type_url != TypeUrl::CLUSTER {
        return Vec::new();
    }
    let Ok(cluster) = Cluster::decode(value) else { return Vec::new() };
    let Some(eds) = cluster.eds.filter(|_| cluster.discovery_type == EDS) else { return Vec::new() };
    if !eds.source.is_some_and(|source| source.ads.is_some() || source.own.is_some()) {
        return Vec::new();
    }
    // cluster.proto, EdsClusterConfig.service_name: "Optional alternative to cluster name to present to EDS".
    let asked = if eds.service_name.is_empty() { name } else { &eds.service_name };
    vec![(TypeUrl::ENDPOINT, Arc::from(asked))]
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::cluster::v3 as cds;
    use envoy_types::pb::envoy::config::core::v3 as core;
    use prost::Message;

    use super::*;

    fn cluster(kind: cds::cluster::DiscoveryType, service: &str, ads: bool) -> Vec<u8> {
        let source = core::config_source::ConfigSourceSpecifier::Ads(core::AggregatedConfigSource {});
        cds::Cluster {
            name: "a".into(),
            cluster_discovery_type: Some(cds::cluster::ClusterDiscoveryType::Type(kind as i32)),
            eds_cluster_config: Some(cds::cluster::EdsClusterConfig {
                eds_config: Some(core::ConfigSource {
                    config_source_specifier: ads.then_some(source),
                    ..Default::default()
                }),
                service_name: service.into(),
            }),
            ..Default::default()
        }
        .encode_to_vec()
    }

    #[test]
    fn an_eds_cluster_leads_to_its_endpoints_by_service_name_or_its_own() {
        use cds::cluster::DiscoveryType::{Eds, StrictDns};
        let names = |value: &[u8]| {
            let found = children("a", &TypeUrl::CLUSTER, value);
            found.into_iter().map(|(kind, name)| (kind, name.to_string())).collect::<Vec<_>>()
        };
        assert_eq!(names(&cluster(Eds, "svc", true)), [(TypeUrl::ENDPOINT, "svc".to_owned())]);
        assert_eq!(names(&cluster(Eds, "", true)), [(TypeUrl::ENDPOINT, "a".to_owned())]);
        assert_eq!(
            names(&cluster(Eds, "svc", false)),
            [],
            "endpoints from elsewhere are not ours to wait for"
        );
        assert_eq!(names(&cluster(StrictDns, "svc", true)), []);
        assert_eq!(names(b"\xff\xff"), [], "what does not decode has no links");
    }
}
