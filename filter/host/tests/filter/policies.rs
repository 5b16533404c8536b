//! New policies while traffic runs: what was learned stays, and a bad one changes nothing.

use serde_json::json;
use zonebreak_host::{
    HostError,
    mesh::{Effect, End, Fault, Mesh, Setup},
};

use crate::support::*;

#[test]
fn a_zone_that_was_left_stays_left_under_a_new_policy() {
    let mut mesh = mesh(setup(2, 1), &even());
    mesh.run(secs(30.0));
    mesh.break_zone(A, Fault::always(Effect::Status(503)));
    assert!(run_to_transition(&mut mesh, secs(2.0)));
    mesh.run(secs(0.3));
    for ramp in ["30s", "40s", "50s"] {
        let mut policy = even();
        policy["breaker"] = json!({"ramp": ramp});
        configure(&mut mesh, &downstream(&Setup::default(), &policy)).unwrap();
        for worker in 0..2 {
            assert_eq!(reaching_own(&mut mesh, worker, 60), 0, "worker {worker}");
        }
        mesh.run(secs(0.5));
    }
    assert_eq!(mesh.attempts(A, mesh.last(secs(1.5))).begun, 0);
    assert_eq!(transitions(&mesh).len(), 1);
}

/// New policies while a fault is being noticed: what was counted counts on.
#[test]
fn new_policies_do_not_delay_a_decision() {
    let mut mesh = mesh(setup(2, 2), &even());
    mesh.run(secs(30.0));
    mesh.break_zone(A, Fault::of(0.3, Effect::Status(503)));
    let onset = mesh.now();
    for i in 0..15 {
        let mut policy = even();
        policy["retry"] = json!({"budget_percent": 20 + i});
        configure(&mut mesh, &downstream(&Setup::default(), &policy)).unwrap();
        mesh.run(secs(0.1));
    }
    assert_eq!(transitions(&mesh).len(), 1, "{:?}", transitions(&mesh));
    let before = mesh.attempts(A, onset - secs(1.5)..onset).begun;
    let after = mesh.attempts(A, onset..mesh.now()).begun;
    assert!(after < before, "{after} of {before}");
}

#[test]
fn a_bad_policy_is_refused_and_the_old_one_goes_on() {
    let good = downstream(&Setup::default(), &even());
    let mut mesh = mesh(setup(2, 3), &even());
    mesh.run(secs(30.0));
    let bad = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut bad = good.clone();
        change(&mut bad);
        bad.to_string()
    };
    let service = |bad: &mut serde_json::Value| bad["services"]["order-svc"].take();
    for (bad, says) in [
        ("{".to_owned(), "line 1"),
        (String::new(), "line 1"),
        (bad(&|bad| bad["version"] = json!(2)), "version 2 is not 1"),
        (bad(&|bad| bad["services"]["order-svc"]["policy"]["mode"] = json!("fast")), "unknown variant"),
        (bad(&|bad| bad["services"]["order-svc"]["policy"]["port"] = json!(0)), "port"),
        (bad(&|bad| bad["surprise"] = json!(true)), "surprise"),
        (bad(&|bad| bad["services"]["a/b"] = service(bad)), "service"),
    ] {
        let place = zonebreak_host::proxy::Place::Downstream;
        match mesh.proxy().configure(place, &bad) {
            Err(HostError::Refused { said }) => assert!(said.contains(says), "{said}"),
            other => panic!("{bad}: {other:?}"),
        }
    }
    assert_eq!(mesh.proxy().vm(0).unwrap().plugins(), 2, "nothing was left behind");
    // The old one still finds a zone that fails.
    mesh.break_zone(A, Fault::always(Effect::Status(503)));
    mesh.run(secs(2.0));
    assert_eq!(state(&mesh, "az-a"), OPEN);
    assert_eq!(mesh.ends(mesh.last(secs(1.0))).of(End::Crashed), 0);
}

/// Requests in flight end under the configuration they began with; then nothing of it is left.
#[test]
fn an_old_configuration_goes_with_its_last_request() {
    let mut mesh = mesh(setup(1, 4), &even());
    (A..=C).for_each(|zone| mesh.break_zone(zone, Fault::always(Effect::Slow(secs(2.0)))));
    mesh.run(secs(10.0));
    for i in 1..=3 {
        let mut policy = even();
        policy["retry"] = json!({"attempts": i});
        configure(&mut mesh, &downstream(&Setup::default(), &policy)).unwrap();
        mesh.run(secs(0.1));
    }
    assert_eq!(mesh.proxy().vm(0).unwrap().plugins(), 2 + 3, "three old ones have requests in flight");
    mesh.run(secs(5.0));
    assert_eq!(mesh.proxy().vm(0).unwrap().plugins(), 2);
    mesh.drain();
    assert_eq!(mesh.proxy().vm(0).unwrap().open_streams(), 0);
    let ends = mesh.ends(secs(0.0)..mesh.now());
    assert_eq!(metric(&mesh, "requests_total", ";outcome=answered"), ends.of(End::Answered));
}

/// A zone that comes and one that goes: the others keep what is known of them.
#[test]
fn zones_come_and_go_while_another_is_left() {
    let mut mesh = mesh(setup(2, 5), &even());
    mesh.run(secs(30.0));
    mesh.break_zone(A, Fault::always(Effect::Status(503)));
    assert!(run_to_transition(&mut mesh, secs(2.0)));
    for zones in [json!({"az-a": 4, "az-b": 4}), json!({"az-0": 4, "az-a": 4, "az-b": 4, "az-c": 4})] {
        let mut other = downstream(&Setup::default(), &even());
        other["services"]["order-svc"]["zones"] = zones.clone();
        configure(&mut mesh, &other).unwrap();
        for worker in 0..2 {
            for _ in 0..60 {
                let decided = decided(&mut mesh, worker);
                let Decided::Key(key) = decided else { panic!("{decided:?} with {zones}") };
                assert!(
                    key.contains("az-a") && key.starts_with("no-")
                        || key.starts_with("only-") && !key.contains("az-a"),
                    "{key}"
                );
            }
        }
    }
    assert_eq!(complaints(&mesh), [""; 0]);
}

/// An alert on the state of a zone ends with the zone: when its last endpoint goes, and when its service does.
#[test]
fn a_zone_that_goes_leaves_its_gauges_at_rest() {
    let mut mesh = mesh(setup(2, 5), &even());
    let gauges = |mesh: &Mesh, zone: &str| {
        (state(mesh, zone), metric(mesh, "zone_keep_permille", &format!(";zone={zone}")))
    };
    mesh.run(secs(30.0));
    mesh.break_zone(A, Fault::always(Effect::Status(503)));
    assert!(run_to_transition(&mut mesh, secs(2.0)));
    let mut drain = drained(&mesh, &even(), &[("az-b", 0.0, 600)]);
    configure(&mut mesh, &drain).unwrap();
    mesh.run(secs(0.3));
    let (open, forced_open) = ((OPEN, 0), (4, 0));
    assert_eq!([gauges(&mesh, "az-a"), gauges(&mesh, "az-b")], [open, forced_open]);

    drain["services"]["order-svc"]["zones"] = json!({"az-b": 4, "az-c": 4});
    configure(&mut mesh, &drain).unwrap();
    mesh.run(secs(0.3));
    let at_rest = (CLOSED, 1_000);
    assert_eq!([gauges(&mesh, "az-a"), gauges(&mesh, "az-b")], [at_rest, forced_open]);

    drain["services"] = json!({});
    configure(&mut mesh, &drain).unwrap();
    mesh.run(secs(0.3));
    assert_eq!([gauges(&mesh, "az-a"), gauges(&mesh, "az-b")], [at_rest, at_rest]);
}
