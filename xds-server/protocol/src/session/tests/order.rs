//! Make before break, over several types of one stream.

use std::time::Duration;

use super::client::*;
use crate::session::Response;
use crate::types::{Protocol, TypeUrl};

const OLD: [Item; 5] =
    [(CDS, "old", "1"), (EDS, "old", "1"), (LDS, "l", "1"), (RDS, "r", "old"), (ECDS, "f", "1")];
const NEW: [Item; 5] =
    [(CDS, "new", "1"), (EDS, "new", "1"), (LDS, "l", "2"), (RDS, "r", "new"), (ECDS, "f", "2")];

/// A client that subscribes as Envoy does and is in sync with `items`.
fn envoy(protocol: Protocol, items: &[Item]) -> Client {
    let mut client = Client::new(protocol);
    client.publish(items);
    let named = |kind: &TypeUrl| items.iter().filter(|i| i.0 == *kind).map(|i| i.1).collect::<Vec<_>>();
    for kind in [CDS, EDS, LDS, RDS, ECDS] {
        let responses = match kind.is_full_state() {
            true => client.wildcard(&kind),
            false => client.subscribe(&kind, &named(&kind)),
        };
        client.ack_all(responses);
    }
    assert!(client.converged());
    client
}

fn kinds(responses: &[Response]) -> Vec<&'static str> {
    responses.iter().map(|response| response.type_url.short()).collect()
}

#[test]
fn r19_endpoints_are_sent_again_after_their_cluster_changed() {
    for protocol in PROTOCOLS {
        let mut client = envoy(protocol, &OLD);
        let mut items = OLD;
        items[0].2 = "2";
        let responses = client.publish(&items);
        assert_eq!(kinds(&responses), ["cds", "eds"], "{protocol:?}");
        assert_eq!(names(&responses[1]), ["old"], "unchanged, and what the warming cluster waits for");
        client.ack_all(responses);
        assert!(client.converged());
    }
}

#[test]
fn r19_endpoints_of_unchanged_clusters_are_left_alone() {
    let items = [(CDS, "a", "1"), (CDS, "b", "1"), (EDS, "a", "1"), (EDS, "b", "1")];
    for protocol in PROTOCOLS {
        let mut client = envoy(protocol, &items);
        let mut changed = items.clone();
        changed[0].2 = "2";
        let responses = client.publish(&changed);
        assert_eq!(names(&responses[1]), ["a"], "{protocol:?}");
    }
}

#[test]
fn r20_a_change_goes_clusters_endpoints_listeners_routes_removals() {
    for protocol in PROTOCOLS {
        let mut client = envoy(protocol, &OLD);
        let clusters = only(client.publish(&NEW));
        match protocol {
            Protocol::Sotw => assert_eq!(names(&clusters), ["new", "old"], "what goes stays for now"),
            Protocol::Delta => assert_eq!((names(&clusters), removed(&clusters)), (vec!["new"], vec![])),
        }
        assert!(client.ack(&clusters).is_empty(), "the new cluster has no endpoints yet");
        let endpoints = only(client.subscribe(&EDS, &["new"]));
        assert_eq!(names(&endpoints), ["new"]);
        let second = client.ack(&endpoints);
        assert_eq!(kinds(&second), ["lds", "ecds", "rds"]);
        assert!(client.ack(&second[0]).is_empty());
        assert!(client.ack(&second[1]).is_empty());
        let removal = only(client.ack(&second[2]));
        assert_eq!(removal.type_url, CDS);
        match protocol {
            Protocol::Sotw => assert_eq!(names(&removal), ["new"]),
            Protocol::Delta => assert_eq!(removed(&removal), ["old"]),
        }
        let endpoints_gone = client.ack(&removal);
        match protocol {
            Protocol::Sotw => assert!(endpoints_gone.is_empty()),
            Protocol::Delta => {
                assert_eq!(removed(&only(endpoints_gone.clone())), ["old"], "after their cluster")
            }
        }
        client.ack_all(endpoints_gone);
        assert!(client.converged());
        assert!(client.expired.is_empty());
    }
}

#[test]
fn r20_a_change_that_needs_nothing_before_it_goes_at_once() {
    for protocol in PROTOCOLS {
        let mut client = envoy(protocol, &OLD);
        // Twice: the first change after the subscriptions may find a stage free that the second does not.
        for content in ["2", "3"] {
            for (item, kind) in [(2, "lds"), (3, "rds"), (4, "ecds")] {
                let mut items = OLD;
                items[item].2 = content;
                let responses = client.publish(&items);
                assert!(kinds(&responses).contains(&kind), "{protocol:?}: {kind} {content}: {responses:#?}");
                client.ack_all(responses);
                assert!(client.converged(), "{protocol:?}: {kind} {content}");
            }
        }
    }
}

#[test]
fn r21_a_route_waits_for_the_ack_of_its_cluster_and_of_its_endpoints() {
    for protocol in PROTOCOLS {
        for endpoints_first in [true, false] {
            let mut client = envoy(protocol, &OLD);
            let mut items = OLD.to_vec();
            items.extend([(CDS, "new", "1"), (EDS, "new", "1")]);
            items[3].2 = "new";
            let clusters = only(client.publish(&items));
            // Envoy asks for the endpoints before or after it ACKs the cluster.
            let routes = if endpoints_first {
                let endpoints = only(client.subscribe(&EDS, &["new"]));
                assert!(client.ack(&endpoints).is_empty(), "the cluster is not ACKed");
                client.ack(&clusters)
            } else {
                assert!(client.ack(&clusters).is_empty(), "CDS ACKed is not warmed");
                let endpoints = only(client.subscribe(&EDS, &["new"]));
                client.ack(&endpoints)
            };
            assert_eq!(kinds(&routes), ["rds"]);
        }
    }
}

#[test]
fn r21_a_client_that_never_asks_for_the_endpoints_is_not_waited_for_long() {
    for protocol in PROTOCOLS {
        let mut client = Client::new(protocol);
        client.publish(&[(CDS, "a", "1"), (EDS, "a", "1"), (LDS, "l", "1")]);
        for kind in [CDS, LDS] {
            let responses = client.wildcard(&kind);
            client.ack_all(responses);
        }
        client.wait(Duration::from_secs(1));
        let clusters = only(client.publish(&[(CDS, "a", "2"), (EDS, "a", "1"), (LDS, "l", "2")]));
        assert!(client.ack(&clusters).is_empty());
        assert_eq!(kinds(&client.wait(Duration::from_millis(500))), ["lds"]);
        assert!(client.expired.is_empty(), "nothing was wrong");
    }
}

#[test]
fn r21_endpoints_alone_never_wait_and_never_hold_up_routes_for_good() {
    for protocol in PROTOCOLS {
        let mut client = envoy(protocol, &OLD);
        let mut items = OLD;
        items[1].2 = "2";
        items[3].2 = "changed";
        let first = client.publish(&items);
        assert_eq!(kinds(&first), ["eds"], "routes wait for the endpoints of their change");
        // Another change of the endpoints each time, before the client answers: the routes still come through.
        let mut under_way = first;
        let mut routes = false;
        for content in ["3", "4", "5", "6"] {
            items[1].2 = content;
            under_way.extend(client.publish(&items));
            let next: Vec<_> = under_way.drain(..).flat_map(|response| client.ack(&response)).collect();
            routes |= next.iter().any(|response| response.type_url == RDS);
            under_way = next;
        }
        assert!(routes, "{protocol:?}: a stream of endpoint changes starves the routes");
    }
}

#[test]
fn r21_an_ack_that_never_comes_is_waited_for_and_then_reported() {
    for protocol in PROTOCOLS {
        let mut client = envoy(protocol, &OLD);
        let mut items = OLD;
        items[0].2 = "2";
        items[3].2 = "changed";
        let first = client.publish(&items);
        client.ack(&first[1]);
        assert!(client.wait(Duration::from_millis(14_999)).is_empty());
        let late = client.wait(Duration::from_millis(1));
        assert_eq!(kinds(&late), ["rds"]);
        assert_eq!(client.expired, [vec![CDS]], "the one that did not answer is named");
    }
}

#[test]
fn r21_no_routes_to_a_cluster_that_was_refused() {
    for protocol in PROTOCOLS {
        let mut client = envoy(protocol, &OLD);
        let mut items = OLD.to_vec();
        items.extend([(CDS, "new", "bad"), (EDS, "new", "1")]);
        items[3].2 = "new";
        let clusters = only(client.publish(&items));
        assert!(client.nack(&clusters, "bad").is_empty());
        assert!(client.wait(Duration::from_secs(60)).is_empty(), "time does not make it right");
        items[5].2 = "good";
        let clusters = only(client.publish(&items));
        client.ack(&clusters);
        let endpoints = only(client.subscribe(&EDS, &["new"]));
        assert_eq!(kinds(&client.ack(&endpoints)), ["rds"]);
    }
}

#[test]
fn r21_a_refused_change_of_a_cluster_leaves_the_old_one_to_route_to() {
    for protocol in PROTOCOLS {
        let mut client = envoy(protocol, &OLD);
        let mut items = OLD;
        items[0].2 = "bad";
        items[3].2 = "changed";
        let first = client.publish(&items);
        assert_eq!(kinds(&first), ["cds", "eds"]);
        client.ack(&first[1]);
        let routes = client.nack(&first[0], "bad");
        assert_eq!(kinds(&routes), ["rds"], "{protocol:?}");
    }
}

#[test]
fn r21_no_cluster_goes_while_the_routes_that_leave_it_are_refused() {
    for protocol in PROTOCOLS {
        let mut client = envoy(protocol, &OLD);
        let mut items = OLD.to_vec();
        items.extend([(CDS, "spare", "1"), (EDS, "spare", "1")]);
        let clusters = client.publish(&items);
        client.ack_all(clusters);
        let endpoints = client.subscribe(&EDS, &["spare"]);
        client.ack_all(endpoints);

        items[3].2 = "spare";
        items.drain(..2);
        let routes = only(client.publish(&items));
        assert_eq!(routes.type_url, RDS);
        assert!(client.nack(&routes, "bad").is_empty());
        assert!(
            client.wait(Duration::from_secs(60)).is_empty(),
            "the client still routes to the old cluster"
        );
        items[1].2 = "good";
        let routes = only(client.publish(&items));
        let removal = only(client.ack(&routes));
        assert_eq!(removal.type_url, CDS);
    }
}

#[test]
fn r21_a_first_answer_never_waits_for_another_type() {
    for protocol in PROTOCOLS {
        let mut client = Client::new(protocol);
        client.publish(&OLD);
        let asked = [(CDS, ""), (LDS, ""), (RDS, "r"), (ECDS, "f"), (EDS, "old")];
        for (kind, name) in asked {
            let responses = match name.is_empty() {
                true => client.wildcard(&kind),
                false => client.subscribe(&kind, &[name]),
            };
            assert_eq!(kinds(&responses), [kind.short()], "{protocol:?}: and nothing was ACKed");
        }
    }
}

#[test]
fn r21_an_extension_a_warming_cluster_asks_for_is_sent_while_the_cluster_waits() {
    for protocol in PROTOCOLS {
        let mut client = envoy(protocol, &OLD);
        let mut items = OLD.to_vec();
        items.extend([(CDS, "new", "1"), (EDS, "new", "1"), (ECDS, "upstream", "1")]);
        let clusters = only(client.publish(&items));
        let held = client.subscribe(&ECDS, &["upstream"]);
        // It is new with this change; it comes as soon as the cluster and its endpoints are there, without a timeout.
        let mut responses = client.ack(&clusters);
        responses.extend(client.subscribe(&EDS, &["new"]));
        responses.extend(held);
        let seen = client.ack_all(responses);
        assert!(
            seen.iter().any(|r| r.type_url == ECDS && names(r).contains(&"upstream")),
            "{:?}",
            kinds(&seen)
        );
        assert!(client.expired.is_empty());
    }
}

#[test]
fn r24_a_cluster_that_comes_back_before_it_went_is_never_removed() {
    for protocol in PROTOCOLS {
        let mut client = envoy(protocol, &OLD);
        let mut items = OLD.to_vec();
        items[3].2 = "elsewhere";
        items.drain(..2);
        let routes = only(client.publish(&items));
        assert_eq!(routes.type_url, RDS);
        let mut responses = client.publish(&OLD);
        responses.extend(client.ack(&routes));
        let seen = client.ack_all(responses);
        assert!(seen.iter().all(|r| r.type_url == RDS), "{:?}", kinds(&seen));
        assert!(client.converged());
    }
}

#[test]
fn r31_an_extension_goes_after_the_listener_that_used_it() {
    let mut client = envoy(Protocol::Delta, &OLD);
    let listeners =
        only(client.publish(&[(CDS, "old", "1"), (EDS, "old", "1"), (LDS, "l", "2"), (RDS, "r", "old")]));
    assert_eq!(listeners.type_url, LDS);
    let gone = only(client.ack(&listeners));
    assert_eq!((gone.type_url.clone(), removed(&gone)), (ECDS, vec!["f"]));
}

#[test]
fn a_listener_goes_in_the_response_that_brings_its_successor() {
    let mut items = OLD;
    items[2] = (LDS, "m", "same address");
    for protocol in PROTOCOLS {
        let mut client = envoy(protocol, &OLD);
        let listeners = only(client.publish(&items));
        assert_eq!(names(&listeners), ["m"]);
        if protocol == Protocol::Delta {
            assert_eq!(removed(&listeners), ["l"]);
        }
    }
}

#[test]
fn changes_that_come_during_a_rollout_are_merged_into_the_newest() {
    for protocol in PROTOCOLS {
        let mut client = envoy(protocol, &OLD);
        let mut items = OLD;
        items[0].2 = "2";
        items[3].2 = "two";
        let mut under_way = client.publish(&items);
        for content in ["three", "four", "five"] {
            items[3].2 = content;
            under_way.extend(client.publish(&items));
        }
        let seen = client.ack_all(under_way);
        let routes = seen.iter().filter(|response| response.type_url == RDS).count();
        assert!(routes <= 2, "{routes} responses for four changes");
        assert!(client.converged());
    }
}

#[test]
fn streams_of_one_type_are_not_ordered() {
    for mut client in everywhere(&RDS).into_iter().filter(|c| *c.session.scope() != crate::Scope::Aggregated)
    {
        client.publish(&OLD);
        let first = only(client.subscribe(&RDS, &["r"]));
        client.ack(&first);
        assert_eq!(kinds(&client.publish(&NEW)), ["rds"]);
        assert!(client.session.deadline(client.now).is_none());
    }
}

#[test]
fn r19_a_cluster_that_was_sent_gets_its_endpoints_though_both_are_gone() {
    // Envoy in state of the world does not ACK its clusters before they are warm: without them, all of them wait.
    for protocol in PROTOCOLS {
        let mut client = envoy(protocol, &OLD);
        let mut items = OLD.to_vec();
        items.extend([(CDS, "brief", "1"), (EDS, "brief", "1")]);
        let clusters = only(client.publish(&items));
        assert!(client.publish(&OLD).is_empty());
        let endpoints = only(client.subscribe(&EDS, &["brief"]));
        assert_eq!(names(&endpoints), ["brief"], "{protocol:?}");
        assert!(client.ack(&endpoints).is_empty());
        let removal = only(client.ack(&clusters));
        let mut rest = client.ack(&removal);
        rest.extend(client.unsubscribe(&EDS, &["brief"]));
        client.ack_all(rest);
        assert!(client.converged());
    }
}

#[test]
fn a_type_asked_for_late_and_never_answered_for_leaves_no_timer_behind() {
    for protocol in PROTOCOLS {
        let mut client = envoy(protocol, &OLD[..3]);
        let late = client.subscribe(&RDS, &["r"]);
        client.publish(&OLD);
        client.wait(Duration::from_secs(60));
        // A deadline that has passed would be woken for without end.
        assert!(
            client.session.deadline(client.now).is_none_or(|at| at > client.now),
            "{protocol:?}: {late:?}"
        );
    }
}
