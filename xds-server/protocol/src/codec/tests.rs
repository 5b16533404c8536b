//! What our codec writes is, byte for byte, what prost writes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb;
use envoy_types::pb::envoy::config::core::v3::ControlPlane;
use envoy_types::pb::envoy::service::discovery::v3 as discovery;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryResponse, DiscoveryResponse, Resource as Entry,
};
use envoy_types::pb::google::protobuf::Any;
use envoy_types::pb::google::rpc;
use proptest::prelude::*;
use prost::{Message, Name};

use super::{PREFIX, Pieces};
use crate::session::{Resources, Response};
use crate::type_set::TypeSet;
use crate::types::{Protocol, TypeUrl, Version};
use crate::{Resource, ResourceError};

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

/// A resource before it is made.
#[derive(Clone, Debug)]
struct Plan {
    name: String,
    value: Vec<u8>,
    /// If it is not the hash.
    version: Option<String>,
    aliases: Vec<String>,
    ttl_ms: u64,
}

fn plans() -> impl Strategy<Value = Vec<Plan>> {
    let version = proptest::option::of(".{0,8}");
    let aliases = proptest::collection::vec(".{0,9}", 0..3);
    let ttl = prop_oneof![Just(0), 1..100_000u64];
    let plan = (".{0,20}", content(), version, aliases, ttl);
    let plan = plan.prop_map(|(name, value, version, aliases, ttl_ms)| Plan {
        name,
        value,
        version,
        aliases,
        ttl_ms,
    });
    proptest::collection::vec(plan, 0..6)
}

fn make(plan: &Plan) -> Arc<Resource> {
    let kind = TypeUrl::ENDPOINT;
    let resource = match &plan.version {
        Some(version) => Resource::with_version(&plan.name, kind, plan.value.clone(), Version::new(version)),
        None => Resource::from_value(&plan.name, kind, plan.value.clone()),
    };
    let resource = match plan.ttl_ms {
        0 => resource,
        ttl => resource.with_ttl(Duration::from_millis(ttl)),
    };
    Arc::new(match plan.aliases.is_empty() {
        true => resource,
        false => resource.with_aliases(plan.aliases.iter().map(String::as_str)),
    })
}

/// The same by prost.
fn entry(plan: &Plan, made: &Resource, with_ttl: bool) -> Entry {
    let ttl = |ms: u64| pb::google::protobuf::Duration {
        seconds: (ms / 1000) as i64,
        nanos: (ms % 1000 * 1_000_000) as i32,
    };
    Entry {
        name: plan.name.clone(),
        version: made.version().to_string(),
        resource: Some(Any { type_url: TypeUrl::ENDPOINT.to_string(), value: plan.value.clone() }),
        aliases: plan.aliases.clone(),
        ttl: (with_ttl && plan.ttl_ms > 0).then(|| ttl(plan.ttl_ms)),
        ..Default::default()
    }
}

proptest! {
    #[test]
    fn equal_to_prost(
        plans in plans(),
        beats in plans(),
        removed in proptest::collection::vec(".{0,150}", 0..4),
        unresolved in proptest::collection::vec(".{1,20}", 0..3),
        errors in proptest::collection::vec((".{0,20}", 0..17i32, ".{0,130}"), 0..3),
        nonce in ".{0,40}",
        control_plane in ".{0,130}",
        delta in any::<bool>(),
        with_ttl in any::<bool>(),
    ) {
        let type_url = TypeUrl::ENDPOINT;
        let made: Vec<Arc<Resource>> = plans.iter().map(make).collect();
        let refreshed: Vec<Arc<Resource>> = beats.iter().map(make).collect();
        let error = |(name, code, message): &(String, i32, String)| {
            let error = ResourceError { code: tonic::Code::from_i32(*code), message: message.clone() };
            (Arc::from(name.as_str()), Arc::new(error))
        };
        let response = Response {
            protocol: if delta { Protocol::Delta } else { Protocol::Sotw },
            type_url: type_url.clone(),
            version: Version::new("v1"),
            nonce: Arc::from(nonce.as_str()),
            resources: made.clone().into(),
            removed: removed.iter().map(|name| Arc::from(name.as_str())).collect(),
            refreshed: if delta { refreshed.clone() } else { Vec::new() },
            unresolved: if delta { unresolved.iter().map(|name| Arc::from(name.as_str())).collect() } else { Vec::new() },
            errors: errors.iter().map(error).collect(),
            with_ttl,
            heartbeat: false,
            control_plane: Arc::from(control_plane.as_str()),
        };
        let control_plane = (!control_plane.is_empty())
            .then(|| ControlPlane { identifier: control_plane.clone() });
        let resource_errors: Vec<_> = errors
            .iter()
            .map(|(name, code, message)| discovery::ResourceError {
                resource_name: Some(discovery::ResourceName { name: name.clone(), ..Default::default() }),
                error_detail: Some(rpc::Status { code: *code, message: message.clone(), ..Default::default() }),
            })
            .collect();
        let expected = if delta {
            let entries = plans.iter().zip(&made).map(|(plan, made)| entry(plan, made, with_ttl));
            let beats = beats.iter().zip(&refreshed).map(|(plan, made)| Entry {
                resource: None,
                aliases: Vec::new(),
                ..entry(plan, made, true)
            });
            let unresolved = unresolved.iter().map(|name| Entry {
                name: name.clone(),
                version: "v1".into(),
                aliases: vec![name.clone()],
                ..Default::default()
            });
            DeltaDiscoveryResponse {
                system_version_info: "v1".into(),
                resources: entries.chain(beats).chain(unresolved).collect(),
                type_url: type_url.to_string(),
                removed_resources: removed,
                nonce,
                control_plane,
                resource_errors,
                ..Default::default()
            }
            .encode_to_vec()
        } else {
            let anys = plans.iter().zip(&made).map(|(plan, made)| {
                let entry = entry(plan, made, with_ttl);
                match entry.ttl {
                    Some(_) => Any { type_url: Entry::type_url(), value: entry.encode_to_vec() },
                    None => entry.resource.unwrap(),
                }
            });
            DiscoveryResponse {
                version_info: "v1".into(),
                resources: anys.collect(),
                type_url: type_url.to_string(),
                nonce,
                control_plane,
                resource_errors,
                ..Default::default()
            }
            .encode_to_vec()
        };
        let mut written = Vec::new();
        response.encode(&mut written);
        prop_assert_eq!(&written, &expected);
        prop_assert_eq!(response.encoded_len(), expected.len());

        let mut pieces = Pieces::new(response);
        let sent: Vec<_> = std::iter::from_fn(|| pieces.next()).collect();
        let sent = sent.concat();
        let (prefix, message) = sent.split_at(PREFIX);
        prop_assert_eq!(prefix, [&[0], &(expected.len() as u32).to_be_bytes()[..]].concat());
        prop_assert_eq!(message, &expected);
    }
}

proptest! {
    #[test]
    fn what_many_are_sent_at_once_is_written_once_and_the_same(plans in plans(), delta in any::<bool>()) {
        let plain = |plan: &Plan| make(&Plan { aliases: Vec::new(), ttl_ms: 0, ..plan.clone() });
        let named: BTreeMap<_, _> = plans.iter().map(plain).map(|made| (made.name().clone(), made)).collect();
        let set = TypeSet::build(named.clone(), Default::default(), None, None);
        let response = |resources| Response {
            protocol: if delta { Protocol::Delta } else { Protocol::Sotw },
            type_url: TypeUrl::ENDPOINT,
            version: Version::new("v1"),
            nonce: Arc::from("1-1"),
            resources,
            removed: Vec::new(),
            refreshed: Vec::new(),
            unresolved: Vec::new(),
            errors: Vec::new(),
            with_ttl: true,
            heartbeat: false,
            control_plane: Arc::from("us"),
        };
        let sent = |pieces: &mut Pieces| std::iter::from_fn(|| pieces.next()).collect::<Vec<_>>();
        let alone = sent(&mut Pieces::new(response(named.into_values().collect::<Vec<_>>().into())));
        let mut first = Pieces::new(response(Resources::All(set.clone())));
        let mut second = Pieces::new(response(Resources::All(set)));
        let (first, second) = (sent(&mut first), sent(&mut second));
        prop_assert_eq!(first.concat(), alone.concat());
        prop_assert_eq!(&first, &second);
        let shared = first.iter().zip(&second).filter(|(a, b)| a.as_ptr() == b.as_ptr()).count();
        prop_assert_eq!(shared, first.len() - 2, "all but what comes before and after");
    }
}
