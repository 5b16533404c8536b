//! A real Envoy without an aggregated stream: every type comes from its own service, in both protocols.

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::transport_socket::ConfigType;
use envoy_types::pb::envoy::config::core::v3::{ConfigSource, TransportSocket};
use envoy_types::pb::envoy::config::route::v3::ScopedRouteConfiguration;
use envoy_types::pb::envoy::config::route::v3::scoped_route_configuration::{Key, key};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::scoped_routes::scope_key_builder::fragment_builder::{
    HeaderValueExtractor, Type, header_value_extractor::ExtractType,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::scoped_routes::scope_key_builder::FragmentBuilder;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::scoped_routes::{
    ConfigSpecifier, ScopeKeyBuilder,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{ScopedRds, ScopedRoutes};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, SdsSecretConfig, Secret, UpstreamTlsContext, secret,
};
use serde_json::json;
use support::envoy::{Envoy, get_from};
use support::resources::{
    any, backend, cluster_from, endpoints, listener_from, own_service, policy, route, runtime,
};
use support::{PATIENCE, eventually, start};
use zonebreak_xds::{Protocol, Resource, Scope, ServerOptions, TypeUrl};

/// Routes that are looked up by the host that is asked for.
fn scoped(from: &ConfigSource) -> RouteSpecifier {
    let host = HeaderValueExtractor {
        name: ":authority".into(),
        extract_type: Some(ExtractType::Index(0)),
        ..Default::default()
    };
    let fragments = vec![FragmentBuilder { r#type: Some(Type::HeaderValueExtractor(host)) }];
    let scopes = ScopedRds { scoped_rds_config_source: Some(from.clone()), ..Default::default() };
    RouteSpecifier::ScopedRoutes(ScopedRoutes {
        name: "by-host".into(),
        scope_key_builder: Some(ScopeKeyBuilder { fragments }),
        rds_config_source: Some(from.clone()),
        config_specifier: Some(ConfigSpecifier::ScopedRds(scopes)),
    })
}

/// Requests for this host go by these routes.
fn scope(host: &str, routes: &str) -> Resource {
    let fragments = vec![key::Fragment { r#type: Some(key::fragment::Type::StringKey(host.into())) }];
    let message = ScopedRouteConfiguration {
        name: host.into(),
        route_configuration_name: routes.into(),
        key: Some(Key { fragments }),
        ..Default::default()
    };
    Resource::encode(host, &message)
}

/// Whom a client of TLS trusts: the certificate with this hash.
fn trust(name: &str, hash: &str) -> Resource {
    let context =
        CertificateValidationContext { verify_certificate_hash: vec![hash.into()], ..Default::default() };
    let message = Secret { name: name.into(), r#type: Some(secret::Type::ValidationContext(context)) };
    Resource::encode(name, &message)
}

/// A cluster that asks for a secret. Nobody is sent there.
fn secretive(name: &str, trusts: &str, from: &ConfigSource) -> Resource {
    let asks = SdsSecretConfig { name: trusts.into(), sds_config: Some(from.clone()) };
    let common = CommonTlsContext {
        validation_context_type: Some(ValidationContextType::ValidationContextSdsSecretConfig(asks)),
        ..Default::default()
    };
    let tls = UpstreamTlsContext { common_tls_context: Some(common), ..Default::default() };
    let socket = TransportSocket {
        name: "envoy.transport_sockets.tls".into(),
        config_type: Some(ConfigType::TypedConfig(any(&tls))),
    };
    let message = Cluster { name: name.into(), transport_socket: Some(socket), ..Default::default() };
    Resource::encode(name, &message)
}

/// Waits until an admin page holds this.
async fn shows(envoy: &Envoy, page: &str, text: &str) {
    let started = Instant::now();
    loop {
        let seen = envoy.admin(page).await;
        if seen.contains(text) {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "no {text} in {page}: {seen} {}", envoy.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn gets_everything_from_services_of_their_own(protocol: Protocol) {
    let (a, b) = (backend("a").await, backend("b").await);
    let from = own_service(protocol);
    let running = start(ServerOptions::default()).await;
    let view = |red, policy_value: &str, hash: &str, layer: &str, to: &str| {
        vec![
            listener_from("ingress", scoped(&from), "policy", "ingress", from.clone()),
            scope("shop.example", "routes"),
            route("routes", to),
            policy("policy", policy_value),
            cluster_from("red", 1, from.clone()),
            endpoints("red", red),
            cluster_from("blue", 1, from.clone()),
            endpoints("blue", b),
            secretive("bank", "whom-to-trust", &from),
            trust("whom-to-trust", hash),
            runtime("layer", "zonebreak.test", layer),
        ]
    };
    let hashes = ["11".repeat(32), "22".repeat(32)];
    running.publish("front", 1, view(a, "first", &hashes[0], "calm", "red"));

    let kind = match protocol {
        Protocol::Sotw => "GRPC",
        Protocol::Delta => "DELTA_GRPC",
    };
    let source = json!({
        "api_config_source": {
            "api_type": kind, "transport_api_version": "V3",
            "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
        },
        "resource_api_version": "V3",
    });
    let extra = json!({
        "dynamic_resources": {"cds_config": source, "lds_config": source},
        "layered_runtime": {"layers": [
            {"name": "layer", "rtds_layer": {"name": "layer", "rtds_config": source}},
        ]},
    });
    let envoy = Envoy::start_with("front", protocol, running.address, &extra).await;
    let at = envoy.listening("ingress").await;
    let answered = async |body: &str, policy: &str| {
        let started = Instant::now();
        loop {
            let answer = get_from(at, "shop.example", "/").await;
            if let Ok(answer) = &answer
                && answer.body == body
                && answer.head.contains(&format!("x-policy: {policy}"))
            {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "{answer:?}: {}", envoy.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    answered("a", "first").await;
    assert_eq!(get_from(at, "nobody.example", "/").await.unwrap().status, 404, "no scope, no routes");
    shows(&envoy, "/config_dump?include_eds", &hashes[0]).await;
    shows(&envoy, "/runtime", "calm").await;

    let types = [
        TypeUrl::LISTENER,
        TypeUrl::SCOPED_ROUTE,
        TypeUrl::ROUTE,
        TypeUrl::EXTENSION_CONFIG,
        TypeUrl::CLUSTER,
        TypeUrl::ENDPOINT,
        TypeUrl::SECRET,
        TypeUrl::RUNTIME,
    ];
    let served: BTreeSet<TypeUrl> = types.into_iter().collect();
    let scopes = || {
        let of = |scope| match scope {
            Scope::Single(of) => of,
            Scope::Aggregated => panic!("it was told of no aggregated stream"),
        };
        running.server.proxies().into_iter().map(|stream| of(stream.scope)).collect::<BTreeSet<TypeUrl>>()
    };
    assert_eq!(scopes(), served);
    assert!(running.server.proxies().iter().all(|stream| stream.protocol == protocol));
    let in_sync = || {
        let now = running.server.convergence();
        now.converged == now.streams && now.streams >= served.len()
    };
    eventually("every stream is in sync", in_sync).await;

    // One type after the other, each on its own stream.
    running.publish("front", 2, view(b, "first", &hashes[0], "calm", "red"));
    answered("b", "first").await;
    running.publish("front", 3, view(a, "second", &hashes[0], "calm", "red"));
    answered("a", "second").await;
    running.publish("front", 4, view(a, "second", &hashes[1], "calm", "red"));
    shows(&envoy, "/config_dump?include_eds", &hashes[1]).await;
    running.publish("front", 5, view(a, "second", &hashes[1], "storm", "red"));
    shows(&envoy, "/runtime", "storm").await;
    running.publish("front", 6, view(a, "second", &hashes[1], "storm", "blue"));
    answered("b", "second").await;
    eventually("every stream is in sync again", in_sync).await;
    assert_eq!(envoy.rejected().await, Vec::<String>::new());
    assert!(running.server.metrics().types().iter().all(|kind| kind.nacks == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn delta_envoy_gets_everything_from_services_of_their_own() {
    gets_everything_from_services_of_their_own(Protocol::Delta).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sotw_envoy_gets_everything_from_services_of_their_own() {
    gets_everything_from_services_of_their_own(Protocol::Sotw).await;
}
