//! Resources in error.

use super::client::*;
use crate::ResourceError;
use crate::session::Response;
use crate::types::Protocol;

const A: Item = (EDS, "a", "1");

fn denied() -> ResourceError {
    ResourceError { code: tonic::Code::PermissionDenied, message: "not yours".into() }
}

fn errors(response: &Response) -> Vec<(&str, tonic::Code)> {
    response.errors.iter().map(|(name, error)| (&**name, error.code)).collect()
}

#[test]
fn r30_an_error_is_said_once_and_takes_nothing_away() {
    for mut client in everywhere(&EDS) {
        client.publish(&[A, (EDS, "b", "1")]);
        let first = only(client.subscribe(&EDS, &["a", "b"]));
        client.ack(&first);
        let said = only(client.edit(|view| {
            view.fail(&EDS, "a", denied());
        }));
        assert_eq!(errors(&said), [("a", tonic::Code::PermissionDenied)]);
        assert!(said.resources.is_empty() && said.removed.is_empty());
        assert!(client.ack(&said).is_empty());
        assert!(client.converged(), "{:?}", client.protocol);
        let other = only(client.edit(|view| {
            view.put(resource(&(EDS, "b", "2"))).unwrap();
        }));
        assert_eq!((names(&other), errors(&other)), (vec!["b"], vec![]), "it is said once");
        client.ack(&other);
    }
}

#[test]
fn r30_an_error_stands_until_the_resource_is_sent_though_it_did_not_change() {
    for mut client in everywhere(&EDS) {
        client.publish(&[A]);
        let first = only(client.subscribe(&EDS, &["a"]));
        client.ack(&first);
        let said = only(client.edit(|view| {
            view.fail(&EDS, "a", denied());
        }));
        client.ack(&said);
        let cleared = only(client.edit(|view| {
            view.put(resource(&A)).unwrap();
        }));
        assert_eq!(names(&cleared), ["a"], "only the resource itself clears the error");
        client.ack(&cleared);
        assert!(client.converged());
    }
}

#[test]
fn r30_a_resource_in_error_stays_in_the_full_state() {
    for mut client in both(Protocol::Sotw, &CDS) {
        client.publish(&[(CDS, "a", "1"), (CDS, "b", "1")]);
        let first = only(client.wildcard(&CDS));
        client.ack(&first);
        let said = only(client.edit(|view| {
            view.fail(&CDS, "a", denied());
        }));
        assert_eq!(
            (names(&said), errors(&said).len()),
            (vec!["a", "b"], 1),
            "or its clients would remove it"
        );
    }
}

#[test]
fn r30_a_name_asked_for_while_it_is_in_error_is_told_so() {
    for mut client in everywhere(&EDS) {
        client.publish(&[A]);
        client.edit(|view| {
            view.fail(&EDS, "x", denied());
        });
        let said = only(client.subscribe(&EDS, &["x"]));
        assert_eq!(errors(&said), [("x", tonic::Code::PermissionDenied)]);
        let clear_to_all = client.protocol == Protocol::Delta;
        assert_eq!(
            removed(&said),
            if clear_to_all { vec!["x"] } else { vec![] },
            "for those who do not read errors"
        );
        client.ack(&said);
        assert!(client.converged());
        let born = only(client.edit(|view| {
            view.put(resource(&(EDS, "x", "1"))).unwrap();
        }));
        assert_eq!(names(&born), ["x"]);
    }
}

#[test]
fn r30_an_error_that_ends_in_nothing_is_a_removal() {
    for mut client in both(Protocol::Delta, &EDS) {
        client.publish(&[A]);
        let first = only(client.subscribe(&EDS, &["a"]));
        client.ack(&first);
        let said = only(client.edit(|view| {
            view.fail(&EDS, "a", denied());
        }));
        client.ack(&said);
        let gone = only(client.edit(|view| {
            view.remove(&EDS, "a");
        }));
        assert_eq!(removed(&gone), ["a"]);
        client.ack(&gone);
        assert!(client.converged());
    }
}

#[test]
fn r30_an_absent_name_is_an_error_to_those_who_read_them() {
    for mut client in everywhere(&EDS) {
        client.user_agent = "gRPC Java";
        client.publish(&[A]);
        let response = only(client.subscribe(&EDS, &["a", "absent"]));
        assert_eq!(names(&response), ["a"]);
        match client.protocol {
            Protocol::Sotw => assert_eq!(errors(&response), [("absent", tonic::Code::NotFound)]),
            Protocol::Delta => {
                assert_eq!(removed(&response), ["absent"], "it has a word of its own for that")
            }
        }
        assert!(client.ack(&response).is_empty());
        let born = only(client.publish(&[A, (EDS, "absent", "1")]));
        assert_eq!((names(&born), errors(&born)), (vec!["absent"], vec![]));
    }
}

#[test]
fn r30_a_client_that_refuses_an_error_is_not_told_again() {
    for mut client in everywhere(&EDS) {
        client.publish(&[A]);
        let first = only(client.subscribe(&EDS, &["a"]));
        client.ack(&first);
        let said = only(client.edit(|view| {
            view.fail(&EDS, "a", denied());
        }));
        assert!(client.nack(&said, "what is this").is_empty());
    }
}
