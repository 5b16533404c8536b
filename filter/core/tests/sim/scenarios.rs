//! The promises, each as a function that panics when it is broken.

use zonebreak_core::{
    config::{ServiceConfig, Shift},
    engine::{Cause, State},
    names::Zone,
    policy::{DetectorKind, Enforcement, Mode, ServicePolicy},
    units::{Millis, Percent},
};

pub use super::kinds::a_global_failure_that_changes_its_kind_trips_nothing;
use super::world::{Health, START_MS, Setup, World, fails, slow_by};

const HEALTHY: Health = fails(0.005);

pub fn zone(i: usize) -> Zone {
    Zone::new(&format!("az-{}", ["a", "b", "c", "d", "e", "f", "g", "h"][i])).unwrap()
}

/// Zones with equal capacity, in `eventual` mode with these weights; the proxy is in the first one.
pub fn eventual(weights: &[u32], seed: u64) -> Setup {
    let mut policy = ServicePolicy { mode: Mode::Eventual, ..ServicePolicy::default() };
    policy.weights = weights.iter().enumerate().map(|(i, weight)| (zone(i), *weight)).collect();
    Setup {
        service: ServiceConfig {
            zones: (0..weights.len()).map(|i| (zone(i), 4)).collect(),
            policy,
            shifts: Vec::new(),
        },
        own: Some(zone(0)),
        workers: 2,
        rps: 200.0,
        retry: false,
        idempotent: 0.8,
        seed,
    }
}

pub fn strong(seed: u64) -> Setup {
    let mut setup = eventual(&[1, 1, 1], seed);
    setup.service.policy.mode = Mode::Strong;
    setup.service.policy.weights.clear();
    setup
}

fn consecutive(mut setup: Setup) -> Setup {
    setup.service.policy.breaker.detector = DetectorKind::Consecutive;
    setup
}

/// 20 s of health, then a fault in a zone: how long until it is left, by seed, sorted; `None` last.
fn times_to_leave(
    setup: impl Fn(u64) -> Setup,
    at: usize,
    fault: Health,
    most_ms: u64,
    seeds: u64,
) -> Vec<u64> {
    let mut times: Vec<u64> = (0..seeds)
        .map(|seed| {
            let mut world = World::new(setup(seed));
            world.run(20_000 + seed * 37 % 100);
            assert_eq!(world.trips(), Vec::<String>::new());
            world.health[at] = fault;
            let left = world.run_until(most_ms, |world| world.state(at) == State::Open).unwrap_or(u64::MAX);
            assert!(world.trips().len() <= 1, "{:?}", world.trips());
            left
        })
        .collect();
    times.sort_unstable();
    times
}

fn percentile(times: &[u64], percent: usize) -> u64 {
    times[(times.len() - 1) * percent / 100]
}

fn leaves_within(what: &str, setup: impl Fn(u64) -> Setup, at: usize, fault: Health, most_ms: u64) {
    let times = times_to_leave(setup, at, fault, 20_000, 40);
    let (median, p95, worst) = (percentile(&times, 50), percentile(&times, 95), percentile(&times, 100));
    println!(
        "{what}: left after {median} ms (median), {p95} ms (p95), {worst} ms (worst of {})",
        times.len()
    );
    assert!(p95 <= most_ms, "{what}: {times:?}");
}

pub fn a_dead_zone_is_left_within_half_a_second() {
    leaves_within("100 % failing, even", |seed| eventual(&[1, 1, 1], seed), 1, fails(1.0), 500);
    leaves_within(
        "100 % failing, own zone of 80/10/10",
        |seed| eventual(&[80, 10, 10], seed),
        0,
        fails(1.0),
        500,
    );
    leaves_within("100 % failing, own zone, strong", strong, 0, fails(1.0), 500);
    // What is retried makes peers, and has them only in the bad time.
    let retried = |seed| Setup { retry: true, ..strong(seed) };
    leaves_within("100 % failing, own zone, strong, one retry", retried, 0, fails(1.0), 500);
}

pub fn a_refusing_zone_is_left_within_half_a_second() {
    let refuses = Health { refuse: 1.0, ..HEALTHY };
    leaves_within("refusing, even", |seed| eventual(&[1, 1, 1], seed), 1, refuses, 500);
    leaves_within("refusing, own zone of 80/10/10", |seed| eventual(&[80, 10, 10], seed), 0, refuses, 500);
}

pub fn a_gray_zone_is_left_within_one_and_a_half_seconds() {
    leaves_within("30 % failing, even", |seed| eventual(&[1, 1, 1], seed), 1, fails(0.3), 1_500);
    leaves_within(
        "30 % failing, own zone of 80/10/10",
        |seed| eventual(&[80, 10, 10], seed),
        0,
        fails(0.3),
        1_500,
    );
    leaves_within("30 % failing, own zone, strong", strong, 0, fails(0.3), 1_500);
    let retried = |seed| Setup { retry: true, ..strong(seed) };
    // Nobody loses a request meanwhile, and the few that are tried again are all there is to compare with.
    leaves_within("30 % failing, own zone, strong, one retry", retried, 0, fails(0.3), 2_000);
}

pub fn a_slow_zone_is_left_within_a_second() {
    leaves_within("+300 ms, even", |seed| eventual(&[1, 1, 1], seed), 1, slow_by(300.0), 1_000);
    leaves_within(
        "+300 ms, own zone of 80/10/10",
        |seed| eventual(&[80, 10, 10], seed),
        0,
        slow_by(300.0),
        1_000,
    );
    leaves_within("+300 ms, own zone, strong", strong, 0, slow_by(300.0), 1_000);
}

pub fn a_zone_that_swallows_requests_is_left_within_a_second() {
    let hangs = Health { hang: 1.0, ..HEALTHY };
    leaves_within("no answer, even", |seed| eventual(&[1, 1, 1], seed), 1, hangs, 1_000);
    leaves_within("no answer, own zone of 80/10/10", |seed| eventual(&[80, 10, 10], seed), 0, hangs, 1_000);
}

pub fn a_dead_zone_is_left_by_a_run_of_failures() {
    let even = |seed| consecutive(eventual(&[1, 1, 1], seed));
    leaves_within("consecutive, even", even, 1, fails(1.0), 500);
    leaves_within("consecutive, strong", |seed| consecutive(strong(seed)), 0, fails(1.0), 300);
}

/// Errors in the 30 s after the onset, in percent of the requests: on average, and where they were most.
fn lost(setup: impl Fn(u64) -> Setup, at: usize, fault: Health) -> (f64, f64) {
    let seeds = 12;
    let (mut all, mut worst) = (0.0, 0.0_f64);
    for seed in 0..seeds {
        let mut world = World::new(setup(seed));
        world.health = vec![fails(0.0); world.health.len()];
        world.run(20_000);
        world.health[at] = fault;
        world.run(30_000);
        let sum = world.sum(20..50);
        let lost = 100.0 * f64::from(sum.failed + sum.refused) / f64::from(sum.requests);
        all += lost;
        worst = worst.max(lost);
    }
    (all / seeds as f64, worst)
}

pub fn few_requests_are_lost() {
    let retried = |weights: &'static [u32]| move |seed| Setup { retry: true, ..eventual(weights, seed) };
    let quiet = |weights: &'static [u32]| move |seed| Setup { rps: 30.0, ..eventual(weights, seed) };
    for (what, (mean, worst), most) in [
        ("even", lost(|seed| eventual(&[1, 1, 1], seed), 0, fails(1.0)), 0.35),
        ("80/10/10", lost(|seed| eventual(&[80, 10, 10], seed), 0, fails(1.0)), 0.9),
        ("even, one retry", lost(retried(&[1, 1, 1]), 0, fails(1.0)), 0.05),
        ("80/10/10, one retry", lost(retried(&[80, 10, 10]), 0, fails(1.0)), 0.05),
        ("even, a third, 30 rps", lost(quiet(&[1, 1, 1]), 0, fails(0.3)), 2.0),
        ("80/10/10, a third, 30 rps", lost(quiet(&[80, 10, 10]), 0, fails(0.3)), 5.0),
    ] {
        println!("{what}: {mean:.3} % lost in 30 s of a bad own zone, {worst:.3} % at worst, at most {most}");
        assert!(mean <= most, "{what}: {mean:.3} %");
        // When a dead zone is left is hardly a matter of chance: each time keeps the promise.
        assert!(worst <= most || what.contains("a third"), "{what}: {worst:.3} % once");
    }
}

fn never_trips(what: &str, setup: Setup, health: Health, seconds: u64) {
    let mut world = World::new(setup);
    world.health.fill(HEALTHY);
    world.run(15_000);
    world.health.fill(health);
    world.run(seconds * 1_000);
    assert_eq!(world.trips(), Vec::<String>::new(), "{what}");
}

pub fn a_global_failure_trips_nothing() {
    for seed in 0..25 {
        for weights in [[1, 1, 1], [80, 10, 10]] {
            never_trips("all 60 % failing", eventual(&weights, seed), fails(0.6), 45);
            never_trips("all failing", eventual(&weights, seed), fails(1.0), 20);
            never_trips("all slow", eventual(&weights, seed), slow_by(300.0), 45);
            let hangs = Health { hang: 1.0, ..HEALTHY };
            never_trips("no answer at all", eventual(&weights, seed), hangs, 20);
            never_trips(
                "consecutive, all 60 % failing",
                consecutive(eventual(&weights, seed)),
                fails(0.6),
                45,
            );
            never_trips("consecutive, all failing", consecutive(eventual(&weights, seed)), fails(1.0), 20);
        }
    }
}

/// Retries send a zone's failures to the others, who then have their attempts just when things are bad.
pub fn a_global_failure_with_retries_trips_nothing() {
    for seed in 0..25 {
        for weights in [[1, 1, 1], [80, 10, 10]] {
            let retried = || Setup { retry: true, ..eventual(&weights, seed) };
            never_trips("all 60 % failing, one retry", retried(), fails(0.6), 45);
            never_trips("all 30 % failing, one retry", retried(), fails(0.3), 45);
            never_trips("all failing, one retry", retried(), fails(1.0), 20);
        }
    }
}

pub fn hours_of_noise_trip_nothing() {
    for (seed, weights) in [(1, [1, 1, 1]), (2, [80, 10, 10])] {
        never_trips("0.5 % for an hour", eventual(&weights, seed), fails(0.005), 3_600);
        never_trips("5 % for two hours", eventual(&weights, seed), fails(0.05), 7_200);
    }
    never_trips("5 % for an hour, strong", strong(3), fails(0.05), 3_600);
}

/// A zone that is well again comes back, and with few errors on the way.
pub fn a_zone_comes_back() {
    for setup in [eventual(&[1, 1, 1], 1), eventual(&[80, 10, 10], 2), strong(3), consecutive(strong(4))] {
        let patience =
            if setup.service.policy.breaker.detector == DetectorKind::Peers { 45_000 } else { 90_000 };
        let mut world = World::new(setup);
        world.health.fill(fails(0.0));
        world.run(20_000);
        world.health[0] = fails(1.0);
        world.run(12_000);
        world.health[0] = fails(0.0);
        let from = world.seconds.len();
        let took = world.run_until(patience, |world| world.state(0) == State::Closed);
        println!(
            "back after {took:?} ms: {:?}",
            world.log.iter().map(|(at, t)| format!("{at} {t}")).collect::<Vec<_>>()
        );
        assert!(took.is_some(), "{:?}", world.log);
        let after = world.sum(from + 1..usize::MAX);
        assert_eq!(after.failed, 0, "errors on return");
        world.run(10_000);
        let share = world.sum(world.seconds.len() - 8..usize::MAX);
        assert!(f64::from(share.zones[0]) > 0.25 * f64::from(share.requests), "{share:?}");
    }
}

/// While it is still broken, each knock costs at most a few requests, and knocks become rare.
pub fn a_zone_that_stays_broken_is_seldom_tried() {
    let mut world = World::new(eventual(&[1, 1, 1], 5));
    world.health.fill(fails(0.0));
    world.run(20_000);
    world.health[1] = fails(1.0);
    world.run(300_000);
    let trips = world.trips();
    assert!((6..=12).contains(&trips.len()), "{trips:#?}");
    let lost = world.sum(25..usize::MAX).failed;
    assert!(lost as usize <= 4 * trips.len(), "{lost} lost in {} knocks", trips.len());
}

/// A zone that fails on and off does not make the breaker flap.
pub fn a_flapping_zone_does_not_make_the_breaker_flap() {
    let mut world = World::new(eventual(&[1, 1, 1], 6));
    for i in 0..600 {
        world.health[1] = if i % 2 == 0 { fails(1.0) } else { HEALTHY };
        world.run(1_000);
    }
    for minute in 0..10 {
        let within = |at: u64| at / 60_000 == minute;
        let moves = world.log.iter().filter(|(at, t)| within(*at) && t.to == State::Open).count();
        assert!(moves <= 6, "minute {minute}: {moves} trips");
    }
    assert!(world.trips().len() <= 25, "{}", world.trips().len());
}

pub fn services_with_few_requests_are_served_too() {
    for (rps, idempotent) in [(30.0, 0.8), (5.0, 0.8), (2.0, 0.0), (30.0, 0.0)] {
        let mut world = World::new(Setup { rps, idempotent, ..eventual(&[1, 1, 1], 7) });
        world.health.fill(fails(0.0));
        world.run(60_000);
        world.health[0] = fails(1.0);
        let left = world.run_until(60_000, |world| world.state(0) == State::Open);
        println!("{rps} rps: left after {left:?} ms");
        assert!(left.is_some(), "{rps} rps");
        world.health[0] = fails(0.0);
        let back = world.run_until(150_000, |world| world.state(0) == State::Closed);
        println!("{rps} rps, {idempotent} idempotent: back after {back:?} ms");
        assert!(back.is_some(), "{rps} rps, {idempotent} idempotent: {:?}", world.log.last());
    }
}

/// With nobody to compare with, a failure of the whole service looks like one of the zone. The move is undone.
pub fn a_move_that_did_not_help_is_undone() {
    for seed in 0..10 {
        for fault in [fails(0.6), fails(1.0), slow_by(300.0)] {
            let mut world = World::new(strong(seed));
            world.run(20_000);
            world.health.fill(fault);
            let undone = |world: &World| world.log.iter().any(|(_, t)| t.cause == Cause::NoGain);
            let took = world.run_until(15_000, undone);
            assert!(took.is_some_and(|ms| ms <= 13_000), "seed {seed}, {fault:?}: {:?}", world.log);
            let trips = world.trips().len();
            world.run(45_000);
            assert_eq!(world.trips().len(), trips, "held for 60 s");
        }
    }
}

/// And one that helped is kept.
pub fn a_move_that_helped_is_kept() {
    for seed in 0..10 {
        for fault in [fails(0.3), fails(1.0), slow_by(300.0)] {
            let mut world = World::new(strong(seed));
            world.run(20_000);
            world.health[0] = fault;
            world.run(20_000);
            assert!(
                world.log.iter().all(|(_, t)| t.cause != Cause::NoGain),
                "seed {seed}, {fault:?}: {:?}",
                world.log
            );
            let late = world.sum(24..39);
            assert!(late.zones[0] < late.requests / 20, "{late:?}");
        }
    }
}

fn shift(i: usize, keep: f64, ends_ms: u64) -> Shift {
    Shift { zone: zone(i), keep_percent: Percent::new(keep).unwrap(), expires_at_ms: START_MS + ends_ms }
}

/// Share of the attempts that a zone got, in percent.
fn share(world: &World, at: usize, seconds: std::ops::Range<usize>) -> f64 {
    let sum = world.sum(seconds);
    100.0 * f64::from(sum.zones[at]) / f64::from(sum.zones.iter().sum::<u32>())
}

pub fn drains_are_exact_and_end_by_the_clock() {
    for (at, keep) in [(1, 0.0), (1, 30.0), (0, 30.0), (0, 0.0), (2, 99.0)] {
        let setup = Setup { rps: 1_000.0, ..eventual(&[60, 20, 20], 11) };
        let usual = [60.0, 20.0, 20.0][at];
        let mut drained = setup.service.clone();
        drained.shifts = vec![shift(at, keep, 60_000)];
        let mut world = World::new(setup);
        world.run(10_000);
        world.configure(drained);
        // The end comes without another word from the control plane: the endpoints stay as they were.
        world.run(90_000);
        for (seconds, wanted) in [(0..10, usual), (11..60, usual * keep / 100.0), (61..100, usual)] {
            let got = share(&world, at, seconds.clone());
            let noise = if seconds.len() > 30 { 0.9 } else { 1.8 };
            assert!(
                (got - wanted).abs() <= noise,
                "zone {at} keeps {keep} %: {got:.2} %, wanted {wanted:.2} %"
            );
        }
        assert_eq!(world.trips(), Vec::<String>::new());
    }
}

pub fn the_operator_and_the_breaker_leave_a_zone_in_use() {
    let mut setup = eventual(&[1, 1], 12);
    setup.service.shifts = vec![shift(0, 0.0, 3_600_000)];
    let mut world = World::new(setup);
    world.run(20_000);
    world.health[1] = fails(1.0);
    world.run(20_000);
    assert_eq!(world.trips(), Vec::<String>::new(), "the other zone is drained");
    // And the other way round: the breaker left a zone, then the operator drains the other one.
    let setup = eventual(&[1, 1], 13);
    let mut drained = setup.service.clone();
    drained.shifts = vec![shift(0, 0.0, 3_600_000)];
    let mut world = World::new(setup);
    world.run(20_000);
    world.health[1] = fails(1.0);
    world.run(1_000);
    assert_eq!(world.state(1), State::Open);
    world.configure(drained);
    world.run(1_000);
    assert_eq!(world.state(1), State::Closed);
    assert_eq!(world.log.last().map(|(_, t)| t.cause), Some(Cause::LastZone));
    assert_eq!(world.sum(20..usize::MAX).refused, 0);
}

pub fn shadow_tells_and_touches_nothing() {
    let mut setup = eventual(&[1, 1, 1], 14);
    setup.service.policy.breaker.enforcement = Enforcement::Shadow;
    let mut world = World::new(setup);
    world.run(20_000);
    world.health[1] = fails(1.0);
    world.run(20_000);
    assert!(world.log.iter().any(|(_, t)| t.to == State::Open && t.shadow));
    let got = share(&world, 1, 22..40);
    assert!((got - 33.3).abs() < 4.0, "{got}");
}

pub fn disabled_does_nothing_but_drain() {
    let mut setup = eventual(&[1, 1, 1], 15);
    setup.service.policy.breaker.enforcement = Enforcement::Disabled;
    setup.service.shifts = vec![shift(2, 0.0, 3_600_000)];
    let mut world = World::new(setup);
    world.run(5_000);
    world.health[1] = fails(1.0);
    world.run(20_000);
    assert_eq!(world.log, []);
    assert_eq!((world.state(0), world.state(2)), (State::Disabled, State::ForcedOpen));
    assert_eq!(world.sum(0..usize::MAX).zones[2], 0);
}

/// Four workers with ticks of their own phase, one of which crashes now and then, never disagree for longer than a tick.
pub fn workers_agree_within_a_tick() {
    for seed in 0..5 {
        let mut world = World::new(Setup { workers: 4, ..eventual(&[1, 1, 1], seed) });
        for i in 0..60 {
            world.health[1] = if (i / 10) % 2 == 1 { fails(1.0) } else { HEALTHY };
            world.run(1_000);
            if i % 7 == 6 {
                world.reload(i % 4);
            }
        }
        assert!(world.trips().len() >= 2, "{:?}", world.trips());
        assert!(world.discord_ms <= 110, "{} ms of discord", world.discord_ms);
    }
}

pub fn a_new_policy_keeps_what_was_learned() {
    let setup = eventual(&[1, 1, 1], 16);
    let mut other = setup.service.clone();
    other.policy.breaker.ramp = Millis::secs(5);
    other.zones.insert(zone(3), 4);
    other.policy.weights.insert(zone(3), 1);
    let mut world = World::new(setup);
    world.run(20_000);
    world.health[1] = fails(1.0);
    world.run(1_000);
    assert_eq!(world.state(1), State::Open);
    world.health.push(HEALTHY);
    world.zones_grow();
    world.configure(other);
    assert_eq!(world.state(1), State::Open);
    world.health[1] = HEALTHY;
    let back = world.run_until(60_000, |world| world.state(1) == State::Closed);
    assert!(back.is_some());
    assert!(share(&world, 3, 22..30) > 20.0);
}

pub fn eight_zones_work_like_three() {
    let weights = [30, 10, 10, 10, 10, 10, 10, 10];
    let mut setup = eventual(&weights, 17);
    setup.service.shifts = vec![shift(6, 0.0, 3_600_000), shift(7, 0.0, 3_600_000)];
    let mut world = World::new(Setup { rps: 600.0, ..setup });
    world.run(20_000);
    world.health[3] = fails(1.0);
    let left = world.run_until(2_000, |world| world.state(3) == State::Open);
    assert!(left.is_some(), "{:?}", world.log);
    world.run(4_000);
    let sum = world.sum(22..25);
    assert_eq!((sum.zones[3], sum.zones[6], sum.zones[7]), (0, 0, 0));
    let got = share(&world, 0, 22..25);
    assert!((got - 100.0 * 30.0 / 70.0).abs() < 6.0, "{got}");
}

pub fn nothing_breaks_in_a_storm() {
    let mut moves = Default::default();
    (0..60).for_each(|seed| super::storm::rage(seed, 20_000, &mut moves));
    println!("{moves:?}");
    assert_eq!(moves.len(), 12, "every move there is was made: {moves:?}");
}

/// Runs a list of scenarios as tests.
#[macro_export]
macro_rules! scenarios {
    ($test:meta: $($name:ident),* $(,)?) => {
        $(
            #[$test]
            fn $name() {
                sim::scenarios::$name();
            }
        )*
    };
    ($test:meta) => {
        $crate::scenarios! { $test:
            a_dead_zone_is_left_within_half_a_second,
            a_refusing_zone_is_left_within_half_a_second,
            a_gray_zone_is_left_within_one_and_a_half_seconds,
            a_slow_zone_is_left_within_a_second,
            a_zone_that_swallows_requests_is_left_within_a_second,
            a_dead_zone_is_left_by_a_run_of_failures,
            few_requests_are_lost,
            a_global_failure_trips_nothing,
            a_global_failure_with_retries_trips_nothing,
            a_global_failure_that_changes_its_kind_trips_nothing,
            hours_of_noise_trip_nothing,
            a_zone_comes_back,
            a_zone_that_stays_broken_is_seldom_tried,
            a_flapping_zone_does_not_make_the_breaker_flap,
            services_with_few_requests_are_served_too,
            a_move_that_did_not_help_is_undone,
            a_move_that_helped_is_kept,
            drains_are_exact_and_end_by_the_clock,
            the_operator_and_the_breaker_leave_a_zone_in_use,
            shadow_tells_and_touches_nothing,
            disabled_does_nothing_but_drain,
            workers_agree_within_a_tick,
            a_new_policy_keeps_what_was_learned,
            eight_zones_work_like_three,
            nothing_breaks_in_a_storm,
        }
    };
}
