//! What a client asks for, and that it gets just that.

use super::client::*;
use crate::session::Request;
use crate::types::Protocol;

const A: Item = (EDS, "a", "1");
const B: Item = (EDS, "b", "1");

#[test]
fn r08_naming_nothing_means_all_listeners_and_clusters() {
    for kind in [LDS, CDS] {
        for mut client in everywhere(&kind) {
            client.publish(&[(kind.clone(), "x", "1"), (kind.clone(), "y", "1")]);
            assert_eq!(names(&only(client.wildcard(&kind))), ["x", "y"]);
        }
    }
}

#[test]
fn r08_naming_nothing_means_no_endpoints_routes_or_extensions() {
    for kind in [EDS, RDS, ECDS] {
        for mut client in everywhere(&kind) {
            client.publish(&[(kind.clone(), "x", "1")]);
            assert!(client.wildcard(&kind).is_empty(), "{:?} {kind:?}", client.protocol);
        }
    }
}

#[test]
fn r08_star_means_all_of_any_type() {
    for kind in [LDS, EDS, RDS] {
        for mut client in everywhere(&kind) {
            client.publish(&[(kind.clone(), "x", "1"), (kind.clone(), "y", "1")]);
            let response = only(client.subscribe(&kind, &["*"]));
            assert_eq!(names(&response), ["x", "y"]);
            client.ack(&response);
            let more = client.publish(&[
                (kind.clone(), "x", "1"),
                (kind.clone(), "y", "1"),
                (kind.clone(), "z", "1"),
            ]);
            assert!(names(&only(more)).contains(&"z"));
        }
    }
}

#[test]
fn r08_sotw_a_list_without_the_star_ends_the_wildcard() {
    // The example of xds_protocol.rst, step by step.
    for mut client in both(Protocol::Sotw, &CDS) {
        client.publish(&[(CDS, "a", "1"), (CDS, "b", "1")]);
        let mut ask =
            |names: &[&str], nonce: &str| client.raw(Request::Sotw(Box::new(sotw(&CDS, names, nonce))));
        let first = only(ask(&[], ""));
        assert_eq!(names(&first), ["a", "b"]);
        let both = only(ask(&["*", "a"], &first.nonce));
        assert_eq!(names(&both), ["a", "b"], "still all");
        assert!(ask(&["a"], &both.nonce).is_empty(), "a was sent, b is no longer wanted");
        let mut client = client;
        let change = only(client.publish(&[(CDS, "a", "2"), (CDS, "b", "2")]));
        assert_eq!(names(&change), ["a"]);
    }
}

#[test]
fn r08_delta_a_name_keeps_the_wildcard_and_an_unsubscribed_star_ends_it() {
    for mut client in both(Protocol::Delta, &CDS) {
        client.publish(&[(CDS, "a", "1"), (CDS, "b", "1")]);
        let first = only(client.wildcard(&CDS));
        let again = only(client.ack_with(&first, &["a"], &[]));
        assert_eq!(names(&again), ["a"], "asked for by name: answered again");
        client.ack(&again);
        let change = only(client.publish(&[(CDS, "a", "1"), (CDS, "b", "2")]));
        assert_eq!(names(&change), ["b"], "the wildcard goes on");
        assert!(client.ack_with(&change, &[], &["*"]).is_empty());
        let change = only(client.publish(&[(CDS, "a", "3"), (CDS, "b", "3")]));
        assert_eq!(names(&change), ["a"], "the wildcard ended");
        client.ack(&change);
        client.unsubscribe(&CDS, &["a"]);
        assert!(
            client.publish(&[(CDS, "a", "4"), (CDS, "b", "4")]).is_empty(),
            "an empty list is not a wildcard again"
        );
    }
}

#[test]
fn r09_an_empty_list_after_a_name_unsubscribes_from_all() {
    for kind in [CDS, LDS, EDS] {
        for mut client in both(Protocol::Sotw, &kind) {
            client.publish(&[(kind.clone(), "a", "1")]);
            let first = only(client.subscribe(&kind, &["a"]));
            assert!(client.ack_with(&first, &[], &["a"]).is_empty());
            assert!(client.publish(&[(kind.clone(), "a", "2"), (kind.clone(), "b", "2")]).is_empty());
        }
    }
}

#[test]
fn r10_a_newly_named_resource_is_sent_though_it_was_sent_before() {
    for mut client in everywhere(&EDS) {
        client.publish(&[A, B]);
        let first = only(client.subscribe(&EDS, &["a", "b"]));
        client.ack(&first);
        client.unsubscribe(&EDS, &["a"]);
        let again = only(client.subscribe(&EDS, &["a"]));
        assert_eq!(
            names(&again),
            ["a"],
            "{:?}: newly requested, unchanged, and still to be sent",
            client.protocol
        );
    }
}

#[test]
fn r10_only_what_is_new_goes_out_where_a_response_may_be_partial() {
    for mut client in everywhere(&EDS) {
        client.publish(&[A, B]);
        let first = only(client.subscribe(&EDS, &["a"]));
        assert_eq!(names(&first), ["a"]);
        let second = only(client.ack_with(&first, &["b"], &[]));
        assert_eq!(names(&second), ["b"]);
        client.ack(&second);
        let change = only(client.publish(&[A, (EDS, "b", "2")]));
        assert_eq!(names(&change), ["b"]);
        assert!(client.ack(&change).is_empty());
        assert!(client.converged());
    }
}

#[test]
fn r11_a_name_subscribed_again_is_answered_again() {
    for mut client in both(Protocol::Delta, &EDS) {
        client.publish(&[A]);
        let first = only(client.subscribe(&EDS, &["a"]));
        client.ack(&first);
        let again = only(client.subscribe(&EDS, &["a"]));
        assert_eq!(names(&again), ["a"], "the client may have forgotten it");
        client.ack(&again);
        assert!(client.converged());
    }
}

#[test]
fn r12_unsubscribing_from_a_name_under_a_wildcard_is_answered() {
    for mut client in both(Protocol::Delta, &CDS) {
        client.publish(&[(CDS, "in", "1")]);
        let first = only(client.wildcard(&CDS));
        let both = only(client.ack_with(&first, &["in", "out"], &[]));
        assert_eq!((names(&both), removed(&both)), (vec!["in"], vec!["out"]));
        let answer = only(client.ack_with(&both, &[], &["in", "out"]));
        assert_eq!(
            (names(&answer), removed(&answer)),
            (vec!["in"], vec!["out"]),
            "the one stays, the other goes"
        );
        assert!(client.ack(&answer).is_empty());
    }
}

#[test]
fn r13_phantom_and_plain_unsubscriptions_get_no_answer() {
    for mut client in both(Protocol::Delta, &EDS) {
        client.publish(&[A]);
        let first = only(client.subscribe(&EDS, &["a"]));
        client.ack(&first);
        assert!(client.unsubscribe(&EDS, &["never-asked-for"]).is_empty());
        assert!(client.unsubscribe(&EDS, &["a"]).is_empty());
        assert!(client.publish(&[(EDS, "a", "2")]).is_empty(), "and it is not sent any more");
        assert!(client.error.is_none());
    }
}

#[test]
fn r14_an_absent_name_is_announced_at_once_and_stays_watched() {
    for mut client in both(Protocol::Delta, &EDS) {
        client.publish(&[A]);
        let first = only(client.subscribe(&EDS, &["a", "later"]));
        assert_eq!((names(&first), removed(&first)), (vec!["a"], vec!["later"]));
        assert!(client.ack(&first).is_empty(), "it is said once");
        let born = only(client.publish(&[A, (EDS, "later", "1")]));
        assert_eq!(names(&born), ["later"]);
    }
}

#[test]
fn r15_an_absent_name_is_remembered_and_sent_when_it_comes_to_be() {
    for mut client in both(Protocol::Sotw, &EDS) {
        client.publish(&[A]);
        assert!(client.subscribe(&EDS, &["later"]).is_empty(), "there is no word for it in this protocol");
        let born = only(client.publish(&[A, (EDS, "later", "1")]));
        assert_eq!(names(&born), ["later"]);
    }
}

#[test]
fn r15_a_named_listener_that_is_absent_shows_in_the_full_state() {
    for mut client in both(Protocol::Sotw, &LDS) {
        client.publish(&[(LDS, "other", "1")]);
        let empty = only(client.subscribe(&LDS, &["mine"]));
        assert!(empty.resources.is_empty(), "a listener client reads absence from the full state");
        assert!(client.ack(&empty).is_empty());
        assert_eq!(names(&only(client.publish(&[(LDS, "mine", "1")]))), ["mine"]);
    }
}

#[test]
fn r22_the_latest_request_counts() {
    for mut client in everywhere(&EDS) {
        // Three requests before there is anything to answer with: one answer, to the last.
        client.subscribe(&EDS, &["a"]);
        client.subscribe(&EDS, &["b"]);
        client.unsubscribe(&EDS, &["a"]);
        let response = only(client.publish(&[A, B]));
        assert_eq!(names(&response), ["b"]);
    }
}

#[test]
fn r29_fields_no_client_uses_yet_change_nothing() {
    use envoy_types::pb::envoy::service::discovery::v3::ResourceLocator;
    let locator = ResourceLocator { name: "a".into(), ..Default::default() };
    for mut client in everywhere(&EDS) {
        client.publish(&[A]);
        let request = match client.protocol {
            Protocol::Sotw => {
                let mut request = sotw(&EDS, &["a"], "");
                request.resource_locators.push(locator.clone());
                Request::Sotw(Box::new(request))
            }
            Protocol::Delta => {
                let mut request = delta(&EDS, &["a"], &[], "");
                request.resource_locators_subscribe.push(locator.clone());
                request.resource_locators_unsubscribe.push(locator.clone());
                Request::Delta(Box::new(request))
            }
        };
        assert_eq!(names(&only(client.raw(request))), ["a"]);
    }
}
