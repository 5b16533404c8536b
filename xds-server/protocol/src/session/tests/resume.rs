//! Clients that come back with what an earlier stream gave them.

use std::time::Duration;

use super::client::*;
use crate::Snapshot;
use crate::session::Request;
use crate::types::{ChangeId, Protocol};

const GRACE: Duration = Duration::from_millis(500);

/// A view that holds these.
fn snapshot(change: u64, items: &[Item]) -> Snapshot {
    let mut builder = Snapshot::builder(ChangeId(change));
    for item in items {
        builder.put(resource(item)).unwrap();
    }
    builder.build()
}

#[test]
fn r06_a_client_that_comes_back_in_sync_is_sent_nothing_again() {
    let view = [(CDS, "c", "1"), (EDS, "a", "1"), (EDS, "b", "1")];
    for protocol in PROTOCOLS {
        let mut client = Client::new(protocol);
        client.publish(&view);
        for responses in [client.wildcard(&CDS), client.subscribe(&EDS, &["a", "b"])] {
            client.ack_all(responses);
        }
        let mut back = client.reconnect(&view, &view);
        let mut responses = back.wildcard(&CDS);
        responses.extend(back.subscribe(&EDS, &["a", "b"]));
        responses.extend(back.wait(GRACE * 2));
        // By names, a version of state of the world does not tell what the client has.
        let again = if protocol == Protocol::Sotw { 2 } else { 0 };
        let resources: usize = responses.iter().map(|response| response.resources.len()).sum();
        assert_eq!(resources, again, "{protocol:?}: {responses:#?}");
        back.ack_all(responses);
        assert!(back.converged());
    }
}

#[test]
fn r06_a_client_that_comes_back_in_sync_to_any_stream_is_sent_nothing_again() {
    for kind in [CDS, EDS] {
        let view = [(kind.clone(), "a", "1"), (kind.clone(), "b", "1")];
        for mut client in everywhere(&kind).into_iter().filter(|client| client.protocol == Protocol::Delta) {
            client.publish(&view);
            let first = client.subscribe(&kind, &["a", "b"]);
            client.ack_all(first);
            let mut back = client.reconnect(&view, &view);
            let mut responses = back.subscribe(&kind, &["a", "b"]);
            responses.extend(back.wait(GRACE * 2));
            let resources: usize = responses.iter().map(|response| response.resources.len()).sum();
            assert_eq!(resources, 0, "{:?}: {responses:#?}", back.protocol);
            back.ack_all(responses);
            assert!(back.converged());
        }
    }
}

#[test]
fn r06_sotw_a_version_does_not_stand_for_names_it_was_not_given_for() {
    let view = [(EDS, "a", "1"), (EDS, "b", "1")];
    for mut client in both(Protocol::Sotw, &EDS) {
        client.publish(&view);
        let responses = client.subscribe(&EDS, &["a"]);
        client.ack_all(responses);
        let mut back = client.reconnect(&[], &view);
        assert_eq!(
            names(&only(back.subscribe(&EDS, &["b"]))),
            ["a", "b"],
            "the server cannot know that it has a"
        );
    }
}

/// gRPC keeps the version of a type from one stream to the next, and no resource that it does not watch.
#[test]
fn r06_sotw_a_name_that_was_dropped_and_is_asked_for_again_on_another_stream_is_sent() {
    let view = [(EDS, "a", "1"), (EDS, "b", "1")];
    for mut client in both(Protocol::Sotw, &EDS) {
        client.publish(&view);
        let responses = client.subscribe(&EDS, &["a", "b"]);
        client.ack_all(responses);
        let dropped = client.subscribe(&EDS, &["a"]);
        client.ack_all(dropped);
        let mut back = client.reconnect(&[], &view);
        let responses = back.subscribe(&EDS, &["a", "b"]);
        assert!(responses.iter().flat_map(names).any(|name| name == "b"), "{responses:#?}");
        back.ack_all(responses);
        assert!(back.converged());
    }
}

#[test]
fn what_a_client_brings_is_known_before_it_is_given_its_view() {
    let old = [(EDS, "a", "1"), (EDS, "b", "1"), (EDS, "c", "1")];
    for mut client in both(Protocol::Delta, &EDS) {
        let seen = std::sync::Arc::new(snapshot(1, &old));
        client.session.recognise(seen.clone());
        let mut request = delta(&EDS, &["a", "b", "c"], &[], "");
        for item in &old {
            request.initial_resource_versions.insert(item.1.to_owned(), version(item).to_string());
        }
        assert!(client.raw(Request::Delta(Box::new(request))).is_empty(), "it has not been given its view");
        // The view went on while the client waited for its place.
        let responses = client.publish(&[(EDS, "a", "1"), (EDS, "b", "2")]);
        let mut seen = client.ack_all(responses);
        let after = client.wait(GRACE);
        seen.extend(client.ack_all(after));
        assert_eq!(seen.iter().flat_map(names).collect::<Vec<_>>(), ["b"]);
        assert_eq!(seen.iter().flat_map(removed).collect::<Vec<_>>(), ["c"]);
        assert!(client.converged());
    }
}

#[test]
fn r23_initial_versions_are_honoured() {
    for mut client in both(Protocol::Delta, &EDS) {
        client.publish(&[(EDS, "same", "1"), (EDS, "changed", "2"), (EDS, "new", "1")]);
        let mut request = delta(&EDS, &["same", "changed", "new", "gone"], &[], "");
        for item in [(EDS, "same", "1"), (EDS, "changed", "1"), (EDS, "gone", "1")] {
            request.initial_resource_versions.insert(item.1.to_owned(), version(&item).to_string());
        }
        let mut responses = client.raw(Request::Delta(Box::new(request)));
        responses.extend(client.wait(GRACE));
        let seen = client.ack_all(responses);
        let sent: Vec<_> = seen.iter().flat_map(names).collect();
        let gone: Vec<_> = seen.iter().flat_map(removed).collect();
        assert_eq!((sent, gone), (vec!["changed", "new"], vec!["gone"]));
        assert!(client.converged());
    }
}

#[test]
fn r23_who_has_all_of_an_earlier_content_is_told_what_changed_since() {
    let before = [(EDS, "same", "1"), (EDS, "changed", "1"), (EDS, "gone", "1")];
    for names_too in [false, true] {
        for mut client in both(Protocol::Delta, &EDS) {
            client.publish(&before);
            client.publish(&[(EDS, "same", "1"), (EDS, "changed", "2"), (EDS, "gone", "1")]);
            if names_too {
                client.publish(&[(EDS, "same", "1"), (EDS, "changed", "2"), (EDS, "new", "1")]);
            }
            let mut request = delta(&EDS, &["same", "changed", "gone"], &[], "");
            for item in &before {
                request.initial_resource_versions.insert(item.1.to_owned(), version(item).to_string());
            }
            let mut responses = client.raw(Request::Delta(Box::new(request)));
            responses.extend(client.wait(GRACE));
            let seen = client.ack_all(responses);
            let sent: Vec<_> = seen.iter().flat_map(names).collect();
            let gone: Vec<_> = seen.iter().flat_map(removed).collect();
            assert_eq!((sent, gone), (vec!["changed"], if names_too { vec!["gone"] } else { Vec::new() }));
            assert!(client.converged());
        }
    }
}

#[test]
fn r23_initial_versions_count_on_the_first_request_only() {
    for mut client in both(Protocol::Delta, &EDS) {
        client.publish(&[(EDS, "a", "1"), (EDS, "b", "1")]);
        let first = only(client.subscribe(&EDS, &["a"]));
        client.ack(&first);
        let mut request = delta(&EDS, &["b"], &[], "");
        request.initial_resource_versions.insert("b".into(), version(&(EDS, "b", "1")).to_string());
        assert_eq!(names(&only(client.raw(Request::Delta(Box::new(request))))), ["b"]);
    }
}

#[test]
fn r24_a_client_that_comes_back_is_not_met_with_removals() {
    let before = [(CDS, "old", "1"), (EDS, "old", "1"), (LDS, "l", "1"), (RDS, "r", "to old")];
    let after = [(CDS, "new", "1"), (EDS, "new", "1"), (LDS, "l", "1"), (RDS, "r", "to new")];
    for protocol in PROTOCOLS {
        let mut client = Client::new(protocol);
        client.publish(&before);
        for (kind, name) in [(CDS, ""), (EDS, "old"), (LDS, ""), (RDS, "r")] {
            let responses =
                if name.is_empty() { client.wildcard(&kind) } else { client.subscribe(&kind, &[name]) };
            client.ack_all(responses);
        }
        let mut back = client.reconnect(&before, &after);

        let clusters = only(back.wildcard(&CDS));
        match protocol {
            Protocol::Sotw => {
                assert_eq!(names(&clusters), ["new", "old"], "the old one stays in the full state")
            }
            Protocol::Delta => {
                assert_eq!((names(&clusters), removed(&clusters)), (vec!["new"], vec![]));
            }
        }
        assert!(back.subscribe(&EDS, &["old"]).is_empty());
        // A wildcard is answered, if only with nothing.
        let listeners = back.wildcard(&LDS);
        assert!(
            listeners.iter().all(|response| response.resources.is_empty() && response.removed.is_empty())
        );
        back.ack_all(listeners);
        assert!(back.subscribe(&RDS, &["r"]).is_empty(), "its cluster is not there yet");
        assert!(back.ack(&clusters).is_empty(), "nor its endpoints");
        let endpoints = only(back.subscribe(&EDS, &["new"]));
        let routes = only(back.ack(&endpoints));
        assert_eq!(names(&routes), ["r"]);
        assert!(back.ack(&routes).is_empty(), "the client may still be telling what it has");
        let removal = only(back.wait(GRACE));
        assert_eq!(removal.type_url, CDS);
        match protocol {
            Protocol::Sotw => assert_eq!(names(&removal), ["new"]),
            Protocol::Delta => assert_eq!(removed(&removal), ["old"]),
        }
        let mut rest = back.ack(&removal);
        rest.extend(back.unsubscribe(&EDS, &["old"]));
        back.ack_all(rest);
        assert!(back.converged(), "{protocol:?}");
        assert!(back.expired.is_empty());
    }
}

#[test]
fn r24_a_client_of_clusters_only_waits_no_longer_than_the_grace() {
    let mut client = Client::new(Protocol::Delta);
    client.publish(&[]);
    let mut request = delta(&CDS, &[], &[], "");
    request.initial_resource_versions.insert("gone".into(), "1".into());
    assert!(client.raw(Request::Delta(Box::new(request))).is_empty());
    assert!(client.wait(GRACE - Duration::from_millis(1)).is_empty());
    let removal = only(client.wait(Duration::from_millis(1)));
    assert_eq!(removed(&removal), ["gone"]);
}
