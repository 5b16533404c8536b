//! RDS: one route configuration a port, one virtual host a service, one route each. Zones are no matter of routes.

use std::collections::BTreeSet;

use envoy_types::pb::{
    envoy::{
        config::route::v3::{
            HeaderMatcher, RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
            header_matcher::HeaderMatchSpecifier,
            retry_policy::{
                RetryBackOff, RetryHostPredicate, RetryPriority, retry_host_predicate, retry_priority,
            },
            route, route_action, route_match,
        },
        extensions::retry::{
            host::previous_hosts::v3::PreviousHostsPredicate,
            priority::previous_priorities::v3::PreviousPrioritiesConfig,
        },
        r#type::matcher::v3::{RegexMatcher, StringMatcher, string_matcher::MatchPattern},
    },
    google::protobuf::UInt32Value,
};
use zonebreak_core::{
    classify::IDEMPOTENT_METHODS, names::ServiceName, policy::RetryPolicy as Retry, units::Millis,
};
use zonebreak_topology::view::ServiceView;

use super::{listener, packed, sources};

/// A bad answer, a connection that broke, one that never was; `unavailable` is gRPC's.
const ANY_FAILURE: &str = "5xx,reset,connect-failure,refused-stream,unavailable";

/// The request cannot have reached a backend, or (`unavailable`) the backend's gRPC library says that it may be tried again.
const NEVER_ARRIVED: &str = "connect-failure,refused-stream,unavailable";

/// Tries to find a host that this request has not failed on before; Envoy takes the last pick after that.
const HOST_PICKS: i64 = 3;

/// The routes of one port. A host name that an earlier service (by name) has taken is left out and told to `clash`.
pub(super) fn routes<'a>(
    port: u16,
    services: impl Iterator<Item = (&'a ServiceName, &'a ServiceView)>,
    mut clash: impl FnMut(&ServiceName, &str),
) -> RouteConfiguration {
    let mut taken = BTreeSet::new();
    let virtual_hosts = services
        .filter_map(|(service, view)| {
            let own = [service.to_string()];
            let hosts = if view.policy.hosts.is_empty() { &own[..] } else { &view.policy.hosts };
            let hosts: BTreeSet<String> = hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
            let mut domains = Vec::new();
            for host in hosts {
                if taken.insert(host.clone()) {
                    // `Host` carries the port unless it is the scheme's default; both mean this service.
                    domains.push(format!("{host}:{port}"));
                    domains.push(host);
                } else {
                    clash(service, &host);
                }
            }
            (!domains.is_empty()).then(|| VirtualHost {
                name: service.to_string(),
                domains,
                routes: routes_to(service, view),
                ..Default::default()
            })
        })
        .collect();
    RouteConfiguration { name: listener::name(port), virtual_hosts, ..Default::default() }
}

/// Two routes where retries are on: what may safely run twice is tried again after any failure, the rest only after those that
/// it cannot have survived.
fn routes_to(service: &ServiceName, view: &ServiceView) -> Vec<Route> {
    let retry = &view.policy.retry;
    match (retry.attempts, retry.non_idempotent) {
        (0, _) => vec![route_to(service, view, RouteMatch::default(), None)],
        (_, true) => vec![route_to(service, view, RouteMatch::default(), Some(ANY_FAILURE))],
        (_, false) => {
            let idempotent =
                RouteMatch { headers: vec![method(&IDEMPOTENT_METHODS.join("|"))], ..Default::default() };
            vec![
                route_to(service, view, idempotent, Some(ANY_FAILURE)),
                route_to(service, view, RouteMatch::default(), Some(NEVER_ARRIVED)),
            ]
        }
    }
}

fn method(regex: &str) -> HeaderMatcher {
    let pattern = StringMatcher {
        match_pattern: Some(MatchPattern::SafeRegex(RegexMatcher {
            regex: regex.to_owned(),
            ..Default::default()
        })),
        ..Default::default()
    };
    HeaderMatcher {
        name: ":method".to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(pattern)),
        ..Default::default()
    }
}

fn route_to(service: &ServiceName, view: &ServiceView, matches: RouteMatch, retry_on: Option<&str>) -> Route {
    Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(route_match::PathSpecifier::Prefix("/".to_owned())),
            ..matches
        }),
        action: Some(route::Action::Route(RouteAction {
            cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(service.to_string())),
            // Zero is "none": Envoy's own default of 15 s would cut streams and downloads.
            timeout: Some(sources::duration(view.policy.timeout.unwrap_or_default())),
            retry_policy: retry_on.map(|retry_on| retry(retry_on, &view.policy.retry)),
            ..Default::default()
        })),
        ..Default::default()
    }
}

/// A retry leaves the priority, which is the zone (see [`super::endpoint`]), and within a priority the host.
fn retry(retry_on: &str, policy: &Retry) -> RetryPolicy {
    let priorities = PreviousPrioritiesConfig { update_frequency: 1 };
    RetryPolicy {
        retry_on: retry_on.to_owned(),
        num_retries: Some(UInt32Value { value: policy.attempts }),
        // The other zone is not to blame: there is nothing to wait for.
        retry_back_off: Some(RetryBackOff {
            base_interval: Some(sources::duration(Millis(1))),
            max_interval: Some(sources::duration(Millis(10))),
        }),
        retry_priority: Some(RetryPriority {
            name: "envoy.retry_priorities.previous_priorities".to_owned(),
            config_type: Some(retry_priority::ConfigType::TypedConfig(packed(&priorities))),
        }),
        retry_host_predicate: vec![RetryHostPredicate {
            name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
            config_type: Some(retry_host_predicate::ConfigType::TypedConfig(packed(
                &PreviousHostsPredicate {},
            ))),
        }],
        host_selection_retry_max_attempts: HOST_PICKS,
        ..Default::default()
    }
}
