//! The moves of the machine, one by one, on windows made up by hand.

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::*;
use crate::{policy::BreakerPolicy, window::Windows};

const NOW: u64 = 1_700_000_000_000;
const NAMES: Names<'static> = Names { service: "order-svc", zone: "az-a" };

/// Zones by what their last seconds held: attempts and failures.
struct Scene {
    state: ServiceState,
    tuning: Tuning,
    windows: Vec<Windows>,
    since: Vec<Counts>,
    shifts: Vec<Shifted>,
    endpoints: Vec<bool>,
    run: Option<Evidence>,
}

fn counts(n: u32, fail: u32) -> Counts {
    Counts { n, timed: n, fail, ..Counts::default() }
}

impl Scene {
    fn new(seen: &[(u32, u32)]) -> Self {
        let windows = seen.iter().map(|(n, fail)| {
            let mut windows = Windows::default();
            windows.add(counts(*n, *fail));
            windows
        });
        Self {
            state: ServiceState { zones: vec![ZoneState::default(); seen.len()], ..ServiceState::default() },
            tuning: Tuning::default(),
            windows: windows.collect(),
            since: vec![Counts::default(); seen.len()],
            shifts: vec![Shifted::No; seen.len()],
            endpoints: vec![true; seen.len()],
            run: None,
        }
    }

    fn in_state(mut self, zone: usize, state: State, cause: Cause, before: u16) -> Self {
        let until = NOW + 5_000;
        self.state.zones[zone] =
            ZoneState { state, cause, before, since: NOW, until, reopens: 1, ..ZoneState::default() };
        self
    }

    fn step_at(&self, now: u64) -> Option<(usize, State, Cause)> {
        let sights: Vec<_> = (0..self.windows.len())
            .map(|i| Sight {
                shifted: Some(1.0),
                past: self.windows[i].profile(),
                past_ms: u64::MAX,
                since: self.since[i],
                shift: self.shifts[i],
                has_endpoints: self.endpoints[i],
                run: self.run,
            })
            .collect();
        step(&self.state, &self.tuning, &sights, now).map(|mv| (mv.zone, mv.to, mv.cause))
    }

    fn step(&self) -> Option<(usize, State, Cause)> {
        self.step_at(NOW)
    }
}

const DEAD: (u32, u32) = (60, 60);
const WELL: (u32, u32) = (60, 0);

#[test]
fn the_zone_with_the_strongest_case_is_left() {
    assert_eq!(Scene::new(&[WELL, DEAD, WELL]).step(), Some((1, State::Open, Cause::Failures)));
    assert_eq!(
        Scene::new(&[WELL, (60, 40), DEAD, WELL, WELL]).step(),
        Some((2, State::Open, Cause::Failures))
    );
    assert_eq!(Scene::new(&[WELL, WELL, WELL]).step(), None);
    assert_eq!(Scene::new(&[DEAD, DEAD, DEAD]).step(), None);
}

#[test]
fn one_zone_at_a_time() {
    for state in [State::Open, State::HalfOpen, State::Ramp] {
        let scene = Scene::new(&[WELL, DEAD, WELL]).in_state(0, state, Cause::Elapsed, 0);
        assert_eq!(scene.step(), None, "{state}");
    }
}

#[test]
fn the_last_zone_is_never_left() {
    for spoil in [
        |scene: &mut Scene| scene.shifts[0] = Shifted::Whole,
        |scene: &mut Scene| scene.shifts[0] = Shifted::Part,
        |scene: &mut Scene| scene.endpoints[0] = false,
    ] {
        let mut scene = Scene::new(&[WELL, DEAD]);
        assert!(scene.step().is_some());
        spoil(&mut scene);
        assert_eq!(scene.step(), None);
        let mut left = Scene::new(&[WELL, DEAD]).in_state(1, State::Open, Cause::Elapsed, 0);
        spoil(&mut left);
        assert_eq!(left.step(), Some((1, State::Closed, Cause::LastZone)));
    }
}

#[test]
fn what_the_operator_drains_or_holds_is_not_the_breakers_business() {
    for shift in [Shifted::Whole, Shifted::Held] {
        let mut scene = Scene::new(&[WELL, DEAD, WELL]);
        scene.shifts[1] = shift;
        assert_eq!(scene.step(), None, "{shift:?}");
        let mut left = Scene::new(&[WELL, DEAD, WELL]).in_state(1, State::Open, Cause::Failures, 900);
        left.shifts[1] = shift;
        assert_eq!(left.step(), Some((1, State::Closed, Cause::Operator)));
    }
    let mut scene = Scene::new(&[WELL, DEAD, WELL]);
    scene.shifts[1] = Shifted::Part;
    assert!(scene.step().is_some(), "a zone drained in part can still be left");
}

#[test]
fn a_move_is_checked_once_its_effect_shows() {
    let no_gain = Some((0, State::Closed, Cause::NoGain));
    let bad_everywhere = Scene::new(&[WELL, DEAD, DEAD]).in_state(0, State::Open, Cause::Failures, 900);
    assert_eq!(bad_everywhere.step_at(NOW + 1_900), None);
    assert_eq!(bad_everywhere.step_at(NOW + 2_000), no_gain);
    let better = Scene::new(&[WELL, (60, 30), (60, 30)]).in_state(0, State::Open, Cause::Failures, 900);
    assert_eq!(better.step_at(NOW + 2_000), None);
    let few = Scene::new(&[WELL, (4, 4), (5, 5)]).in_state(0, State::Open, Cause::Failures, 900);
    assert_eq!(few.step_at(NOW + 2_000), None);
    let knocked = Scene::new(&[WELL, DEAD, DEAD]).in_state(0, State::Open, Cause::TrialsFailed, 900);
    assert_eq!(knocked.step_at(NOW + 2_000), None, "no move was made");
    let mut shadow = Scene::new(&[WELL, DEAD, DEAD]).in_state(0, State::Open, Cause::Failures, 900);
    shadow.tuning.enforcement = Enforcement::Shadow;
    assert_eq!(shadow.step_at(NOW + 2_000), None, "nor in shadow");
}

#[test]
fn a_zone_held_closed_stays_closed_until_its_time() {
    let mut scene = Scene::new(&[WELL, DEAD, WELL]).in_state(1, State::Closed, Cause::NoGain, 0);
    scene.state.zones[1].until = NOW + 60_000;
    assert_eq!(scene.step_at(NOW + 59_000), None);
    assert!(scene.step_at(NOW + 60_000).is_some());
}

#[test]
fn trials_are_judged_as_they_come_in() {
    let half_open = |n, fail| {
        let mut scene =
            Scene::new(&[WELL, (600, 2), (600, 2)]).in_state(0, State::HalfOpen, Cause::Elapsed, 0);
        scene.since[0] = counts(n, fail);
        scene
    };
    let reopened = Some((0, State::Open, Cause::TrialsFailed));
    let ramped = Some((0, State::Ramp, Cause::TrialsPassed));
    assert_eq!(half_open(1, 1).step(), reopened);
    assert_eq!(half_open(8, 1).step(), None);
    assert_eq!(half_open(19, 0).step(), None);
    assert_eq!(half_open(20, 1).step(), ramped);
    assert_eq!(half_open(20, 2).step(), reopened);
    assert_eq!(half_open(5, 0).step_at(NOW + 9_000), None);
    assert_eq!(half_open(5, 0).step_at(NOW + 10_000), ramped);
    assert_eq!(half_open(8, 1).step_at(NOW + 30_000), reopened);
    assert_eq!(half_open(1, 0).step_at(NOW + 30_000), ramped);
    assert_eq!(half_open(0, 0).step_at(NOW + 3_000_000), None);
    let mut rough = half_open(20, 4);
    rough.windows[1].add(counts(1_000, 200));
    assert_eq!(rough.step(), ramped, "four bad of twenty are what the others have too");
}

#[test]
fn consecutive_trials_allow_no_failure() {
    let half_open = |n, fail| {
        let mut scene = Scene::new(&[WELL, WELL, WELL]).in_state(0, State::HalfOpen, Cause::Elapsed, 0);
        let policy = BreakerPolicy { detector: DetectorKind::Consecutive, ..BreakerPolicy::default() };
        scene.tuning = Tuning::from(&policy);
        scene.since[0] = counts(n, fail);
        scene
    };
    assert_eq!(half_open(99, 0).step(), None);
    assert_eq!(half_open(100, 0).step(), Some((0, State::Ramp, Cause::TrialsPassed)));
    assert_eq!(half_open(60, 1).step(), Some((0, State::Open, Cause::TrialsFailed)));
}

#[test]
fn a_ramp_ends_or_slips_back() {
    let scene = Scene::new(&[(30, 0), WELL, WELL]).in_state(0, State::Ramp, Cause::TrialsPassed, 0);
    assert_eq!(scene.step_at(NOW + 19_999), None);
    assert_eq!(scene.step_at(NOW + 20_000), Some((0, State::Closed, Cause::Ramped)));
    let sick = Scene::new(&[(30, 30), WELL, WELL]).in_state(0, State::Ramp, Cause::TrialsPassed, 0);
    assert_eq!(sick.step_at(NOW + 3_000), Some((0, State::Open, Cause::Failures)));
}

#[test]
fn a_ramp_doubles_its_share_in_equal_times() {
    let zone = ZoneState { state: State::Ramp, since: NOW, ..ZoneState::default() };
    let tuning = Tuning::default();
    let keep = |s: u64| zone.keep(&tuning, NOW + s * 1_000);
    assert!((keep(0) - 0.05).abs() < 1e-9);
    assert!((keep(10) / keep(5) - keep(15) / keep(10)).abs() < 1e-9);
    assert!(keep(19) < 1.0 && keep(20) == 1.0);
    assert_eq!(zone.keep(&Tuning { ramp_ms: 0, ..tuning }, NOW), 1.0);
    assert_eq!(
        zone.keep(&tuning, NOW - 3_600_000),
        1.0,
        "a clock set back ends the ramp rather than hold it"
    );
}

#[test]
fn a_policy_turned_off_closes_everything() {
    let mut scene = Scene::new(&[WELL, DEAD, WELL]);
    scene.tuning.enforcement = Enforcement::Disabled;
    assert_eq!(scene.step(), None);
    let mut open = scene.in_state(1, State::Open, Cause::Failures, 900);
    open.tuning.enforcement = Enforcement::Disabled;
    assert_eq!(open.step(), Some((1, State::Closed, Cause::TurnedOff)));
}

#[test]
fn time_in_the_open_state_doubles_and_is_jittered_alike_by_all() {
    let tuning = Tuning::default();
    let open = |zone| Move { zone, to: State::Open, cause: Cause::TrialsFailed, evidence: None, before: 0 };
    let half = |zone| Move { to: State::HalfOpen, cause: Cause::Elapsed, ..open(zone) };
    let mut state = ServiceState { zones: vec![ZoneState::default(); 2], ..ServiceState::default() };
    let mut plain = 5_000_u64;
    for _ in 0..8 {
        state = state.after(&open(0), &tuning, NAMES, NOW);
        assert_eq!(state, state.clone(), "no hidden chance");
        let got = state.zones[0].until - NOW;
        assert!(got >= plain * 9 / 10 && got <= plain * 11 / 10, "{got} is not about {plain}");
        plain = (plain * 2).min(60_000);
        state = state.after(&half(0), &tuning, NAMES, NOW);
    }
    // Another proxy, another jitter; another worker, the same.
    let mut other = state.clone();
    assert_eq!(state.after(&open(0), &tuning, NAMES, NOW), other.after(&open(0), &tuning, NAMES, NOW));
    other.seed ^= 4;
    assert_ne!(state.after(&open(0), &tuning, NAMES, NOW), other.after(&open(0), &tuning, NAMES, NOW));
    assert_ne!(
        state.after(&open(0), &tuning, NAMES, NOW).zones[0].until,
        state.after(&open(0), &tuning, Names { zone: "az-b", ..NAMES }, NOW).zones[0].until
    );
}

#[test]
fn a_zone_that_settled_starts_from_the_bottom() {
    let tuning = Tuning::default();
    let to = |to| Move { zone: 0, to, cause: Cause::Failures, evidence: None, before: 0 };
    let fresh = ServiceState { zones: vec![ZoneState::default()], ..ServiceState::default() };
    let closed =
        fresh.after(&to(State::Open), &tuning, NAMES, NOW).after(&to(State::Closed), &tuning, NAMES, NOW);
    let soon = closed.after(&to(State::Open), &tuning, NAMES, NOW + 59_000);
    let late = closed.after(&to(State::Open), &tuning, NAMES, NOW + 60_000);
    assert_eq!((soon.zones[0].reopens, late.zones[0].reopens), (2, 1));
}

#[test]
fn a_first_opening_longer_than_a_minute_is_not_cut() {
    let tuning = Tuning { open_ms: 600_000, ..Tuning::default() };
    assert_eq!(open_ms(&tuning, 1, 0.5), 600_000);
    assert_eq!(open_ms(&tuning, 9, 0.5), 600_000);
}
