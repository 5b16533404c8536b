//! Drains and refusals: how exactly a zone is drained, when that ends, and what a client gets when there is no zone.

use serde_json::json;
use zonebreak_host::mesh::{Effect, End, Fault};

use crate::support::*;

#[test]
fn a_drain_is_exact_to_half_a_point_and_ends_by_itself() {
    for keep in [50.0, 12.5, 0.1] {
        let mut mesh = mesh(setup(2, 1), &even());
        let configuration = drained(&mesh, &even(), &[("az-b", keep, 60)]);
        configure(&mut mesh, &configuration).unwrap();
        mesh.run(secs(60.0));
        let share = mesh.record().share(B, secs(0.0)..secs(60.0));
        let exact = keep / 100.0 / 3.0;
        assert!((share - exact).abs() < 0.005, "{share} is not {exact}");
        assert_eq!(mesh.ends(secs(0.0)..secs(60.0)).of(End::Refused), 0);
        // Nobody tells it that the time is up.
        mesh.run(secs(60.0));
        let share = mesh.record().share(B, secs(61.0)..mesh.now());
        assert!((share - 1.0 / 3.0).abs() < 0.02, "{share}");
    }
}

#[test]
fn a_zone_that_is_drained_wholly_gets_nothing() {
    let mut mesh = mesh(setup(2, 2), &local_first());
    mesh.put_last(A);
    let configuration = drained(&mesh, &local_first(), &[("az-a", 0.0, 3600)]);
    configure(&mut mesh, &configuration).unwrap();
    mesh.run(secs(30.0));
    assert_eq!(mesh.attempts(A, secs(0.0)..mesh.now()).begun, 0);
    assert_eq!(mesh.ends(secs(0.0)..mesh.now()).of(End::Refused), 0);
}

#[test]
fn with_no_zone_left_a_client_is_told_when_to_come_back() {
    let mut mesh = mesh(setup(1, 3), &even());
    let all = [("az-a", 0.0, 7), ("az-b", 0.0, 60), ("az-c", 0.0, 60)];
    let configuration = drained(&mesh, &even(), &all);
    configure(&mut mesh, &configuration).unwrap();
    let refused = decided(&mut mesh, 0);
    let (reason, retry_after) = ("no-zone".to_owned(), "7".to_owned());
    assert_eq!(refused, Decided::Refused { status: 503, reason, retry_after });
    mesh.run(secs(6.0));
    let ends = mesh.ends(secs(0.0)..secs(6.0));
    assert!(ends.all() > 1000 && ends.of(End::Refused) == ends.all(), "{ends:?}");
    assert_eq!(metric(&mesh, "requests_total", ";outcome=refused"), ends.all() + 1);
    mesh.run(secs(4.0));
    let ends = mesh.ends(secs(8.0)..secs(10.0));
    assert_eq!(ends.of(End::Refused), 0, "the first drain is over: {ends:?}");
}

/// A refusal passes the filter's own callback for response headers, when the callback that refused is over.
#[test]
fn a_refusal_is_shown_in_the_debug_header() {
    let mut mesh = mesh(setup(1, 4), &even());
    let mut configuration =
        drained(&mesh, &even(), &[("az-a", 0.0, 60), ("az-b", 0.0, 60), ("az-c", 0.0, 60)]);
    configuration["debug_header"] = json!(true);
    configure(&mut mesh, &configuration).unwrap();
    let mut headers = zonebreak_host::vm::Headers::from([(":method", "GET")]);
    let (stream, _) = ask(&mut mesh, 0, &mut headers);
    let mut answer = zonebreak_host::vm::Headers::from([(":status", "503")]);
    stream.response_headers(&mut answer, true).unwrap();
    assert_eq!(answer.get("x-zonebreak-decision"), Some("no-zone"));
    stream.close().unwrap();
    assert_eq!(metric(&mesh, "requests_total", ";outcome=refused"), 1);
    assert_eq!(metric(&mesh, "requests_total", ";outcome=failed"), 0);
}

#[test]
fn as_many_requests_as_asked_for_are_aborted_while_a_zone_is_open() {
    let mut policy = even();
    policy["abort"] = json!({"percent": 10, "status": 503, "when": "zone_open"});
    let mut mesh = mesh(setup(2, 5), &policy);
    mesh.run(secs(30.0));
    assert_eq!(mesh.ends(secs(0.0)..mesh.now()).of(End::Refused), 0);
    mesh.break_zone(A, Fault::always(Effect::Status(503)));
    mesh.run(secs(300.0));
    let ends = mesh.ends(secs(60.0)..mesh.now());
    let share = ends.of(End::Refused) as f64 / ends.all() as f64;
    assert!((0.08..=0.11).contains(&share), "{share}");
    let state = |line: &&String| line.contains("-> open");
    assert!(transitions(&mesh).iter().filter(state).count() > 2, "the zone is still bad");
}

#[test]
fn no_more_is_moved_than_the_others_may_take() {
    let mut policy = even();
    policy["spill"] = json!({"max_share": 0.1});
    let mut mesh = mesh(setup(2, 6), &policy);
    mesh.run(secs(30.0));
    mesh.break_zone(A, Fault::always(Effect::Refuse));
    mesh.run(secs(34.5));
    let ends = mesh.ends(secs(32.0)..secs(34.5));
    let share = ends.of(End::Refused) as f64 / ends.all() as f64;
    // A third would have to move, a tenth may.
    assert!((share - (1.0 / 3.0 - 0.1)).abs() < 0.05, "{share}");
}
