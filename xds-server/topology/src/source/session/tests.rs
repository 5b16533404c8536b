//! Losses, listings and holds of a watch, without an etcd.

use super::*;
use crate::registry::Listed;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + seconds).unwrap()
}

fn session() -> Session {
    Session::new(SourceStatus::unconnected(at(0)), None)
}

fn listing(revision: i64, keys: &[&str]) -> Event {
    of_cluster(7, revision, keys)
}

fn of_cluster(cluster: u64, revision: i64, keys: &[&str]) -> Event {
    let entry = |key: &&str| Listed { key: (*key).into(), value: b"{}".to_vec(), mod_revision: 1, lease: 0 };
    Event::Listed(Listing { revision, cluster, entries: keys.iter().map(entry).collect() })
}

fn put(key: &str, revision: i64) -> Event {
    let change = Change::Put { key: key.into(), value: b"{}".to_vec(), mod_revision: revision };
    Event::Changed(vec![change], revision)
}

fn delete(key: &str, revision: i64) -> Event {
    Event::Changed(vec![Change::Delete { key: key.into(), mod_revision: revision }], revision)
}

const fn watch(from: i64) -> Next {
    Next::Watch { from, until: None }
}

/// A session that follows `zones/a` and `zones/b` at revision 10.
fn following() -> Session {
    let mut s = session();
    assert_eq!(s.step(at(0), listing(10, &["zones/a", "zones/b"]), 0), (watch(11), true));
    assert_eq!(s.step(at(0), Event::Watching, 0), (watch(11), false));
    s
}

fn zones(s: &Session) -> String {
    s.registry().topology().zones.keys().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

#[test]
fn it_lists_then_watches_from_the_next_revision() {
    let mut s = following();
    assert!(s.status().connected);
    assert_eq!(s.step(at(1), put("zones/c", 12), 0), (watch(13), true));
    assert_eq!(s.step(at(1), put("zones/c", 14), 0), (watch(15), false), "the same again");
    assert_eq!((zones(&s).as_str(), s.status().revision), ("a b c", 14), "and yet it has been seen");
}

#[test]
fn the_first_listing_is_published_even_when_it_is_empty() {
    let mut s = session();
    assert_eq!(s.step(at(0), listing(1, &[]), 0), (watch(2), true));
    assert_eq!(s.status().held, None, "nothing was lost");
}

#[test]
fn a_loss_is_waited_out_with_growing_pauses_and_listed_again() {
    let mut s = following();
    let mut waits = Vec::new();
    for n in 0..10 {
        let (next, publish) = s.step(at(5), Event::Failed(format!("try {n}")), u64::MAX);
        let Next::Wait(wait) = next else { panic!("{next:?}") };
        assert!(!publish && !s.status().connected);
        assert_eq!(s.status().since, at(5));
        waits.push(wait.as_millis());
        assert_eq!(s.step(at(6), Event::Elapsed, 0), (Next::List, false));
    }
    assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000, 5000]);
    assert_eq!(zones(&s), "a b", "the last good state stays");
    assert_eq!(s.status().last_error.as_deref(), Some("try 9"));

    assert_eq!(s.step(at(9), listing(20, &["zones/a", "zones/b"]), 0), (watch(21), false), "nothing changed");
    assert!(!s.status().connected, "not before the watch is open");
    s.step(at(9), Event::Watching, 0);
    assert_eq!((s.status().connected, s.status().since, &s.status().last_error), (true, at(9), &None));
    let (next, _) = s.step(at(10), Event::Failed("again".into()), u64::MAX);
    assert_eq!(next, Next::Wait(Duration::from_millis(100)), "it starts over");
}

#[test]
fn a_watch_that_cannot_be_opened_does_not_reset_the_pauses() {
    let mut s = following();
    let mut last = Next::List;
    for _ in 0..4 {
        last = s.step(at(1), Event::Failed("compacted".into()), u64::MAX).0;
        s.step(at(1), Event::Elapsed, 0);
        s.step(at(1), listing(20, &["zones/a"]), 0);
    }
    assert_eq!(last, Next::Wait(Duration::from_millis(800)));
}

#[test]
fn what_was_deleted_while_away_goes_with_the_listing() {
    let mut s = following();
    s.step(at(1), Event::Failed("gone".into()), 0);
    s.step(at(2), Event::Elapsed, 0);
    assert_eq!(s.step(at(2), listing(20, &["zones/b", "zones/c"]), 0), (watch(21), true));
    assert_eq!(zones(&s), "b c");
}

#[test]
fn an_etcd_that_comes_back_empty_empties_nothing() {
    let mut s = following();
    s.step(at(1), Event::Failed("gone".into()), 0);
    s.step(at(2), Event::Elapsed, 0);
    assert_eq!(s.step(at(2), listing(1, &[]), 0), (watch(2), false));
    s.step(at(2), Event::Watching, 0);
    assert_eq!(zones(&s), "a b");
    let held = s.status().held.clone().unwrap();
    assert!(
        held.contains("revision 1, was 10") && held.contains("2 keys") && held.contains("until a key"),
        "{held}"
    );

    // The first key that comes back starts the grace, in which all may come back.
    let grace = Next::Watch { from: 3, until: Some(at(130)) };
    assert_eq!(s.step(at(100), put("zones/b", 2), 0), (grace, false), "it is as it was");
    assert_eq!(s.step(at(129), put("zones/d", 3), 0).0, Next::Watch { from: 4, until: Some(at(130)) });
    assert_eq!(zones(&s), "a b d");
    assert_eq!(s.step(at(130), Event::Elapsed, 0), (watch(4), true));
    assert_eq!((zones(&s).as_str(), &s.status().held), ("b d", &None));
}

#[test]
fn a_second_loss_while_held_changes_nothing_about_it() {
    let mut s = following();
    s.step(at(1), Event::Failed("gone".into()), 0);
    s.step(at(2), Event::Elapsed, 0);
    s.step(at(2), listing(3, &["zones/b"]), 0);
    s.step(at(4), Event::Failed("gone".into()), 0);
    s.step(at(5), Event::Elapsed, 0);
    let (next, _) = s.step(at(5), listing(4, &["zones/b"]), 0);
    assert_eq!(next, Next::Watch { from: 5, until: Some(at(32)) }, "the grace runs from the first");
    assert!(s.status().held.as_ref().unwrap().contains("was 10"));
    s.step(at(32), Event::Elapsed, 0);
    assert_eq!(zones(&s), "b");
}

#[test]
fn a_store_that_went_back_in_time_is_laid_over_what_is_known() {
    for event in [listing(5, &["zones/b"]), of_cluster(8, 50, &["zones/b"])] {
        let mut s = following();
        s.step(at(1), Event::Failed("gone".into()), 0);
        s.step(at(2), Event::Elapsed, 0);
        let (next, publish) = s.step(at(2), event, 0);
        assert!(matches!(next, Next::Watch { until: Some(_), .. }) && !publish, "{next:?}");
        assert_eq!(zones(&s), "a b");
        s.step(at(32), Event::Elapsed, 0);
        assert_eq!(zones(&s), "b");
    }
}

#[test]
fn deletes_that_are_seen_count_even_the_last_one() {
    let mut s = following();
    s.step(at(1), delete("zones/a", 11), 0);
    assert_eq!(s.step(at(1), delete("zones/b", 12), 0), (watch(13), true));
    assert_eq!((zones(&s).as_str(), &s.status().held), ("", &None), "an operator meant it");
}

#[test]
fn deletes_count_while_held() {
    let mut s = following();
    s.step(at(1), Event::Failed("gone".into()), 0);
    s.step(at(2), Event::Elapsed, 0);
    s.step(at(2), listing(1, &[]), 0);
    s.step(at(3), put("zones/a", 2), 0);
    s.step(at(4), delete("zones/a", 3), 0);
    assert_eq!(zones(&s), "b");
    s.step(at(33), Event::Elapsed, 0);
    assert_eq!(zones(&s), "");
}

/// A session that starts with `zones/a` and `zones/b` from disk, as of revision 10 of cluster 7.
fn resumed() -> Session {
    let known = following();
    let topology = known.registry().topology();
    let saved = Saved { saved_at: at(-60), prefix: "/p/".into(), cluster: 7, revision: 10, topology };
    Session::new(SourceStatus::unconnected(at(0)), Some(&saved))
}

#[test]
fn what_is_on_disk_is_published_once_etcd_does_not_answer_and_not_before() {
    let mut s = resumed();
    assert_eq!(s.status().saved_at, None, "nothing is published yet");
    let (_, publish) = s.step(at(0), Event::Failed("refused".into()), 0);
    assert!(publish);
    assert_eq!((zones(&s).as_str(), s.status().saved_at, s.status().revision), ("a b", Some(at(-60)), 10));
    s.step(at(1), Event::Elapsed, 0);
    assert!(!s.step(at(1), Event::Failed("refused".into()), 0).1, "once");
    s.step(at(2), Event::Elapsed, 0);
    assert_eq!(s.step(at(2), listing(20, &["zones/a", "zones/c"]), 0), (watch(21), true));
    assert_eq!((zones(&s).as_str(), s.status().saved_at), ("a c", None));

    let mut s = resumed();
    assert_eq!(
        s.step(at(0), listing(20, &["zones/a", "zones/b"]), 0),
        (watch(21), true),
        "the first is published"
    );
    assert_eq!((s.status().saved_at, &s.status().held), (None, &None));
}

#[test]
fn an_etcd_that_lost_its_data_while_the_server_was_down_empties_nothing() {
    for event in [listing(1, &[]), listing(5, &["zones/a"]), of_cluster(8, 50, &["zones/a"])] {
        let mut s = resumed();
        assert!(s.step(at(0), event, 0).1, "what is known is published");
        assert_eq!(zones(&s), "a b");
        assert!(s.status().held.as_ref().unwrap().contains("was 10"), "{:?}", s.status().held);
        assert_eq!(s.status().saved_at, Some(at(-60)), "and is said to come from disk");
    }
}

#[test]
fn an_operator_who_confirms_the_loss_ends_the_hold_at_once() {
    let mut s = following();
    s.step(at(1), Event::Failed("gone".into()), 0);
    s.step(at(2), Event::Elapsed, 0);
    s.step(at(2), listing(1, &[]), 0);
    assert_eq!(s.step(at(3), put(CONFIRMED, 2), 0).0, Next::Watch { from: 3, until: Some(at(3)) });
    assert_eq!(s.step(at(3), Event::Elapsed, 0), (watch(3), true));
    assert_eq!((zones(&s).as_str(), &s.status().held), ("", &None));
}
