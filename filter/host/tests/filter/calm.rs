//! Hours in which there is nothing to gain by leaving a zone: it must not be left.

use serde_json::Value;
use zonebreak_host::mesh::{Effect, Fault, Setup};

use crate::support::*;

fn hours(hours: f64, base_errors: f64, policy: &Value, seed: u64) {
    let mut mesh = mesh(Setup { base_errors, ..setup(2, seed) }, policy);
    mesh.run(secs(hours * 3600.0));
    assert_eq!(transitions(&mesh), [""; 0], "{base_errors} {policy}");
    assert_eq!(complaints(&mesh), [""; 0]);
    let expected = hours * 3600.0 * 200.0;
    let requests = mesh.ends(mesh.last(mesh.now())).all() as f64;
    assert!((requests / expected - 1.0).abs() < 0.01, "{requests} of {expected}");
}

#[test]
fn an_hour_at_usual_errors_trips_nothing() {
    hours(1.0, 0.005, &even(), 1);
}

#[test]
fn an_hour_at_5_percent_errors_trips_nothing() {
    hours(1.0, 0.05, &local_first(), 2);
}

/// The whole service fails: wherever a request goes it fares the same.
#[test]
fn a_global_failure_trips_nothing() {
    let effects = [
        Fault::of(0.6, Effect::Status(503)),
        Fault::always(Effect::Status(500)),
        Fault::always(Effect::Refuse),
        Fault::always(Effect::Slow(secs(0.3))),
    ];
    for (fault, seed) in effects.into_iter().flat_map(|fault| (1..=3).map(move |seed| (fault, seed))) {
        for (policy, retries) in [(even(), 0), (even(), 1), (local_first(), 0), (local_first(), 1)] {
            let workers = [1, 2, 4][seed as usize % 3];
            let mut mesh = mesh(Setup { retries, ..setup(workers, seed) }, &policy);
            mesh.run(secs(30.0));
            (A..=C).for_each(|zone| mesh.break_zone(zone, fault));
            mesh.run(secs(60.0));
            assert_eq!(transitions(&mesh), [""; 0], "{fault:?} {policy} seed {seed}, {retries} retries");
        }
    }
}

/// Then nobody calls any more: what is remembered of each zone fades, and none may stand out by how it does.
#[test]
fn silence_after_a_global_failure_trips_nothing() {
    for (share, policy, seed) in
        [(0.3, even(), 1), (0.6, local_first(), 2), (1.0, local_first(), 3), (1.0, even(), 4)]
    {
        let mut mesh = mesh(setup(2, seed), &policy);
        mesh.run(secs(60.0));
        (A..=C).for_each(|zone| mesh.break_zone(zone, Fault::of(share, Effect::Status(503))));
        mesh.run(secs(60.0));
        mesh.set_rate(0.0);
        mesh.run(secs(120.0));
        assert_eq!(transitions(&mesh), [""; 0], "{share} {policy}");
    }
}
