//! What is known of a source's keys never speaks against the source itself, whatever it did and whatever the log missed; and an etcd
//! that was rebuilt or put back is not taken for it.

use proptest::prelude::*;

use super::*;
use crate::revision::{Change, SourceRevision};

/// One revision: a key, and whether it is put.
type Step = (u8, bool);

/// A source's keys: made when, and put last when.
type State = BTreeMap<u8, (Revision, Revision)>;

/// What a source has after its first `through` revisions.
fn after(history: &[Step], through: usize) -> State {
    let mut state = State::new();
    for (at, (key, put)) in history.iter().take(through).enumerate() {
        let at = Revision(i64::try_from(at).unwrap() + 1);
        if *put {
            state.entry(*key).and_modify(|(_, last)| *last = at).or_insert((at, at));
        } else {
            state.remove(key);
        }
    }
    state
}

fn revision(at: usize, (key, put): Step) -> Entry {
    let op = if put { Op::Put { value: vec![key], lease: 0 } } else { Op::Delete };
    let changes = vec![Change { key: vec![key], op }];
    Entry::Revision(SourceRevision { revision: Revision(i64::try_from(at).unwrap()), seen_ms: 0, changes })
}

/// A sample of those keys whose bit is set in `of`, as of `sampled`, and a log of `logged` that lacks what is in `gap`.
fn known(
    history: &[Step],
    (of, sampled): (u8, usize),
    logged: (usize, usize),
    gap: (usize, usize),
) -> Anchors {
    let at = |place: usize| Revision(i64::try_from(place).unwrap());
    let mut sample = Sample::default();
    for (key, (created, put)) in after(history, sampled).into_iter().filter(|(key, _)| of >> key & 1 == 1) {
        sample.offer(&[key], created, put);
    }
    let stored = Stored { through: at(sampled), keys: sample.keys, crc32: 0 };
    let mut gathering = Gathering::new((sampled > 0).then_some(stored), at(logged.0));
    let (begins, ends) = logged;
    for place in begins + 1..=ends {
        let missing = gap.0 < place && place <= gap.1;
        if missing && place == gap.1.min(ends) {
            gathering.take(Entry::Gap { through: at(place), seen_ms: 0 });
        } else if !missing {
            gathering.take(revision(place, history[place - 1]));
        }
    }
    gathering.end()
}

fn says(anchors: &Anchors, state: &State) -> Vec<Says> {
    anchors.0.iter().map(|(key, anchor)| anchor.judge(state.get(&key[0]).copied())).collect()
}

fn histories() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec((0_u8..6, prop::bool::weighted(0.8)), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn a_source_is_never_taken_for_another_one(
        history in histories(),
        places in prop::array::uniform6(any::<prop::sample::Index>()),
        of in prop_oneof![Just(u8::MAX), any::<u8>()],
    ) {
        let [now, sampled, begins, ends, from, to] = places;
        let now = now.index(history.len()) + 1;
        let (sampled, ends) = (sampled.index(now + 1), ends.index(now + 1));
        let begins = begins.index(ends + 1);
        let (from, to) = (from.index(now + 1), to.index(now + 1));
        let anchors = known(&history, (of, sampled), (begins, ends), (from.min(to), from.max(to)));
        let said = says(&anchors, &after(&history, now));
        prop_assert!(!said.contains(&Says::Other), "{:?} {:?}", anchors, said);
        // What was not touched since it was seen last tells, where sample and log leave nothing out between them.
        if from == to && ends == now && begins <= sampled {
            let same = said.iter().filter(|says| **says == Says::Same).count();
            prop_assert!(same >= anchors.0.len(), "{:?} {:?}", anchors, said);
        }
    }

    /// It goes on from an earlier moment, with writes of its own, beyond where it was.
    #[test]
    fn a_source_that_was_put_back_is_found_out_by_every_key_that_it_has_from_then_and_lost_a_put_of(
        history in histories(),
        back in any::<prop::sample::Index>(),
        since in prop::collection::vec((6_u8..9, Just(true)), 60..70),
    ) {
        let (now, back) = (history.len(), back.index(history.len()));
        let anchors = known(&history, (0, 0), (0, now), (0, 0));
        let other: Vec<Step> = history[..back].iter().chain(&since).copied().collect();
        let state = after(&other, other.len());
        for (key, anchor) in &anchors.0 {
            let says = anchor.judge(state.get(&key[0]).copied());
            let lost = anchor.put.0 > i64::try_from(back).unwrap();
            match state.get(&key[0]) {
                None => prop_assert_eq!(says, Says::Gone),
                Some(_) if lost => prop_assert_eq!(says, Says::Other),
                Some(_) => prop_assert_eq!(says, Says::Same),
            }
        }
    }
}

#[test]
fn what_a_key_says_of_a_source() {
    let at = |put, through| Anchor { created: None, put: Revision(put), through: Revision(through) };
    let made = |created, put, through| Anchor { created: Some(Revision(created)), ..at(put, through) };
    for (anchor, has, says) in [
        (at(5, 9), None, Says::Gone),
        (at(5, 9), Some((3, 5)), Says::Same),
        (at(5, 9), Some((3, 4)), Says::Other),
        (at(5, 9), Some((3, 7)), Says::Other),
        (at(5, 9), Some((3, 12)), Says::Moved),
        (at(5, 9), Some((7, 12)), Says::Other),
        (at(5, 9), Some((10, 12)), Says::Gone),
        (made(3, 5, 9), Some((3, 12)), Says::Same),
        (made(3, 5, 9), Some((2, 12)), Says::Other),
        (made(3, 5, 9), Some((10, 12)), Says::Gone),
    ] {
        let has = has.map(|(created, put)| (Revision(created), Revision(put)));
        assert_eq!(anchor.judge(has), says, "{anchor:?} {has:?}");
    }
}

#[test]
fn a_sample_is_spread_over_all_keys_and_reads_back_unless_it_was_damaged() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(Stored::read(directory.path()), None);
    let mut sample = Sample::default();
    for key in 0..10_000_i64 {
        sample.offer(format!("{key:05}").as_bytes(), Revision(key), Revision(key));
    }
    assert!((KEYS / 2..=KEYS).contains(&sample.keys.len()), "{}", sample.keys.len());
    let last = sample.keys.last().unwrap().created.0;
    assert!(last > 9_000, "{last}");
    sample.clone().store(directory.path(), Revision(10_000)).unwrap();
    let stored = Stored::read(directory.path()).unwrap();
    assert_eq!((stored.through, &stored.keys), (Revision(10_000), &sample.keys));
    let path = directory.path().join(FILE);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("\"put\":0", "\"put\":1", 1)).unwrap();
    assert_eq!(Stored::read(directory.path()), None);
}

#[test]
fn of_a_long_log_the_latest_keys_are_known() {
    let mut gathering = Gathering::new(None, Revision(0));
    for at in 1..=5_000_i64 {
        let key = format!("{at}").into_bytes();
        let changes = vec![Change { key, op: Op::Put { value: Vec::new(), lease: 0 } }];
        gathering.take(Entry::Revision(SourceRevision { revision: Revision(at), seen_ms: 0, changes }));
    }
    let anchors = gathering.end();
    assert_eq!(anchors.0.len(), KEYS);
    assert!(anchors.0.contains_key(&b"5000"[..]) && anchors.0.values().all(|anchor| anchor.put.0 > 4_936));
}
