//! LDS: one listener a port, on which sidecars take the requests to every service of that port.

use envoy_types::pb::envoy::{
    config::{
        core::v3::{Address, SocketAddress, TrafficDirection, address, socket_address::PortSpecifier},
        listener::v3::{Filter, FilterChain, Listener, filter},
    },
    extensions::filters::{
        http::{
            header_to_metadata::v3::{Config as HeaderToMetadata, config},
            router::v3::Router,
        },
        network::http_connection_manager::v3::{
            HttpConnectionManager, HttpFilter, Rds, http_connection_manager::RouteSpecifier, http_filter,
        },
    },
};

use zonebreak_core::units::Millis;

use super::{filter as zone_filter, packed, sources};

/// What carries the filter's decision to the load balancer; `filter/src/host.rs` sets it.
pub(super) const SERVE_HEADER: &str = "x-zonebreak-serve";

/// The name of the listener and of the routes of one port.
pub fn name(port: u16) -> String {
    format!("zonebreak_{port}")
}

/// The listener of one port, with a place for the filter where there is one.
pub(super) fn listener(address: &str, port: u16, filtered: bool) -> Listener {
    let router = typed("envoy.filters.http.router", packed(&Router::default()));
    // Without the filter nobody sets the header, and nobody's is listened to.
    let decided = filtered.then(|| {
        [
            zone_filter::discovered(zone_filter::DOWNSTREAM),
            typed("envoy.filters.http.header_to_metadata", packed(&serve_to_metadata())),
        ]
    });
    let manager = HttpConnectionManager {
        stat_prefix: name(port),
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            route_config_name: name(port),
            config_source: Some(sources::ads()),
        })),
        // How long a stream may be silent is its service's matter (`timeout`), not the listener's.
        stream_idle_timeout: Some(sources::duration(Millis(0))),
        http_filters: decided.into_iter().flatten().chain([router]).collect(),
        ..Default::default()
    };
    Listener {
        name: name(port),
        address: Some(socket(address, port)),
        filter_chains: vec![FilterChain {
            filters: vec![Filter {
                name: "envoy.filters.network.http_connection_manager".to_owned(),
                config_type: Some(filter::ConfigType::TypedConfig(packed(&manager))),
            }],
            ..Default::default()
        }],
        traffic_direction: TrafficDirection::Outbound.into(),
        ..Default::default()
    }
}

/// Turns the filter's header into the subset key and takes the header off, so that it never reaches a backend.
fn serve_to_metadata() -> HeaderToMetadata {
    HeaderToMetadata {
        request_rules: vec![config::Rule {
            header: SERVE_HEADER.to_owned(),
            on_header_present: Some(config::KeyValuePair {
                metadata_namespace: "envoy.lb".to_owned(),
                key: "serve".to_owned(),
                r#type: config::ValueType::String.into(),
                ..Default::default()
            }),
            remove: true,
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn typed(name: &str, config: envoy_types::pb::google::protobuf::Any) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}

/// A TCP address.
pub(super) fn socket(address: &str, port: u16) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: address.to_owned(),
            port_specifier: Some(PortSpecifier::PortValue(port.into())),
            ..Default::default()
        })),
    }
}
