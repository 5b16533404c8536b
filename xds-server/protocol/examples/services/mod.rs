//! Made-up services for the benchmarks: three views, one for each zone of the clients, as a control plane over three zones has
//! them. Clusters, a listener and routes are the same in all, endpoints (30 a service, 10 a zone) have priorities of their own in
//! each. A change gives one endpoint of one service another host name, which holds the change's number: clients find it without
//! decoding anything.

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig,
};
use envoy_types::pb::envoy::config::core::v3::address::Address as AddressKind;
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ConfigSource, Locality, SocketAddress,
};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
};
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{
    Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
};
use envoy_types::pb::google::protobuf::{Duration as ProtoDuration, UInt32Value};
use zonebreak_xds::{ChangeId, Resource, Snapshot};

pub const ZONES: usize = 3;
const ENDPOINTS: usize = 10;

/// All that clients of a zone are to have.
pub fn view(zone: usize, services: usize) -> Result<Snapshot, zonebreak_xds::SnapshotError> {
    let mut made = Snapshot::builder(ChangeId(0));
    for service in 0..services {
        made.put(cluster(service))?;
        made.put(assignment(zone, service, 0))?;
    }
    made.put(Resource::encode("ingress", &Listener { name: "ingress".into(), ..Default::default() }))?;
    let virtual_hosts = (0..services).map(host).collect();
    let routes = RouteConfiguration { name: "routes".into(), virtual_hosts, ..Default::default() };
    made.put(Resource::encode("routes", &routes))?;
    Ok(made.build())
}

fn cluster(service: usize) -> Resource {
    let ads = ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        resource_api_version: 2,
        ..Default::default()
    };
    let message = Cluster {
        name: name(service),
        connect_timeout: Some(ProtoDuration { seconds: 1, nanos: 0 }),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig { eds_config: Some(ads), ..Default::default() }),
        ..Default::default()
    };
    Resource::encode(&message.name, &message)
}

fn host(service: usize) -> VirtualHost {
    let route = Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/".into())),
            ..Default::default()
        }),
        action: Some(Action::Route(RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(name(service))),
            ..Default::default()
        })),
        ..Default::default()
    };
    VirtualHost {
        name: name(service),
        domains: vec![name(service)],
        routes: vec![route],
        ..Default::default()
    }
}

/// A service's endpoints as a zone sees them: its own first.
pub fn assignment(zone: usize, service: usize, number: usize) -> Resource {
    let locality = |of: usize| LocalityLbEndpoints {
        locality: Some(Locality { region: "region".into(), zone: zone_name(of), ..Default::default() }),
        load_balancing_weight: Some(UInt32Value { value: 100 }),
        priority: u32::from(of != zone),
        lb_endpoints: (0..ENDPOINTS).map(|host| endpoint(of, service, host, number)).collect(),
        ..Default::default()
    };
    let message = ClusterLoadAssignment {
        cluster_name: name(service),
        endpoints: (0..ZONES).map(locality).collect(),
        ..Default::default()
    };
    Resource::encode(&message.cluster_name, &message)
}

fn endpoint(zone: usize, service: usize, host: usize, number: usize) -> LbEndpoint {
    let address = SocketAddress {
        address: format!("10.{zone}.{}.{host}", service % 250),
        port_specifier: Some(PortSpecifier::PortValue(8080)),
        ..Default::default()
    };
    let target = Endpoint {
        address: Some(Address { address: Some(AddressKind::SocketAddress(address)) }),
        hostname: if zone == 0 && host == 0 { format!("~{number:012}") } else { String::new() },
        ..Default::default()
    };
    LbEndpoint { host_identifier: Some(HostIdentifier::Endpoint(target)), ..Default::default() }
}

fn name(service: usize) -> String {
    format!("service-{service:04}")
}

pub fn zone_name(zone: usize) -> String {
    format!("zone-{zone}")
}
