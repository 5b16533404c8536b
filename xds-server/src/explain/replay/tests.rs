//! Series made by hand, replayed.

use std::collections::BTreeMap;

use zonebreak_core::{names::ServiceName, policy::ServicePolicy};

use super::*;

/// What each zone counts in a tick: answered properly, failed.
type Tick = [(u64, u64); 3];

const WELL: Tick = [(7, 0), (7, 0), (7, 0)];
const BROKEN: Tick = [(0, 7), (7, 0), (7, 0)];
const GONE: Tick = [(0, 0), (10, 0), (10, 0)];
const START: u64 = 1_764_101_640_000;

fn zones() -> Vec<Zone> {
    ["az-a", "az-b", "az-c"].iter().map(|name| Zone::new(name).unwrap()).collect()
}

/// A sample every `every` ticks, with the state of az-a by the gauge, if it is told.
fn series(parts: &[(usize, Tick, Option<u8>)], every: usize) -> Series {
    let mut sums = [Reading { state: parts[0].2.map(|_| 0), ..Reading::default() }; 3];
    sums[0].state = parts[0].2;
    let mut points = vec![(START, sums.map(Some).to_vec())];
    let ticks = parts.iter().flat_map(|(times, tick, state)| std::iter::repeat_n((tick, state), *times));
    for (i, (tick, state)) in (1..).zip(ticks) {
        for (sum, (ok, fail)) in sums.iter_mut().zip(tick) {
            (sum.ok, sum.fail, sum.state) = (sum.ok + ok, sum.fail + fail, state.map(|_| 0));
        }
        sums[0].state = *state;
        if i % every as u64 == 0 {
            points.push((START + i * 100, sums.map(Some).to_vec()));
        }
    }
    Series { service: ServiceName::new("order-svc").unwrap(), zones: zones(), points }
}

fn setup(policy: &str) -> Setup {
    let policy: ServicePolicy = serde_json::from_str(policy).unwrap();
    let config = ServiceConfig {
        zones: zones().into_iter().map(|zone| (zone, 33)).collect::<BTreeMap<_, _>>(),
        policy,
        shifts: Vec::new(),
    };
    Setup { config, source: PolicySource::Given, own_zone: None, follow: true, moments: Vec::new() }
}

fn replayed(series: &Series, setup: Setup) -> Explanation {
    replay(series, setup, Vec::new()).unwrap()
}

fn moves(told: &Explanation) -> Vec<(u64, String)> {
    let of = |row: &TransitionRow| (row.offset_ms, format!("{} {} ({})", row.zone, row.to, row.cause));
    told.transitions.iter().map(of).collect()
}

#[test]
fn a_trip_is_explained_by_its_numbers() {
    let told = replayed(&series(&[(300, WELL, None), (3, BROKEN, None), (20, GONE, None)], 1), setup("{}"));
    assert_eq!(moves(&told), [(30_200, "az-a open (failures)".to_owned())]);
    let evidence = told.transitions[0].evidence.unwrap();
    assert_eq!((evidence.k, evidence.n, evidence.peer_k, evidence.peer_n), (14, 14, 0, 28));
    assert_eq!(
        told.transitions[0].words[0],
        "14 of 14 requests to az-a failed in 200 ms; in the other zones 0 of 28."
    );
    assert_eq!((told.zones[0].trips, told.zones[0].failed), (1, 21));
    assert_eq!(told.zones[1].words, "never left; no request to it was bad");
}

#[test]
fn what_was_missing_is_said() {
    let uneasy = [(5, 2), (5, 1), (6, 2)];
    let told = replayed(&series(&[(300, WELL, None), (50, uneasy, None)], 1), setup("{}"));
    assert_eq!(moves(&told), []);
    let nearest = told.zones[0].nearest.as_ref().unwrap();
    assert!(nearest.window.missing.is_some(), "{nearest:?}");
    assert!(told.zones[0].words.contains("never left; nearest at +"), "{}", told.zones[0].words);
}

#[test]
fn a_guard_rail_in_the_way_is_named() {
    // az-a is left, and while it is away az-b dies.
    let both = [(0, 0), (0, 10), (10, 0)];
    let parts = [(300, WELL, None), (3, BROKEN, None), (20, GONE, None), (10, both, None)];
    let mut setup = setup(r#"{"breaker": {"open": "60s"}}"#);
    setup.moments = vec![START + 33_200];
    let told = replayed(&series(&parts, 1), setup);
    assert_eq!(moves(&told).len(), 1);
    assert!(
        told.zones[1].words.ends_with("az-a is away, and no more zones may be (max_open_zones)"),
        "{}",
        told.zones[1].words
    );
    let az_b = &told.moments[0].zones[1];
    assert_eq!(
        (told.moments[0].offset_ms, az_b.guard.as_deref()),
        (33_200, Some("az-a is away, and no more zones may be (max_open_zones)"))
    );
    assert!(az_b.windows.iter().any(|window| window.missing.is_none()), "but for that it would be left");
}

#[test]
fn missing_samples_cost_precision_only() {
    let parts = [(300, WELL, None), (10, BROKEN, None), (20, GONE, None)];
    let mut holed = series(&parts, 1);
    holed.points.retain(|(at, _)| !(START + 29_900..START + 30_900).contains(at));
    let told = replayed(&holed, setup("{}"));
    assert_eq!(moves(&told).len(), 1);
    assert!(told.notes[0].starts_with("samples are up to 1.1 s apart"), "{:?}", told.notes);
    // A scrape every 5 s.
    let told = replayed(&series(&[(300, WELL, None), (100, BROKEN, None)], 50), setup("{}"));
    assert_eq!(moves(&told)[0].1, "az-a open (failures)");
    assert!(told.notes[0].starts_with("samples are up to 5 s apart"), "{:?}", told.notes);
}

#[test]
fn counters_that_begin_anew_are_no_failures() {
    let mut twice = series(&[(300, WELL, None)], 1);
    let later = series(&[(100, WELL, None)], 1);
    twice.points.extend(later.points.into_iter().map(|(at, zones)| (at + 30_100, zones)));
    let told = replayed(&twice, setup("{}"));
    assert_eq!((moves(&told), told.zones[0].attempts), (vec![], 2_800));
    assert!(told.notes[0].starts_with("the counters began anew"), "{:?}", told.notes);
}

#[test]
fn it_keeps_step_with_the_filter() {
    // The filter left az-a a little later, and tried it after 4.4 s and not after 5.
    let parts = [
        (300, WELL, Some(0)),
        (3, BROKEN, Some(0)),
        (44, GONE, Some(1)),
        (60, [(1, 0), (10, 0), (10, 0)], Some(2)),
        (20, [(2, 0), (10, 0), (10, 0)], Some(3)),
    ];
    let told = replayed(&series(&parts, 1), setup("{}"));
    let expected = [(30_200, "az-a open (failures)"), (34_800, "az-a half_open (elapsed)")];
    assert_eq!(moves(&told)[..2], expected.map(|(at, what)| (at, what.to_owned())));
    assert!(moves(&told)[2].1.ends_with("az-a ramp (trials_passed)"), "{told:#?}");
    assert_eq!(told.transitions[0].filter_at.map(|at| at.as_millisecond() as u64), Some(START + 30_400));
}

#[test]
fn it_keeps_step_from_one_scrape_to_the_next() {
    // A scrape every 5 s: what the filter did in between is known no better than that.
    let parts = [(320, WELL, Some(0)), (10, BROKEN, Some(1)), (120, GONE, Some(1))];
    let told = replayed(&series(&parts, 50), setup(r#"{"breaker": {"open": "60s"}}"#));
    let expected = vec!["az-a open (failures)".to_owned()];
    assert_eq!(moves(&told).into_iter().map(|(_, what)| what).collect::<Vec<_>>(), expected);
    assert_eq!(told.filter, Some(Agreement { transitions: 1, explained: 1 }), "{told:#?}");
}

#[test]
fn a_move_of_the_filter_that_is_not_understood_is_told_as_one() {
    let told = replayed(&series(&[(300, WELL, Some(0)), (30, WELL, Some(1))], 1), setup("{}"));
    assert_eq!(moves(&told), [(31_100, "az-a open (unknown)".to_owned())]);
    assert_eq!(told.filter, Some(Agreement { transitions: 1, explained: 0 }));
    // And a zone that is away from the beginning is no transition.
    let told = replayed(&series(&[(100, GONE, Some(1))], 1), setup("{}"));
    assert_eq!(moves(&told), []);
    assert!(
        told.notes.iter().any(|note| note.starts_with("az-a is open as the recording begins")),
        "{:?}",
        told.notes
    );
}

#[test]
fn a_drained_zone_is_nobodys_peer() {
    // az-b and az-c fail like az-a, and are drained: nothing to compare az-a with, and nowhere to go.
    let all = [(0, 7), (0, 7), (0, 7)];
    let mut drained = series(&[(300, WELL, Some(0)), (50, all, Some(0))], 1);
    for (_, zones) in &mut drained.points {
        for reading in zones.iter_mut().skip(1).flatten() {
            (reading.state, reading.keep) = (Some(4), Some(0));
        }
    }
    let told = replayed(&drained, setup("{}"));
    assert_eq!(moves(&told), []);
    assert!(told.zones[0].words.ends_with("no other zone could take its load"), "{}", told.zones[0].words);
    assert!(told.zones[1].nearest.as_ref().unwrap().guard.is_some());
}

#[test]
fn another_policy_is_a_what_if() {
    let parts = [(300, WELL, Some(0)), (50, [(5, 2), (7, 0), (7, 0)], Some(0))];
    let what_if = Setup { follow: false, ..setup(r#"{"breaker": {"sensitivity": "fast"}}"#) };
    let told = replayed(&series(&parts, 1), what_if);
    assert_eq!((told.transitions[0].cause.as_str(), told.filter), ("failures", None));
    assert!(told.notes[0].starts_with("what if:"), "{:?}", told.notes);
}

#[test]
fn what_cannot_be_replayed_is_refused_with_the_reason() {
    let series = series(&[(10, WELL, None)], 1);
    let refused = |setup: Setup| replay(&series, setup, Vec::new()).unwrap_err().to_string();
    assert!(refused(setup(r#"{"breaker": {"detector": "consecutive"}}"#)).contains("order of results"));
    let outside = Setup { moments: vec![START + 1_001], ..setup("{}") };
    assert!(refused(outside).contains("is not in the recording, which goes from 2025-11-25T"));
    let mut far = series.clone();
    far.points.push((START + 100 * 24 * 3_600_000, far.points[0].1.clone()));
    let error = replay(&far, setup("{}"), Vec::new()).unwrap_err();
    assert!(error.to_string().starts_with("nothing was recorded from"), "{error}");
    far.points.last_mut().unwrap().0 = u64::MAX;
    assert!(matches!(replay(&far, setup("{}"), Vec::new()), Err(ReplayError::Time { .. })));
}
