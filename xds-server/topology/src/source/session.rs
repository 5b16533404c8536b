//! What to do next in following an etcd prefix: list, watch, or wait. Pure: the clock and chance come in as arguments, and
//! everything that goes over a wire is done by [`super::etcd`].
//!
//! # States
//!
//! ```text
//!            Listed                 Failed (compacted, cancelled, lost)
//! List ───────────────> Watch ─────────────────────────────────────────> Wait ──Elapsed──> List
//!   └──────────────────────────── Failed ───────────────────────────────────┘
//! ```
//!
//! After any loss the whole prefix is listed again, rather than the watch resumed where it broke off. The listing is diffed by
//! the registry, so that what did not change is not published; it costs tens of milliseconds for ten thousand keys; and it is
//! the one way that is right whatever happened in between: compaction, a member that was restored from a snapshot, or a new
//! and empty etcd, on which a watch for a revision that lies in its future would stay silent for as long as it takes to get
//! there. Progress notifications are not asked for: before etcd 3.5.8 they may run ahead of the events.
//!
//! # An etcd that lost its data
//!
//! An etcd is not the one that we knew when its revision went backwards, its cluster ID changed, or it holds nothing at all
//! where it held something. It most likely lost its data, and the endpoints it forgot are alive and serving. Such a listing is
//! laid *over* what is known, nothing is dropped, and the source is *held*:
//!
//! - an empty listing holds until somebody writes or deletes a key: nothing says yet that this etcd is in use;
//! - from the first key in it on, [`GRACE`] runs, in which living programs register again; then what has not come back is
//!   dropped.
//!
//! - an operator who writes `confirmed/source` says that the loss was meant, which ends the hold at once.
//!
//! An operator who empties a prefix with deletes is not held here: a watch shows the deletes, and they count. Whether so many
//! are believed is for [`crate::gate`] to say.
//!
//! # Starting without etcd
//!
//! A session may start from what was served before the program was ([`Saved`]). It is published when etcd does not answer the
//! first time it is asked, so that proxies get no old news where fresh ones are to be had; and it is what a first listing is held
//! against, so that an etcd that lost its data while the server was down is found out as well.

use std::{collections::BTreeSet, time::Duration};

use jiff::{SignedDuration, Timestamp};

use super::SourceStatus;
use crate::{
    backoff::Backoff,
    etcd::Listing,
    registry::{Event as Change, Registry},
    saved::Saved,
};

/// The key by which an operator says that the source is right, whatever it lost.
pub(super) const CONFIRMED: &str = "confirmed/source";

/// How long registrations may take to come back: three times the default lease of 10 s, within which every registrant has
/// noticed the loss of its own and tried more than once (its tries are at most 5 s apart).
pub(super) const GRACE: SignedDuration = SignedDuration::from_secs(30);

/// The longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// What happened.
#[derive(Debug)]
pub(super) enum Event {
    /// The prefix was listed.
    Listed(Listing),
    /// The watch that was asked for is open.
    Watching,
    /// Keys changed, up to that revision.
    Changed(Vec<Change>, i64),
    /// Listing or watching failed, and why.
    Failed(String),
    /// The time waited for has come.
    Elapsed,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// List the prefix.
    List,
    /// Watch it from that revision on, or go on doing so; and come back at `until` at the latest.
    Watch { from: i64, until: Option<Timestamp> },
    /// Wait for that long.
    Wait(Duration),
}

/// Where following stands.
#[derive(Debug)]
pub(super) struct Session {
    registry: Registry,
    backoff: Backoff,
    /// When what is in the registry was saved, while it is from disk alone.
    saved_at: Option<Timestamp>,
    /// Whether anything was published.
    published: bool,
    hold: Option<Hold>,
    status: SourceStatus,
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Listing,
    Watching,
    Waiting,
}

/// A listing of an etcd that lost its data, laid over what was known before.
#[derive(Debug)]
struct Hold {
    /// The keys that it does have.
    present: BTreeSet<String>,
    /// When the others are given up; `None` while it is empty and nobody uses it.
    until: Option<Timestamp>,
    /// The revisions of before and after.
    was: i64,
    is: i64,
}

// === impl Session ===

impl Session {
    pub(super) fn new(status: SourceStatus, saved: Option<&Saved>) -> Self {
        let status = match saved {
            Some(saved) => SourceStatus { cluster: saved.cluster, revision: saved.revision, ..status },
            None => status,
        };
        Self {
            registry: saved.map_or_else(Registry::default, |saved| Registry::of(saved.topology.clone())),
            backoff: Backoff::new(LONGEST_WAIT),
            saved_at: saved.map(|saved| saved.saved_at),
            published: false,
            hold: None,
            status,
            state: State::Listing,
        }
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(super) fn status(&self) -> &SourceStatus {
        &self.status
    }

    /// Takes what happened. True when there is a topology to publish.
    pub(super) fn step(&mut self, now: Timestamp, event: Event, coin: u64) -> (Next, bool) {
        let publish = match event {
            Event::Listed(listing) => self.listed(now, listing),
            Event::Watching => {
                self.backoff.succeed();
                self.connected(now);
                false
            }
            Event::Changed(changes, revision) => self.changed(now, changes, revision),
            Event::Failed(why) => {
                self.state = State::Waiting;
                if self.status.connected {
                    (self.status.connected, self.status.since) = (false, now);
                }
                self.status.last_error = Some(why);
                let from_disk = !self.published && self.saved_at.is_some();
                self.note(from_disk);
                return (Next::Wait(self.backoff.fail(coin)), from_disk);
            }
            Event::Elapsed => match self.state {
                State::Waiting => {
                    self.state = State::Listing;
                    false
                }
                State::Listing | State::Watching => self.release(now),
            },
        };
        self.note(publish);
        self.status.held = self.hold.as_ref().map(|hold| hold.describe(&self.registry));
        let next = match self.state {
            State::Listing | State::Waiting => Next::List,
            State::Watching => {
                let until = self.hold.as_ref().and_then(|hold| hold.until);
                Next::Watch { from: self.status.revision.saturating_add(1), until }
            }
        };
        (next, publish)
    }

    fn listed(&mut self, now: Timestamp, listing: Listing) -> bool {
        let Listing { revision, cluster, entries } = listing;
        let first = !self.published;
        let forgot = !self.registry.topology().is_empty()
            && (revision < self.status.revision || cluster != self.status.cluster || entries.is_empty());
        let was = std::mem::replace(&mut self.status.revision, revision);
        self.status.cluster = cluster;
        self.state = State::Watching;
        if !forgot && self.hold.is_none() {
            self.saved_at = None;
            return self.registry.reset(entries, revision) || first;
        }
        let began = self.hold.as_ref().map(|hold| (hold.was, hold.until));
        let (was, until) = began.unwrap_or((was, None));
        let until = until.or_else(|| (!entries.is_empty()).then(|| later(now)));
        let present = entries.iter().map(|entry| entry.key.clone()).collect();
        self.hold = Some(Hold { present, until, was, is: revision });
        let puts = entries.into_iter().map(Change::from);
        puts.fold(first, |changed, put| self.registry.apply(put) | changed)
    }

    fn changed(&mut self, now: Timestamp, changes: Vec<Change>, revision: i64) -> bool {
        self.status.revision = self.status.revision.max(revision);
        let mut differs = false;
        for change in changes {
            if let Some(hold) = &mut self.hold {
                hold.until.get_or_insert_with(|| later(now));
                if matches!(&change, Change::Put { key, .. } if key == CONFIRMED) {
                    hold.until = Some(now);
                }
                match &change {
                    Change::Put { key, .. } => _ = hold.present.insert(key.clone()),
                    Change::Delete { key, .. } => _ = hold.present.remove(key),
                }
            }
            differs |= self.registry.apply(change);
        }
        differs
    }

    /// Gives up what has not come back, if the time has come.
    fn release(&mut self, now: Timestamp) -> bool {
        match self.hold.take_if(|hold| hold.until.is_some_and(|until| until <= now)) {
            Some(hold) => {
                self.saved_at = None;
                self.registry.keep_only(&hold.present, self.status.revision)
            }
            None => false,
        }
    }

    /// Notes whether something is published, and where that is from.
    fn note(&mut self, publish: bool) {
        self.published |= publish;
        self.status.saved_at = self.saved_at.filter(|_| self.published);
    }

    fn connected(&mut self, now: Timestamp) {
        if !self.status.connected {
            (self.status.connected, self.status.since) = (true, now);
        }
        self.status.last_error = None;
    }
}

// === impl Hold ===

impl Hold {
    fn describe(&self, registry: &Registry) -> String {
        let missing = registry.keys().iter().filter(|key| !self.present.contains(*key)).count();
        let until = match self.until {
            None => "until a key is written to it".to_owned(),
            Some(until) => format!("until {until} for them to come back"),
        };
        let Self { was, is, .. } = self;
        format!(
            "etcd lost its data (revision {is}, was {was}); {missing} keys that it no longer has are kept {until}"
        )
    }
}

fn later(now: Timestamp) -> Timestamp {
    now.checked_add(GRACE).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
