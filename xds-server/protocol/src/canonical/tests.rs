//! The same content gives the same bytes, and the bytes still say the same.

use std::collections::{BTreeMap, HashMap};

use envoy_types::pb::envoy::config::core::v3::{Metadata, TypedExtensionConfig};
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints};
use envoy_types::pb::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Any, ListValue, Struct, Value};
use prost::{Message, Name};
use proptest::prelude::*;

use super::canonical;
use crate::Resource;

/// A tree of values; objects in it become maps.
#[derive(Clone, Debug)]
enum Tree {
    Text(String),
    List(Vec<Tree>),
    Object(BTreeMap<String, Tree>),
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = "[a-z]{0,5}".prop_map(Tree::Text);
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Tree::List),
            proptest::collection::btree_map("[a-z]{1,4}", inner, 0..6).prop_map(Tree::Object),
        ]
    })
}

fn value(tree: &Tree) -> Value {
    let kind = match tree {
        Tree::Text(text) => Kind::StringValue(text.clone()),
        Tree::List(trees) => Kind::ListValue(ListValue { values: trees.iter().map(value).collect() }),
        Tree::Object(fields) => Kind::StructValue(object(fields)),
    };
    Value { kind: Some(kind) }
}

fn object(fields: &BTreeMap<String, Tree>) -> Struct {
    Struct { fields: fields.iter().map(|(name, tree)| (name.clone(), value(tree))).collect() }
}

/// Endpoints whose metadata is this, in maps that were filled anew.
fn endpoints(fields: &BTreeMap<String, Tree>) -> ClusterLoadAssignment {
    let filter_metadata = HashMap::from_iter(["envoy.lb", "other"].map(|name| (name.into(), object(fields))));
    let metadata = Metadata { filter_metadata, ..Default::default() };
    let endpoint = LbEndpoint { metadata: Some(metadata), ..Default::default() };
    let locality =
        LocalityLbEndpoints { lb_endpoints: vec![endpoint.clone(), endpoint], ..Default::default() };
    ClusterLoadAssignment { cluster_name: "c".into(), endpoints: vec![locality], ..Default::default() }
}

proptest! {
    #[test]
    fn the_same_content_gives_the_same_bytes(fields in proptest::collection::btree_map("[a-z]{1,4}", tree(), 0..6)) {
        let url = ClusterLoadAssignment::type_url();
        let (one, two) = (endpoints(&fields), endpoints(&fields));
        let first = canonical(&url, one.encode_to_vec());
        prop_assert_eq!(&first, &canonical(&url, two.encode_to_vec()));
        prop_assert_eq!(ClusterLoadAssignment::decode(first.as_slice()).unwrap(), one);
        prop_assert_eq!(&first, &canonical(&url, first.clone()), "once is enough");
    }

    #[test]
    fn any_bytes_at_all_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for url in [ClusterLoadAssignment::type_url(), Any::type_url(), "no.such/Type".to_owned()] {
            canonical(&url, bytes.clone());
        }
    }
}

fn packed<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

#[test]
fn maps_inside_anys_are_sorted_too_and_lists_are_not() {
    let made = || {
        let names = ["z", "y", "x", "w", "v", "u"];
        let filters = names.map(|name| (name.to_owned(), packed(&Struct { fields: HashMap::new() })));
        let host = |name: &&str| VirtualHost {
            name: (*name).into(),
            typed_per_filter_config: HashMap::from_iter(filters.clone()),
            ..Default::default()
        };
        let routes =
            RouteConfiguration { virtual_hosts: names.iter().map(host).collect(), ..Default::default() };
        let manager = HttpConnectionManager {
            route_specifier: Some(RouteSpecifier::RouteConfig(routes)),
            ..Default::default()
        };
        TypedExtensionConfig { name: "t".into(), typed_config: Some(packed(&manager)) }
    };
    let resources: Vec<Resource> = (0..20).map(|_| Resource::encode("t", &made())).collect();
    assert!(resources.iter().all(|resource| resource.version() == resources[0].version()));

    let bytes = canonical(&TypedExtensionConfig::type_url(), made().encode_to_vec());
    let decoded = TypedExtensionConfig::decode(bytes.as_slice()).unwrap();
    let manager = HttpConnectionManager::decode(decoded.typed_config.unwrap().value.as_slice()).unwrap();
    let Some(RouteSpecifier::RouteConfig(routes)) = manager.route_specifier else {
        panic!("routes are gone")
    };
    let order: String = routes.virtual_hosts.iter().map(|host| host.name.as_str()).collect();
    assert_eq!(order, "zyxwvu", "the order of a list means something");
}
