//! Times to live, and the heartbeats that keep resources alive.

use std::time::Duration;

use super::client::*;
use crate::session::Response;
use crate::types::Protocol;
use crate::{Resource, TypeUrl};

const TTL: Duration = Duration::from_secs(10);
const HALF: Duration = Duration::from_secs(5);
const BEFORE: Duration = Duration::from_millis(4999);
const RTDS: TypeUrl = TypeUrl::RUNTIME;

fn mortal(kind: &TypeUrl, name: &str, content: &'static str) -> Resource {
    Resource::from_value(name, kind.clone(), content.as_bytes()).with_ttl(TTL)
}

/// Clients that heed times to live, everywhere.
fn heedful(kind: &TypeUrl) -> Vec<Client> {
    let mut clients = everywhere(kind);
    for client in &mut clients {
        client.features = vec!["xds.config.supports-resource-ttl", "xds.config.resource-in-sotw"];
    }
    clients
}

/// The resources whose life a response prolongs: without their content where the protocol has that.
fn kept_alive(response: &Response) -> Vec<&str> {
    assert!(response.heartbeat);
    let kept: &[_] = match response.protocol {
        Protocol::Delta => {
            assert!(response.resources.is_empty(), "a heartbeat has no content");
            &response.refreshed
        }
        Protocol::Sotw => &response.resources,
    };
    kept.iter().map(|resource| &**resource.name()).collect()
}

#[test]
fn r26_a_resource_with_a_ttl_is_kept_alive_at_half_of_it() {
    for mut client in heedful(&RTDS) {
        client.edit(|view| {
            view.put(mortal(&RTDS, "a", "1")).unwrap();
            view.put(resource(&(RTDS, "b", "1"))).unwrap();
        });
        let first = only(client.subscribe(&RTDS, &["a", "b"]));
        assert!(first.with_ttl && !first.heartbeat);
        client.ack(&first);
        for _ in 0..3 {
            assert!(client.wait(BEFORE).is_empty(), "no sooner than at half");
            let beat = only(client.wait(HALF - BEFORE));
            assert_eq!(kept_alive(&beat), ["a"], "{:?}: b lives for ever", client.protocol);
            assert_eq!(beat.version, first.version, "it is no new version");
            assert!(client.ack(&beat).is_empty());
        }
        assert_eq!(client.acks, 1, "a heartbeat is no update");
        assert!(client.converged());
    }
}

#[test]
fn r26_a_full_state_is_kept_alive_by_the_full_state() {
    // A state-of-the-world response without clusters would remove them all.
    for mut client in heedful(&CDS) {
        client.edit(|view| {
            view.put(mortal(&CDS, "a", "1")).unwrap();
            view.put(resource(&(CDS, "b", "1"))).unwrap();
        });
        let first = only(client.wildcard(&CDS));
        client.ack(&first);
        let beat = only(client.wait(HALF));
        match client.protocol {
            Protocol::Delta => assert_eq!(kept_alive(&beat), ["a"]),
            Protocol::Sotw => assert_eq!(kept_alive(&beat), ["a", "b"]),
        }
    }
}

#[test]
fn r26_clients_that_do_not_heed_ttls_get_neither_them_nor_heartbeats() {
    for features in [vec![], vec!["xds.config.resource-in-sotw"], vec!["xds.config.supports-resource-ttl"]] {
        for mut client in everywhere(&RTDS) {
            client.features = features.clone();
            // In state of the world a time to live needs a client that unwraps resources as well.
            let heeds =
                client.protocol == Protocol::Delta && features == ["xds.config.supports-resource-ttl"];
            client.edit(|view| {
                view.put(mortal(&RTDS, "a", "1")).unwrap();
            });
            let first = only(client.subscribe(&RTDS, &["a"]));
            assert_eq!(first.with_ttl, heeds);
            client.ack(&first);
            assert_eq!(client.wait(TTL).len(), usize::from(heeds));
        }
    }
}

#[test]
fn r26_a_change_goes_out_with_its_content_and_needs_no_beat_to_wait_for() {
    for mut client in heedful(&RTDS) {
        client.edit(|view| {
            view.put(mortal(&RTDS, "a", "1")).unwrap();
        });
        let first = only(client.subscribe(&RTDS, &["a"]));
        client.ack(&first);
        client.wait(BEFORE);
        let change = only(client.edit(|view| {
            view.put(mortal(&RTDS, "a", "2")).unwrap();
        }));
        assert!(!change.heartbeat && names(&change) == ["a"]);
        client.ack(&change);
        // A time to live taken away is a change as well, and ends the beats.
        let lasting = only(client.edit(|view| {
            view.put(resource(&(RTDS, "a", "2"))).unwrap();
        }));
        assert_eq!(names(&lasting), ["a"]);
        client.ack(&lasting);
        assert!(client.wait(TTL * 3).is_empty());
    }
}

#[test]
fn r26_what_a_client_brings_back_has_been_running_out_and_is_kept_alive_at_once() {
    for mut client in heedful(&RTDS).into_iter().filter(|client| client.protocol == Protocol::Delta) {
        let held = mortal(&RTDS, "a", "1");
        let version = held.version().to_string();
        client.edit(|view| {
            view.put(held).unwrap();
        });
        let mut request = delta(&RTDS, &["a"], &[], "");
        request.initial_resource_versions.insert("a".into(), version);
        let node = request.node.as_mut().unwrap();
        node.client_features = vec!["xds.config.supports-resource-ttl".into()];
        let beat = only(client.raw(crate::session::Request::Delta(Box::new(request))));
        assert_eq!(kept_alive(&beat), ["a"]);
    }
}

#[test]
fn r26_a_client_that_refuses_heartbeats_is_sent_no_more_of_them() {
    for mut client in heedful(&RTDS) {
        client.edit(|view| {
            view.put(mortal(&RTDS, "a", "1")).unwrap();
        });
        let first = only(client.subscribe(&RTDS, &["a"]));
        client.ack(&first);
        let beat = only(client.wait(HALF));
        assert!(client.nack(&beat, "no").is_empty());
        assert!(client.wait(TTL * 10).is_empty());
    }
}

#[test]
fn r26_a_beat_waits_for_the_answer_under_way() {
    for mut client in heedful(&RTDS) {
        client.edit(|view| {
            view.put(mortal(&RTDS, "a", "1")).unwrap();
        });
        let first = only(client.subscribe(&RTDS, &["a"]));
        assert!(client.wait(TTL).is_empty(), "one response at a time");
        assert_eq!(kept_alive(&only(client.ack(&first))), ["a"]);
    }
}
