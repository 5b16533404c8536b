//! What becomes of a key that two regions may write: what is here, what the other region has, and a policy make one decision. Pure.
//!
//! # The decision
//!
//! | the write there | then |
//! |---|---|
//! | is known here: it is what is here, or what is here followed it or won against it | nothing |
//! | followed what is here | it is taken |
//! | neither knew of the other, and both left the same value | nothing is lost; both sides agree on whose it was |
//! | neither knew of the other | a conflict, which the policy decides |
//!
//! Whatever is decided, what is here knows both writes afterwards (unless nobody won), so that the same conflict is never found
//! twice, and whoever writes next follows both.
//!
//! # Why both sides come to the same
//!
//! With `lww-hlc` a key's state only ever moves up one total order, by time and then by the ID of the etcd, and what a write knew is
//! before it in that order: whatever comes in whatever order and however often, the largest stays. That holds for any number of
//! regions. With `source-wins` in one direction and `dest-wins` in the other, one region wins every conflict, at both ends; with two
//! regions no other pair of writes can meet, since a region always knows its own latest write of a key. Both directions must name
//! the same winner, or each would take the other's value: that is refused at the start ([`super::record`]). With
//! `reject-and-alert` both sides keep what they have until somebody writes a value that knew both.
//!
//! # Writers that tell nobody
//!
//! Applications write plain keys. A write of this region that no tag speaks of yet is given its time here, by the one replicator that
//! writes to this etcd, and by nobody else: a write has one time, wherever it is read.

use super::{
    Policy,
    hlc::Clock,
    tag::{Entry, Tag, Version},
};
use crate::{checkpoint::ClusterId, revision::Op};

/// What the other region has under a key: its write, and the value unless that was a delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    /// Which write.
    pub version: Version,
    /// What it left.
    pub value: Option<Vec<u8>>,
}

/// By what a decision is made, beside what both sides have.
#[derive(Debug)]
pub struct Judge<'a> {
    /// The etcd that is decided for.
    pub here: ClusterId,
    /// The policy.
    pub policy: Policy,
    /// How long a delete is remembered, in milliseconds; one that is older counts as nothing.
    pub remember_ms: u64,
    /// Whether the key is in a conflict that nobody decided: then none of the two writes is forgotten, however old it is.
    pub disputed: bool,
    /// This region's clock.
    pub clock: &'a mut Clock,
    /// The wall clock, in milliseconds since 1970.
    pub now_ms: u64,
}

/// Who won.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Winner {
    /// The destination, whose etcd this is.
    Here,
    /// The source.
    There,
    /// Neither: both keep what they have.
    Nobody,
}

/// What must still be so when a plan is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// The key was last written at this revision; 0 for a key that is not there.
    Written(i64),
    /// The key is there, whoever wrote it since: a time that is given to a write of this region does for a later one.
    Present,
    /// The key is not there.
    Absent,
}

/// What to write, in one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Of the key.
    pub guard: Guard,
    /// The `mod_revision` that the tag must still have; 0 for none.
    pub tagged: i64,
    /// The key itself, where it changes.
    pub data: Option<Op>,
    /// The tag, where it changes.
    pub tag: Option<Tag>,
    /// A conflict to be written down: who won, and the two writes.
    pub conflict: Option<(Winner, Version)>,
    /// Whether a conflict of this key that was left open is over.
    pub settles: bool,
}

/// What one write is to another.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Keep,
    /// What is here stays as it is, and is this write from now on.
    Learn(Version),
    /// What is there is taken.
    Take(Version),
    Conflict(Winner, Version),
}

/// What to do about a key, given what is here and, if it is to be looked at, what is there. `None` when all is as it should be.
pub fn decide(judge: &mut Judge<'_>, entry: &Entry, foreign: Option<&Foreign>) -> Option<Plan> {
    let tagged = entry.tag.as_ref().map_or(0, |(_, at)| *at);
    let said = entry.is_unsaid().then(|| judge.say(entry));
    let here = said.as_ref().or(entry.known()).filter(|here| !judge.is_forgotten(here, entry.value()));
    let tag = |version, value: Option<&[u8]>| Some(Tag { version, deleted: value.is_none() });
    // What only this region has to say.
    let alone = said.clone().map(|version| Plan {
        guard: if entry.data.is_some() { Guard::Present } else { Guard::Absent },
        tagged,
        data: None,
        tag: tag(version, entry.value()),
        conflict: None,
        settles: false,
    });
    let Some(there) = foreign.filter(|there| !judge.is_forgotten(&there.version, there.value.as_deref()))
    else {
        return alone;
    };
    let exactly = Plan {
        guard: Guard::Written(entry.data.as_ref().map_or(0, |(_, at)| *at)),
        tagged,
        data: None,
        tag: None,
        conflict: None,
        settles: true,
    };
    let takes = || match &there.value {
        Some(value) => Some(Op::Put { value: value.clone(), lease: 0 }),
        // A delete of what is not there would only be one more operation.
        None => entry.data.is_some().then_some(Op::Delete),
    };
    match merge(here.map(|here| (here, entry.value())), there, judge.policy) {
        Verdict::Keep => alone,
        Verdict::Learn(version) => Some(Plan { tag: tag(version, entry.value()), ..exactly }),
        Verdict::Take(version) => {
            Some(Plan { data: takes(), tag: tag(version, there.value.as_deref()), ..exactly })
        }
        Verdict::Conflict(winner, version) => {
            let conflict = here.map(|here| (winner, here.clone()));
            Some(match winner {
                Winner::Here => Plan { tag: tag(version, entry.value()), conflict, ..exactly },
                Winner::There => {
                    Plan { data: takes(), tag: tag(version, there.value.as_deref()), conflict, ..exactly }
                }
                Winner::Nobody => Plan {
                    tag: said.clone().and_then(|said| tag(said, entry.value())),
                    conflict,
                    settles: false,
                    ..exactly
                },
            })
        }
    }
}

/// Compares what is here with what is there.
fn merge(here: Option<(&Version, Option<&[u8]>)>, there: &Foreign, policy: Policy) -> Verdict {
    let Some((here, value)) = here else { return Verdict::Take(there.version.clone()) };
    let keeps = || here.clone().joined(&there.version);
    let takes = || there.version.clone().joined(here);
    if here.covers(&there.version) {
        return Verdict::Keep;
    }
    if here.knows(&there.version) {
        return Verdict::Learn(keeps());
    }
    if there.version.knows(here) {
        return Verdict::Take(takes());
    }
    let takes_there = match policy {
        Policy::LwwHlc | Policy::RejectAndAlert => there.version.rank() > here.rank(),
        Policy::SourceWins => true,
        Policy::DestWins => false,
    };
    let version = if takes_there { takes() } else { keeps() };
    // Whose write it was counts all the same: what follows the other one alone does not follow this.
    if value == there.value.as_deref() {
        return Verdict::Learn(version);
    }
    let winner = match (policy, takes_there) {
        (Policy::RejectAndAlert, _) => Winner::Nobody,
        (_, true) => Winner::There,
        (_, false) => Winner::Here,
    };
    Verdict::Conflict(winner, version)
}

// === impl Judge ===

impl Judge<'_> {
    /// Gives a write of this region that nobody spoke of its time: later than everything that it can have followed.
    fn say(&mut self, entry: &Entry) -> Version {
        let before = entry.tag.as_ref().map(|(tag, _)| &tag.version);
        let known = before.map(Version::latest).unwrap_or_default();
        Version::following(before, self.here, self.clock.after(self.now_ms, known))
    }

    /// Whether a write is a delete of so long ago that it counts as nothing.
    pub fn is_forgotten(&self, version: &Version, value: Option<&[u8]>) -> bool {
        value.is_none() && !self.disputed && version.hlc.ms().saturating_add(self.remember_ms) < self.now_ms
    }
}

#[cfg(test)]
mod tests;
