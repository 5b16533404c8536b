//! What the log and the auditors are told of a change.

use jiff::{SignedDuration, Timestamp};
use zonebreak_topology::registry::{self, Registry};

use super::*;

const SHIFT: &str = r#"{"keep_percent": 0, "reason": "test", "actor": "eve", "started_at": "2026-01-01T00:00:00Z",
    "expires_at": "2026-01-01T01:00:00Z"}"#;

fn at(minute: i64) -> Timestamp {
    "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_mins(minute)
}

/// Topologies after each of these puts; an empty value deletes.
fn history(puts: &[(&str, &str)]) -> Vec<Arc<Topology>> {
    let mut registry = Registry::default();
    let step = |(revision, (key, value)): (usize, &(&str, &str))| {
        let (key, mod_revision) = ((*key).to_owned(), i64::try_from(revision).unwrap() + 1);
        registry.apply(match *value {
            "" => registry::Event::Delete { key, mod_revision },
            value => registry::Event::Put { key, value: value.as_bytes().to_vec(), mod_revision },
        });
        registry.topology()
    };
    puts.iter().enumerate().map(step).collect()
}

fn actions(old: Option<&Topology>, new: &Topology, minute: i64) -> Vec<(Action, String)> {
    events(old, new, at(minute)).into_iter().map(|event| (event.action, event.actor)).collect()
}

#[test]
fn the_keys_of_a_change_are_named_and_many_are_counted() {
    let endpoint = r#"{"address": "10.0.0.1", "port": 80, "zone": "az-a"}"#;
    let history = history(&[
        ("zones/az-a", "{}"),
        ("endpoints/s/a", endpoint),
        ("endpoints/s/b", endpoint),
        ("services/s", "{}"),
        ("services/s", "{"),
        ("shifts/az-a/s", SHIFT),
        ("endpoints/s/a", ""),
    ]);
    assert_eq!(keys(&history[0], &history[1]), ["endpoints/s/a"]);
    assert_eq!(keys(&history[3], &history[4]), ["refused services/s"]);
    assert_eq!(keys(&history[4], &history[5]), ["shifts/az-a/s"]);
    assert_eq!(keys(&history[5], &history[6]), ["endpoints/s/a"]);
    assert_eq!(keys(&history[6], &history[6]), [""; 0]);
    let all = keys(&Topology::default(), &history[5]);
    assert_eq!(cause(&all), "zones/az-a, services/s, endpoints/s/a, endpoints/s/b, shifts/az-a/s and 1 more");
    assert_eq!(cause(&all[..5]), all[..5].join(", "));
}

#[test]
fn a_drain_is_told_from_its_beginning_to_its_end() {
    let longer = SHIFT.replace("T01:00", "T02:00");
    let history = history(&[
        ("zones/az-a", "{}"),
        ("shifts/az-a", SHIFT),
        ("shifts/az-a", &longer),
        ("shifts/az-a", ""),
    ]);
    let [none, drained, extended, gone] = &history[..] else { panic!() };
    let eve = || "eve".to_owned();
    assert_eq!(actions(Some(none), drained, 1), [(Action::DrainStarted, eve())]);
    assert_eq!(actions(Some(drained), extended, 2), [(Action::DrainChanged, eve())]);
    assert_eq!(actions(Some(extended), gone, 3), [(Action::DrainRestored, "zonebreak".to_owned())]);
    assert_eq!(actions(Some(extended), gone, 121), [], "it ended by its own time before");
    assert_eq!(
        actions(None, drained, 1),
        [(Action::DrainInForce, eve())],
        "a server that starts did not drain it"
    );
    assert_eq!(actions(None, drained, 61), []);

    assert_eq!(expired(drained, at(58), at(59)).len(), 0);
    assert_eq!(expired(drained, at(59), at(60)).len(), 1, "at its end");
    assert_eq!(expired(drained, at(60), at(61)).len(), 0, "once");
}

#[test]
fn refused_values_are_told_when_they_come_and_when_they_go() {
    let history = history(&[("services/s", "{"), ("services/s", "{}")]);
    let own = |action| [(action, "zonebreak".to_owned())];
    assert_eq!(actions(None, &history[0], 0), own(Action::ValueRefused));
    assert_eq!(actions(Some(&history[0]), &history[1], 0), own(Action::ValueAccepted));
}

#[test]
fn what_nobody_needs_to_try_is_told_from_what_somebody_must() {
    let (a, b) = (
        r#"{"address": "10.0.0.1", "port": 80, "zone": "az-a"}"#,
        r#"{"address": "10.0.0.2", "port": 80, "zone": "az-a"}"#,
    );
    let before = [("zones/az-a", "{}"), ("services/s", "{}"), ("endpoints/s/a", a)];
    let change = |puts: &[(&str, &str)]| {
        let all = history(&[&before, puts].concat());
        let (old, new) = (all[before.len() - 1].clone(), all.last().unwrap().clone());
        let part = at_once(&old, &new);
        let now = part.as_ref().map(|part| keys(&old, part));
        let later = keys(part.as_deref().unwrap_or(&old), &new);
        (careful(&old, &new), now, later)
    };
    let all = |keys: &[&str]| keys.iter().map(ToString::to_string).collect::<Vec<_>>();
    let policy = ("services/s", r#"{"port": 9}"#);
    assert_eq!(change(&[policy]), (true, None, all(&["services/s"])));
    assert_eq!(change(&[("shifts/az-a", SHIFT)]), (false, None, all(&["shifts/az-a"])));
    assert_eq!(change(&[("endpoints/s/b", b)]), (false, None, all(&["endpoints/s/b"])));
    for (key, value) in [("shifts/az-a", SHIFT), ("endpoints/s/b", b), ("endpoints/s/a", "")] {
        for both in [[policy, (key, value)], [(key, value), policy]] {
            assert_eq!(change(&both), (true, Some(all(&[key])), all(&["services/s"])));
        }
    }
    // Nothing without its policy or its zone.
    let comes = [("services/t", "{}"), ("endpoints/t/a", a)];
    assert_eq!(change(&comes), (true, None, all(&["services/t", "endpoints/t/a"])));
    assert_eq!(change(&comes[1..]), (false, None, all(&["endpoints/t/a"])), "it has the default policy");
    let goes = [("endpoints/s/a", ""), ("services/s", "")];
    assert_eq!(change(&goes), (true, None, all(&["services/s", "endpoints/s/a"])));
    let elsewhere = |zone: &str| a.replace("az-a", zone);
    let (new, moved) = (elsewhere("az-n"), elsewhere("n"));
    let zone = ("zones/az-n", r#"{"aliases": ["n"]}"#);
    let found = change(&[zone, ("endpoints/s/n", &new), ("endpoints/s/a", &moved), ("shifts/az-a", SHIFT)]);
    let later = all(&["zones/az-n", "endpoints/s/a", "endpoints/s/n"]);
    assert_eq!(found, (true, Some(all(&["shifts/az-a"])), later));
    // Nor without its alias, or it would be in a zone of that name.
    let alias = ("zones/az-a", r#"{"aliases": ["n"]}"#);
    let found = change(&[alias, ("endpoints/s/n", &moved), ("shifts/az-a", SHIFT)]);
    let later = all(&["zones/az-a", "endpoints/s/n"]);
    assert_eq!(found, (true, Some(all(&["shifts/az-a"])), later));
}
