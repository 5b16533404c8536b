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
mod tests;
