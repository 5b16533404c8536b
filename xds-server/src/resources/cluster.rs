//! CDS: one cluster a service, with the exclusion subsets that the filter chooses from. Never one a zone or a route: outlier
//! state, circuit breakers and connection pools belong to the service.

use std::collections::HashMap;

use envoy_types::pb::{
    envoy::{
        config::{
            cluster::v3::{
                CircuitBreakers, Cluster, circuit_breakers,
                cluster::{
                    ClusterDiscoveryType, CommonLbConfig, DiscoveryType, EdsClusterConfig, LbPolicy,
                    LbSubsetConfig,
                    common_lb_config::{LocalityConfigSpecifier, LocalityWeightedLbConfig},
                    lb_subset_config::{LbSubsetFallbackPolicy, LbSubsetSelector},
                },
            },
            core::v3::{
                HealthCheck, Http1ProtocolOptions, Http2ProtocolOptions,
                health_check::{HealthChecker, HttpHealthCheck, TcpHealthCheck},
            },
        },
        extensions::{
            filters::{
                http::upstream_codec::v3::UpstreamCodec,
                network::http_connection_manager::v3::{HttpFilter, http_filter},
            },
            upstreams::http::v3::{
                HttpProtocolOptions,
                http_protocol_options::{UpstreamProtocolOptions, UseDownstreamHttpConfig},
            },
        },
        r#type::v3::{Int64Range, Percent},
    },
    google::protobuf::UInt32Value,
};
use zonebreak_core::{
    names::ServiceName,
    policy::{ProbePolicy, ServicePolicy},
    units::Millis,
};

use super::{filter, packed, sources};

/// A backend that takes longer to accept is as good as gone: the retry has somewhere better to be.
const CONNECT_TIMEOUT: Millis = Millis::secs(1);

/// Retries in flight that are always allowed, whatever the budget says. A zone that fails takes up to 80 % of the requests with
/// it until it is left, a fifth of a second later, and each of them needs its retry: at 200 requests a second and 100 ms that
/// is 16 at once. Envoy's default of 3 would fail most of them; the budget is there for what lasts.
const MIN_RETRIES: u32 = 64;

/// Requests, pending requests and connections to a service before Envoy itself refuses: high, because the breaker
/// decides here and a zone's load on two others must not run into a default meant for one.
const MAX_IN_FLIGHT: u32 = 65_536;

/// The cluster of a service, with a place for the filter where there is one.
pub(super) fn cluster(service: &ServiceName, policy: &ServicePolicy, filtered: bool) -> Cluster {
    Cluster {
        name: service.to_string(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig { eds_config: Some(sources::ads()), ..Default::default() }),
        connect_timeout: Some(sources::duration(CONNECT_TIMEOUT)),
        lb_policy: LbPolicy::RoundRobin.into(),
        // When no endpoint is healthy any more, all are tried: a wrong probe must not be worse than none. Not sooner: the
        // subset that a request names is all that Envoy looks at, so a zone that was left stays left.
        common_lb_config: Some(CommonLbConfig {
            healthy_panic_threshold: Some(Percent { value: 1.0 }),
            locality_config_specifier: Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(
                LocalityWeightedLbConfig {},
            )),
            ..Default::default()
        }),
        lb_subset_config: Some(LbSubsetConfig {
            // No key, or one that names nobody: all endpoints. The data plane fails open.
            fallback_policy: LbSubsetFallbackPolicy::AnyEndpoint.into(),
            subset_selectors: vec![LbSubsetSelector { keys: vec!["serve".to_owned()], ..Default::default() }],
            list_as_any: true,
            locality_weight_aware: true,
            ..Default::default()
        }),
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![thresholds(policy)],
            ..Default::default()
        }),
        typed_extension_protocol_options: HashMap::from([(
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(),
            packed(&protocol(filtered)),
        )]),
        health_checks: policy.probe.iter().map(probe).collect(),
        // An endpoint that the control plane takes away goes, also while Envoy's own checks still like it.
        ignore_health_on_host_removal: policy.probe.is_some(),
        ..Default::default()
    }
}

fn thresholds(policy: &ServicePolicy) -> circuit_breakers::Thresholds {
    let limit = || Some(UInt32Value { value: MAX_IN_FLIGHT });
    circuit_breakers::Thresholds {
        max_connections: limit(),
        max_pending_requests: limit(),
        max_requests: limit(),
        retry_budget: Some(circuit_breakers::thresholds::RetryBudget {
            budget_percent: Some(Percent { value: policy.retry.budget_percent.fraction() * 100.0 }),
            min_retry_concurrency: Some(UInt32Value { value: MIN_RETRIES }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Upstream as downstream (so that gRPC works without being told), and the filter in its upstream role.
fn protocol(filtered: bool) -> HttpProtocolOptions {
    let codec = HttpFilter {
        name: "envoy.filters.http.upstream_codec".to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(packed(&UpstreamCodec::default()))),
        ..Default::default()
    };
    HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(
            UseDownstreamHttpConfig {
                http_protocol_options: Some(Http1ProtocolOptions::default()),
                http2_protocol_options: Some(Http2ProtocolOptions::default()),
                ..Default::default()
            },
        )),
        http_filters: filtered
            .then(|| filter::discovered(filter::UPSTREAM))
            .into_iter()
            .chain([codec])
            .collect(),
        ..Default::default()
    }
}

fn probe(policy: &ProbePolicy) -> HealthCheck {
    let count = |value| Some(UInt32Value { value });
    let checker = match &policy.http {
        Some(path) => HealthChecker::HttpHealthCheck(HttpHealthCheck {
            path: path.clone(),
            expected_statuses: policy
                .expected
                .iter()
                .map(|class| Int64Range { start: class.first.into(), end: i64::from(class.last) + 1 })
                .collect(),
            ..Default::default()
        }),
        None => HealthChecker::TcpHealthCheck(TcpHealthCheck::default()),
    };
    HealthCheck {
        interval: Some(sources::duration(policy.interval)),
        timeout: Some(sources::duration(policy.timeout)),
        unhealthy_threshold: count(policy.unhealthy_after),
        healthy_threshold: count(policy.healthy_after),
        // An endpoint is taken in after its first good check and without waiting for traffic.
        no_traffic_interval: Some(sources::duration(policy.interval)),
        health_checker: Some(checker),
        ..Default::default()
    }
}
