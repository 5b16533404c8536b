//! A VM goes down, in the middle of anything: one request fails, and what was agreed on stays.

use zonebreak_host::{
    abi::Call,
    mesh::{Effect, End, Fault, Mesh},
    proxy::{FailurePolicy, Settings},
    vm::CrashPoint,
};

use crate::support::*;

/// A mesh whose own zone has just been left.
fn with_an_open_zone(workers: usize, seed: u64) -> Mesh {
    let mut mesh = mesh(setup(workers, seed), &even());
    mesh.run(secs(30.0));
    mesh.break_zone(A, Fault::always(Effect::Status(503)));
    assert!(run_to_transition(&mut mesh, secs(2.0)));
    mesh.run(secs(0.5));
    mesh
}

fn crash(mesh: &mut Mesh, worker: usize, calls: u64) {
    mesh.proxy().vm(worker).unwrap().crash_at(Some(CrashPoint::Calls(calls)));
}

#[test]
fn a_reloaded_worker_takes_over_what_the_others_agreed_on() {
    for workers in [2, 4] {
        let mut mesh = with_an_open_zone(workers, 1);
        let epoch = metric(&mesh, "epoch", "");
        crash(&mut mesh, 0, 1);
        while mesh.proxy().reloads().succeeded == 0 {
            mesh.run(secs(0.001));
        }
        assert_eq!(reaching_own(&mut mesh, 0, 60), 0, "at once, with {workers} workers");
        mesh.run(secs(1.0));
        assert_eq!(mesh.proxy().reloads().failed, 0);
        assert!(mesh.proxy().reloads().succeeded >= 2, "both roles: {:?}", mesh.proxy().reloads());
        assert_eq!(reaching_own(&mut mesh, 0, 60), 0, "{workers} workers");
        assert_eq!(metric(&mesh, "epoch", ""), epoch);
        assert_eq!(transitions(&mesh).len(), 1);
    }
}

/// With a single worker nobody else remembers: the shared data does.
#[test]
fn a_lone_worker_takes_over_what_it_had_agreed_on_itself() {
    let mut mesh = with_an_open_zone(1, 2);
    crash(&mut mesh, 0, 1);
    while mesh.proxy().reloads().succeeded == 0 {
        mesh.run(secs(0.001));
    }
    assert_eq!(reaching_own(&mut mesh, 0, 60), 0, "at once");
    mesh.run(secs(1.0));
    assert_eq!(reaching_own(&mut mesh, 0, 60), 0);
    assert_eq!(transitions(&mesh).len(), 1);
}

/// Wherever between two host calls a VM goes down, around the moment at which a zone is left, the workers end up with one state.
#[test]
fn no_moment_to_crash_leaves_the_workers_divided() {
    for calls in 1..=120 {
        let mut mesh = mesh(setup(3, 5), &even());
        mesh.run(secs(20.0));
        mesh.break_zone(A, Fault::always(Effect::Status(503)));
        // Shortly before some worker would tell of the transition.
        mesh.run(secs(0.15));
        for worker in 0..3 {
            crash(&mut mesh, worker, calls + 7 * worker as u64);
        }
        mesh.run(secs(2.0));
        assert_eq!(mesh.record().stuck, 0);
        for worker in 0..3 {
            assert_eq!(reaching_own(&mut mesh, worker, 30), 0, "worker {worker} after {calls} calls");
        }
        assert_eq!(state(&mesh, "az-a"), OPEN, "after {calls} calls");
        let errors = complaints(&mesh);
        assert_eq!(errors, [""; 0], "after {calls} calls");
    }
}

/// The worker that leaves the zone goes down right after it wrote the agreed state, before it could tell anyone: the others find
/// it, and the gauge that tells of it follows.
#[test]
fn a_state_that_was_written_and_not_told_of_is_found() {
    for seed in 1..=10 {
        let mut mesh = mesh(setup(2, seed), &even());
        mesh.run(secs(20.0));
        mesh.break_zone(A, Fault::always(Effect::Status(503)));
        let arm = |mesh: &mut Mesh, point| {
            (0..2).for_each(|worker| mesh.proxy().vm(worker).unwrap().crash_at(point));
            mesh.proxy().main_vm().unwrap().crash_at(point);
        };
        arm(&mut mesh, Some(CrashPoint::After(Call::SetShared)));
        let written = |mesh: &Mesh| {
            let shared = mesh.process().shared_data();
            shared.get("zonebreak", "zonebreak/state/1/order-svc").map(|(state, _)| state)
        };
        let before = written(&mesh);
        while written(&mesh) == before && mesh.now() < secs(21.0) {
            mesh.run(secs(0.001));
        }
        assert_ne!(written(&mesh), before, "seed {seed}");
        assert_eq!(transitions(&mesh), [""; 0], "nobody was told, seed {seed}");
        arm(&mut mesh, None);
        mesh.run(secs(0.5));
        for worker in 0..2 {
            assert_eq!(reaching_own(&mut mesh, worker, 60), 0, "worker {worker}, seed {seed}");
        }
        assert_eq!(metric(&mesh, "epoch", ""), 1, "seed {seed}");
        assert_eq!(state(&mesh, "az-a"), OPEN, "seed {seed}");
    }
}

/// Every 2 s some worker goes down, while zones fail and recover. Requests that meet a crash get 503; nothing else changes.
#[test]
fn crash_after_crash_costs_only_what_was_in_flight() {
    let mut mesh = mesh(setup(4, 13), &even());
    mesh.run(secs(10.0));
    for round in 0..150_u64 {
        if round % 30 == 0 {
            mesh.break_zone(A, Fault::always(Effect::Status(503)));
        }
        if round % 30 == 10 {
            mesh.heal_zone(A);
        }
        crash(&mut mesh, round as usize % 4, 1 + round * 13 % 97);
        mesh.run(secs(2.0));
    }
    let ends = mesh.ends(secs(0.0)..mesh.now());
    let crashed = ends.of(End::Crashed);
    assert!(crashed >= 100, "crashes happened: {crashed}");
    assert!(crashed <= 150 * 4, "in flight on a worker at 50 requests a second: {crashed}");
    assert_eq!(mesh.proxy().reloads().failed, 0);
    assert_eq!(complaints(&mesh), [""; 0]);
    let told = transitions(&mesh);
    assert!(told.iter().all(|line| line.contains("order-svc az-a")), "{told:#?}");
    assert!(told.iter().filter(|line| line.contains("closed -> open")).count() >= 2, "{told:#?}");
}

/// A second crash within the back-off fails requests until it is over, no longer.
#[test]
fn two_crashes_in_a_row_wait_for_the_back_off() {
    let mut mesh = mesh(setup(1, 3), &even());
    mesh.run(secs(5.0));
    crash(&mut mesh, 0, 1);
    mesh.run(secs(0.05));
    assert!(mesh.proxy().reloads().succeeded >= 1 && mesh.proxy().reloads().backed_off == 0);
    crash(&mut mesh, 0, 1);
    mesh.run(secs(1.0));
    let backed_off = mesh.proxy().reloads().backed_off;
    assert!((20..=80).contains(&backed_off), "0.2 to 0.3 s at 200 requests a second: {backed_off}");
    mesh.run(secs(1.0));
    assert_eq!(mesh.ends(mesh.last(secs(1.0))).of(End::Crashed), 0);
}

/// With another failure policy a crash is for ever, which is why the control plane emits FAIL_RELOAD.
#[test]
fn other_failure_policies_never_reload() {
    for (policy, crashed) in [(FailurePolicy::Closed, true), (FailurePolicy::Open, false)] {
        let proxy = Settings { on_failure: policy, workers: 1, ..Settings::default() };
        let mut mesh = mesh(zonebreak_host::mesh::Setup { proxy, ..setup(1, 1) }, &even());
        mesh.run(secs(5.0));
        crash(&mut mesh, 0, 1);
        mesh.run(secs(60.0));
        let ends = mesh.ends(mesh.last(secs(1.0)));
        assert_eq!(ends.of(End::Crashed) == ends.all(), crashed, "{policy:?} {ends:?}");
        assert_eq!(ends.of(End::Crashed) == 0, !crashed, "{policy:?} {ends:?}");
    }
}

/// New code is a new VM on every thread, and takes over as well.
#[test]
fn new_code_takes_over_what_was_agreed_on() {
    let mut mesh = with_an_open_zone(2, 4);
    mesh.proxy().upgrade(filter()).unwrap();
    for worker in 0..2 {
        assert_eq!(reaching_own(&mut mesh, worker, 60), 0, "worker {worker}");
    }
    mesh.run(secs(2.0));
    assert_eq!(transitions(&mesh).len(), 1);
    assert_eq!(complaints(&mesh), [""; 0]);
}
