//! A zone goes bad: how long until it is left, what is lost meanwhile, and how it is taken back.

use std::time::Duration;

use serde_json::Value;
use zonebreak_host::mesh::{Effect, End, Fault, Mesh, Record, Setup};

use crate::support::*;

/// The proxy's own zone goes bad after half a minute.
fn broken(setup: Setup, policy: &Value, fault: Fault) -> (Mesh, Duration) {
    let mut mesh = mesh(setup, policy);
    mesh.run(secs(30.0));
    mesh.break_zone(A, fault);
    let onset = mesh.now();
    (mesh, onset)
}

/// Time from the onset of a fault until the zone got its last attempt but for trials, to 10 ms, for 20 seeds, in order. Trials do
/// not begin before 4.5 s.
fn times_to_leave(workers: usize, policy: &Value, fault: Fault) -> Vec<Duration> {
    let time = |seed| {
        let (mut mesh, onset) = broken(setup(workers, seed), policy, fault);
        let (mut last, mut begun) = (onset, 0);
        while mesh.now() < onset + secs(4.4) {
            mesh.run(secs(0.01));
            let by_now = mesh.attempts(A, onset..mesh.now() + Record::STEP).begun;
            if by_now > begun {
                (last, begun) = (mesh.now(), by_now);
            }
        }
        last - onset
    };
    let mut times: Vec<_> = (1..=20).map(time).collect();
    times.sort();
    times
}

/// 19 of 20 times within the promise.
fn left_within(promise: f64, workers: &[usize], policy: &Value, fault: Fault) {
    for workers in workers {
        let times = times_to_leave(*workers, policy, fault);
        assert!(times[18] <= secs(promise), "{workers} workers, {policy}, {fault:?}: {times:?}");
    }
}

#[test]
fn a_zone_that_fails_is_left_within_half_a_second() {
    left_within(0.5, &[1, 2, 4], &even(), Fault::always(Effect::Status(503)));
    left_within(0.5, &[2], &local_first(), Fault::always(Effect::Status(503)));
}

#[test]
fn a_zone_that_cannot_be_reached_is_left_within_half_a_second() {
    left_within(0.5, &[2], &even(), Fault::always(Effect::Refuse));
    left_within(0.5, &[2], &even(), Fault::always(Effect::Reset));
}

#[test]
fn a_zone_that_fails_a_third_is_left_within_one_and_a_half() {
    left_within(1.5, &[1, 2, 4], &even(), Fault::of(0.3, Effect::Status(503)));
}

#[test]
fn a_slow_zone_is_left_within_a_second() {
    left_within(1.0, &[1, 2, 4], &even(), Fault::always(Effect::Slow(secs(0.3))));
    left_within(1.0, &[2], &local_first(), Fault::always(Effect::Slow(secs(0.3))));
}

#[test]
fn a_zone_that_never_answers_is_left_within_a_second() {
    left_within(1.0, &[2], &even(), Fault::always(Effect::Hang));
}

/// Requests lost in 30 s of a zone that fails wholly, 200 a second, over some seeds; base errors aside.
fn lost(retries: u32, policy: &Value) -> f64 {
    let lost = |seed| {
        let calm = Setup { base_errors: 0.0, retries, ..setup(2, seed) };
        let (mut mesh, onset) = broken(calm, policy, Fault::always(Effect::Status(503)));
        mesh.run(secs(30.0));
        mesh.ends(onset..mesh.now()).lost()
    };
    (1..=20).map(lost).sum::<f64>() / 20.0
}

#[test]
fn few_requests_are_lost_with_a_zone() {
    for (retries, policy, most) in [(0, even(), 0.0035), (0, local_first(), 0.009), (1, even(), 0.0005)] {
        let lost = lost(retries, &policy);
        assert!(lost <= most, "{lost:.5} > {most} with {retries} retries and {policy}");
        assert!(lost > 0.0 || retries > 0, "a fault that hurts nobody proves nothing");
    }
}

#[test]
fn a_zone_that_is_well_again_comes_back_without_errors() {
    for workers in [1, 2, 4] {
        let calm = Setup { base_errors: 0.0, ..setup(workers, 3) };
        let (mut mesh, _) = broken(calm, &even(), Fault::always(Effect::Status(503)));
        mesh.run(secs(8.0));
        mesh.heal_zone(A);
        let healed = mesh.now();
        mesh.run(secs(60.0));
        assert_eq!(mesh.ends(healed + secs(0.1)..mesh.now()).of(End::Failed), 0, "{workers} workers");
        assert_eq!(state(&mesh, "az-a"), CLOSED, "{:?}", transitions(&mesh));
        let share = mesh.record().share(A, mesh.last(secs(5.0)));
        assert!((share - 1.0 / 3.0).abs() < 0.05, "{share}");
    }
}

/// A zone that stays bad is tried with ever fewer requests, and no trial round costs more than two.
#[test]
fn trials_of_a_bad_zone_are_few_and_far_between() {
    let (mut mesh, onset) = broken(setup(4, 5), &even(), Fault::always(Effect::Status(503)));
    mesh.run(secs(600.0));
    let trials = mesh.attempts(A, onset + secs(3.0)..mesh.now()).begun;
    let rounds = transitions(&mesh).iter().filter(|line| line.contains("-> half_open")).count() as u64;
    assert!((8..=16).contains(&rounds), "{rounds}");
    assert!(trials <= 2 * rounds, "{trials} requests in {rounds} rounds");
}

/// Without peers (all load in one zone) only the zone's own failures can tell.
#[test]
fn a_zone_without_peers_is_left_when_it_fails() {
    let strong = serde_json::json!({"mode": "strong"});
    left_within(1.0, &[2], &strong, Fault::always(Effect::Status(503)));
}

#[test]
fn failures_in_a_row_open_a_zone_where_that_is_asked_for() {
    let mut policy = even();
    policy["breaker"] = serde_json::json!({"detector": "consecutive"});
    left_within(0.5, &[1, 2, 4], &policy, Fault::always(Effect::Status(503)));
    let (mut mesh, _) = broken(setup(2, 1), &policy, Fault::always(Effect::Status(503)));
    mesh.run(secs(20.0));
    assert!(transitions(&mesh)[0].contains("closed -> open (consecutive)"), "{:?}", transitions(&mesh));
}
