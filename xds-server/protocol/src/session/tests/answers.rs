//! What the server answers, when, and with which words.

use std::sync::Arc;

use super::client::*;
use crate::error::ProtocolError;
use crate::session::{Request, SessionOptions};
use crate::types::{Protocol, Scope, TypeUrl};

const A: Item = (EDS, "a", "1");

#[test]
fn r01_nonces_are_unique_and_each_type_has_its_own() {
    for protocol in PROTOCOLS {
        let mut client = Client::new(protocol);
        client.publish(&[(CDS, "c", "1"), (LDS, "l", "1")]);
        let clusters = only(client.wildcard(&CDS));
        let listeners = only(client.wildcard(&LDS));
        assert_ne!(clusters.nonce, listeners.nonce);
        client.ack(&clusters);
        client.ack(&listeners);
        assert_eq!(client.acks, 2, "the nonce of one type does not make that of the other stale");
    }
}

#[test]
fn r01_every_response_has_a_nonce_of_its_own() {
    for mut client in everywhere(&EDS) {
        client.publish(&[A]);
        let mut response = only(client.subscribe(&EDS, &["a"]));
        for content in ["2", "3", "4"] {
            assert!(client.ack(&response).is_empty());
            // The harness holds every nonce of the stream against those before it.
            response = only(client.publish(&[(EDS, "a", content)]));
        }
        assert_eq!(client.acks, 3);
    }
}

#[test]
fn r02_sotw_a_request_with_a_stale_nonce_is_ignored() {
    for mut client in both(Protocol::Sotw, &EDS) {
        client.publish(&[A, (EDS, "b", "1")]);
        let first = only(client.subscribe(&EDS, &["a"]));
        client.ack(&first);
        let second = only(client.publish(&[(EDS, "a", "2"), (EDS, "b", "1")]));
        let late = sotw(&EDS, &["a", "b"], &first.nonce);
        assert!(client.raw(Request::Sotw(Box::new(late))).is_empty());
        assert!(client.ack(&second).is_empty(), "nothing of the stale request was kept");
        assert_eq!(client.acks, 2);
        let more = sotw(&EDS, &["a", "b"], &second.nonce);
        assert_eq!(names(&only(client.raw(Request::Sotw(Box::new(more))))), ["b"]);
    }
}

/// gRPC forgets what it drops and waits for what it asks for: it would take silence for "does not exist".
#[test]
fn r02_sotw_what_stale_requests_drop_and_ask_for_again_is_sent_again() {
    const MEMBER: &str = "xdstp://x/t/web/1";
    const COLLECTION: &str = "xdstp://x/t/web/*";
    for kind in [EDS, CDS] {
        let view = |content| [(kind.clone(), "a", content), (kind.clone(), MEMBER, "1")];
        for asked in [&["a", MEMBER][..], &["a", COLLECTION], &["*"], &["*", "a", COLLECTION]] {
            // What it asks for in between; at last it asks for what it asked for at first.
            for between in [&[][..], &["nobody"], &["a"], &["*"]] {
                for mut client in both(Protocol::Sotw, &kind) {
                    client.publish(&view("1"));
                    let first = client.subscribe(&kind, asked);
                    client.ack_all(first);
                    let changed = only(client.publish(&view("2")));
                    let before = client.acks;
                    assert!(client.unsubscribe(&kind, asked).is_empty(), "stale");
                    assert!(client.subscribe(&kind, between).is_empty(), "stale");
                    assert!(client.unsubscribe(&kind, between).is_empty(), "stale");
                    assert!(client.subscribe(&kind, asked).is_empty(), "stale");
                    let again = only(client.ack(&changed));
                    assert_eq!(names(&again), ["a", MEMBER], "{kind} {asked:?} {between:?}");
                    assert!(client.ack(&again).is_empty(), "once");
                    assert_eq!((client.acks, client.converged()), (before + 2, true));
                    // What it still asked for all the while it was not given for nothing.
                    let same = only(client.publish(&view("3")));
                    assert!(client.subscribe(&kind, &["nobody"]).is_empty(), "stale");
                    let answers = client.ack(&same);
                    assert_eq!(answers.len(), usize::from(kind.is_full_state()), "{answers:?}");
                }
            }
        }
    }
}

#[test]
fn r03_delta_subscriptions_count_whatever_the_nonce() {
    for mut client in both(Protocol::Delta, &EDS) {
        client.publish(&[A, (EDS, "b", "1"), (EDS, "c", "1"), (EDS, "d", "1")]);
        let first = only(client.subscribe(&EDS, &["a"]));
        client.ack(&first);
        // Stale.
        let stale = client.raw(Request::Delta(Box::new(delta(&EDS, &["b"], &[], "garbage"))));
        let stale = only(stale);
        assert_eq!(names(&stale), ["b"]);
        // Absent, while a response is under way: answered with the next.
        assert!(client.raw(Request::Delta(Box::new(delta(&EDS, &["c"], &[], "")))).is_empty());
        // Riding on the ACK.
        let next = only(client.ack_with(&stale, &["d"], &["a"]));
        assert_eq!(names(&next), ["c", "d"]);
        client.ack(&next);
        assert!(client.publish(&[(EDS, "a", "2")]).iter().all(|response| names(response).is_empty()));
    }
}

#[test]
fn r06_versions_come_from_content_and_not_from_history() {
    for (mut long, mut short) in everywhere(&CDS).into_iter().zip(everywhere(&CDS)) {
        long.publish(&[(CDS, "a", "9")]);
        let first = only(long.wildcard(&CDS));
        long.ack(&first);
        let response = only(long.publish(&[(CDS, "a", "1"), (CDS, "b", "1")]));
        // SotW sends both at once; delta tells each resource's version.
        short.publish(&[(CDS, "b", "1"), (CDS, "a", "1")]);
        assert_eq!(only(short.wildcard(&CDS)).version, response.version);
        assert_ne!(first.version, response.version);
    }
}

#[test]
fn r06_sotw_the_version_of_a_partial_type_covers_all_the_client_has() {
    for (mut client, mut other) in both(Protocol::Sotw, &EDS).into_iter().zip(both(Protocol::Sotw, &EDS)) {
        client.publish(&[A, (EDS, "b", "1")]);
        let first = only(client.subscribe(&EDS, &["a"]));
        let second = only(client.ack_with(&first, &["b"], &[]));
        assert_eq!(names(&second), ["b"]);
        other.publish(&[A, (EDS, "b", "1")]);
        assert_eq!(only(other.subscribe(&EDS, &["b", "a"])).version, second.version);
    }
}

#[test]
fn r07_the_node_is_needed_once() {
    for mut client in everywhere(&EDS) {
        client.publish(&[A]);
        let first = only(client.subscribe(&EDS, &["a"]));
        // The harness sends the node on the first request only.
        client.ack(&first);
        assert!(client.error.is_none());
    }
    for mut client in everywhere(&EDS) {
        let request = match client.protocol {
            Protocol::Sotw => {
                Request::Sotw(Box::new(envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest {
                    node: None,
                    ..sotw(&EDS, &["a"], "")
                }))
            }
            Protocol::Delta => Request::Delta(Box::new(
                envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest {
                    node: None,
                    ..delta(&EDS, &["a"], &[], "")
                },
            )),
        };
        client.raw(request);
        assert_eq!(client.error, Some(ProtocolError::NoNode));
        assert_eq!(ProtocolError::NoNode.code(), tonic::Code::InvalidArgument);
        assert!(client.publish(&[A]).is_empty(), "an ended stream says nothing more");
    }
}

#[test]
fn r16_sotw_listeners_and_clusters_are_always_the_full_state() {
    for kind in [LDS, CDS] {
        for mut client in both(Protocol::Sotw, &kind) {
            client.publish(&[(kind.clone(), "a", "1"), (kind.clone(), "b", "1")]);
            let first = only(client.wildcard(&kind));
            client.ack(&first);
            let change = only(client.publish(&[(kind.clone(), "a", "2"), (kind.clone(), "b", "1")]));
            assert_eq!(names(&change), ["a", "b"], "what did not change as well");
            client.ack(&change);
            let gone = only(client.publish(&[(kind.clone(), "b", "1")]));
            assert_eq!(names(&gone), ["b"]);
            client.ack(&gone);
            let none = only(client.publish(&[]));
            assert!(names(&none).is_empty(), "empty means: delete all");
            client.ack(&none);
            assert!(client.converged());
        }
    }
}

#[test]
fn r16_a_view_that_was_never_published_is_not_an_empty_one() {
    for kind in [LDS, CDS, EDS] {
        for mut client in everywhere(&kind) {
            assert!(client.wildcard(&kind).is_empty());
            assert!(client.subscribe(&kind, &["a"]).is_empty());
            let loaded = only(client.publish(&[(kind.clone(), "a", "1")]));
            assert_eq!(names(&loaded), ["a"]);
        }
    }
}

#[test]
fn r17_a_name_asked_for_in_many_ways_is_in_a_response_once() {
    const MEMBER: &str = "xdstp://x/envoy.config.endpoint.v3.ClusterLoadAssignment/web/m";
    const ALL: &str = "xdstp://x/envoy.config.endpoint.v3.ClusterLoadAssignment/web/*";
    for mut client in everywhere(&EDS) {
        client.edit(|view| {
            view.put(resource(&A)).unwrap();
            view.put(resource(&(EDS, MEMBER, "1")).with_aliases(["alias", "a-too"])).unwrap();
        });
        // The harness holds every response against this, whatever is asked.
        let first = only(client.subscribe(&EDS, &["a", "alias", MEMBER, ALL, "a-too", "*"]));
        assert_eq!(names(&first), ["a", MEMBER]);
        client.ack(&first);
        let gone = client.edit(|view| {
            view.remove(&EDS, MEMBER);
            view.remove(&EDS, "a").put(resource(&(EDS, "a", "2"))).unwrap();
        });
        assert_eq!(names(&only(gone)), ["a"]);
    }
}

#[test]
fn r17_a_snapshot_refuses_two_resources_of_one_name() {
    use crate::error::SnapshotError;
    use crate::{ChangeId, Snapshot};
    let mut builder = Snapshot::builder(ChangeId(1));
    builder.put(resource(&A)).unwrap();
    builder.put(resource(&A)).unwrap();
    let error = builder.put(resource(&(EDS, "a", "2"))).unwrap_err();
    assert_eq!(error, SnapshotError::Duplicate { type_url: EDS, name: Arc::from("a") });
    assert!(matches!(builder.put(resource(&(EDS, "", "1"))), Err(SnapshotError::EmptyName { .. })));
    assert!(matches!(builder.put(resource(&(EDS, "*", "1"))), Err(SnapshotError::WildcardName { .. })));
}

#[test]
fn r18_the_first_wildcard_request_is_answered_even_with_nothing() {
    for kind in [LDS, CDS] {
        for mut client in everywhere(&kind) {
            client.publish(&[]);
            let response = only(client.wildcard(&kind));
            assert!(response.resources.is_empty() && response.removed.is_empty());
            assert!(client.ack(&response).is_empty(), "once");
            assert!(client.publish(&[(EDS, "else", "1")]).is_empty());
        }
    }
}

#[test]
fn r25_the_type_is_required_on_ads_and_implied_elsewhere() {
    for mut client in everywhere(&EDS) {
        client.publish(&[A]);
        let nothing = crate::TypeUrl::new("");
        let request = match client.protocol {
            Protocol::Sotw => Request::Sotw(Box::new(sotw(&nothing, &["a"], ""))),
            Protocol::Delta => Request::Delta(Box::new(delta(&nothing, &["a"], &[], ""))),
        };
        let aggregated = *client.session.scope() == Scope::Aggregated;
        let responses = client.raw(request);
        if aggregated {
            assert_eq!(client.error, Some(ProtocolError::NoType));
        } else {
            assert_eq!(only(responses).type_url, EDS);
        }
    }
}

#[test]
fn r25_a_per_type_service_refuses_another_type() {
    for protocol in PROTOCOLS {
        let mut client = Client::with(protocol, Scope::Single(CDS), SessionOptions::default());
        client.subscribe(&EDS, &["a"]);
        assert_eq!(client.error, Some(ProtocolError::WrongType { asked: EDS.to_string(), served: CDS }));
    }
}

#[test]
fn r25_an_unknown_type_ends_nothing() {
    let unknown = crate::TypeUrl::new("type.googleapis.com/no.such.Thing");
    for protocol in PROTOCOLS {
        let mut client = Client::new(protocol);
        client.publish(&[A]);
        let responses = client.subscribe(&unknown, &["x"]);
        match protocol {
            Protocol::Sotw => assert!(responses.is_empty()),
            Protocol::Delta => assert_eq!(removed(&only(responses)), ["x"]),
        }
        assert_eq!(names(&only(client.subscribe(&EDS, &["a"]))), ["a"]);
    }
}

#[test]
fn r32_every_response_says_who_we_are_and_none_is_larger_than_clients_take() {
    let options = SessionOptions {
        control_plane: Arc::from("zonebreak-1"),
        max_response_bytes: 400,
        ..SessionOptions::default()
    };
    for scope in [Scope::Aggregated, Scope::Single(EDS)] {
        let mut client = Client::with(Protocol::Delta, scope, options.clone());
        let items = ["a", "b", "c", "d", "e", "f"].map(|name| (EDS, name, "0123456789"));
        client.publish(&items);
        let mut responses = client.subscribe(&EDS, &["a", "b", "c", "d", "e", "f"]);
        let mut seen = Vec::new();
        let mut rounds = 0;
        while let Some(response) = responses.pop() {
            assert!(responses.is_empty(), "one at a time");
            assert_eq!(&*response.control_plane, "zonebreak-1");
            assert!(response.resources.iter().map(|r| r.entry().len()).sum::<usize>() <= 400);
            seen.extend(names(&response).into_iter().map(str::to_owned));
            assert!(!client.converged());
            responses = client.ack(&response);
            rounds += 1;
        }
        assert!(rounds > 1, "the limit was never reached");
        assert_eq!(seen, ["a", "b", "c", "d", "e", "f"]);
        assert!(client.converged());
    }
    // State of the world cannot be split, and says who we are as well.
    for scope in [Scope::Aggregated, Scope::Single(CDS)] {
        let mut client = Client::with(Protocol::Sotw, scope, options.clone());
        client.publish(&["a", "b", "c", "d", "e", "f"].map(|name| (CDS, name, "0123456789")));
        let all = only(client.wildcard(&CDS));
        assert_eq!((&*all.control_plane, all.resources.len()), ("zonebreak-1", 6));
    }
}

#[test]
fn r33_two_servers_give_the_same_versions() {
    let one = [(CDS, "a", "1"), (CDS, "b", "2")];
    let other = [(CDS, "b", "2"), (CDS, "a", "1")];
    for (first, second) in everywhere(&CDS).into_iter().zip(everywhere(&CDS)) {
        let responses = [(first, one.clone()), (second, other.clone())].map(|(mut client, items)| {
            client.publish(&items);
            only(client.wildcard(&CDS))
        });
        assert_eq!(responses[0].version, responses[1].version);
        let versions = responses.map(|r| r.resources.iter().map(|r| r.version().clone()).collect::<Vec<_>>());
        assert_eq!(versions[0], versions[1]);
    }
}

#[test]
fn hostile_too_many_names_or_types_end_the_stream() {
    let options = SessionOptions { max_names: 3, max_types: 2, ..SessionOptions::default() };
    for protocol in PROTOCOLS {
        let mut client = Client::with(protocol, Scope::Aggregated, options.clone());
        client.subscribe(&EDS, &["a", "b", "c"]);
        assert!(client.error.is_none());
        client.subscribe(&EDS, &["d"]);
        assert_eq!(client.error, Some(ProtocolError::TooManyNames { type_url: EDS, limit: 3 }));

        let mut client = Client::with(protocol, Scope::Aggregated, options.clone());
        client.wildcard(&CDS);
        client.wildcard(&LDS);
        client.wildcard(&RDS);
        assert_eq!(client.error, Some(ProtocolError::TooManyTypes { limit: 2 }));

        let mut client = Client::with(protocol, Scope::Aggregated, options.clone());
        client.wildcard(&TypeUrl::new(&"t".repeat(1025)));
        assert_eq!(client.error, Some(ProtocolError::LongType { bytes: 1025, limit: 1024 }));
    }
}

#[test]
fn hostile_too_much_text_ends_the_stream() {
    const COLLECTION: &str = "xdstp://x/t/*";
    let options = SessionOptions { max_text_bytes: 20, ..SessionOptions::default() };
    let too_much = Some(ProtocolError::TooMuchText { limit: 20 });
    for protocol in PROTOCOLS {
        let mut client = Client::with(protocol, Scope::Aggregated, options.clone());
        // However long it goes on.
        for _ in 0..9 {
            for name in ["names of 15 byte", COLLECTION] {
                client.subscribe(&EDS, &[name]);
                client.unsubscribe(&EDS, &[name]);
            }
        }
        client.subscribe(&EDS, &["in all"]);
        client.subscribe(&CDS, &[COLLECTION]);
        assert_eq!(client.error, None);
        client.subscribe(&RDS, &["types"]);
        assert_eq!(client.error, too_much, "6 + 13 + 5 bytes");

        let item = (EDS, "a", "1");
        let mut client = Client::with(protocol, Scope::Aggregated, options.clone());
        client.publish(std::slice::from_ref(&item));
        let first = client.subscribe(&EDS, &["a"]);
        client.ack_all(first);
        let mut client = client.reconnect(std::slice::from_ref(&item), std::slice::from_ref(&item));
        client.subscribe(&EDS, &["a"]);
        assert_eq!(client.error, too_much, "what it brings along");
    }
}

#[test]
fn one_response_of_a_type_is_under_way_and_the_rest_is_merged() {
    for mut client in everywhere(&EDS) {
        client.publish(&[A]);
        let first = only(client.subscribe(&EDS, &["a"]));
        for content in ["2", "3", "4"] {
            assert!(client.publish(&[(EDS, "a", content)]).is_empty(), "the client has not answered yet");
        }
        let merged = only(client.ack(&first));
        assert_eq!(*merged.resources[0].version(), version(&(EDS, "a", "4")));
        assert!(client.ack(&merged).is_empty());
    }
}
