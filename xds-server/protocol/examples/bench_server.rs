//! What `scripts/bench-xds` measures: the engine with made-up services, served as `zonebreak serve` does, and changed on command.
//! The peer beside it is `bench/go-control-plane`, which holds the same resources and obeys the same lines.
//!
//! ```text
//! bench_server SERVICES
//! ```
//!
//! It says `listening ADDRESS`, and answers `change N` with `changed N` and `settle` with `settled`. It ends with its input.
//!
//! Three views, one for each zone of the clients, as a control plane over three zones has them: clusters, a listener and routes
//! are the same in all, endpoints (30 a service, 10 a zone) have priorities of their own in each. A change gives one endpoint of
//! one service another host name, which holds the change's number: clients find it without decoding anything.

use std::net::SocketAddr;
use std::sync::Arc;

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
use zonebreak_xds::{ChangeId, Hub, Resource, Server, ServerOptions, Snapshot, TransportOptions, ViewKey};

const ZONES: usize = 3;
const ENDPOINTS: usize = 10;

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let services = std::env::args().nth(1).and_then(|services| services.parse().ok());
    let services: usize = services.filter(|services| *services > 0).ok_or("usage: bench_server SERVICES")?;
    let hub = Hub::new();
    for zone in 0..ZONES {
        hub.publish([(ViewKey::new(&zone_name(zone)), Arc::new(view(zone, services)?))]);
    }
    let view_of = |node: &zonebreak_xds::Node| {
        ViewKey::new(node.locality.as_ref().map_or("", |locality| &locality.zone))
    };
    let server = Server::new(hub.clone(), view_of, ServerOptions::default());

    let listener = zonebreak_xds::listen(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    println!("listening {}", listener.local_addr()?);
    let transport = TransportOptions::default();
    let incoming = transport.incoming(listener);
    let serving = transport.server().add_routes(server.routes()).serve_with_incoming(incoming);
    // On a thread of its own, as a publisher is.
    let obeying =
        tokio::task::spawn_blocking(move || obey(&hub, services).map_err(|error| error.to_string()));
    tokio::select! {
        ended = serving => Ok(ended?),
        ended = obeying => Ok(ended??),
    }
}

/// Does what the lines of standard input say, until they end.
fn obey(hub: &Arc<Hub>, services: usize) -> Result<(), Failure> {
    for line in std::io::stdin().lines() {
        let line = line?;
        match line.split_once(' ') {
            None if line == "settle" => println!("settled"),
            Some(("change", number)) => {
                change(hub, services, number.parse()?)?;
                println!("changed {number}");
            }
            _ => return Err(format!("not a command: {line:?}").into()),
        }
    }
    Ok(())
}

fn change(hub: &Arc<Hub>, services: usize, number: usize) -> Result<(), Failure> {
    let service = number * 7919 % services;
    let mut views = Vec::with_capacity(ZONES);
    for zone in 0..ZONES {
        let key = ViewKey::new(&zone_name(zone));
        let previous = hub.snapshot(&key).unwrap_or_default();
        let mut next = previous.edit(ChangeId(number as u64));
        next.put(assignment(zone, service, number))?;
        views.push((key, Arc::new(next.build())));
    }
    hub.publish(views);
    Ok(())
}

fn view(zone: usize, services: usize) -> Result<Snapshot, Failure> {
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
fn assignment(zone: usize, service: usize, number: usize) -> Resource {
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

fn zone_name(zone: usize) -> String {
    format!("zone-{zone}")
}
