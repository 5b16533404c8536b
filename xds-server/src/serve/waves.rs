//! To whom a careful change goes first: one proxy, then a few, then all; each wave when the one before has acknowledged it. A pure
//! state machine; the clock, the streams and what they said come in as arguments.
//!
//! ```text
//!            ┌── what was refused taken out, anew ◄───────────┐
//!            ▼                                                │
//! begin ─> Try(first) ──all ACKed, or time is up──> Try(some of each view) ──likewise──> All
//!            │  ▲                                             │  ▲
//!            │  └── one refused: Try(one more of its view) ───┴──┘
//!            └───── two refused the same, or nobody else can be asked: Halt
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
//! A proxy that does not answer does not hold up the fleet: after the timeout the next wave goes. And where there is but one
//! proxy, it is all.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use zonebreak_core::units::Percent;
use zonebreak_xds::{StreamId, ViewKey};

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
    /// Who refused something before it began.
    suspects: BTreeSet<StreamId>,
    /// Proxies that refuse what others take.
    passed_over: BTreeSet<String>,
    /// How many were asked about what one refuses.
    witnesses: usize,
}

// === impl Waves ===

impl Waves {
    /// The first wave among those who follow the changed views, `suspects` left out unless there are no others; `None` when it
    /// may as well go to all.
    pub fn begin(
        now: Instant,
        sizes: Sizes,
        followers: &[(StreamId, ViewKey)],
        suspects: BTreeSet<StreamId>,
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
            passed_over: BTreeSet::new(),
            witnesses: 0,
        };
        let first: Vec<StreamId> =
            waves.judges(followers).take(sizes.first).map(|(stream, _)| *stream).collect();
        waves.streams.extend(first);
        Some(waves)
    }

    /// Begins anew at `now` with what is left of the change, among those who have it.
    pub fn again(&mut self, now: Instant) {
        (self.wave, self.since, self.began, self.witnesses) = (1, now, now, 0);
    }

    /// What to do at `now`, when those who were given it say this and these follow the views. `same` says whether two views
    /// bring the same under a name.
    pub fn look(
        &mut self,
        now: Instant,
        said: &[Testimony],
        followers: &[(StreamId, ViewKey)],
        same: impl Fn(&Named, &ViewKey, &ViewKey) -> bool,
    ) -> Next {
        let said: Vec<Testimony> =
            said.iter().filter(|testimony| !self.passed_over.contains(&testimony.node)).cloned().collect();
        let verdict = verdict::judge(&said, same);
        if !verdict.guilty.is_empty() {
            return Next::Halt(verdict.guilty);
        }
        self.passed_over.extend(verdict.contradicted);
        let late = now.saturating_duration_since(self.since) >= self.sizes.timeout;
        let waiting = said.iter().any(|testimony| testimony.answer == Answer::Silent);
        if waiting && !late {
            return Next::Wait;
        }
        if let Some(view) = verdict.open.values().next() {
            let Some(witness) = self.witness(view, followers) else {
                return Next::Halt(verdict.open.into_keys().collect());
            };
            (self.since, self.witnesses) = (now, self.witnesses + 1);
            self.streams.insert(witness);
            return Next::Try(self.streams.clone());
        }
        self.late |= waiting;
        if self.wave > 1 {
            return Next::All;
        }
        let more = self.second(followers);
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

    /// Proxies that refuse what others take.
    pub fn passed_over(&self) -> &BTreeSet<String> {
        &self.passed_over
    }

    /// Those whose word is worth something; all of them where nobody's is.
    fn judges<'a>(
        &self,
        followers: &'a [(StreamId, ViewKey)],
    ) -> impl Iterator<Item = &'a (StreamId, ViewKey)> + use<'a, '_> {
        let all_suspect = followers.iter().all(|(stream, _)| self.suspects.contains(stream));
        followers.iter().filter(move |(stream, _)| all_suspect || !self.suspects.contains(stream))
    }

    /// One more to ask about what was refused in this view: of the same view if there is one.
    fn witness(&self, view: &ViewKey, followers: &[(StreamId, ViewKey)]) -> Option<StreamId> {
        if self.witnesses >= WITNESSES {
            return None;
        }
        let others = || self.judges(followers).filter(|(stream, _)| !self.streams.contains(stream));
        others().find(|(_, of)| of == view).or_else(|| others().next()).map(|(stream, _)| *stream)
    }

    /// The first wave, one of each view, and as many more as it takes.
    fn second(&self, followers: &[(StreamId, ViewKey)]) -> BTreeSet<StreamId> {
        let wanted = (followers.len() as f64 * self.sizes.second.fraction()).ceil() as usize;
        let mut streams = self.streams.clone();
        let mut views = BTreeSet::new();
        streams
            .extend(self.judges(followers).filter(|(_, view)| views.insert(view)).map(|(stream, _)| *stream));
        let more = wanted.saturating_sub(streams.len());
        let others: Vec<StreamId> = self
            .judges(followers)
            .map(|(stream, _)| *stream)
            .filter(|stream| !streams.contains(stream))
            .collect();
        streams.extend(others.into_iter().take(more));
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

    fn followers(number: u64, views: u64) -> Vec<(StreamId, ViewKey)> {
        (0..number).map(|n| (StreamId(n), ViewKey::new(&format!("az-{}", n % views)))).collect()
    }

    fn begin(now: Instant, first: usize, followers: &[(StreamId, ViewKey)]) -> Option<Waves> {
        Waves::begin(now, sizes(first), followers, BTreeSet::new())
    }

    fn named(name: &str) -> Named {
        (TypeUrl::CLUSTER, Arc::from(name))
    }

    /// What those who were given it say: these streams refuse, of which each is a proxy of its own, and so many are silent.
    fn said(waves: &Waves, all: &[(StreamId, ViewKey)], refusing: &[u64], silent: usize) -> Vec<Testimony> {
        let mut silent = silent;
        let of = |(stream, view): &(StreamId, ViewKey)| {
            let answer = if refusing.contains(&stream.0) {
                Answer::Refuses([named("c")].into())
            } else if silent > 0 {
                silent -= 1;
                Answer::Silent
            } else {
                Answer::Took
            };
            Testimony { node: format!("n{}", stream.0), view: view.clone(), answer }
        };
        all.iter().filter(|(stream, _)| waves.streams().contains(stream)).map(of).collect()
    }

    fn look(
        waves: &mut Waves,
        now: Instant,
        all: &[(StreamId, ViewKey)],
        refusing: &[u64],
        silent: usize,
    ) -> Next {
        let said = said(waves, all, refusing, silent);
        waves.look(now, &said, all, |_, _, _| true)
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
            all.iter().filter(|(stream, _)| some.contains(stream)).map(|(_, view)| view).collect();
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
        let waves = Waves::begin(now, sizes(1), &all, [StreamId(0)].into()).unwrap();
        assert_eq!(waves.streams(), &[StreamId(1)].into());
        let everyone = (0..3).map(StreamId).collect();
        let waves = Waves::begin(now, sizes(1), &all, everyone).unwrap();
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

    proptest! {
        /// Whatever the fleet and whatever it says, everybody has it or it is halted within as many timeouts as there are waves
        /// and witnesses, nobody who does not follow a view is given it, and nothing is withheld on the word of one whom
        /// another contradicts.
        #[test]
        fn it_ends_in_time(
            number in 2..500_u64, views in 1..9_u64, first in 1..20_usize,
            refusing in prop::collection::btree_set(0..500_u64, 0..4), answers in prop::collection::vec(0..3_usize, 80)
        ) {
            let (all, start) = (followers(number, views), Instant::now());
            let refusing: Vec<u64> = refusing.into_iter().collect();
            let Some(mut waves) = begin(start, first, &all) else { return Ok(()) };
            let mut now = start;
            for answer in answers {
                match look(&mut waves, now, &all, &refusing, answer) {
                    Next::All => return Ok(()),
                    Next::Halt(_) => {
                        let have = waves.streams();
                        let accusers = refusing.iter().filter(|stream| have.contains(&StreamId(**stream))).count();
                        prop_assert!(accusers > 0);
                        // Where it is one alone, all others that were asked kept silent.
                        prop_assert!(accusers > 1 || have.len() <= 1 + answer);
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
