//! The engine as the filter drives it: configurations, requests, attempts, and how much memory it takes.

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::*;
use crate::{
    breaker::Cause,
    config::{CONFIG_VERSION, Role, ServiceConfig, Shift},
    names::ServiceName,
    policy::{AbortPolicy, Mode, ServicePolicy, SpillPolicy},
};

pub(super) const NOW: Now = Now(1_700_000_000_000);
pub(super) const MS: u64 = 1_000_000;

pub(super) fn zone(name: &str) -> Zone {
    Zone::new(name).unwrap()
}

pub(super) fn service(zones: &[&str], policy: ServicePolicy) -> ServiceConfig {
    ServiceConfig { zones: zones.iter().map(|name| (zone(name), 2)).collect(), policy, shifts: Vec::new() }
}

pub(super) fn config(services: &[(&str, ServiceConfig)]) -> FilterConfig {
    let services = services.iter().map(|(name, service)| (ServiceName::new(name).unwrap(), service.clone()));
    FilterConfig {
        version: CONFIG_VERSION,
        role: Role::Downstream,
        zone: None,
        services: services.collect(),
        debug_header: false,
    }
}

pub(super) fn engine(service: ServiceConfig) -> (Engine, ServiceId) {
    let mut engine = Engine::default();
    engine.configure(&config(&[("order-svc", service)]), Some(&zone("az-a")), NOW);
    let id = engine.service("order-svc").unwrap();
    (engine, id)
}

pub(super) const ABC: [&str; 3] = ["az-a", "az-b", "az-c"];

pub(super) fn eventual() -> ServicePolicy {
    ServicePolicy { mode: Mode::Eventual, ..ServicePolicy::default() }
}

pub(super) fn drained(mut service: ServiceConfig, name: &str, keep: f64, for_ms: u64) -> ServiceConfig {
    let keep_percent = Percent::new(keep).unwrap();
    service.shifts.push(Shift { zone: zone(name), keep_percent, expires_at_ms: NOW.0 + for_ms });
    service
}

/// Runs a zone into the open state: 3 s of health, then it fails.
pub(super) fn break_zone(engine: &mut Engine, id: ServiceId, at: usize) -> Now {
    let mut totals = vec![Totals::default(); engine.zones(id).len()];
    for tick in 0..100 {
        let now = Now(NOW.0 + tick * 100);
        if let Some(proposal) = engine.tick(id, now, &totals) {
            let told = engine.adopt(id, &proposal.state, now).unwrap();
            assert_eq!(told, proposal.transitions);
            return now;
        }
        for (i, totals) in totals.iter_mut().enumerate() {
            if tick > 30 && i == at { totals.fail += 7 } else { totals.ok += 7 }
        }
    }
    panic!("it did not trip");
}

/// What a million coins make of requests, by kind, in percent.
pub(super) fn mix_of(
    engine: &mut Engine,
    id: ServiceId,
    now: Now,
) -> std::collections::BTreeMap<String, f64> {
    let mut mix = std::collections::BTreeMap::new();
    for i in 0..100_000_u64 {
        let kind = match engine.decide(id, now, Coin::User(i * 42_949), || false) {
            Decision::Pass => "pass".to_owned(),
            Decision::Serve { key, reason } => format!("{key} {}", reason.as_str()),
            Decision::Trial { key, .. } => format!("{key} trial"),
            Decision::Delay { key, ms, .. } => format!("{} after {ms}ms", key.unwrap_or("pass")),
            Decision::Refuse(refusal) => format!("{} {}", refusal.status, refusal.reason),
        };
        *mix.entry(kind).or_insert(0.0) += 0.001;
    }
    mix
}

pub(super) fn near(mix: &std::collections::BTreeMap<String, f64>, wanted: &[(&str, f64)]) {
    assert_eq!(mix.len(), wanted.len(), "{mix:?}");
    for (kind, percent) in wanted {
        let got = mix.get(*kind).copied().unwrap_or_default();
        assert!((got - percent).abs() < 0.5, "{kind}: {got:.2} %, wanted {percent} %; {mix:?}");
    }
}

#[test]
fn an_empty_engine_lets_everything_pass() {
    let mut engine = Engine::default();
    assert_eq!(engine.service("order-svc"), None);
    let nobody = ServiceId(7);
    assert_eq!(engine.decide(nobody, NOW, Coin::User(0), || true), Decision::Pass);
    let attempt = engine.attempt(nobody, ZoneId(3), 0);
    assert!(engine.finish(&attempt, Outcome::Failed, 1).late);
    assert_eq!(engine.tick(nobody, NOW, &[]), None);
    assert_eq!((engine.encoded(nobody), engine.epoch(nobody)), (Vec::new(), 0));
}

#[test]
fn shares_follow_the_policy_and_the_state() {
    let (mut engine, id) = engine(service(&ABC, eventual()));
    near(&mix_of(&mut engine, id, NOW), &[("pass", 80.0), ("no-az-a split", 20.0)]);
    let now = break_zone(&mut engine, id, 0);
    near(&mix_of(&mut engine, id, now), &[("no-az-a split", 20.0), ("no-az-a moved", 80.0)]);
}

#[test]
fn a_drain_is_exact_and_ends_by_the_clock() {
    let (mut engine, id) = engine(drained(service(&ABC, eventual()), "az-a", 12.5, 10_000));
    near(&mix_of(&mut engine, id, NOW), &[("pass", 10.0), ("no-az-a split", 20.0), ("no-az-a moved", 70.0)]);
    let a = engine.zone(id, "az-a").unwrap();
    let status = engine.zone_state(id, a, NOW);
    assert_eq!((status.state, status.keep.permille()), (State::ForcedOpen, 125));
    let after = Now(NOW.0 + 10_000);
    near(&mix_of(&mut engine, id, after), &[("pass", 80.0), ("no-az-a split", 20.0)]);
    assert_eq!(engine.zone_state(id, a, after).state, State::Closed);
}

#[test]
fn with_all_zones_drained_requests_are_refused_until_the_first_drain_ends() {
    let all =
        drained(drained(service(&["az-a", "az-b"], eventual()), "az-a", 0.0, 12_000), "az-b", 0.0, 4_500);
    let (mut engine, id) = engine(all);
    let refusal = Refusal { status: 503, reason: "no-zone", retry_after_s: 5 };
    assert_eq!(engine.decide(id, NOW, Coin::User(1), || true), Decision::Refuse(refusal));
    assert!(matches!(
        engine.decide(id, Now(NOW.0 + 4_500), Coin::User(1), || true),
        Decision::Serve { key: "only-az-b", .. }
    ));
}

#[test]
fn a_shift_that_keeps_all_holds_a_zone_in_use() {
    let (mut engine, id) = engine(drained(service(&ABC, eventual()), "az-b", 100.0, 60_000));
    let b = engine.zone(id, "az-b").unwrap();
    assert_eq!(engine.zone_state(id, b, NOW).state, State::ForcedClosed);
    let mut totals = vec![Totals::default(); 3];
    for tick in 0..100 {
        assert_eq!(engine.tick(id, Now(NOW.0 + tick * 100), &totals), None);
        totals.iter_mut().for_each(|totals| totals.ok += 5);
        totals[1].fail += 7;
    }
}

#[test]
fn aborts_take_their_share_when_a_zone_is_degraded() {
    let abort = AbortPolicy { percent: Percent::new(5.0).unwrap(), ..AbortPolicy::default() };
    let (mut engine, id) = engine(service(&ABC, ServicePolicy { abort: Some(abort), ..eventual() }));
    near(&mix_of(&mut engine, id, NOW), &[("pass", 80.0), ("no-az-a split", 20.0)]);
    let now = break_zone(&mut engine, id, 0);
    near(
        &mix_of(&mut engine, id, now),
        &[("no-az-a split", 19.0), ("no-az-a moved", 76.0), ("503 abort", 5.0)],
    );
}

#[test]
fn what_is_moved_is_bounded_by_share_and_by_rate() {
    let spill = SpillPolicy { max_share: Some(0.5), ..SpillPolicy::default() };
    let (mut by_share, id) =
        engine(service(&ABC, ServicePolicy { spill: Some(spill), ..ServicePolicy::default() }));
    let now = break_zone(&mut by_share, id, 0);
    near(&mix_of(&mut by_share, id, now), &[("no-az-a moved", 50.0), ("503 spill", 50.0)]);

    let spill = SpillPolicy { max_rps: Some(100), ..SpillPolicy::default() };
    let (mut by_rate, id) =
        engine(service(&ABC, ServicePolicy { spill: Some(spill), ..ServicePolicy::default() }));
    let now = break_zone(&mut by_rate, id, 0);
    let passed = (0..4_000).filter(|ms| {
        matches!(
            by_rate.decide(id, Now(now.0 + ms), Coin::User(ms * 1_000_000), || false),
            Decision::Serve { .. }
        )
    });
    assert!((495..=505).contains(&passed.count()), "a second's worth at once, then 100 a second");
}

#[test]
fn attempts_of_an_earlier_state_are_not_charged() {
    let (mut engine, id) = engine(service(&ABC, eventual()));
    let [a, b] = [0, 1].map(ZoneId);
    let early = engine.attempt(id, a, 0);
    let other = engine.attempt(id, b, 0);
    break_zone(&mut engine, id, 0);
    assert_eq!(engine.finish(&early, Outcome::Failed, MS), Bump { late: true, ..Bump::default() });
    assert!(engine.finish(&other, Outcome::Ok, MS).ok, "the other zone's state did not change");
    let now = engine.attempt(id, a, 2 * MS);
    assert!(engine.finish(&now, Outcome::ConnectFailed, 3 * MS).connect);
}

#[test]
fn a_client_that_went_away_counts_for_nothing() {
    let (mut engine, id) = engine(service(&ABC, eventual()));
    let attempt = engine.attempt(id, ZoneId(0), 0);
    assert_eq!(engine.finish(&attempt, Outcome::Neutral, MS), Bump::default());
}

#[test]
fn a_proxy_that_stood_still_does_not_blame_its_zone() {
    // A tick in which everything that ended was slow, and another; in time, or after 450 ms without a tick.
    let left = |gap_ms: u64| {
        let strong = ServicePolicy { mode: Mode::Strong, ..ServicePolicy::default() };
        let (mut engine, id) = engine(service(&ABC, strong));
        let (mut totals, mut now) = ([Totals::default(); 3], NOW.0);
        let mut ends = |slow: u64, after_ms: u64, engine: &mut Engine| {
            now += after_ms;
            totals[0].ok += 30;
            totals[0].slow += slow;
            totals[0].settled += slow;
            engine.tick(id, Now(now), &totals).is_some()
        };
        assert!((0..100).all(|_| !ends(0, 100, &mut engine)));
        let left = ends(30, gap_ms, &mut engine) | ends(30, 100, &mut engine);
        (left, (0..10).any(|_| ends(30, 100, &mut engine)))
    };
    assert!(left(100).0);
    assert_eq!(left(450), (false, true), "what goes on is no accident");
}

#[test]
fn slow_is_told_from_what_is_usual_and_counted_once() {
    let (mut engine, id) = engine(service(&ABC, eventual()));
    let mut totals = vec![Totals::default(); 3];
    for tick in 0..40_u64 {
        for i in 0..3 {
            let began = (NOW.0 + tick * 100) * MS;
            let attempt = engine.attempt(id, ZoneId(i), began);
            let bump = engine.finish(&attempt, Outcome::Ok, began + 10 * MS);
            assert!(bump.ok && !bump.slow);
            totals[usize::from(i)].ok += 1;
        }
        engine.tick(id, Now(NOW.0 + tick * 100), &totals);
    }
    let began = (NOW.0 + 5_000) * MS;
    let (quick, slow) = (engine.attempt(id, ZoneId(1), began), engine.attempt(id, ZoneId(1), began));
    assert!(!engine.finish(&quick, Outcome::Ok, began + 50 * MS).slow);
    assert!(engine.finish(&slow, Outcome::Ok, began + 90 * MS).slow);
    let hanging = engine.attempt(id, ZoneId(1), began);
    assert_eq!(engine.sweep(id, ZoneId(1), began + 300 * MS).slow, 1);
    let bump = engine.finish(&hanging, Outcome::Ok, began + 400 * MS);
    assert!(bump.ok && !bump.slow, "it was counted when it became overdue");
}

/// A stream may go on for days: it is good when it has lasted, and its end is then no news, whatever it is.
#[test]
fn an_answer_that_goes_on_counts_when_it_has_lasted_and_once() {
    let (mut engine, id) = engine(service(&ABC, eventual()));
    let began = NOW.0 * MS;
    let mut open = || {
        let mut attempt = engine.attempt(id, ZoneId(0), began);
        engine.answered(&mut attempt, began + 10 * MS);
        assert!(!engine.goes_on(&mut attempt));
        attempt
    };
    let (short, cut, long, cut_late) = (open(), open(), open(), open());
    assert!(engine.finish(&short, Outcome::Ok, began + 20 * MS).ok);
    assert_eq!(engine.sweep(id, ZoneId(0), began + 2_900 * MS), Swept::default());
    assert!(engine.finish(&cut, Outcome::Failed, began + 2_900 * MS).fail, "not so soon");
    assert_eq!(engine.sweep(id, ZoneId(0), began + 3_500 * MS), Swept { ok: 2, ..Swept::default() });
    assert_eq!(engine.sweep(id, ZoneId(0), began + 3_600 * MS), Swept::default());
    assert_eq!(engine.finish(&long, Outcome::Ok, began + 60_000 * MS), Bump::default());
    assert_eq!(engine.finish(&cut_late, Outcome::Failed, began + 60_000 * MS), Bump::default());
}

/// Both what had been counted before a transition and what had not been are counted once.
#[test]
fn a_transition_overtakes_answers_that_go_on() {
    let (mut engine, id) = engine(service(&ABC, eventual()));
    let began = NOW.0 * MS;
    let mut old = engine.attempt(id, ZoneId(0), began);
    engine.answered(&mut old, began);
    engine.goes_on(&mut old);
    let counted = engine.sweep(id, ZoneId(0), began + 4_000 * MS);
    assert_eq!(counted.ok, 1);
    let mut young = engine.attempt(id, ZoneId(0), began + 4_000 * MS);
    engine.answered(&mut young, began + 4_000 * MS);
    engine.goes_on(&mut young);
    break_zone(&mut engine, id, 0);
    let overtaken = engine.sweep(id, ZoneId(0), began + 9_000 * MS);
    assert_eq!(overtaken, Swept { late: 1, ..Swept::default() });
    for attempt in [old, young] {
        assert_eq!(engine.finish(&attempt, Outcome::Ok, began + 9_000 * MS), Bump::default());
    }
    assert_eq!(engine.sweep(id, ZoneId(0), began + 20_000 * MS), Swept::default());
}

/// Please less, not implemented, a client that did not stay: no news of a zone, but an answer of one that is on trial.
#[test]
fn an_answer_that_says_nothing_counts_for_a_zone_on_trial() {
    let (mut engine, id) = engine(service(&ABC, eventual()));
    let attempt = engine.attempt(id, ZoneId(0), 0);
    assert_eq!(engine.finish(&attempt, Outcome::Answered, MS), Bump::default());
    let opened = break_zone(&mut engine, id, 0);
    let now = Now(opened.0 + 6_000);
    let proposal = engine.tick(id, now, &[Totals::default(); 3]).unwrap();
    engine.adopt(id, &proposal.state, now).unwrap();
    assert_eq!(engine.zone_state(id, ZoneId(0), now).state, State::HalfOpen);
    let attempt = engine.attempt(id, ZoneId(0), 0);
    assert!(engine.finish(&attempt, Outcome::Answered, MS).ok);
    let attempt = engine.attempt(id, ZoneId(0), 0);
    assert_eq!(engine.finish(&attempt, Outcome::Neutral, MS), Bump::default());
}

#[test]
fn a_new_worker_takes_what_was_agreed_on() {
    let (mut old, id) = engine(service(&ABC, eventual()));
    let now = break_zone(&mut old, id, 1);
    let (mut new, _) = engine(service(&ABC, eventual()));
    let told = new.adopt(id, &old.encoded(id), now).unwrap();
    assert_eq!((told.len(), told[0].to, told[0].cause), (1, State::Open, Cause::Failures));
    assert_eq!((new.encoded(id), new.epoch(id)), (old.encoded(id), 1));
    assert_eq!(new.adopt(id, &old.encoded(id), now), Ok(Vec::new()), "nothing new");
    assert!(new.adopt(id, b"garbage", now).is_err());
    assert_eq!(new.epoch(id), 1);
    // Its first reading of counters that others filled tells it nothing.
    let totals = [
        Totals { ok: 1_000, ..Totals::default() },
        Totals { fail: 9_000, ..Totals::default() },
        Totals::default(),
    ];
    assert_eq!(new.tick(id, now, &totals), None);
}

#[test]
fn a_log_line_names_its_evidence() {
    let (mut engine, id) = engine(service(&ABC, eventual()));
    let mut totals = vec![Totals::default(); 3];
    let line = (0..100).find_map(|tick| {
        totals.iter_mut().for_each(|totals| totals.ok += 20);
        totals[2].connect += if tick > 60 { 20 } else { 0 };
        totals[2].fail += if tick > 60 { 20 } else { 0 };
        totals[2].ok -= if tick > 60 { 20 } else { 0 };
        engine.tick(id, Now(NOW.0 + tick * 100), &totals).map(|proposal| proposal.transitions[0].to_string())
    });
    let line = line.unwrap();
    assert!(
        line.starts_with(
            "order-svc az-c closed -> open (failures): 20 of 40 bad in 200ms, peers 0 of 80, bound 3.6 %, "
        ),
        "{line}"
    );
    assert!(line.contains("score 39.4 of 9;") && line.ends_with("epoch 1"), "{line}");
}

#[test]
fn a_new_policy_keeps_ids_apart_and_knowledge_together() {
    let abc = service(&ABC, eventual());
    let (mut engine, id) = engine(abc.clone());
    let now = break_zone(&mut engine, id, 1);
    let flying = engine.attempt(id, ZoneId(0), 0);
    // The same again changes nothing.
    engine.configure(&config(&[("order-svc", abc.clone())]), Some(&zone("az-a")), now);
    assert!(engine.finish(&flying, Outcome::Ok, MS).ok);
    // A service before it moves it to another place: what is in flight there is nobody's.
    let flying = engine.attempt(id, ZoneId(0), 0);
    engine.configure(&config(&[("cart-svc", abc.clone()), ("order-svc", abc)]), Some(&zone("az-a")), now);
    assert!(engine.finish(&flying, Outcome::Failed, MS).late);
    let moved = engine.service("order-svc").unwrap();
    assert_eq!((moved.index(), engine.epoch(moved)), (1, 1));
    assert_eq!(engine.zone_state(moved, ZoneId(1), now).state, State::Open);
    assert_eq!(engine.zone_state(engine.service("cart-svc").unwrap(), ZoneId(1), now).state, State::Closed);
    // A zone that goes takes its state along, and the others keep theirs.
    engine.configure(&config(&[("order-svc", service(&["az-b", "az-c"], eventual()))]), None, now);
    let left = engine.service("order-svc").unwrap();
    assert_eq!(engine.zones(left), [zone("az-b"), zone("az-c")]);
    assert_eq!(engine.zone_state(left, ZoneId(0), now).state, State::Open);
    assert_eq!(engine.services().count(), 1);
}

/// What grows with services and zones stays small. (That all of it fits into a megabyte is measured where it runs, in wasm32:
/// `tests/wasm.rs`.)
#[test]
fn a_zone_and_a_service_are_small() {
    use crate::{breaker::ZoneState, engine::cell::Cell, engine::service::Service};
    assert!(size_of::<Cell>() <= 504, "{}", size_of::<Cell>());
    assert!(size_of::<ZoneState>() <= 40, "{}", size_of::<ZoneState>());
    assert!(size_of::<Service>() <= 552, "{}", size_of::<Service>());
}
