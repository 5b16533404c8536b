//! Names that are more than a name: aliases, virtual hosts on demand, collections.

use std::time::Duration;

use super::client::*;
use crate::session::{Request, SessionOptions};
use crate::types::{Protocol, Scope};
use crate::{Resource, TypeUrl};

const VHDS: TypeUrl = TypeUrl::VIRTUAL_HOST;

fn host(name: &str, content: &'static str, aliases: &[&str]) -> Resource {
    Resource::from_value(name, VHDS, content.as_bytes()).with_aliases(aliases.iter().copied())
}

#[test]
fn r27_an_alias_gets_the_resource_that_goes_by_it_and_its_changes() {
    for mut client in both(Protocol::Delta, &VHDS) {
        client.edit(|view| {
            view.put(host("r/shop", "1", &["r/shop.example", "r/www.shop.example"])).unwrap();
        });
        let first = only(client.subscribe(&VHDS, &["r/shop.example"]));
        assert_eq!(names(&first), ["r/shop"], "by its own name");
        assert_eq!(first.resources[0].aliases().len(), 2, "and with all others");
        client.ack(&first);
        let change = only(client.edit(|view| {
            view.put(host("r/shop", "2", &["r/shop.example", "r/www.shop.example"])).unwrap();
        }));
        assert_eq!(names(&change), ["r/shop"]);
        client.ack(&change);
        let both_names = only(client.subscribe(&VHDS, &["r/www.shop.example", "r/shop.example"]));
        assert_eq!(names(&both_names), ["r/shop"], "once, by whatever many names");
        client.ack(&both_names);
        let gone = only(client.edit(|view| {
            view.remove(&VHDS, "r/shop");
        }));
        assert_eq!(removed(&gone), ["r/shop"], "the client knows it by its own name");
        client.ack(&gone);
        assert!(client.converged());
    }
}

#[test]
fn r27_virtual_hosts_come_on_demand_and_unknown_ones_are_said_to_be_unknown() {
    for mut client in both(Protocol::Delta, &VHDS) {
        client.edit(|view| {
            view.put(host("r/a", "1", &["r/a.example"])).unwrap();
        });
        let none = only(client.wildcard(&VHDS));
        assert!(
            none.resources.is_empty() && none.removed.is_empty(),
            "nothing is wanted yet, and that is said"
        );
        client.ack(&none);
        let found = only(client.subscribe(&VHDS, &["r/a.example"]));
        assert_eq!(names(&found), ["r/a"]);
        let unknown = only(client.ack_with(&found, &["r/b.example"], &[]));
        assert!(unknown.resources.is_empty() && unknown.removed.is_empty());
        assert_eq!(unknown.unresolved.iter().map(|name| &**name).collect::<Vec<_>>(), ["r/b.example"]);
        client.ack(&unknown);
        let born = only(client.edit(|view| {
            view.put(host("r/b", "1", &["r/b.example"])).unwrap();
        }));
        assert_eq!(names(&born), ["r/b"], "and is sent when it comes to be");
    }
}

#[test]
fn r27_unsubscribing_from_an_alias_ends_it() {
    for mut client in both(Protocol::Delta, &VHDS) {
        client.edit(|view| {
            view.put(host("r/a", "1", &["r/a.example"])).unwrap();
        });
        let first = only(client.subscribe(&VHDS, &["r/a.example"]));
        assert!(client.ack_with(&first, &[], &["r/a.example"]).is_empty());
        let change = client.edit(|view| {
            view.put(host("r/a", "2", &["r/a.example"])).unwrap();
        });
        assert!(change.is_empty());
    }
}

#[test]
fn r27_an_alias_that_moves_takes_its_client_along() {
    for mut client in both(Protocol::Delta, &VHDS) {
        client.edit(|view| {
            view.put(host("r/a", "1", &["r/x.example"])).unwrap();
            view.put(host("r/b", "1", &["r/b.example"])).unwrap();
        });
        let first = only(client.subscribe(&VHDS, &["r/x.example"]));
        client.ack(&first);
        let moved = only(client.edit(|view| {
            view.remove(&VHDS, "r/a").remove(&VHDS, "r/b");
            view.put(host("r/a", "1", &["r/a.example"])).unwrap();
            view.put(host("r/b", "1", &["r/b.example", "r/x.example"])).unwrap();
        }));
        assert_eq!((names(&moved), removed(&moved)), (vec!["r/b"], vec!["r/a"]));
        client.ack(&moved);
        assert!(client.converged());
    }
}

/// Refused by its own name and taken by an alias, a resource is had by both, and is taken away from a client that is left with its
/// own name.
#[test]
fn r27_a_resource_that_was_taken_by_an_alias_is_had_by_its_own_name_too() {
    for mut client in both(Protocol::Delta, &VHDS) {
        client.edit(|view| {
            view.put(host("r/a", "1", &["r/x.example"])).unwrap();
        });
        let own = only(client.subscribe(&VHDS, &["r/a"]));
        assert!(client.nack(&own, "not now").is_empty());
        let by_alias = only(client.subscribe(&VHDS, &["r/x.example"]));
        assert!(client.ack(&by_alias).is_empty());
        assert!(client.converged() && !client.session.refuses(), "it has been taken after all");
        assert!(client.unsubscribe(&VHDS, &["r/x.example"]).is_empty());
        let gone = only(client.edit(|view| {
            view.remove(&VHDS, "r/a");
        }));
        assert_eq!(removed(&gone), ["r/a"]);
    }
}

/// The other way around: what it has by an alias it has when it asks for it by its own name, and refuses to take it twice.
#[test]
fn r27_a_resource_that_is_refused_by_its_own_name_is_still_had_by_its_alias() {
    for mut client in both(Protocol::Delta, &VHDS) {
        client.edit(|view| {
            view.put(host("r/a", "1", &["r/x.example"])).unwrap();
        });
        let by_alias = only(client.subscribe(&VHDS, &["r/x.example"]));
        client.ack(&by_alias);
        let own = only(client.subscribe(&VHDS, &["r/a"]));
        assert_eq!(names(&own), ["r/a"], "asked for, answered");
        client.nack(&own, "once is enough");
        assert!(client.unsubscribe(&VHDS, &["r/x.example"]).is_empty());
        let gone = only(client.edit(|view| {
            view.remove(&VHDS, "r/a");
        }));
        assert_eq!(removed(&gone), ["r/a"]);
    }
}

/// The client drops a resource's own name while it is being told that the alias leads elsewhere, and so keeps the resource by the
/// alias that it knows it by: no name it asks for leads there any more.
#[test]
fn r27_a_resource_kept_by_an_alias_that_moves_meanwhile_is_taken_away() {
    for scope in [Scope::Aggregated, Scope::Single(VHDS)] {
        // One resource at a time.
        let options = SessionOptions { max_response_bytes: 1, ..SessionOptions::default() };
        let mut client = Client::with(Protocol::Delta, scope, options);
        client.edit(|view| {
            view.put(host("r/z", "1", &["r/a.example"])).unwrap();
        });
        let first = client.subscribe(&VHDS, &["r/z", "r/a.example"]);
        client.ack_all(first);
        let moved = only(client.edit(|view| {
            view.remove(&VHDS, "r/z").put(host("r/z", "1", &[])).unwrap();
            view.put(host("r/b", "1", &["r/a.example"])).unwrap();
        }));
        assert_eq!((names(&moved), removed(&moved)), (vec!["r/b"], vec![]), "it asks for r/z as well");
        assert!(client.unsubscribe(&VHDS, &["r/z"]).is_empty());
        let gone = only(client.ack(&moved));
        assert_eq!((names(&gone), removed(&gone)), (vec![], vec!["r/z"]));
        assert!(client.ack(&gone).is_empty());
        assert!(client.converged());
    }
}

/// Its new content goes by another alias, and was refused: nothing the client asks for leads to the old one any more.
#[test]
fn r27_what_a_refused_change_leaves_behind_goes_with_the_alias_it_was_had_by() {
    for mut client in both(Protocol::Delta, &VHDS) {
        client.edit(|view| {
            view.put(host("r/a", "1", &["r/y.example"])).unwrap();
        });
        let first = client.subscribe(&VHDS, &["r/x.example", "r/y.example"]);
        client.ack_all(first);
        let moved = only(client.edit(|view| {
            view.remove(&VHDS, "r/a").put(host("r/a", "1", &["r/x.example"])).unwrap();
            view.put(host("r/b", "1", &["r/y.example"])).unwrap();
        }));
        assert_eq!((names(&moved), removed(&moved)), (vec!["r/a", "r/b"], vec![]));
        client.nack(&moved, "'r/a' is bad");
        let again = only(client.subscribe(&VHDS, &["r/y.example"]));
        assert_eq!((names(&again), removed(&again)), (vec!["r/b"], vec!["r/a"]));
    }
}

/// A client says what it has by the resources' own names, also what it asks for by an alias: that may have moved on since.
#[test]
fn r27_what_a_client_brings_back_by_an_alias_that_has_moved_is_taken_away() {
    for mut client in both(Protocol::Delta, &VHDS) {
        client.edit(|view| {
            view.put(host("r/a", "1", &[])).unwrap();
            view.put(host("r/b", "1", &["r/x.example"])).unwrap();
        });
        let mut request = delta(&VHDS, &["r/x.example"], &[], "");
        let had = host("r/a", "1", &["r/x.example"]).version().to_string();
        request.initial_resource_versions.insert("r/a".to_owned(), had);
        let mut responses = client.raw(Request::Delta(Box::new(request)));
        responses.extend(client.wait(Duration::from_secs(1)));
        let seen = client.ack_all(responses);
        assert_eq!(seen.iter().flat_map(names).collect::<Vec<_>>(), ["r/b"]);
        assert_eq!(seen.iter().flat_map(removed).collect::<Vec<_>>(), ["r/a"]);
        assert!(client.converged());
    }
}

/// A client blames resources by their own names, whatever it asked for them by: only that one waits, and nothing else is doubtful.
#[test]
fn r27_a_resource_that_was_asked_for_by_an_alias_is_blamed_by_its_own_name() {
    for mut client in both(Protocol::Delta, &VHDS) {
        client.edit(|view| {
            view.put(host("r/a", "1", &["r/x.example"])).unwrap();
            view.put(host("r/b", "1", &["r/y.example"])).unwrap();
        });
        let first = only(client.subscribe(&VHDS, &["r/x.example", "r/y.example"]));
        client.nack(&first, "'r/b' is bad");
        assert_eq!(client.nacks[0].resources.iter().map(|name| &**name).collect::<Vec<_>>(), ["r/b"]);
        let change = client.edit(|view| {
            view.put(host("r/c", "1", &[])).unwrap();
        });
        assert_eq!(
            names(&only(change)),
            ["r/a"],
            "perhaps it was not taken; and r/b waits for its own change"
        );
    }
}

#[test]
fn an_alias_that_ends_takes_nothing_away_that_another_alias_names() {
    for mut client in both(Protocol::Delta, &VHDS) {
        client.edit(|view| {
            view.put(host("r/a", "1", &["r/x.example", "r/y.example"])).unwrap();
        });
        let first = only(client.subscribe(&VHDS, &["r/x.example", "r/y.example"]));
        client.ack(&first);
        let moved = client.edit(|view| {
            view.remove(&VHDS, "r/a").put(host("r/a", "1", &["r/x.example"])).unwrap();
        });
        let moved = client.ack_all(moved);
        assert!(moved.iter().all(|response| !removed(response).contains(&"r/a")), "{moved:?}");
        assert!(client.converged());
    }
}

#[test]
fn r27_a_wildcard_gets_each_resource_once_whatever_its_aliases() {
    for mut client in both(Protocol::Delta, &VHDS) {
        client.edit(|view| {
            view.put(host("r/a", "1", &["r/a.example", "r/a"])).unwrap();
        });
        let all = only(client.subscribe(&VHDS, &["*"]));
        assert_eq!((names(&all), removed(&all)), (vec!["r/a"], vec![]));
        client.ack(&all);
        let gone = only(client.edit(|view| {
            view.remove(&VHDS, "r/a");
        }));
        assert_eq!(removed(&gone), ["r/a"]);
        client.ack(&gone);
        assert!(client.converged());
    }
}

const GLOB: &str = "xdstp://a/envoy.config.endpoint.v3.ClusterLoadAssignment/shop/*";
const ONE: &str = "xdstp://a/envoy.config.endpoint.v3.ClusterLoadAssignment/shop/1";
const TWO: &str = "xdstp://a/envoy.config.endpoint.v3.ClusterLoadAssignment/shop/2";
const DEEP: &str = "xdstp://a/envoy.config.endpoint.v3.ClusterLoadAssignment/shop/deep/1";
const OTHER: &str = "xdstp://b/envoy.config.endpoint.v3.ClusterLoadAssignment/shop/1";

#[test]
fn r28_a_collection_is_its_members_as_they_come_change_and_go() {
    for mut client in everywhere(&EDS) {
        client.publish(&[(EDS, ONE, "1"), (EDS, DEEP, "1"), (EDS, OTHER, "1")]);
        let first = only(client.subscribe(&EDS, &[GLOB]));
        assert_eq!((names(&first), removed(&first)), (vec![ONE], vec![]));
        client.ack(&first);
        let grown =
            only(client.publish(&[(EDS, ONE, "1"), (EDS, TWO, "1"), (EDS, DEEP, "2"), (EDS, OTHER, "2")]));
        assert_eq!(names(&grown), [TWO]);
        client.ack(&grown);
        let change = only(client.publish(&[(EDS, ONE, "2"), (EDS, TWO, "1")]));
        assert_eq!(names(&change), [ONE]);
        client.ack(&change);
        assert!(client.converged());
        let shrunk = client.publish(&[(EDS, ONE, "2")]);
        match client.protocol {
            Protocol::Delta => assert_eq!(removed(&only(shrunk)), [TWO]),
            Protocol::Sotw => assert!(shrunk.is_empty(), "it has no word for that"),
        }
    }
}

#[test]
fn r28_a_collection_of_a_full_state_type_is_told_whole() {
    const MINE: &str = "xdstp://a/envoy.config.cluster.v3.Cluster/mine/x";
    for mut client in everywhere(&CDS) {
        client.publish(&[(CDS, MINE, "1"), (CDS, "plain", "1")]);
        let first = only(client.subscribe(&CDS, &["xdstp://a/envoy.config.cluster.v3.Cluster/mine/*"]));
        assert_eq!(names(&first), [MINE]);
        client.ack(&first);
        let gone = only(client.publish(&[(CDS, "plain", "1")]));
        match client.protocol {
            Protocol::Delta => assert_eq!(removed(&gone), [MINE]),
            Protocol::Sotw => assert!(gone.resources.is_empty()),
        }
        client.ack(&gone);
        assert!(client.converged());
    }
}

/// A find of the model.
#[test]
fn r28_a_collection_asked_for_along_with_everything_is_sent() {
    for mut client in everywhere(&EDS) {
        client.publish(&[(EDS, "plain", "1"), (EDS, ONE, "1")]);
        let first = only(client.subscribe(&EDS, &["plain"]));
        client.ack(&first);
        let all = only(client.subscribe(&EDS, &["*", GLOB]));
        assert!(names(&all).contains(&ONE), "{all:?}");
        client.ack(&all);
        assert!(client.converged());
    }
}

#[test]
fn r28_context_parameters_mean_the_same_in_any_order() {
    let said = "xdstp://a/t/shop/1?zone=az-a&tier=1";
    let asked = "xdstp://a/t/shop/1?tier=1&zone=az-a";
    for mut client in everywhere(&EDS) {
        client.publish(&[(EDS, said, "1"), (EDS, "xdstp://a/t/shop/1?tier=2", "1")]);
        let named = only(client.subscribe(&EDS, &[asked]));
        assert_eq!(names(&named), [asked]);
        client.ack(&named);
        let all = only(client.subscribe(&EDS, &["xdstp://a/t/shop/*?tier=2"]));
        assert_eq!(names(&all), ["xdstp://a/t/shop/1?tier=2"], "another context is another collection");
    }
}

#[test]
fn r28_a_collection_without_members_is_said_to_be_so_and_stays_watched() {
    for mut client in everywhere(&EDS) {
        client.publish(&[(EDS, "plain", "1")]);
        let empty = client.subscribe(&EDS, &[GLOB]);
        match client.protocol {
            Protocol::Delta => {
                let empty = only(empty);
                assert_eq!(removed(&empty), [GLOB]);
                client.ack(&empty);
            }
            Protocol::Sotw => assert!(empty.is_empty()),
        }
        assert!(client.converged());
        assert_eq!(names(&only(client.publish(&[(EDS, ONE, "1")]))), [ONE]);
    }
}

#[test]
fn r28_a_collection_that_is_no_longer_wanted_leaves_what_was_asked_for_by_name() {
    for mut client in everywhere(&EDS) {
        client.publish(&[(EDS, ONE, "1"), (EDS, TWO, "1")]);
        let first = only(client.subscribe(&EDS, &[GLOB, ONE]));
        assert_eq!(names(&first), [ONE, TWO]);
        assert!(client.ack_with(&first, &[], &[GLOB]).is_empty());
        let change = only(client.publish(&[(EDS, ONE, "2"), (EDS, TWO, "2")]));
        assert_eq!(names(&change), [ONE]);
        client.ack(&change);
        // Asked for again: all of it, whatever was sent before.
        let again = only(client.subscribe(&EDS, &[GLOB]));
        assert!(names(&again).contains(&TWO));
        client.ack(&again);
        assert!(client.converged());
    }
}

#[test]
fn r28_delta_a_collection_asked_for_twice_is_answered_twice() {
    for mut client in both(Protocol::Delta, &EDS) {
        client.publish(&[(EDS, ONE, "1")]);
        let first = only(client.subscribe(&EDS, &[GLOB]));
        client.ack(&first);
        assert_eq!(names(&only(client.subscribe(&EDS, &[GLOB]))), [ONE]);
    }
}

#[test]
fn r28_members_a_client_brings_back_are_not_sent_again() {
    for mut client in both(Protocol::Delta, &EDS) {
        client.publish(&[(EDS, ONE, "1"), (EDS, TWO, "2")]);
        let mut request = delta(&EDS, &[GLOB], &[], "");
        for item in [
            (EDS, ONE, "1"),
            (EDS, TWO, "1"),
            (EDS, "xdstp://a/envoy.config.endpoint.v3.ClusterLoadAssignment/shop/3", "1"),
        ] {
            request.initial_resource_versions.insert(item.1.to_owned(), version(&item).to_string());
        }
        let mut responses = client.raw(Request::Delta(Box::new(request)));
        responses.extend(client.wait(Duration::from_secs(1)));
        let seen = client.ack_all(responses);
        assert_eq!(seen.iter().flat_map(names).collect::<Vec<_>>(), [TWO]);
        assert_eq!(
            seen.iter().flat_map(removed).collect::<Vec<_>>(),
            ["xdstp://a/envoy.config.endpoint.v3.ClusterLoadAssignment/shop/3"]
        );
    }
}

/// What a client has from a collection it still has when it asks for it by name as well, and refuses to take it twice.
#[test]
fn r28_delta_a_member_that_is_refused_by_name_is_still_held_by_its_collection() {
    for mut client in both(Protocol::Delta, &EDS) {
        client.publish(&[(EDS, ONE, "1"), (EDS, TWO, "1")]);
        let first = only(client.subscribe(&EDS, &[GLOB]));
        client.ack(&first);
        let again = only(client.subscribe(&EDS, &[ONE]));
        assert_eq!(names(&again), [ONE]);
        client.nack(&again, "once is enough");
        assert_eq!(removed(&only(client.publish(&[(EDS, TWO, "1")]))), [ONE]);
    }
}
