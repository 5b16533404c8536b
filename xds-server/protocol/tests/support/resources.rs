//! The few Envoy resources the tests on a real Envoy need, and a backend to lead to.

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig};
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::common::mutation_rules::v3::header_mutation::Action;
use envoy_types::pb::envoy::config::common::mutation_rules::v3::HeaderMutation as Mutation;
use envoy_types::pb::envoy::config::core::v3::address::Address as AddressKind;
use envoy_types::pb::envoy::config::core::v3::api_config_source::ApiType;
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ApiConfigSource, ConfigSource, GrpcService, ExtensionConfigSource, HeaderValue, HeaderValueOption,
    SocketAddress, TypedExtensionConfig,
};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
};
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener};
use envoy_types::pb::envoy::config::route::v3::route::Action as RouteKind;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{
    Route, RouteAction, RouteConfiguration, RouteMatch, Vhds, VirtualHost,
};
use envoy_types::pb::envoy::service::runtime::v3::Runtime;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::envoy::extensions::filters::http::header_mutation::v3::{HeaderMutation, Mutations};
use envoy_types::pb::envoy::extensions::filters::http::on_demand::v3::OnDemand;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_filter;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds,
};
use envoy_types::pb::google::protobuf::{Any, Duration, Struct, Value};
use prost::{Message, Name};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use zonebreak_xds::{Protocol, Resource};

pub fn ads() -> ConfigSource {
    ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        resource_api_version: 2,
        ..Default::default()
    }
}

/// The service of a type's own, at the cluster `xds` of the bootstrap.
pub fn own_service(protocol: Protocol) -> ConfigSource {
    let api_type = match protocol {
        Protocol::Sotw => ApiType::Grpc,
        Protocol::Delta => ApiType::DeltaGrpc,
    };
    let service = GrpcService {
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
            cluster_name: "xds".into(),
            ..Default::default()
        })),
        ..Default::default()
    };
    let source = ApiConfigSource {
        api_type: api_type.into(),
        transport_api_version: 2,
        grpc_services: vec![service],
        ..Default::default()
    };
    ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::ApiConfigSource(source)),
        resource_api_version: 2,
        ..Default::default()
    }
}

pub fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

fn address(address: SocketAddr) -> Address {
    Address {
        address: Some(AddressKind::SocketAddress(SocketAddress {
            address: address.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(address.port().into())),
            ..Default::default()
        })),
    }
}

/// A cluster whose endpoints come by EDS; a different timeout is a different cluster.
pub fn cluster(name: &str, timeout: i64) -> Resource {
    cluster_from(name, timeout, ads())
}

/// The same, with its endpoints from there.
pub fn cluster_from(name: &str, timeout: i64, from: ConfigSource) -> Resource {
    let message = Cluster {
        name: name.into(),
        connect_timeout: Some(Duration { seconds: timeout, nanos: 0 }),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig { eds_config: Some(from), service_name: String::new() }),
        ..Default::default()
    };
    Resource::encode(name, &message)
}

pub fn endpoints(cluster: &str, backend: SocketAddr) -> Resource {
    let endpoint = LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(address(backend)),
            ..Default::default()
        })),
        ..Default::default()
    };
    let message = ClusterLoadAssignment {
        cluster_name: cluster.into(),
        endpoints: vec![LocalityLbEndpoints { lb_endpoints: vec![endpoint], ..Default::default() }],
        ..Default::default()
    };
    Resource::encode(cluster, &message)
}

/// One route for everything.
pub fn route(name: &str, cluster: &str) -> Resource {
    routes(name, &[("/", cluster)])
}

/// Routes by the beginning of the path.
pub fn routes(name: &str, to: &[(&str, &str)]) -> Resource {
    let hosts = vec![virtual_host("all", &["*"], to)];
    Resource::encode(
        name,
        &RouteConfiguration { name: name.into(), virtual_hosts: hosts, ..Default::default() },
    )
}

/// Routes whose hosts are fetched when they are asked for.
pub fn routes_on_demand(name: &str, from: ConfigSource) -> Resource {
    let second = Some(Duration { seconds: 1, nanos: 0 });
    let source = ConfigSource { initial_fetch_timeout: second, ..from };
    let vhds = Some(Vhds { config_source: Some(source) });
    Resource::encode(name, &RouteConfiguration { name: name.into(), vhds, ..Default::default() })
}

/// A host of such routes, by its own name and those of its domains.
pub fn host_on_demand(routes: &str, name: &str, domain: &str, cluster: &str) -> Resource {
    let (own, alias) = (format!("{routes}/{name}"), format!("{routes}/{domain}"));
    Resource::encode(&own, &virtual_host(&own, &[domain], &[("/", cluster)])).with_aliases([alias.as_str()])
}

fn virtual_host(name: &str, domains: &[&str], to: &[(&str, &str)]) -> VirtualHost {
    let route = |(prefix, cluster): &(&str, &str)| Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix((*prefix).into())),
            ..Default::default()
        }),
        action: Some(RouteKind::Route(RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster((*cluster).into())),
            ..Default::default()
        })),
        ..Default::default()
    };
    VirtualHost {
        name: name.into(),
        domains: domains.iter().map(ToString::to_string).collect(),
        routes: to.iter().map(route).collect(),
        ..Default::default()
    }
}

/// A layer of runtime values that goes away two seconds after its server.
pub fn runtime(name: &str, key: &str, value: &str) -> Resource {
    let value = Value { kind: Some(Kind::StringValue(value.into())) };
    let layer = Struct { fields: [(key.to_owned(), value)].into() };
    let message = Runtime { name: name.into(), layer: Some(layer) };
    Resource::encode(name, &message).with_ttl(std::time::Duration::from_secs(2))
}

/// A listener on a free port, with its routes and one filter from the server.
pub fn listener(name: &str, routes: &str, filter: &str, stat_prefix: &str) -> Resource {
    let routes = Rds { config_source: Some(ads()), route_config_name: routes.into() };
    listener_from(name, RouteSpecifier::Rds(routes), filter, stat_prefix, ads())
}

/// The same with any kind of routes, and the filter from there.
pub fn listener_from(
    name: &str,
    routes: RouteSpecifier,
    filter: &str,
    stat_prefix: &str,
    from: ConfigSource,
) -> Resource {
    let extension = ExtensionConfigSource {
        config_source: Some(from),
        type_urls: vec![HeaderMutation::type_url()],
        ..Default::default()
    };
    let manager = HttpConnectionManager {
        stat_prefix: stat_prefix.into(),
        route_specifier: Some(routes),
        http_filters: vec![
            HttpFilter {
                name: "on-demand".into(),
                config_type: Some(http_filter::ConfigType::TypedConfig(any(&OnDemand::default()))),
                ..Default::default()
            },
            HttpFilter {
                name: filter.into(),
                config_type: Some(http_filter::ConfigType::ConfigDiscovery(extension)),
                ..Default::default()
            },
            HttpFilter {
                name: "router".into(),
                config_type: Some(http_filter::ConfigType::TypedConfig(any(&Router::default()))),
                ..Default::default()
            },
        ],
        ..Default::default()
    };
    let filter = Filter { name: "http".into(), config_type: Some(ConfigType::TypedConfig(any(&manager))) };
    let message = Listener {
        name: name.into(),
        address: Some(address(SocketAddr::from(([127, 0, 0, 1], 0)))),
        filter_chains: vec![FilterChain { filters: vec![filter], ..Default::default() }],
        ..Default::default()
    };
    Resource::encode(name, &message)
}

/// A filter that adds `x-policy: <value>` to every answer.
pub fn policy(name: &str, value: &str) -> Resource {
    let append = HeaderValueOption {
        header: Some(HeaderValue { key: "x-policy".into(), value: value.into(), ..Default::default() }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd as i32,
        ..Default::default()
    };
    let mutations = Mutations {
        response_mutations: vec![Mutation { action: Some(Action::Append(append)) }],
        ..Default::default()
    };
    let config = any(&HeaderMutation { mutations: Some(mutations), ..Default::default() });
    Resource::encode(name, &TypedExtensionConfig { name: name.into(), typed_config: Some(config) })
}

/// An HTTP server that answers every request with its name.
pub async fn backend(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut seen = Vec::new();
                let mut buffer = [0; 1024];
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    seen.extend_from_slice(buffer.get(..read).unwrap_or_default());
                    if seen.ends_with(b"\r\n\r\n") {
                        seen.clear();
                        let answer =
                            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len());
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    address
}
