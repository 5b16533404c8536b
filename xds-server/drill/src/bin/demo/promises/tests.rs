//! A story in which all goes well, and each way in which one figure of it can be bad.

use std::time::Instant;

use zonebreak_drill::lab::{Outcome, Sample};

use super::*;

const S: Duration = Duration::from_secs(1);

/// Seven stretches of five seconds.
fn story(start: Instant) -> Story {
    let window = |n: u32| Window { from: start + 5 * n * S, to: start + 5 * (n + 1) * S };
    let outage = |zone: &str, n| Outage { zone: zone.to_owned(), window: window(n), left: Some(S / 4) };
    let back = |zone: &str, n| Return { zone: zone.to_owned(), window: window(n), closed: Some(4 * S) };
    Story {
        steady: window(0),
        outage: outage("az-a", 1),
        back: back("az-a", 2),
        drain: window(3),
        emptied: Some(Duration::ZERO),
        headless: window(4),
        alone: outage("az-c", 5),
        comeback: back("az-c", 6),
        mistaken: 0,
        behind: Some(0),
    }
}

/// Ten requests a second; the numbers in `failing` failed, and all were `late`.
fn requests(start: Instant, failing: impl Fn(u32) -> bool, late: Duration) -> Requests {
    let sample = |n: u32| Sample {
        due: start + n * S / 10,
        late,
        latency: S / 1_000,
        outcome: Outcome::Status(if failing(n) { 503 } else { 200 }),
        zone: None,
    };
    Requests::new((0..350).map(sample).collect())
}

fn verdicts(
    change: impl Fn(&mut Story),
    failing: impl Fn(u32) -> bool,
    late: Duration,
) -> Vec<(String, Verdict)> {
    let start = Instant::now();
    let mut story = story(start);
    change(&mut story);
    let promises = judge(&story, &requests(start, failing, late));
    promises.into_iter().filter(|p| p.verdict != Verdict::Kept).map(|p| (p.what, p.verdict)).collect()
}

#[test]
fn a_story_in_which_all_goes_well_keeps_every_promise() {
    assert_eq!(verdicts(|_| (), |_| false, Duration::ZERO), []);
}

#[test]
fn lost_requests_are_held_against_their_phase() {
    let missed = |failing: &[u32]| {
        let failing = failing.to_vec();
        verdicts(|_| (), move |n| failing.contains(&n), Duration::ZERO)
            .into_iter()
            .map(|(what, _)| what)
            .collect::<Vec<_>>()
    };
    assert_eq!(missed(&[10]), ["requests failed while all was well"]);
    // Three may be lost while a zone breaks, a fourth may not.
    assert_eq!(missed(&[50, 51, 60]), [""; 0]);
    assert_eq!(missed(&[50, 51, 60, 61]), ["requests lost meanwhile (0.05 % of 30 s at 200/s)"]);
    assert_eq!(missed(&[120]), ["requests failed as az-a came back"]);
    assert_eq!(missed(&[199]), ["requests failed in the drain and the restore"]);
    assert_eq!(missed(&[200]), ["requests failed for want of a control plane"]);
    assert_eq!(missed(&[349]), ["requests failed as az-c and control plane came back"]);
}

#[test]
fn what_never_happened_is_missed_and_said_so() {
    let missed = |change: fn(&mut Story)| verdicts(change, |_| false, Duration::ZERO).len();
    assert_eq!(missed(|story| story.outage.left = None), 1);
    assert_eq!(missed(|story| story.alone.left = Some(S)), 1);
    assert_eq!(missed(|story| story.comeback.closed = None), 1);
    assert_eq!(missed(|story| story.emptied = None), 1);
    assert_eq!(missed(|story| story.mistaken = 1), 1);
    assert_eq!(missed(|story| story.behind = None), 1);
    // An outage without a clean second also loses too much.
    assert_eq!(verdicts(|_| (), |n| (50..100).contains(&n), Duration::ZERO).len(), 2);

    let start = Instant::now();
    let mut story = story(start);
    story.outage.left = None;
    let promises = judge(&story, &requests(start, |_| false, Duration::ZERO));
    let left = promises.iter().find(|promise| promise.what == "az-a left after it broke").unwrap();
    assert_eq!((left.promised(), left.found()), ("0.500 s".to_owned(), "never".to_owned()));
}

#[test]
fn a_starved_machine_is_not_the_products_fault() {
    let unsure = verdicts(|story| story.outage.left = Some(S), |_| false, Duration::from_millis(60));
    assert_eq!(unsure, [("az-a left after it broke".to_owned(), Verdict::Unsure)]);
    let missed = verdicts(|story| story.outage.left = Some(S), |_| false, Duration::from_millis(20));
    assert_eq!(missed, [("az-a left after it broke".to_owned(), Verdict::Missed)]);
}

#[test]
fn every_promise_fits_its_column() {
    let start = Instant::now();
    for promise in judge(&story(start), &requests(start, |_| false, Duration::ZERO)) {
        assert!(promise.what.chars().count() <= crate::table::PROMISE, "too long: {}", promise.what);
    }
}
