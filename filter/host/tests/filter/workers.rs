//! Workers share no memory; they must act as one all the same.

use zonebreak_host::mesh::{Clients, Effect, Fault};

use crate::support::*;

/// A tick's period, and the most that the event loop adds to it.
const A_TICK: f64 = 0.102;

/// Every transition is in force on all workers a tick after one of them told of it.
#[test]
fn all_workers_have_left_a_zone_within_one_tick() {
    for (workers, seed) in [(2, 1), (4, 2), (4, 3), (8, 4)] {
        let mut mesh = mesh(setup(workers, seed), &even());
        mesh.run(secs(30.0));
        for worker in 0..workers {
            assert!(reaching_own(&mut mesh, worker, 60) > 0, "worker {worker} of {workers}");
        }
        mesh.break_zone(A, Fault::always(Effect::Status(503)));
        assert!(run_to_transition(&mut mesh, secs(2.0)));
        mesh.run(secs(A_TICK));
        for worker in 0..workers {
            assert_eq!(reaching_own(&mut mesh, worker, 60), 0, "worker {worker} of {workers}");
        }
        assert_eq!(transitions(&mesh).len(), 1, "told once, by the worker that was first");
    }
}

/// A worker that hardly sees a request decides with what the others see.
#[test]
fn a_worker_without_requests_knows_what_the_others_know() {
    let mut mesh = mesh(setup(4, 7), &even());
    mesh.clients = Clients { workers: vec![97, 1, 1, 1], ..Clients::default() };
    mesh.run(secs(30.0));
    mesh.break_zone(A, Fault::always(Effect::Status(503)));
    assert!(run_to_transition(&mut mesh, secs(1.0)));
    mesh.run(secs(A_TICK));
    for worker in 0..4 {
        assert_eq!(reaching_own(&mut mesh, worker, 60), 0, "worker {worker}");
    }
}

/// From the fault to the zone's full share again, time after time: one epoch, one state, no worker left behind.
#[test]
fn workers_agree_through_fault_after_fault() {
    let mut mesh = mesh(setup(4, 11), &even());
    mesh.run(secs(30.0));
    for round in 0..12 {
        mesh.break_zone(A, Fault::of([1.0, 0.5, 0.3][round % 3], Effect::Status(503)));
        mesh.run(secs(4.0));
        assert!(state(&mesh, "az-a") == OPEN, "round {round}: {:?}", transitions(&mesh).last());
        for worker in 0..4 {
            assert_eq!(reaching_own(&mut mesh, worker, 20), 0, "worker {worker} in round {round}");
        }
        mesh.heal_zone(A);
        mesh.run(secs(116.0));
    }
    let told = transitions(&mesh).len() as u64;
    assert_eq!(metric(&mesh, "epoch", ""), told, "each transition raises the epoch by one and is told once");
    assert_eq!(complaints(&mesh), [""; 0]);
}
