//! What a policy makes of requests, through the engine's face: stickiness, shedding, limits, drills, spread, exploration.

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::{tests::*, *};
use crate::{
    instant::Instant,
    mix::mix,
    policy::{AbortPolicy, AbortWhen, Mode, ServicePolicy, SpillPolicy, Spread, Sticky},
    sticky,
    units::Millis,
};

fn percent(percent: f64) -> Percent {
    Percent::new(percent).unwrap()
}

fn later(ms: u64) -> Now {
    Now(NOW.0 + ms)
}

/// Ticks with what each zone answers and fails in 100 ms, from 100 ms after `from` on; adopts what is proposed.
fn run(
    engine: &mut Engine,
    id: ServiceId,
    from: u64,
    ticks: u64,
    totals: &mut [Totals],
    per_tick: &[(u64, u64)],
) -> Vec<Transition> {
    let mut told = Vec::new();
    for tick in 1..=ticks {
        for (totals, (ok, fail)) in totals.iter_mut().zip(per_tick) {
            totals.ok += ok;
            totals.fail += fail;
        }
        let now = later(from + tick * 100);
        if let Some(proposal) = engine.tick(id, now, totals) {
            told.extend(engine.adopt(id, &proposal.state, now).unwrap());
        }
    }
    told
}

fn keep(engine: &Engine, id: ServiceId, zone: usize, now: Now) -> u16 {
    engine.zone_state(id, ZoneId(zone as u8), now).keep.permille()
}

/// The zone that a user is sent to; with `Pass` it is his proxy's own.
fn zone_of(engine: &mut Engine, id: ServiceId, now: Now, user: u32) -> String {
    let coin = sticky::coin("order-svc", user.to_string().as_bytes());
    match engine.decide(id, now, Coin::User(coin), || false) {
        Decision::Pass => "az-a".to_owned(),
        Decision::Serve { key, .. } => key.strip_prefix("only-").expect("a zone by name").to_owned(),
        other => panic!("{other:?}"),
    }
}

/// A drain of 100 %, 50 %, 0 %, 50 %, 100 %: each user moves at most once in each direction, and asks again any number of
/// times in between. Without `sticky` it is `no-az-a`, and Envoy's own dice among the others.
#[test]
fn a_sticky_user_moves_once_in_each_direction() {
    for mode in [Mode::Strong, Mode::Eventual] {
        let policy =
            ServicePolicy { mode, sticky: Some(Sticky::Header("x-user-id".into())), ..Default::default() };
        let plain = service(&ABC, policy);
        let (mut engine, id) = engine(plain.clone());
        assert_eq!(engine.sticky(id), Some(&Sticky::Header("x-user-id".into())));
        let mut ways = vec![Vec::new(); 500];
        for keep in [100.0, 50.0, 0.0, 50.0, 100.0] {
            let to = if keep < 100.0 { drained(plain.clone(), "az-a", keep, 60_000) } else { plain.clone() };
            engine.configure(&config(&[("order-svc", to)]), Some(&zone("az-a")), NOW);
            for (user, way) in (0..).zip(&mut ways) {
                let there = zone_of(&mut engine, id, NOW, user);
                assert!((0..3).all(|_| zone_of(&mut engine, id, NOW, user) == there));
                way.push(there);
            }
        }
        let mut at = std::collections::BTreeMap::<_, usize>::new();
        for way in &ways {
            let moves = |way: &[String]| way.windows(2).filter(|pair| pair[0] != pair[1]).count();
            assert!(moves(&way[..3]) <= 1 && moves(&way[2..]) <= 1 && way[0] == way[4], "{way:?}");
            *at.entry(way[2].clone()).or_default() += 1;
        }
        assert!(at["az-b"].abs_diff(250) < 56 && at["az-c"].abs_diff(250) < 56, "{at:?}");
    }
}

#[test]
fn without_sticky_nothing_is_asked_for_and_nobody_is_named() {
    let (engine, id) = engine(service(&ABC, eventual()));
    assert_eq!(engine.sticky(id), None);
}

/// Ticks of a zone that fails 15 %: enough evidence to shed, not enough to leave it (with `Safe` that takes two more).
const GRAY_TICKS: u64 = 9;

/// A gray zone, 15 % failing: it keeps a part, the same in both workers; and it comes back in steps.
#[test]
fn a_gray_zone_sheds_before_it_is_left() {
    let mut policy = eventual();
    policy.breaker.shed = true;
    policy.weights = ABC.map(|name| (zone(name), 1)).into();
    // So much evidence is asked for that it is not left in this test.
    policy.breaker.sensitivity = crate::policy::Sensitivity::Safe;
    let all = service(&ABC, policy.clone());
    let (mut one, id) = engine(all.clone());
    let (mut two, _) = engine(all);
    let mut totals = [[Totals::default(); 3]; 2];
    let mut keeps = Vec::new();
    let mut at = 0;
    let mut both = |per_tick: [(u64, u64); 3], ticks: u64, keeps: &mut Vec<u16>| {
        for _ in 0..ticks {
            for (engine, totals) in [&mut one, &mut two].into_iter().zip(&mut totals) {
                assert_eq!(run(engine, id, at, 1, totals, &per_tick), []);
            }
            at += 100;
            assert_eq!(keep(&one, id, 0, later(at)), keep(&two, id, 0, later(at)));
            keeps.push(keep(&one, id, 0, later(at)));
        }
    };
    both([(7, 0); 3], 100, &mut keeps);
    assert!(keeps.iter().all(|keep| *keep == 1_000));
    keeps.clear();
    both([(6, 1), (7, 0), (7, 0)], GRAY_TICKS, &mut keeps);
    let lowest = *keeps.iter().min().unwrap();
    assert!((600..=900).contains(&lowest), "{keeps:?}");
    assert!(keeps.windows(2).all(|pair| pair[1] <= pair[0]), "no flapping: {keeps:?}");
    keeps.clear();
    both([(7, 0); 3], 200, &mut keeps);
    let mut rises = keeps.clone();
    rises.dedup();
    assert_eq!(keeps.last(), Some(&1_000));
    assert!(rises.windows(2).all(|pair| pair[1] <= pair[0] || pair[1] - pair[0] <= 100), "{rises:?}");

    // The same without the option: nothing.
    policy.breaker.shed = false;
    let (mut off, id) = engine(service(&ABC, policy));
    let mut totals = [Totals::default(); 3];
    run(&mut off, id, 0, 100, &mut totals, &[(7, 0); 3]);
    run(&mut off, id, 10_000, GRAY_TICKS, &mut totals, &[(6, 1), (7, 0), (7, 0)]);
    assert_eq!(keep(&off, id, 0, later(11_500)), 1_000);
}

#[test]
fn shedding_obeys_the_guard_rails() {
    let gray = |policy: &ServicePolicy, shift: Option<(&str, f64)>, per_tick: [(u64, u64); 3]| {
        let mut all = service(&ABC, policy.clone());
        if let Some((name, keep)) = shift {
            all = drained(all, name, keep, 600_000);
        }
        let (mut engine, id) = engine(all);
        let mut totals = [Totals::default(); 3];
        run(&mut engine, id, 0, 100, &mut totals, &[(7, 0); 3]);
        let mut lowest = 1_000;
        for at in 0..GRAY_TICKS {
            run(&mut engine, id, 10_000 + at * 100, 1, &mut totals, &per_tick);
            lowest = lowest.min(keep(&engine, id, 0, later(10_100 + at * 100)));
        }
        lowest
    };
    let mut policy = eventual();
    policy.breaker.shed = true;
    policy.breaker.sensitivity = crate::policy::Sensitivity::Safe;
    let one_bad = [(6, 1), (7, 0), (7, 0)];
    assert!(gray(&policy, None, one_bad) < 1_000);
    assert_eq!(gray(&policy, None, [(6, 1); 3]), 1_000, "a failure of all zones sheds nothing");
    assert_eq!(gray(&policy, Some(("az-b", 50.0)), one_bad), 1_000, "the operator unloads another zone");
    assert_eq!(gray(&policy, Some(("az-a", 100.0)), one_bad), 1_000, "the operator holds it");
    let mut shadow = policy.clone();
    shadow.breaker.enforcement = crate::policy::Enforcement::Shadow;
    assert_eq!(gray(&shadow, None, one_bad), 1_000, "in shadow nothing is done");
    let spill =
        |spill: SpillPolicy| gray(&ServicePolicy { spill: Some(spill), ..policy.clone() }, None, one_bad);
    // 80 % at home, of which a sixteenth may be moved; or by capacity, where two others may take a twentieth more.
    assert_eq!(spill(SpillPolicy { max_share: Some(0.05), ..Default::default() }), 938);
    assert_eq!(spill(SpillPolicy { headroom: Some(0.025), ..Default::default() }), 950);
}

/// What a gray zone sheds is not refused when the rate that may be moved is used up: it stays.
#[test]
fn what_is_shed_is_bounded_and_never_refused() {
    let mut policy = eventual();
    policy.breaker.shed = true;
    policy.breaker.sensitivity = crate::policy::Sensitivity::Safe;
    policy.spill = Some(SpillPolicy { max_rps: Some(1), ..Default::default() });
    let (mut engine, id) = engine(service(&ABC, policy));
    let mut totals = [Totals::default(); 3];
    run(&mut engine, id, 0, 100, &mut totals, &[(7, 0); 3]);
    run(&mut engine, id, 10_000, GRAY_TICKS, &mut totals, &[(6, 1), (7, 0), (7, 0)]);
    assert!(keep(&engine, id, 0, later(11_500)) < 1_000);
    let mix = mix_of(&mut engine, id, later(11_500));
    near(&mix, &[("pass", 80.0), ("no-az-a split", 20.0), ("no-az-a moved", 0.001)]);
}

#[test]
fn as_many_zones_are_left_as_the_policy_allows_and_never_the_last() {
    const FIVE: [&str; 5] = ["az-a", "az-b", "az-c", "az-d", "az-e"];
    for most in 1..=7 {
        let mut policy = eventual();
        policy.breaker.max_open_zones = most;
        policy.weights = FIVE.map(|name| (zone(name), 1)).into();
        let (mut engine, id) = engine(service(&FIVE, policy));
        let mut totals = [Totals::default(); 5];
        run(&mut engine, id, 0, 50, &mut totals, &[(7, 0); 5]);
        // One after the other breaks, until none is well.
        let mut told = Vec::new();
        let mut per_tick = [(7, 0); 5];
        for broken in 0..5_u64 {
            per_tick[broken as usize] = (0, 7);
            told.extend(run(&mut engine, id, 5_000 + broken * 300, 3, &mut totals, &per_tick));
        }
        let open = engine
            .zone_ids(id)
            .filter(|zone| engine.zone_state(id, *zone, later(6_500)).state == State::Open);
        assert_eq!(open.count(), (most as usize).min(4), "{most}: {told:?}");
        assert!(matches!(
            engine.decide(id, later(6_500), Coin::User(1 << 31), || false),
            Decision::Serve { .. }
        ));
    }
}

#[test]
fn the_survivors_take_no_more_than_their_headroom() {
    let spill = |headroom| Some(SpillPolicy { headroom: Some(headroom), ..Default::default() });
    for (headroom, moved) in [(0.5, 100.0), (0.25, 50.0), (0.0, 0.0)] {
        let (mut engine, id) =
            engine(service(&ABC, ServicePolicy { spill: spill(headroom), ..Default::default() }));
        let now = break_zone(&mut engine, id, 0);
        let mix = mix_of(&mut engine, id, now);
        let kinds: Vec<_> = [("no-az-a moved", moved), ("503 spill", 100.0 - moved)]
            .into_iter()
            .filter(|(_, part)| *part > 0.0)
            .collect();
        near(&mix, &kinds);
    }
    // The more is refused, the longer a caller is asked to wait.
    let waits = |headroom| {
        let (mut engine, id) =
            engine(service(&ABC, ServicePolicy { spill: spill(headroom), ..Default::default() }));
        let now = break_zone(&mut engine, id, 0);
        (0..1_000).find_map(|i| match engine.decide(id, now, Coin::User(mix(i)), || false) {
            Decision::Refuse(refusal) => Some(refusal.retry_after_s),
            _ => None,
        })
    };
    assert_eq!((waits(0.0), waits(0.25), waits(0.45)), (Some(10), Some(6), Some(2)));
}

/// The zones that took over answer a third: what is moved is throttled, with a growing wait; and let go when they answer again.
#[test]
fn moved_requests_are_throttled_while_nobody_answers_them() {
    let throttled = |spill: Option<SpillPolicy>| {
        let (mut engine, id) = engine(service(&ABC, ServicePolicy { spill, ..Default::default() }));
        let now = break_zone(&mut engine, id, 0);
        let mut second = |from: u64, answers: &dyn Fn(u32) -> bool| {
            let (mut sent, mut waits) = (0, 0);
            for i in 0..200 {
                let now = Now(now.0 + from * 1_000 + i * 5);
                match engine.decide(id, now, Coin::User(mix(from * 1_000 + i)), || false) {
                    Decision::Serve { reason: Reason::Moved, .. } => {
                        sent += 1;
                        engine.settle(id, now, answers(sent));
                    }
                    Decision::Refuse(refusal) => {
                        assert_eq!(refusal.reason, "overload");
                        waits = waits.max(refusal.retry_after_s);
                    }
                    other => panic!("{other:?}"),
                }
            }
            (sent, waits)
        };
        let well = second(0, &|_| true);
        (1..15).for_each(|from| _ = second(from, &|sent| sent <= 20));
        (
            well,
            second(15, &|sent| sent <= 20),
            (16..30).map(|from| second(from, &|_| true)).next_back().unwrap(),
        )
    };
    let (well, ill, again) = throttled(Some(SpillPolicy { max_share: Some(1.0), ..Default::default() }));
    assert_eq!((well, again), ((200, 0), (200, 0)));
    assert!((20..=70).contains(&ill.0) && ill.1 >= 7, "twice what is answered: {ill:?}");
    let off = SpillPolicy { max_share: Some(1.0), adaptive: false, ..Default::default() };
    assert_eq!(throttled(Some(off)).1, (200, 0));
    assert_eq!(throttled(None).1, (200, 0));
}

fn drill(abort: AbortPolicy, mode: Mode) -> (Engine, ServiceId) {
    engine(service(&ABC, ServicePolicy { mode, abort: Some(abort), ..Default::default() }))
}

#[test]
fn a_drill_by_zone_touches_only_what_would_go_there() {
    let abort = AbortPolicy {
        percent: percent(50.0),
        status: 429,
        when: AbortWhen::Always,
        zones: vec![zone("az-b"), zone("az-z")],
        ..Default::default()
    };
    let (mut engine, id) = drill(abort.clone(), Mode::Eventual);
    let wanted = [("pass", 80.0), ("429 abort", 5.0), ("only-az-b split", 5.0), ("only-az-c split", 10.0)];
    near(&mix_of(&mut engine, id, NOW), &wanted);
    let elsewhere = AbortPolicy { zones: vec![zone("az-z")], ..abort };
    let (mut engine, id) = drill(elsewhere, Mode::Strong);
    near(&mix_of(&mut engine, id, NOW), &[("pass", 100.0)]);
}

#[test]
fn a_drill_ends_by_the_filters_own_clock() {
    let until = Some(Instant(NOW.0 + 5_000));
    let abort = AbortPolicy { percent: percent(100.0), when: AbortWhen::Always, until, ..Default::default() };
    let (mut engine, id) = drill(abort, Mode::Strong);
    near(&mix_of(&mut engine, id, later(4_999)), &[("503 abort", 100.0)]);
    near(&mix_of(&mut engine, id, later(5_000)), &[("pass", 100.0)]);
    // A clock set back brings it back, as it should: it is not over yet.
    near(&mix_of(&mut engine, id, later(1_000)), &[("503 abort", 100.0)]);
}

#[test]
fn a_delay_has_a_share_of_its_own() {
    let abort = AbortPolicy {
        percent: percent(20.0),
        when: AbortWhen::Always,
        delay: Some(Millis(200)),
        delay_percent: percent(25.0),
        ..Default::default()
    };
    let (mut engine, id) = drill(abort, Mode::Strong);
    let wanted = [("503 abort", 20.0), ("pass after 200ms", 20.0), ("pass", 60.0)];
    near(&mix_of(&mut engine, id, NOW), &wanted);
}

/// With everything aborted a zone on trial would never come back, and a trial that is aborted tells nothing.
#[test]
fn trials_are_no_part_of_a_drill() {
    let abort = AbortPolicy { percent: percent(100.0), ..Default::default() };
    let (mut engine, id) = drill(abort, Mode::Eventual);
    let opened = break_zone(&mut engine, id, 0).0 - NOW.0;
    let told = run(&mut engine, id, opened, 60, &mut [Totals::default(); 3], &[(0, 0), (7, 0), (7, 0)]);
    assert_eq!(told.last().unwrap().to, State::HalfOpen);
    let now = opened + 6_000;
    let trials = (0..200).filter(|i| {
        let decision = engine.decide(id, later(now + i * 5), Coin::User(mix(*i)), || true);
        // The way to the own zone on trial is no key at all.
        matches!(decision, Decision::Pass | Decision::Trial { .. })
    });
    assert!(trials.count() >= 2);
}

#[test]
fn an_explored_share_makes_peers_in_strong_mode() {
    let policy = ServicePolicy { explore: percent(7.5), ..Default::default() };
    let (mut engine, id) = engine(service(&ABC, policy));
    near(&mix_of(&mut engine, id, NOW), &[("pass", 92.5), ("no-az-a split", 7.5)]);
    let now = break_zone(&mut engine, id, 0);
    near(&mix_of(&mut engine, id, now), &[("no-az-a split", 7.5), ("no-az-a moved", 92.5)]);
}

/// az-b answers in 5 ms, az-c in 15: two thirds and one of what goes to them, and no more than that.
#[test]
fn the_faster_of_the_other_zones_gets_more() {
    let shares = |spread| {
        let policy = ServicePolicy { spread, ..eventual() };
        let (mut engine, id) = engine(service(&ABC, policy));
        let mut totals = [Totals::default(); 3];
        for tick in 0..30 {
            for (zone, ms) in [(0, 8), (1, 5), (2, 15)] {
                for _ in 0..2 {
                    let attempt = engine.attempt(id, ZoneId(zone), NOW.0 * MS);
                    engine.finish(&attempt, Outcome::Ok, NOW.0 * MS + ms * MS);
                }
            }
            run(&mut engine, id, tick * 100, 1, &mut totals, &[(2, 0); 3]);
        }
        let mix = mix_of(&mut engine, id, later(3_000));
        let part = |kind: &str| mix.get(kind).copied().unwrap_or_default();
        assert!((part("pass") - 80.0).abs() < 0.5);
        (part("no-az-a split") / 2.0 + part("only-az-b split"), part("no-az-a split"))
    };
    let (to_b, by_weight) = shares(Spread::ByLatency);
    // Response times are remembered in steps.
    assert!((11.5..=14.0).contains(&to_b) && by_weight > 10.0, "{to_b} {by_weight}");
    assert!((shares(Spread::ByWeight).0 - 10.0).abs() < 0.5);
}

/// The gauges: what an operator forces is told by state and keep, and a shadow tells what it would do.
#[test]
fn forced_shadowed_and_disabled_zones_are_told_apart() {
    let told = |service| {
        let (mut engine, id) = engine(service);
        engine.decide(id, NOW, Coin::User(0), || false);
        let status = engine.zone_state(id, ZoneId(0), NOW);
        (status.state.code(), status.keep.permille(), status.shadow)
    };
    let plain = service(&ABC, eventual());
    let mut off = eventual();
    off.breaker.enforcement = crate::policy::Enforcement::Disabled;
    assert_eq!(told(plain.clone()), (0, 1_000, false));
    for (keep, permille) in [(0.0, 0), (0.1, 1), (33.3, 333), (99.9, 999)] {
        assert_eq!(told(drained(plain.clone(), "az-a", keep, 9_000)), (4, permille, false));
    }
    assert_eq!(told(drained(plain, "az-a", 100.0, 9_000)), (5, 1_000, false));
    assert_eq!(told(service(&ABC, off)), (6, 1_000, false));
    let mut shadow = eventual();
    shadow.breaker.enforcement = crate::policy::Enforcement::Shadow;
    let (mut engine, id) = engine(service(&ABC, shadow));
    let now = break_zone(&mut engine, id, 0);
    let status = engine.zone_state(id, ZoneId(0), now);
    assert_eq!((status.state, status.keep.permille(), status.shadow), (State::Open, 1_000, true));
    near(&mix_of(&mut engine, id, now), &[("pass", 80.0), ("no-az-a split", 20.0)]);
}
