//! To whom a careful change goes first: one proxy, then a few, then all; each wave when the one before has acknowledged it. A pure
//! state machine; the clock, the streams and what they said come in as arguments.
//!
//! ```text
//!            ┌── what was refused taken out, anew ◄───────────┐
//!            ▼                                                │
//! begin ─> Try(first) ──all ACKed, or time is up──> Try(some of each view) ──likewise──> All
//!            │  ▲                                             │  ▲
//!            │  └── one refused: Try(one more of its view) ───┴──┘
//!            ├───── two refused the same, or nobody else can be asked: Halt
//!            └───── two went away before they answered, likewise: Abandon
//! ```
//!
//! Careful are changes of policies, zones and of the configuration: they make clusters, listeners, routes and filter
//! configurations, and those are what a proxy can refuse. Endpoints, health and drains move in forms that every proxy has taken
//! before, and somebody waits for them: they go to all, without what is on trial.
//!
//! # Who is believed
//!
//! A single proxy may refuse whatever it gets. So the word of one is held against another's ([`super::verdict`]): what two refuse
//! is withheld; who refuses alone what another takes is *passed over*, and the waves go on. While one stands alone, another
//! proxy is asked, of the same view if there is one, and up to three of them; when none of them answers in time or there
//! is none, one is enough: the last good state is the safe side. A proxy that refuses something before the first wave is no
//! judge, and is asked only where there is no other.
//!
//! After a halt the rest of the change begins its waves anew, among those who have most of it already.
//!
//! Asked are only those who subscribe to something that the change makes another, and first those who do to most of it: who is
//! given nothing has nothing to say. Whatever type the change concerns, somebody in each wave takes it.
//!
//! # Who goes away
//!
//! A proxy that goes away before it has answered has not said yes: what it was given may have killed it, or somebody has
//! restarted it. It is waited for like a silent one, since a network that hiccups takes down more than one stream at once and is
//! over by then; and unless somebody else has said yes, another proxy is asked. Two that go away in one trial, or one that
//! was asked and there is no other, are believed: the change as a whole is withheld ([`Next::Abandon`]). Between being given a
//! change and its answer lie some milliseconds, so that restarts of an ordinary deployment do not add up to two. Nor
//! does a stream that the server ends for its age: it waits for the answer.
//!
//! # Who says nothing
//!
//! A proxy that does not answer does not hold up the fleet: after the timeout the next wave goes without it, and until it has
//! answered it is no judge either. A change that overtakes another one in its first wave takes over how long that has waited, so
//! that changes which come faster than a silent proxy's time runs out do not put each other off for ever. And where there is
//! but one proxy, it is all.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use zonebreak_core::units::Percent;
use zonebreak_xds::{Follower, StreamId, ViewKey};

use super::{
    quarantine::Named,
    verdict::{self, Answer, Testimony},
};

/// How many more proxies are asked, one after the other, about what one refuses.
const WITNESSES: usize = 3;

/// How waves are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Streams in the first wave; 0 switches waves off.
    pub first: usize,
    /// Share of the streams in the second.
    pub second: Percent,
    /// How long a wave may take to answer.
    pub timeout: Duration,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Publish it.
    All,
    /// Give it to these, and look again soon.
    Try(BTreeSet<StreamId>),
    /// Look again soon.
    Wait,
    /// Withhold these, and begin anew with the rest.
    Halt(BTreeSet<Named>),
    /// Withhold all of it: these proxies went away before they answered, of so many that were given it.
    Abandon(BTreeSet<String>, usize),
}

/// A change on its way through the waves.
#[derive(Debug)]
pub struct Waves {
    sizes: Sizes,
    /// From 1.
    wave: usize,
    streams: BTreeSet<StreamId>,
    since: Instant,
    began: Instant,
    /// Whether a wave was given up waiting for.
    late: bool,
    /// Who refused something before it began, or did not answer.
    suspects: BTreeSet<StreamId>,
    /// Who had its time and did not answer.
    silent: BTreeSet<StreamId>,
    /// Who has answered.
    answered: BTreeSet<StreamId>,
    /// Whether one of them took it.
    taken: bool,
    /// Who is not there any more.
    gone: BTreeSet<StreamId>,
    /// Whose they are, of those that had not answered and had their time still.
    vanished: BTreeSet<String>,
    /// Proxies that refuse what others take.
    passed_over: BTreeSet<String>,
    /// How many were asked about what one refuses, or went away over.
    witnesses: usize,
}

// === impl Waves ===

impl Waves {
    /// The first wave among those whom the change concerns, `suspects` left out unless there are no others; `None` when it may
    /// as well go to all. It overtakes `older`.
    pub fn begin(
        now: Instant,
        sizes: Sizes,
        followers: &[Follower],
        suspects: BTreeSet<StreamId>,
        older: Option<&Self>,
    ) -> Option<Self> {
        if sizes.first == 0 || followers.len() <= sizes.first {
            return None;
        }
        let mut waves = Self {
            sizes,
            wave: 1,
            streams: BTreeSet::new(),
            since: now,
            began: now,
            late: false,
            suspects,
            silent: BTreeSet::new(),
            answered: BTreeSet::new(),
            taken: false,
            gone: BTreeSet::new(),
            vanished: BTreeSet::new(),
            passed_over: BTreeSet::new(),
            witnesses: 0,
        };
        waves.streams = waves.choose(followers, sizes.first, |follower| follower.types.iter().collect());
        if let Some(older) = older.filter(|older| older.wave == 1 && older.streams == waves.streams) {
            waves.since = older.since;
        }
        Some(waves)
    }

    /// Begins anew at `now` with what is left of the change, among those who have it.
    pub fn again(&mut self, now: Instant) {
        (self.wave, self.since, self.began, self.witnesses) = (1, now, now, 0);
        self.leave_out_the_gone();
        (self.answered, self.taken, self.vanished) = (BTreeSet::new(), false, BTreeSet::new());
    }

    /// What to do at `now`, when those who were given it say this and it concerns these. `holds` says whether a stream has
    /// acknowledged what a view brings under a name.
    pub fn look(
        &mut self,
        now: Instant,
        said: &[Testimony],
        followers: impl FnOnce() -> Vec<Follower>,
        holds: impl Fn(StreamId, &Named, &ViewKey) -> bool,
    ) -> Next {
        let said: Vec<Testimony> =
            said.iter().filter(|testimony| !self.passed_over.contains(&testimony.node)).cloned().collect();
        self.hear(&said);
        let verdict = verdict::judge(&said, holds);
        if !verdict.guilty.is_empty() {
            return Next::Halt(verdict.guilty);
        }
        self.passed_over.extend(verdict.contradicted);
        if self.vanished.len() > 1 {
            return self.abandon(&said);
        }
        let late = now.saturating_duration_since(self.since) >= self.sizes.timeout;
        let says_nothing =
            |stream: &StreamId| !self.answered.contains(stream) && !self.silent.contains(stream);
        let waited_for: Vec<StreamId> = said.iter().map(|it| it.stream).filter(says_nothing).collect();
        if !waited_for.is_empty() && !late {
            return Next::Wait;
        }
        self.late |= !waited_for.is_empty();
        self.silent.extend(waited_for);
        let followers = followers();
        if let Some((named, view)) = verdict.open.iter().next() {
            let takes = |other: &Follower| other.types.contains(&named.0);
            return match self.witness(takes, view, &followers) {
                Some(witness) => self.ask(now, witness),
                None => Next::Halt(verdict.open.into_keys().collect()),
            };
        }
        if let Some(lost) = said.iter().find(|it| self.vanished.contains(&it.node)).filter(|_| !self.taken) {
            if let Some(witness) = self.witness(|_| true, &lost.view, &followers) {
                return self.ask(now, witness);
            }
            if said.iter().all(|it| it.answer == Answer::Gone) {
                return self.abandon(&said);
            }
        }
        self.leave_out_the_gone();
        if self.streams.is_empty() {
            self.streams =
                self.choose(&followers, self.sizes.first, |follower| follower.types.iter().collect());
            if !self.streams.is_empty() {
                self.since = now;
                return Next::Try(self.streams.clone());
            }
        }
        if self.wave > 1 {
            return Next::All;
        }
        let more = self.second(&followers);
        if more.len() <= self.streams.len() || more.len() >= followers.len() {
            return Next::All;
        }
        (self.wave, self.since, self.streams) = (2, now, more.clone());
        Next::Try(more)
    }

    /// Those who have it.
    pub fn streams(&self) -> &BTreeSet<StreamId> {
        &self.streams
    }

    /// Which wave it is in, from 1.
    pub fn wave(&self) -> usize {
        self.wave
    }

    /// Since when it is on its way.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Whether somebody was not waited for any longer.
    pub fn late(&self) -> bool {
        self.late
    }

    /// Who those are.
    pub fn silent(&self) -> &BTreeSet<StreamId> {
        &self.silent
    }

    /// Proxies that refuse what others take.
    pub fn passed_over(&self) -> &BTreeSet<String> {
        &self.passed_over
    }

    /// Proxies that went away before they answered.
    pub fn vanished(&self) -> &BTreeSet<String> {
        &self.vanished
    }

    /// Notes who has answered, and who is gone.
    fn hear(&mut self, said: &[Testimony]) {
        for Testimony { stream, answer, .. } in said {
            match answer {
                // It may have said yes to less than it has by now.
                Answer::Silent => _ = self.answered.remove(stream),
                Answer::Gone => _ = self.gone.insert(*stream),
                Answer::Took | Answer::Refuses(_) => _ = self.answered.insert(*stream),
            }
            self.taken |= *answer == Answer::Took;
        }
        // The streams of one proxy go together, but not in the same instant.
        let there = |node: &String| said.iter().any(|it| it.node == *node && it.answer != Answer::Gone);
        let lost = said.iter().filter(|it| {
            let had_its_time = self.answered.contains(&it.stream) || self.silent.contains(&it.stream);
            it.answer == Answer::Gone && !had_its_time && !there(&it.node)
        });
        let lost: Vec<String> = lost.map(|it| it.node.clone()).collect();
        self.vanished.extend(lost);
    }

    fn abandon(&self, said: &[Testimony]) -> Next {
        let given: BTreeSet<&String> = said.iter().map(|it| &it.node).chain(&self.vanished).collect();
        Next::Abandon(self.vanished.clone(), given.len())
    }

    fn ask(&mut self, now: Instant, witness: StreamId) -> Next {
        (self.since, self.witnesses) = (now, self.witnesses + 1);
        self.streams.insert(witness);
        Next::Try(self.streams.clone())
    }

    fn leave_out_the_gone(&mut self) {
        self.streams.retain(|stream| !self.gone.contains(stream));
    }

    /// Those whose word is worth something; all of them where nobody's is.
    fn judges<'a>(&self, followers: &'a [Follower]) -> Vec<&'a Follower> {
        let suspect = |follower: &&Follower| {
            self.suspects.contains(&follower.stream) || self.silent.contains(&follower.stream)
        };
        let judges: Vec<&Follower> = followers.iter().filter(|follower| !suspect(follower)).collect();
        if judges.is_empty() { followers.iter().collect() } else { judges }
    }

    /// One more to ask, of those who take it and of this view if there is one.
    fn witness(
        &self,
        takes: impl Fn(&Follower) -> bool,
        view: &ViewKey,
        followers: &[Follower],
    ) -> Option<StreamId> {
        if self.witnesses >= WITNESSES {
            return None;
        }
        let mut others = self.judges(followers);
        others.retain(|other| takes(other) && !self.streams.contains(&other.stream));
        let same_view = others.iter().find(|other| other.view == *view);
        same_view.or(others.first()).map(|other| other.stream)
    }

    /// The first wave, one of each view and type, and as many more as it takes.
    fn second(&self, followers: &[Follower]) -> BTreeSet<StreamId> {
        let wanted = (followers.len() as f64 * self.sizes.second.fraction()).ceil() as usize;
        self.choose(followers, wanted, |follower| {
            follower.types.iter().map(|of| (&follower.view, of)).collect()
        })
    }

    /// Those who have it, so many in all, and more where nobody among them takes some part of the change.
    fn choose<'a, P: Ord>(
        &self,
        followers: &'a [Follower],
        wanted: usize,
        parts: impl Fn(&'a Follower) -> Vec<P>,
    ) -> BTreeSet<StreamId> {
        let (mut streams, mut taken) = (self.streams.clone(), BTreeSet::new());
        let have = followers.iter().filter(|follower| streams.contains(&follower.stream));
        taken.extend(have.flat_map(&parts));
        let judges = self.judges(followers);
        for judge in &judges {
            let before = taken.len();
            taken.extend(parts(judge));
            if taken.len() > before {
                streams.insert(judge.stream);
            }
        }
        for judge in judges {
            if streams.len() >= wanted {
                break;
            }
            streams.insert(judge.stream);
        }
        streams
    }
}

#[cfg(test)]
mod tests {
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
        assert_eq!(
            look(&mut waves, late, &all, &[0], 1),
            Next::Halt([named("c")].into()),
            "the other is silent"
        );
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
        assert_eq!(
            next,
            Next::Try([StreamId(0), StreamId(1), StreamId(2)].into()),
            "one more that takes them"
        );
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
}
