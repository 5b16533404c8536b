//! What is counted is what happened: each attempt and each request once, whoever sees it, and nothing that says nothing.

use std::collections::{BTreeMap, BTreeSet};

use zonebreak_host::{
    mesh::{Attempts, Clients, Effect, End, Fault, Mesh},
    vm::Headers,
};

use crate::support::*;

/// What the filter counted for a zone.
fn counted(mesh: &Mesh, zone: &str) -> (u64, u64, u64) {
    let count = |name, labels: &str| metric(mesh, name, &format!(";zone={zone}{labels}"));
    (
        count("attempts_total", ";result=ok"),
        count("attempts_total", ";result=fail"),
        count("connect_failures_total", ""),
    )
}

/// What happened in it.
fn happened(attempts: Attempts) -> (u64, u64, u64) {
    (attempts.ok, attempts.failed, attempts.refused)
}

const ZONES: [&str; 3] = ["az-a", "az-b", "az-c"];

/// Every zone and every outcome, when all requests have ended. Only without transitions: what a zone did in an earlier state is
/// not charged to a later one.
fn assert_counts_are_true(mesh: &mut Mesh) {
    assert_eq!(transitions(mesh), [""; 0]);
    mesh.drain();
    for (zone, name) in ZONES.into_iter().enumerate() {
        let truth = mesh.attempts(zone, secs(0.0)..mesh.now());
        assert_eq!(counted(mesh, name), happened(truth), "{name}");
    }
    let ends = mesh.ends(secs(0.0)..mesh.now());
    // A cut body was an answer by its status, which is all that the downstream side can see.
    let answered = ends.of(End::Answered) + ends.of(End::Cut);
    assert_eq!(metric(mesh, "requests_total", ";outcome=answered"), answered);
    assert_eq!(metric(mesh, "requests_total", ";outcome=failed"), ends.of(End::Failed));
    assert_eq!(metric(mesh, "requests_total", ";outcome=refused"), ends.of(End::Refused));
}

#[test]
fn counts_are_the_sum_over_the_workers() {
    for workers in [1, 2, 4] {
        let mut mesh = mesh(setup(workers, 1), &even());
        // The same everywhere, so that no zone is left.
        for zone in A..=C {
            mesh.break_zone(zone, Fault::of(0.2, Effect::Status(503)));
            mesh.break_zone(zone, Fault::of(0.1, Effect::Refuse));
            mesh.break_zone(zone, Fault::of(0.05, Effect::Reset));
        }
        mesh.run(secs(120.0));
        assert_counts_are_true(&mut mesh);
    }
}

/// What a zone did in an earlier state is not charged to a later one; it is counted all the same, as late.
#[test]
fn nothing_is_lost_at_a_transition() {
    let mut mesh = mesh(setup(4, 8), &even());
    mesh.run(secs(30.0));
    for _ in 0..3 {
        mesh.break_zone(A, Fault::of(0.5, Effect::Status(503)));
        mesh.run(secs(15.0));
        mesh.heal_zone(A);
        mesh.run(secs(60.0));
    }
    mesh.drain();
    let told = transitions(&mesh);
    assert!(told.len() >= 8, "{told:#?}");
    let mut late_anywhere = 0;
    for (zone, name) in ZONES.into_iter().enumerate() {
        let (ok, fail, _) = counted(&mesh, name);
        let late = metric(&mesh, "attempts_total", &format!(";zone={name};result=late"));
        assert_eq!(ok + fail + late, mesh.attempts(zone, secs(0.0)..mesh.now()).begun, "{name}");
        late_anywhere += late;
    }
    assert!(late_anywhere > 0, "attempts were under way at the transitions");
    for (to, arrow) in
        [("open", "-> open "), ("half_open", "-> half_open "), ("ramp", "-> ramp "), ("closed", "-> closed ")]
    {
        let lines = told.iter().filter(|line| line.contains(arrow)).count() as u64;
        assert_eq!(
            metric(&mesh, "transitions_total", &format!(";zone=az-a;to={to}")),
            lines,
            "{to}: {told:#?}"
        );
    }
}

#[test]
fn retried_attempts_count_each_and_their_request_once() {
    let mut mesh = mesh(zonebreak_host::mesh::Setup { retries: 2, ..setup(2, 2) }, &even());
    (A..=C).for_each(|zone| mesh.break_zone(zone, Fault::of(0.3, Effect::Status(503))));
    mesh.run(secs(120.0));
    assert!(mesh.record().retries > 1000);
    assert_counts_are_true(&mut mesh);
}

#[test]
fn a_client_that_goes_away_counts_for_nothing() {
    let mut mesh = mesh(setup(2, 3), &even());
    // Before the headers for some, in the middle of the wait for others; the slow zone is the same for all.
    mesh.clients = Clients { leave: Some((0.4, secs(0.005))), ..Clients::default() };
    mesh.run(secs(120.0));
    let left = mesh.ends(secs(0.0)..mesh.now()).of(End::Left);
    assert!(left > 5000, "{left}");
    assert_counts_are_true(&mut mesh);
}

/// Clients that give up on a slow zone must not make it look healthy, and those that give up anywhere no zone bad.
#[test]
fn clients_that_go_away_from_one_zone_do_not_trip_it() {
    let mut mesh = mesh(setup(2, 4), &even());
    mesh.clients = Clients { leave: Some((1.0, secs(0.030))), ..Clients::default() };
    mesh.break_zone(A, Fault::of(0.5, Effect::Slow(secs(0.040))));
    mesh.run(secs(120.0));
    let left = mesh.attempts(A, secs(0.0)..mesh.now()).left;
    assert!(left > 2000, "{left}");
    assert_eq!(transitions(&mesh), [""; 0]);
}

#[test]
fn a_cut_body_counts_once_and_as_a_failure() {
    let mut calm = mesh(setup(2, 5), &even());
    (A..=C).for_each(|zone| calm.break_zone(zone, Fault::of(0.1, Effect::Cut)));
    calm.run(secs(120.0));
    assert!(calm.ends(secs(0.0)..calm.now()).of(End::Cut) > 2000);
    assert_counts_are_true(&mut calm);

    let mut mesh = mesh(setup(2, 5), &even());
    mesh.run(secs(30.0));
    mesh.break_zone(A, Fault::always(Effect::Cut));
    mesh.run(secs(2.0));
    assert_eq!(state(&mesh, "az-a"), OPEN, "a zone that cuts every body is bad");
}

#[test]
fn a_grpc_status_in_the_trailers_is_the_outcome() {
    let mut mesh = mesh(setup(2, 6), &even());
    mesh.run(secs(30.0));
    // NOT_FOUND is an answer, UNAVAILABLE is none.
    mesh.break_zone(A, Fault::always(Effect::Grpc(5)));
    mesh.run(secs(30.0));
    assert_eq!(transitions(&mesh), [""; 0]);
    mesh.break_zone(A, Fault::always(Effect::Grpc(14)));
    mesh.run(secs(2.0));
    assert_eq!(state(&mesh, "az-a"), OPEN);
}

/// A request for which there was no host, or no room in the pool, is seen by no upstream filter: the zone that was chosen is
/// charged, once, and not for what a retry of an attempt met.
#[test]
fn a_request_without_an_attempt_is_charged_to_the_zone_that_was_chosen() {
    let (no_host, overflow, fault) = (1_u64 << 1, 1_u64 << 7, 1_u64 << 10);
    let strong = serde_json::json!({"mode": "strong"});
    let mut mesh = mesh(zonebreak_host::mesh::Setup { rate: 0.0, ..setup(1, 9) }, &strong);
    for (flags, attempts, charged) in
        [(no_host, 1, 1), (overflow, 1, 1), (overflow, 2, 0), (fault, 0, 0), (0, 1, 0)]
    {
        let before = counted(&mesh, "az-a");
        let mut headers = Headers::from([(":method", "GET"), (":path", "/")]);
        let (stream, _) = ask(&mut mesh, 0, &mut headers);
        stream.update(|info| (info.flags, info.attempt) = (flags, attempts));
        stream.response_headers(&mut Headers::from([(":status", "503")]), true).unwrap();
        stream.close().unwrap();
        let after = counted(&mesh, "az-a");
        assert_eq!(
            (after.0, after.1 - before.1, after.2),
            (0, charged, 0),
            "flags {flags}, {attempts} attempts"
        );
    }
    assert_eq!((counted(&mesh, "az-b"), counted(&mesh, "az-c")), ((0, 0, 0), (0, 0, 0)));
    assert_eq!(
        metric(&mesh, "requests_total", ";outcome=failed"),
        5,
        "each request counts once by its outcome"
    );
}

/// Both what a client puts into the filter's own header and what the filter puts there end at the proxy.
#[test]
fn a_clients_own_key_is_taken_off() {
    let mut mesh = mesh(setup(2, 7), &even());
    mesh.clients = Clients { forged_key: Some("only-az-c".to_owned()), ..Clients::default() };
    mesh.run(secs(60.0));
    for zone in A..=C {
        let share = mesh.record().share(zone, secs(0.0)..mesh.now());
        assert!((share - 1.0 / 3.0).abs() < 0.02, "zone {zone}: {share}");
    }
    assert_eq!(mesh.record().leaked, 0);
}

/// The table in the docs names every stat, with its labels and their values, and no other.
#[test]
fn the_page_names_every_stat() {
    let page = include_str!("../../../../docs/how-the-breaker-decides.md");
    let table = page.split_once("## What the filter counts").unwrap().1.split_once("\n## ").unwrap().0;
    let code =
        |cell: &str| -> BTreeSet<String> { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    let told: BTreeMap<String, BTreeSet<String>> = table
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            let mut cells = line.split(" | ");
            let name = code(cells.next().unwrap()).pop_first().unwrap();
            (name, code(cells.next().unwrap()))
        })
        .collect();
    let mesh = mesh(setup(1, 1), &even());
    let mut counted = BTreeMap::<String, BTreeSet<String>>::new();
    for (stat, _) in mesh.process().metrics().all() {
        let mut parts = stat.split(';');
        let labels = counted.entry(parts.next().unwrap().to_owned()).or_default();
        for (label, value) in parts.filter_map(|part| part.split_once('=')) {
            match label {
                "service" => {}
                "zone" => drop(labels.insert(label.to_owned())),
                _ => labels.extend([label.to_owned(), value.to_owned()]),
            }
        }
    }
    assert_eq!(told, counted);
}
