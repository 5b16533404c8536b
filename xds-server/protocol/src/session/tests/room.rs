//! Responses that would be longer than clients take, and not because of what the resources hold.

use std::collections::BTreeMap;
use std::time::Duration;

use super::client::*;
use crate::session::{Request, Response, SessionOptions};
use crate::types::{Protocol, Scope, TypeUrl};
use crate::{Resource, ResourceError};

/// Of a response's resources, names and errors, and of all else in it.
const MOST: usize = 4096;
const REST: usize = 256;
const VHDS: TypeUrl = TypeUrl::VIRTUAL_HOST;

/// As long as names are where they are long: `count` of 100 bytes.
fn long_names(count: usize) -> Vec<String> {
    (0..count).map(|at| format!("{at:0100}")).collect()
}

fn as_strs(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

fn narrow(protocol: Protocol, kind: &TypeUrl) -> impl Iterator<Item = Client> {
    [Scope::Aggregated, Scope::Single(kind.clone())].into_iter().map(move |scope| {
        let options = SessionOptions { max_response_bytes: MOST, ..SessionOptions::default() };
        Client::with(protocol, scope, options)
    })
}

/// Accepts all, none of which may be longer than that. Answers how often each name was said, whatever was said of it.
fn all_said(client: &mut Client, first: Vec<Response>, most: usize) -> BTreeMap<String, usize> {
    let responses = client.ack_all(first);
    assert!(responses.len() > 1, "it was not too long for one");
    let mut said = BTreeMap::new();
    for response in &responses {
        let len = response.encoded_len();
        assert!(len <= most + REST, "{len} bytes: {response:?}");
        let resources = response.resources.iter().chain(&response.refreshed).map(|resource| resource.name());
        let errors = response.errors.iter().map(|(name, _)| name);
        for name in resources.chain(&response.removed).chain(&response.unresolved).chain(errors) {
            *said.entry(name.to_string()).or_default() += 1;
        }
    }
    assert!(client.converged());
    said
}

/// Each of these once.
fn once(names: &[String]) -> BTreeMap<String, usize> {
    names.iter().map(|name| (name.clone(), 1)).collect()
}

#[test]
fn r32_names_that_are_absent_or_removed_count() {
    let names = long_names(200);
    for mut client in narrow(Protocol::Delta, &EDS) {
        client.publish(&[]);
        let absent = client.subscribe(&EDS, &as_strs(&names));
        assert_eq!(all_said(&mut client, absent, MOST), once(&names));
        let born = client.edit(|view| {
            for name in &names {
                view.put(Resource::from_value(name, EDS, "1")).unwrap();
            }
        });
        assert_eq!(all_said(&mut client, born, MOST), once(&names));
        let gone = client.publish(&[]);
        assert_eq!(all_said(&mut client, gone, MOST), once(&names));
    }
    for mut client in narrow(Protocol::Delta, &VHDS) {
        client.publish(&[]);
        let unresolved = client.subscribe(&VHDS, &as_strs(&names));
        assert_eq!(all_said(&mut client, unresolved, MOST), once(&names));
    }
}

/// Some of what a client asked for at once, and the rest after the ACK, or all of it where that means that there is no more.
#[test]
fn r32_state_of_the_world_is_split_where_it_may_be() {
    const RDS: TypeUrl = TypeUrl::ROUTE;
    let names = long_names(40);
    for (kind, whole) in [(EDS, false), (RDS, false), (TypeUrl::SECRET, false), (CDS, true), (LDS, true)] {
        for asked in [as_strs(&names), vec!["*"]] {
            for mut client in narrow(Protocol::Sotw, &kind) {
                client.edit(|view| {
                    for name in &names {
                        view.put(Resource::from_value(name, kind.clone(), vec![b'1'; 900])).unwrap();
                    }
                });
                let first = client.subscribe(&kind, &asked);
                if whole {
                    assert_eq!(client.ack_all(first).len(), 1, "{kind}");
                    assert!(client.converged());
                    continue;
                }
                assert_eq!(all_said(&mut client, first, MOST), once(&names), "{kind}");
                let changed = client.edit(|view| {
                    for name in &names {
                        view.put(Resource::from_value(name, kind.clone(), vec![b'2'; 900])).unwrap();
                    }
                });
                assert_eq!(all_said(&mut client, changed, MOST), once(&names), "{kind}");
            }
        }
    }
}

#[test]
fn r32_errors_count() {
    let names = long_names(200);
    let failed = || ResourceError { code: tonic::Code::Internal, message: "no".into() };
    for protocol in PROTOCOLS {
        // What state of the world repeats cannot be split, and an eighth is left to errors beside it in any case.
        let most = if protocol == Protocol::Sotw { MOST + MOST / 8 } else { MOST };
        for kind in [EDS, CDS] {
            for mut client in narrow(protocol, &kind) {
                // Or it would be told that there is nothing, besides.
                client.user_agent = "gRPC C-core";
                client.edit(|view| {
                    view.put(Resource::from_value("there", kind.clone(), vec![b'1'; MOST - 200])).unwrap();
                });
                let first = client.subscribe(&kind, &["there"]);
                client.ack_all(first);
                client.edit(|view| names.iter().for_each(|name| _ = view.fail(&kind, name, failed())));
                let responses = client.subscribe(&kind, &as_strs(&names));
                let mut said = all_said(&mut client, responses, most);
                said.remove("there");
                assert_eq!(said, once(&names), "{protocol} {kind}");
            }
        }
    }
    // Nor does state of the world forget who was not told yet that a name is absent.
    for kind in [EDS, CDS] {
        for mut client in narrow(Protocol::Sotw, &kind) {
            client.user_agent = "gRPC C-core";
            client.publish(&[]);
            let responses = client.subscribe(&kind, &as_strs(&names));
            assert_eq!(all_said(&mut client, responses, MOST), once(&names), "{kind}");
        }
    }
}

#[test]
fn r32_heartbeats_count() {
    let names = long_names(200);
    let half = Duration::from_secs(5);
    for mut client in PROTOCOLS.into_iter().flat_map(|protocol| narrow(protocol, &EDS)) {
        client.features = vec!["xds.config.supports-resource-ttl", "xds.config.resource-in-sotw"];
        client.edit(|view| {
            for name in &names {
                view.put(Resource::from_value(name, EDS, "1").with_ttl(half * 2)).unwrap();
            }
        });
        let first = client.subscribe(&EDS, &as_strs(&names));
        assert_eq!(all_said(&mut client, first, MOST), once(&names));
        for _ in 0..3 {
            let beats = client.wait(half);
            assert!(beats.iter().all(|beat| beat.heartbeat));
            assert_eq!(all_said(&mut client, beats, MOST), once(&names));
        }
    }
}

/// With the defaults: gRPC takes 4 MiB.
#[test]
fn r32_no_response_is_too_long_for_grpc_whatever_is_asked_for() {
    let names = long_names(60_000);
    let mut client = Client::new(Protocol::Delta);
    client.publish(&[]);
    let request = delta(&EDS, &as_strs(&names), &[], "");
    let first = client.raw(Request::Delta(Box::new(request)));
    assert_eq!(all_said(&mut client, first, (4 << 20) - REST), once(&names));
}
