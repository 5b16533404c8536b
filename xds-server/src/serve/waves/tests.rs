//! Fleets that say yes, refuse, keep silent and go away, one look at a time; and any of them against what must hold.

use std::sync::Arc;

use proptest::prelude::*;
use zonebreak_xds::TypeUrl;

use super::*;

fn sizes(first: usize) -> Sizes {
    Sizes { first, second: Percent::new(5.0).unwrap(), timeout: Duration::from_secs(1) }
}

fn follower(stream: u64, view: &str, types: &[TypeUrl]) -> Follower {
    let types: BTreeSet<TypeUrl> = types.iter().cloned().collect();
    Follower { stream: StreamId(stream), view: ViewKey::new(view), resources: types.len(), types }
}

fn followers(number: u64, views: u64) -> Vec<Follower> {
    (0..number).map(|n| follower(n, &format!("az-{}", n % views), &[TypeUrl::CLUSTER])).collect()
}

fn begin(now: Instant, first: usize, followers: &[Follower]) -> Option<Waves> {
    Waves::begin(now, sizes(first), followers, BTreeSet::new(), None)
}

fn named(name: &str) -> Named {
    (TypeUrl::CLUSTER, Arc::from(name))
}

/// What those who were given it say: these streams refuse, of which each is a proxy of its own, and so many are silent.
fn said(waves: &Waves, all: &[Follower], refusing: &[u64], silent: usize) -> Vec<Testimony> {
    said_without(waves, all, refusing, silent, &[])
}

/// The same when these have gone away.
fn said_without(
    waves: &Waves,
    all: &[Follower],
    refusing: &[u64],
    silent: usize,
    gone: &[u64],
) -> Vec<Testimony> {
    let mut silent = silent;
    let of = |Follower { stream, view, .. }: &Follower| {
        let answer = if gone.contains(&stream.0) {
            Answer::Gone
        } else if refusing.contains(&stream.0) {
            Answer::Refuses([named("c")].into())
        } else if silent > 0 {
            silent -= 1;
            Answer::Silent
        } else {
            Answer::Took
        };
        Testimony { stream: *stream, node: format!("n{}", stream.0), view: view.clone(), answer }
    };
    all.iter().filter(|it| waves.streams().contains(&it.stream)).map(of).collect()
}

/// Looks when these have gone away, and the others take it but for so many who are silent.
fn look_without(waves: &mut Waves, now: Instant, all: &[Follower], gone: &[u64], silent: usize) -> Next {
    let said = said_without(waves, all, &[], silent, gone);
    let there = || all.iter().filter(|it| !gone.contains(&it.stream.0)).cloned().collect();
    waves.look(now, &said, there, |_, _, _| true)
}

fn look(waves: &mut Waves, now: Instant, all: &[Follower], refusing: &[u64], silent: usize) -> Next {
    let said = said(waves, all, refusing, silent);
    waves.look(now, &said, || all.to_vec(), |_, _, _| true)
}

#[test]
fn one_then_five_percent_with_each_view_then_all() {
    let (all, now) = (followers(100, 3), Instant::now());
    let mut waves = begin(now, 1, &all).unwrap();
    assert_eq!(waves.streams().len(), 1);
    assert_eq!(look(&mut waves, now, &all, &[], 1), Next::Wait);
    let Next::Try(some) = look(&mut waves, now, &all, &[], 0) else { panic!() };
    assert_eq!(some.len(), 5);
    let views: BTreeSet<&ViewKey> =
        all.iter().filter(|it| some.contains(&it.stream)).map(|it| &it.view).collect();
    assert_eq!(views.len(), 3, "a view that nobody tried is not tried");
    assert_eq!(look(&mut waves, now, &all, &[], 2), Next::Wait);
    assert_eq!(look(&mut waves, now, &all, &[], 0), Next::All);
    assert!(!waves.late() && waves.passed_over().is_empty());
}

#[test]
fn small_fleets_need_fewer_waves_and_one_proxy_none() {
    let now = Instant::now();
    assert!(begin(now, 1, &followers(1, 1)).is_none());
    assert!(begin(now, 1, &[]).is_none());
    assert!(begin(now, 0, &followers(100, 3)).is_none(), "switched off");
    let all = followers(3, 3);
    let mut waves = begin(now, 1, &all).unwrap();
    assert_eq!(look(&mut waves, now, &all, &[], 0), Next::All, "one of each view is all there are");
}

#[test]
fn what_two_refuse_halts_and_the_rest_begins_anew_among_those_who_have_it() {
    let (all, now) = (followers(100, 2), Instant::now());
    let mut waves = begin(now, 1, &all).unwrap();
    // The second that is asked follows the same view.
    assert_eq!(look(&mut waves, now, &all, &[0], 0), Next::Try([StreamId(0), StreamId(2)].into()));
    assert_eq!(look(&mut waves, now, &all, &[0], 1), Next::Wait);
    assert_eq!(look(&mut waves, now, &all, &[0, 2], 0), Next::Halt([named("c")].into()));
    let later = now + Duration::from_millis(10);
    waves.again(later);
    assert_eq!((waves.wave(), waves.began(), waves.streams().len()), (1, later, 2));
    assert!(matches!(look(&mut waves, later, &all, &[], 0), Next::Try(_)));
}

#[test]
fn one_rogue_proxy_decides_nothing_in_either_wave() {
    let (all, now) = (followers(100, 1), Instant::now());
    for rogue in [0, 1] {
        let mut waves = begin(now, 1, &all).unwrap();
        let mut next = Next::Wait;
        for _ in 0..5 {
            next = look(&mut waves, now, &all, &[rogue], 0);
            if next == Next::All {
                break;
            }
            assert!(matches!(next, Next::Try(_)), "{next:?}");
        }
        assert_eq!(next, Next::All);
        assert_eq!(waves.passed_over(), &[format!("n{rogue}")].into());
    }
}

#[test]
fn one_is_enough_where_nobody_else_can_say() {
    let (all, start) = (followers(2, 1), Instant::now());
    let mut waves = begin(start, 1, &all).unwrap();
    assert!(matches!(look(&mut waves, start, &all, &[0], 0), Next::Try(_)));
    let late = start + Duration::from_secs(1);
    assert_eq!(look(&mut waves, late, &all, &[0], 1), Next::Halt([named("c")].into()), "the other is silent");
    // Only so many are asked, however many there are.
    let all = followers(100, 1);
    let mut waves = begin(start, 1, &all).unwrap();
    let mut now = start;
    for _ in 0..WITNESSES {
        assert!(matches!(look(&mut waves, now, &all, &[0], 99), Next::Try(_)));
        now += Duration::from_secs(1);
    }
    assert!(matches!(look(&mut waves, now, &all, &[0], 99), Next::Halt(_)));
}

#[test]
fn who_refuses_already_is_asked_last() {
    let (all, now) = (followers(3, 1), Instant::now());
    let waves = Waves::begin(now, sizes(1), &all, [StreamId(0)].into(), None).unwrap();
    assert_eq!(waves.streams(), &[StreamId(1)].into());
    let everyone = (0..3).map(StreamId).collect();
    let waves = Waves::begin(now, sizes(1), &all, everyone, None).unwrap();
    assert_eq!(waves.streams(), &[StreamId(0)].into(), "where there is no other");
}

#[test]
fn silence_holds_up_nobody_for_long() {
    let (all, start) = (followers(100, 1), Instant::now());
    let mut waves = begin(start, 1, &all).unwrap();
    let late = start + Duration::from_secs(1);
    assert!(matches!(look(&mut waves, late, &all, &[], 1), Next::Try(_)));
    assert!(waves.late());
}

#[test]
fn who_goes_away_has_not_said_yes_and_one_alone_is_late() {
    let (all, start) = (followers(100, 1), Instant::now());
    let mut waves = begin(start, 1, &all).unwrap();
    assert_eq!(look_without(&mut waves, start, &all, &[0], 0), Next::Wait, "it may be the network");
    let late = start + Duration::from_secs(1);
    assert_eq!(
        look_without(&mut waves, late, &all, &[0], 0),
        Next::Try([StreamId(0), StreamId(1)].into()),
        "another is asked"
    );
    assert_eq!(look_without(&mut waves, late, &all, &[0], 1), Next::Wait);
    let Next::Try(some) = look_without(&mut waves, late, &all, &[0], 0) else { panic!() };
    assert!(some.len() == 5 && !some.contains(&StreamId(0)), "{some:?}");
    assert_eq!(look_without(&mut waves, late, &all, &[0], 0), Next::All);
    assert!(waves.late());
    // In the second wave, among many who said yes, nobody else is asked.
    let mut waves = begin(start, 1, &all).unwrap();
    assert!(matches!(look(&mut waves, start, &all, &[], 0), Next::Try(_)));
    assert_eq!(look_without(&mut waves, start, &all, &[3], 0), Next::Wait);
    assert_eq!(look_without(&mut waves, late, &all, &[3], 0), Next::All);
    // Nor is anybody held to have gone away over it who had answered, or who had its time and did not.
    for silent in [0, 1] {
        let mut waves = begin(start, 1, &all).unwrap();
        let now = start + Duration::from_secs(silent as u64);
        assert!(matches!(look(&mut waves, now, &all, &[], silent), Next::Try(_)));
        assert_eq!(look_without(&mut waves, now, &all, &[0], 0), Next::All);
        assert!(waves.vanished().is_empty());
    }
}

#[test]
fn two_that_go_away_in_one_trial_are_believed_and_so_is_one_where_there_is_no_other() {
    let (all, start) = (followers(100, 1), Instant::now());
    let late = start + Duration::from_secs(1);
    let mut waves = begin(start, 1, &all).unwrap();
    assert!(matches!(look_without(&mut waves, late, &all, &[0], 0), Next::Try(_)));
    let two = BTreeSet::from(["n0".to_owned(), "n1".to_owned()]);
    assert_eq!(look_without(&mut waves, late, &all, &[0, 1], 0), Next::Abandon(two, 2));
    // What is left of it, if anything, others try.
    waves.again(late);
    assert_eq!(look_without(&mut waves, late, &all, &[0, 1], 0), Next::Try([StreamId(2)].into()));
    // In the second wave at once.
    let mut waves = begin(start, 1, &all).unwrap();
    assert!(matches!(look(&mut waves, start, &all, &[], 0), Next::Try(_)));
    let Next::Abandon(two, 5) = look_without(&mut waves, start, &all, &[3, 4], 0) else { panic!() };
    assert_eq!(two.len(), 2);
    // A fleet of two, one of which was not there to be asked.
    let all = followers(2, 1);
    let mut waves = begin(start, 1, &all).unwrap();
    let said = said_without(&waves, &all, &[], 0, &[0]);
    let next = waves.look(late, &said, Vec::new, |_, _, _| true);
    assert_eq!(next, Next::Abandon(["n0".to_owned()].into(), 1));
}

#[test]
fn a_proxy_that_loses_one_of_its_streams_is_still_there() {
    let (all, start) = (followers(100, 1), Instant::now());
    let mut waves = Waves::begin(start, sizes(2), &all, BTreeSet::new(), None).unwrap();
    let says = |stream: u64, answer| {
        let view = ViewKey::new("az-0");
        Testimony { stream: StreamId(stream), node: "one".to_owned(), view, answer }
    };
    let said = [says(0, Answer::Gone), says(1, Answer::Took)];
    assert_eq!(waves.look(start, &said, || all.clone(), |_, _, _| true), Next::Wait);
    assert!(waves.vanished().is_empty());
    // Two streams of one proxy are one that went away.
    let said = [says(0, Answer::Gone), says(1, Answer::Gone)];
    let mut waves = Waves::begin(start, sizes(2), &all, BTreeSet::new(), None).unwrap();
    assert_eq!(waves.look(start, &said, || all.clone(), |_, _, _| true), Next::Wait);
    assert_eq!(waves.vanished().len(), 1);
}

#[test]
fn only_who_takes_a_part_of_the_change_has_a_word_and_every_part_has_somebody() {
    let (now, cluster, listener) = (Instant::now(), TypeUrl::CLUSTER, TypeUrl::LISTENER);
    // One stream a type, as the services for a single type have it.
    let mut all: Vec<Follower> = (0..100)
        .map(|n| follower(n, "az-a", &[if n % 2 == 0 { cluster.clone() } else { listener.clone() }]))
        .collect();
    let mut waves = begin(now, 1, &all).unwrap();
    assert_eq!(waves.streams(), &[StreamId(0), StreamId(1)].into(), "one of each type");
    let takes_clusters = |stream: StreamId, _: &Named, _: &ViewKey| stream.0.is_multiple_of(2);
    let heard = said(&waves, &all, &[0], 0);
    let next = waves.look(now, &heard, || all.clone(), takes_clusters);
    assert_eq!(next, Next::Try([StreamId(0), StreamId(1), StreamId(2)].into()), "one more that takes them");
    // In the second wave there is one for each type in each view.
    all.extend([follower(100, "az-b", &[cluster]), follower(101, "az-b", &[listener])]);
    let mut waves = begin(now, 1, &all).unwrap();
    let Next::Try(some) = look(&mut waves, now, &all, &[], 0) else { panic!() };
    assert!(some.is_superset(&[StreamId(100), StreamId(101)].into()), "{some:?}");
    // Who took all that it was given does not contradict one that was given more.
    let mut waves = begin(now, 1, &all).unwrap();
    for _ in 0..WITNESSES {
        let heard = said(&waves, &all, &[0], 0);
        let next = waves.look(now, &heard, || all.clone(), |_, _, _| false);
        assert!(matches!(next, Next::Try(_)), "{next:?}");
    }
    let heard = said(&waves, &all, &[0], 0);
    let next = waves.look(now, &heard, || all.clone(), |_, _, _| false);
    assert_eq!(next, Next::Halt([named("c")].into()));
}

#[test]
fn changes_that_come_faster_than_a_silent_proxys_time_runs_out_do_not_put_each_other_off() {
    let (all, start) = (followers(100, 1), Instant::now());
    let mut waves = begin(start, 1, &all).unwrap();
    assert_eq!(look(&mut waves, start, &all, &[], 1), Next::Wait);
    let half = start + Duration::from_millis(600);
    let mut next = Waves::begin(half, sizes(1), &all, BTreeSet::new(), Some(&waves)).unwrap();
    let over = start + Duration::from_millis(1100);
    let Next::Try(some) = look(&mut next, over, &all, &[], 1) else { panic!() };
    assert_eq!(next.silent(), &[StreamId(0)].into());
    // It is not waited for once more.
    assert!(some.contains(&StreamId(0)) && next.wave() == 2);
    assert_eq!(look(&mut next, over, &all, &[], 1), Next::All);
    assert!(next.late());
    // Nor asked by the change after that.
    let suspects = next.silent().clone();
    let after = Waves::begin(over, sizes(1), &all, suspects, Some(&next)).unwrap();
    assert_eq!((after.streams(), after.since), (&[StreamId(1)].into(), over));
}

proptest! {
    /// Whatever the fleet, whatever it says and whoever goes away, everybody has it or it is halted within as many timeouts as
    /// there are waves and witnesses, nobody who does not follow a view is given it, and nothing is withheld on the word of one
    /// whom another contradicts, or because of one that went away while another said yes.
    #[test]
    fn it_ends_in_time(
        number in 2..500_u64, views in 1..9_u64, first in 1..20_usize,
        refusing in prop::collection::btree_set(0..500_u64, 0..4), answers in prop::collection::vec(0..3_usize, 80),
        going in prop::collection::vec((0..500_u64, 0..40_usize), 0..4)
    ) {
        let (all, start) = (followers(number, views), Instant::now());
        let refusing: Vec<u64> = refusing.into_iter().collect();
        let Some(mut waves) = begin(start, first, &all) else { return Ok(()) };
        let mut now = start;
        let mut yes = false;
        for (turn, answer) in answers.into_iter().enumerate() {
            let gone: Vec<u64> = going.iter().filter(|(_, when)| *when <= turn).map(|(who, _)| *who).collect();
            let said = said_without(&waves, &all, &refusing, answer, &gone);
            yes |= said.iter().any(|it| it.answer == Answer::Took);
            let there = || all.iter().filter(|it| !gone.contains(&it.stream.0)).cloned().collect();
            match waves.look(now, &said, there, |_, _, _| true) {
                Next::All => return Ok(()),
                Next::Halt(_) => {
                    let refuses = |it: &&Testimony| matches!(it.answer, Answer::Refuses(_));
                    let accusers = said.iter().filter(refuses).count();
                    prop_assert!(accusers > 0);
                    // Where it is one alone, all others that were asked kept silent or are gone.
                    prop_assert!(accusers > 1 || said.iter().all(|it| it.answer != Answer::Took));
                    return Ok(());
                }
                Next::Abandon(nodes, of) => {
                    let names: Vec<String> = gone.iter().map(|who| format!("n{who}")).collect();
                    prop_assert!(nodes.len() <= of && nodes.iter().all(|node| names.contains(node)));
                    prop_assert!(nodes.len() > 1 || nodes.len() == 1 && !yes);
                    return Ok(());
                }
                Next::Try(streams) => prop_assert!(streams.iter().all(|stream| stream.0 < number)),
                Next::Wait => {}
            }
            now += Duration::from_millis(100);
        }
        prop_assert!(false, "still in wave {} after {:?}", waves.wave(), now - start);
    }
}
