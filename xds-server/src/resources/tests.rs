//! The resources of a policy that uses every field, as Envoy is told them, against goldens in `testdata/resources`. To take a
//! change: `INSTA_UPDATE=always cargo test -p zonebreak resources`.

use envoy_types::pb::envoy::{
    config::listener::v3::filter,
    extensions::filters::network::http_connection_manager::v3::HttpConnectionManager,
};
use jiff::Timestamp;
use prost::Message;
use zonebreak_core::names::{ServiceName, Zone};
use zonebreak_topology::{
    registry::{Event, Registry},
    view::{self, ZoneView},
};

use super::{cluster, filter as zone_filter, listener, route};

const POLICY: &str = r#"{"hosts": ["order-svc", "order-svc.prod"], "port": 8080, "mode": "eventual",
    "weights": {"az-a": 80, "az-b": 20}, "retry": {"attempts": 2, "budget_percent": 30}, "timeout": "30s",
    "breaker": {"sensitivity": "safe", "open": "10s"}, "abort": {"percent": 0.5, "when": "zone_open"},
    "spill": {"max_rps": 500, "max_share": 0.5},
    "probe": {"http": "/health", "interval": "3s", "timeout": "2s", "expected": ["2xx", "304"]}}"#;

fn seen_from(zone: &str) -> ZoneView {
    let mut registry = Registry::default();
    let endpoint =
        |zone: &str| format!(r#"{{"address": "10.0.0.1", "port": 80, "zone": "{zone}", "region": "r"}}"#);
    let puts = [
        ("services/order-svc", POLICY.to_owned()),
        ("endpoints/order-svc/one", endpoint("az-a")),
        ("endpoints/order-svc/two", endpoint("az-b")),
        ("endpoints/order-svc/three", endpoint("az-c")),
    ];
    for (key, value) in puts {
        registry.apply(Event::Put { key: key.to_owned(), value: value.into(), mod_revision: 1 });
    }
    assert!(registry.topology().problems.is_empty(), "{:?}", registry.topology().problems);
    view::view(&registry.topology(), Some(&Zone::new(zone).unwrap()), Timestamp::UNIX_EPOCH)
}

fn golden(name: &str, text: &str) {
    insta::with_settings!({snapshot_path => "../../../testdata/resources", prepend_module_to_snapshot => false}, {
        insta::assert_snapshot!(name, text);
    });
}

#[test]
fn a_cluster_with_a_probe_and_the_filter() {
    let service = ServiceName::new("order-svc").unwrap();
    let view = seen_from("az-a");
    let mut cluster = cluster::cluster(&service, &view.services[&service].policy, true);
    // Serialized inside, and the filter's place has goldens of its own kind on a real Envoy.
    cluster.typed_extension_protocol_options.clear();
    golden("cluster", &format!("{cluster:#?}"));
}

#[test]
fn routes_that_retry_what_may_run_twice() {
    let view = seen_from("az-a");
    let services = view.services.iter().map(|(name, service)| (name, &**service));
    let mut routes = route::routes(8080, services, |service, host| panic!("{service} and {host} clash"));
    for route in &mut routes.virtual_hosts[0].routes {
        let Some(envoy_types::pb::envoy::config::route::v3::route::Action::Route(action)) = &mut route.action
        else {
            panic!("{route:?}")
        };
        let retry = action.retry_policy.as_mut().unwrap();
        assert!(
            retry.retry_priority.take().is_some()
                && !std::mem::take(&mut retry.retry_host_predicate).is_empty()
        );
    }
    golden("routes", &format!("{routes:#?}"));
}

#[test]
fn a_listener_only_listens_to_the_header_where_the_filter_sets_it() {
    let filters = |filtered| {
        let listener = listener::listener("127.0.0.1", 8080, filtered);
        let config = listener.filter_chains[0].filters[0].config_type.clone();
        let Some(filter::ConfigType::TypedConfig(manager)) = config else { panic!("{config:?}") };
        let manager = HttpConnectionManager::decode(manager.value.as_slice()).unwrap();
        manager.http_filters.into_iter().map(|filter| filter.name).collect::<Vec<_>>()
    };
    let names = ["zonebreak", "envoy.filters.http.header_to_metadata", "envoy.filters.http.router"];
    assert_eq!(filters(true), names);
    assert_eq!(filters(false), names[2..]);
    golden("listener", &format!("{:#?}", listener::listener("127.0.0.1", 8080, false).address));
}

#[test]
fn the_filter_is_told_policy_capacities_and_the_own_zone() {
    let resources = zone_filter::resources(
        &zone_filter::Module::Inline(bytes::Bytes::from_static(b"wasm")),
        &seen_from("az-b"),
        true,
    );
    let texts = resources.map(|resource| {
        let value = String::from_utf8_lossy(&resource.typed_config.unwrap().value).into_owned();
        let (from, to) = (value.find("{\"version\"").unwrap(), value.rfind('}').unwrap());
        value[from..=to].to_owned()
    });
    golden("filter", &texts.join("\n"));
}

#[test]
fn no_more_services_than_the_filter_has_room_for() {
    let mut view = seen_from("az-a");
    let service = view.services.values().next().unwrap().clone();
    for n in 0..300 {
        view.services.insert(ServiceName::new(&format!("svc-{n}")).unwrap(), service.clone());
    }
    let [downstream, _] =
        zone_filter::resources(&zone_filter::Module::Inline(bytes::Bytes::new()), &view, false);
    let value = String::from_utf8_lossy(&downstream.typed_config.unwrap().value).into_owned();
    assert_eq!(value.matches("\"policy\"").count(), zonebreak_core::config::MAX_SERVICES);
}
