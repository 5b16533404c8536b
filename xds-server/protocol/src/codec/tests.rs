//! What our codec writes is, byte for byte, what prost writes.

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::ControlPlane;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryResponse, DiscoveryResponse, Resource as Entry,
};
use envoy_types::pb::google::protobuf::Any;
use proptest::prelude::*;
use prost::Message;

use crate::Resource;
use crate::session::Response;
use crate::types::{Protocol, TypeUrl, Version};

/// Content of any length around the places where a length takes one more byte.
fn content() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(Vec::new()),
        proptest::collection::vec(any::<u8>(), 1..200),
        Just(vec![7; 127]),
        Just(vec![7; 128]),
        Just(vec![7; 16_384]),
    ]
}

/// Name, content, and a version if it is not the hash.
type Made = (String, Vec<u8>, Option<String>);

fn resources() -> impl Strategy<Value = Vec<Made>> {
    proptest::collection::vec((".{0,20}", content(), proptest::option::of(".{0,8}")), 0..6)
}

proptest! {
    #[test]
    fn equal_to_prost(
        resources in resources(),
        removed in proptest::collection::vec(".{0,150}", 0..4),
        nonce in ".{0,40}",
        control_plane in ".{0,130}",
        delta in any::<bool>(),
    ) {
        let type_url = TypeUrl::ENDPOINT;
        let made: Vec<Arc<Resource>> = resources
            .iter()
            .map(|(name, value, version)| Arc::new(match version {
                Some(version) => {
                    let version = Version::new(version);
                    Resource::with_version(name, type_url.clone(), value.clone(), version)
                }
                None => Resource::from_value(name, type_url.clone(), value.clone()),
            }))
            .collect();
        let response = Response {
            protocol: if delta { Protocol::Delta } else { Protocol::Sotw },
            type_url: type_url.clone(),
            version: Version::new("v1"),
            nonce: Arc::from(nonce.as_str()),
            resources: made.clone(),
            removed: removed.iter().map(|name| Arc::from(name.as_str())).collect(),
            control_plane: Arc::from(control_plane.as_str()),
        };
        let any = |value: &Vec<u8>| Any { type_url: type_url.to_string(), value: value.clone() };
        let control_plane = (!control_plane.is_empty())
            .then(|| ControlPlane { identifier: control_plane.clone() });
        let expected = if delta {
            let entries = resources.iter().zip(&made).map(|((name, value, _), made)| Entry {
                name: name.clone(),
                version: made.version().to_string(),
                resource: Some(any(value)),
                ..Default::default()
            });
            DeltaDiscoveryResponse {
                system_version_info: "v1".into(),
                resources: entries.collect(),
                type_url: type_url.to_string(),
                removed_resources: removed,
                nonce,
                control_plane,
                ..Default::default()
            }
            .encode_to_vec()
        } else {
            DiscoveryResponse {
                version_info: "v1".into(),
                resources: resources.iter().map(|(_, value, _)| any(value)).collect(),
                type_url: type_url.to_string(),
                nonce,
                control_plane,
                ..Default::default()
            }
            .encode_to_vec()
        };
        let mut written = Vec::new();
        response.encode(&mut written);
        prop_assert_eq!(&written, &expected);
        prop_assert_eq!(response.encoded_len(), expected.len());
    }
}
