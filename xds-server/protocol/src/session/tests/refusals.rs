//! What happens when a client says no.

use super::client::*;
use crate::types::Protocol;

const GOOD: Item = (EDS, "a", "good");
const BAD: Item = (EDS, "a", "bad");

#[test]
fn r04_nack_is_error_detail_only() {
    for mut client in everywhere(&EDS) {
        client.publish(&[GOOD, (EDS, "b", "1")]);
        let first = only(client.subscribe(&EDS, &["a"]));
        // An old version and no error is a changed subscription that ACKs, not a NACK.
        let request = match client.protocol {
            Protocol::Sotw => {
                let mut request = sotw(&EDS, &["a", "b"], &first.nonce);
                request.version_info = "something-old".into();
                crate::session::Request::Sotw(Box::new(request))
            }
            Protocol::Delta => {
                crate::session::Request::Delta(Box::new(delta(&EDS, &["b"], &[], &first.nonce)))
            }
        };
        let second = only(client.raw(request));
        assert!(client.nacks.is_empty());
        assert_eq!(client.acks, 1);
        // And the present version with an error is a NACK.
        client.nack(&second, "no");
        assert_eq!(client.nacks.len(), 1);
        assert_eq!(&*client.nacks[0].message, "no");
        assert_eq!(client.nacks[0].nonce, second.nonce);
    }
}

#[test]
fn r05_after_a_nack_nothing_is_sent_until_something_changed() {
    for mut client in everywhere(&EDS) {
        client.publish(&[GOOD]);
        let first = only(client.subscribe(&EDS, &["a"]));
        client.ack(&first);
        let bad = only(client.publish(&[BAD]));
        assert!(client.nack(&bad, "refused").is_empty(), "{:?}", client.protocol);
        assert!(client.publish(&[BAD]).is_empty(), "the same content published again is no change");
        assert!(!client.converged());
        let fixed = only(client.publish(&[(EDS, "a", "fixed")]));
        assert_eq!(names(&fixed), ["a"]);
        client.ack(&fixed);
        assert!(client.converged());
        assert!(!client.session.refuses());
    }
}

#[test]
fn r05_going_back_to_what_the_client_has_sends_nothing() {
    for mut client in everywhere(&EDS) {
        client.publish(&[GOOD]);
        let first = only(client.subscribe(&EDS, &["a"]));
        client.ack(&first);
        let bad = only(client.publish(&[BAD]));
        client.nack(&bad, "refused");
        assert!(client.session.refuses());
        assert!(client.publish(&[GOOD]).is_empty());
        assert!(client.converged() && !client.session.refuses());
    }
}

#[test]
fn r05_a_client_that_refuses_everything_is_sent_nothing_twice() {
    for kind in [CDS, LDS, EDS] {
        for mut client in everywhere(&kind) {
            client.publish(&[(kind.clone(), "a", "1"), (kind.clone(), "b", "1")]);
            let mut queue = client.wildcard(&kind);
            queue.extend(client.subscribe(&kind, &["a", "b"]));
            let mut sent = 0;
            while let Some(response) = queue.pop() {
                sent += 1;
                queue.extend(client.nack(&response, "never"));
                assert!(sent < 10, "a hot loop");
            }
            // Both names asked for anew while the first response was under way may cost one more.
            assert!((1..=2).contains(&sent), "{sent} responses");
            // A change elsewhere in the type is reason to try once more, and only once.
            let mut tries = 0;
            for content in ["1", "2", "3"] {
                let items =
                    [(kind.clone(), "a", "1"), (kind.clone(), "b", "1"), (kind.clone(), "other", content)];
                for response in client.publish(&items) {
                    tries += usize::from(names(&response).contains(&"a"));
                    assert!(client.nack(&response, "never").is_empty());
                }
            }
            assert!(tries <= 1, "{tries} more tries of the same content");
        }
    }
}

#[test]
fn a_refusal_that_names_a_resource_withholds_only_that_one() {
    for mut client in everywhere(&CDS) {
        client.publish(&[(CDS, "a", "1"), (CDS, "b", "1")]);
        let first = only(client.wildcard(&CDS));
        client.ack(&first);
        let both = only(client.publish(&[(CDS, "a", "bad"), (CDS, "b", "2")]));
        assert!(client.nack(&both, "Error adding/updating cluster(s) a: no such policy").is_empty());
        assert_eq!(client.nacks[0].resources.iter().map(|n| &**n).collect::<Vec<_>>(), ["a"]);
        // The next change of the type takes b along, and leaves a as the client has it.
        let next = only(client.publish(&[(CDS, "a", "bad"), (CDS, "b", "2"), (CDS, "c", "1")]));
        match client.protocol {
            Protocol::Sotw => {
                assert_eq!(names(&next), ["a", "b", "c"]);
                assert_eq!(*next.resources[0].version(), version(&(CDS, "a", "1")), "the one it accepted");
            }
            Protocol::Delta => assert_eq!(names(&next), ["b", "c"]),
        }
        client.ack(&next);
        assert!(!client.converged() && client.session.refuses(), "a is still refused");
        let fixed = only(client.publish(&[(CDS, "a", "good"), (CDS, "b", "2"), (CDS, "c", "1")]));
        client.ack(&fixed);
        assert!(client.converged() && !client.session.refuses());
    }
}

#[test]
fn a_client_that_asks_again_gets_what_it_refused() {
    for mut client in everywhere(&EDS) {
        client.publish(&[BAD]);
        let first = only(client.subscribe(&EDS, &["a"]));
        assert!(client.nack(&first, "refused").is_empty());
        client.unsubscribe(&EDS, &["a"]);
        let again = only(client.subscribe(&EDS, &["a"]));
        assert_eq!(names(&again), ["a"]);
    }
}

#[test]
fn a_refused_removal_is_not_repeated() {
    for mut client in both(Protocol::Delta, &LDS) {
        client.publish(&[(LDS, "a", "1")]);
        let first = only(client.wildcard(&LDS));
        client.ack(&first);
        let gone = only(client.publish(&[]));
        assert_eq!(removed(&gone), ["a"]);
        assert!(client.nack(&gone, "keep it").is_empty());
        assert!(client.publish(&[(EDS, "x", "1")]).is_empty());
    }
}

#[test]
fn hostile_messages_and_lists_cost_no_more_than_their_size() {
    // Quadratic work here would take minutes.
    let options = crate::SessionOptions::default();
    let mut client = Client::with(Protocol::Delta, crate::Scope::Aggregated, options);
    let names: Vec<String> = (0..60_000).map(|n| format!("name-{n}")).collect();
    let mut all: Vec<&str> = names.iter().map(String::as_str).collect();
    client.publish(&[(EDS, "name-1", "1")]);
    let started = std::time::Instant::now();
    all.push("*");
    let request = crate::session::Request::Delta(Box::new(delta(&EDS, &all, &[], "")));
    let response = only(client.raw(request));
    assert_eq!(response.removed.len(), 59_999);
    let message = "'name-7' is bad ".repeat(100_000);
    assert!(client.nack(&response, &message).is_empty());
    let nack = &client.nacks[0];
    assert_eq!(nack.resources.iter().map(|name| &**name).collect::<Vec<_>>(), ["name-7"]);
    assert!(nack.message.len() <= 4096);
    assert!(started.elapsed() < std::time::Duration::from_secs(20), "{:?}", started.elapsed());
}

#[test]
fn what_was_perhaps_refused_goes_out_again_when_its_type_changes_under_a_name_that_nobody_asked_for() {
    for mut client in everywhere(&EDS) {
        let other = |content| (EDS, "else", content);
        client.publish(&[(EDS, "a", "1"), (EDS, "b", "1"), other("1")]);
        let first = only(client.subscribe(&EDS, &["a", "b"]));
        client.ack(&first);
        assert!(client.publish(&[(EDS, "a", "1"), (EDS, "b", "1"), other("2")]).is_empty());
        let both = only(client.publish(&[(EDS, "a", "2"), (EDS, "b", "2"), other("2")]));
        assert!(client.nack(&both, "no").is_empty());
        let again = only(client.publish(&[(EDS, "a", "2"), (EDS, "b", "2"), other("3")]));
        assert_eq!(names(&again), ["a", "b"]);
        client.ack(&again);
        assert!(client.publish(&[(EDS, "a", "2"), (EDS, "b", "2"), other("4")]).is_empty());
        assert!(client.converged());
    }
}

/// A find of the model: Envoy takes the good part of what it refuses, whether the bad one is new or was only repeated.
#[test]
fn what_came_with_something_else_that_was_refused_is_taken_back() {
    for mut client in both(Protocol::Sotw, &CDS) {
        client.publish(&[(CDS, "a", "1")]);
        let first = only(client.subscribe(&CDS, &["a", "b"]));
        client.ack(&first);
        let both = only(client.publish(&[(CDS, "a", "1"), (CDS, "b", "1")]));
        assert_eq!(names(&both), ["a", "b"]);
        assert!(client.nack(&both, "a: bad").is_empty());
        let without = only(client.publish(&[(CDS, "a", "1")]));
        assert_eq!(names(&without), ["a"]);
    }
}
