//! In which order a change reaches one client: make before break, each step released by ACKs.
//!
//! # Why
//!
//! A route is not warmed: the moment a client takes it, the clusters it names must be there, with endpoints. And a cluster
//! must stay until no route the client may still hold names it (xds_protocol.rst, "Eventual consistency considerations").
//! Emitting responses in order is not enough: a client that is busy, or refuses one, takes them in another.
//!
//! # The stages
//!
//! ```text
//! newest snapshot --(clusters, endpoints ACKed)--> released --(listeners, routes, ... ACKed)--> settled
//!        |                                             |                                           |
//!  what clusters and endpoints                what listeners, routes,              what may be removed: names in none
//!  are brought to, at once                    extensions are brought to            of newest, released, settled
//! ```
//!
//! Clusters and endpoints never wait, so a health change is never behind a rollout. While a stage waits, newer snapshots
//! replace each other before it: nothing queues. The two arrows are [`Release`] and [`Settle`]; this file says what they mean
//! for what may be sent.
//!
//! - **A NACK is an answer, but not leave.** What that means for each stage is said there; such a wait ends with the next good
//!   snapshot and not with time.
//! - **No answer at all** is waited for [`super::SessionOptions::gate_timeout`], then the stage goes on and says so: a proxy
//!   that stopped answering for one type should not lose all others.
//! - **A client that comes back** tells what it holds type by type. Until it had time for that
//!   ([`super::SessionOptions::resume_grace`]) nothing is removed, and no route is changed before its clusters are known.
//!   A state-of-the-world client says only a version: it is recognised where the view held that content lately. One that comes
//!   back in the middle of a rollout, with the old and the new at once, is not, and is brought to the newest directly.
//! - **A client that has asked for clusters and endpoints only** has nothing of this stream that could lead to them: there is no
//!   order to keep, and what it asks for later begins with the newest.
//!
//! What a client asks for and does not have is never behind a stage, or the two could wait for each other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::release::Release;
use super::settle::Settle;
use super::watch::{Content, Watch};
use crate::by_type::ByType;
use crate::resource::Resource;
use crate::snapshot::Snapshot;
use crate::type_set::TypeSet;
use crate::types::TypeUrl;

/// The types a route needs in place before it may name them.
pub(crate) static FIRST: [TypeUrl; 2] = [TypeUrl::CLUSTER, TypeUrl::ENDPOINT];

/// The types that name clusters, and what belongs to them.
pub(crate) static SECOND: [TypeUrl; 5] = [
    TypeUrl::LISTENER,
    TypeUrl::EXTENSION_CONFIG,
    TypeUrl::ROUTE,
    TypeUrl::SCOPED_ROUTE,
    TypeUrl::VIRTUAL_HOST,
];

/// A snapshot and its place in the stream's history, counted from 1.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    pub snapshot: Arc<Snapshot>,
    pub number: u64,
}

/// The order of one aggregated stream.
#[derive(Debug)]
pub(crate) struct Order {
    gate_timeout: Duration,
    resume_grace: Duration,
    newest: Option<Point>,
    release: Release,
    settle: Settle,
    /// The first request, and whether the client has brought things from an earlier stream.
    opened: Option<Instant>,
    resumed: bool,
}

/// A stage that passed its snapshot on without the answers of these types.
#[derive(Debug)]
pub(crate) struct Expired {
    pub waiting_for: Vec<TypeUrl>,
    pub waited: Duration,
}

/// Boxed: a watch is taken out and put back whenever its type is offered to send, and a map of a few must not have room for many.
pub(crate) type Watches = ByType<Box<Watch>>;

// === impl Order ===

impl Order {
    pub(crate) fn new(gate_timeout: Duration, resume_grace: Duration) -> Self {
        Self {
            gate_timeout,
            resume_grace,
            newest: None,
            release: Release::default(),
            settle: Settle::default(),
            opened: None,
            resumed: false,
        }
    }

    pub(crate) fn newest(&self) -> Option<&Point> {
        self.newest.as_ref()
    }

    #[cfg(test)]
    pub(crate) fn has_released(&self) -> bool {
        self.release.released().is_some()
    }

    /// A request arrived.
    pub(crate) fn requested(&mut self, now: Instant, resumes: bool) {
        self.opened.get_or_insert(now);
        self.resumed |= resumes;
    }

    /// The view has this content now.
    pub(crate) fn publish(&mut self, snapshot: Arc<Snapshot>) {
        let number = self.newest.as_ref().map_or(1, |point| point.number + 1);
        self.newest = Some(Point { snapshot, number });
    }

    /// A response with this serial number brings a cluster that will ask for `child`.
    pub(crate) fn expect(&mut self, type_url: &TypeUrl, child: &Arc<str>, serial: u64) {
        // What does not exist is not waited for: the client is told so, or finds out.
        if let Some(resource) = self.newest.as_ref().and_then(|point| point.snapshot.get(type_url, child)) {
            self.release.expect(resource, serial);
        }
    }

    /// A response with this serial number brings all clusters of the newest snapshot. Answers whether all endpoints, and nothing
    /// else, are what these will ask for; if not, they are to be expected one by one.
    pub(crate) fn expect_all(&mut self, serial: u64) -> bool {
        let Some(point) = &self.newest else { return false };
        point.snapshot.leads_to_all_endpoints()
            && self.release.expect_all(point.snapshot.set(&TypeUrl::ENDPOINT), serial)
    }

    /// The set of this type, if all of it is what clusters that were sent wait for.
    pub(crate) fn expected_all(&self, type_url: &TypeUrl) -> Option<&TypeSet> {
        self.release.expected_all(type_url)
    }

    /// What else clusters that were sent wait for, of this type.
    pub(crate) fn expected(&self, type_url: &TypeUrl) -> impl Iterator<Item = &Arc<str>> {
        self.release.expected(type_url)
    }

    /// What a client is to get under a name that its goal no longer has, because a cluster it was sent waits for it.
    pub(crate) fn promised(&self, type_url: &TypeUrl, name: &Arc<str>) -> Option<&Arc<Resource>> {
        self.release.promised(type_url, name)
    }

    /// The client answered the response with this serial number, and now has an answer under the names of `content`.
    pub(crate) fn answered(&mut self, now: Instant, type_url: &TypeUrl, serial: u64, content: &Content) {
        self.release.answered(now, type_url, serial, content);
    }

    /// What a type is to be brought to, and whether changes to what the client has may go out.
    pub(crate) fn goal(&self, type_url: &TypeUrl) -> Option<(&Point, bool)> {
        if !is_second(type_url) {
            return self.newest.as_ref().map(|point| (point, true));
        }
        match self.release.released() {
            Some(released) => Some((released, true)),
            None => self.release.waiting().map(|first| (first, false)),
        }
    }

    /// Whether the client may be told to give up a name that the type's goal does not have.
    pub(crate) fn removable(&self, now: Instant, type_url: &TypeUrl, name: &str, watches: &Watches) -> bool {
        if self.in_grace(now) {
            return false;
        }
        if *type_url == TypeUrl::LISTENER {
            // A listener hands its address on to the one that replaces it, and Envoy takes removals before additions of the
            // same response: both go together.
            return self.release.released().is_some();
        }
        let without = |point: &Point| point.snapshot.get(type_url, name).is_none();
        let unused = self.newest.iter().chain(self.release.waiting()).all(without)
            && (is_bare(watches) || self.settle.is_without(type_url, name));
        // Endpoints, extensions and the rest go after the clusters that used them.
        let clusters_gone = || match (&self.newest, watches.get(&TypeUrl::CLUSTER)) {
            (Some(newest), Some(clusters)) => !clusters.has_more_than(newest.snapshot.set(&TypeUrl::CLUSTER)),
            _ => true,
        };
        unused && (*type_url == TypeUrl::CLUSTER || clusters_gone())
    }

    /// Moves the stages as far as the client's answers and the time allow. Answers whether anything moved.
    pub(crate) fn advance(&mut self, now: Instant, watches: &Watches, expired: &mut Vec<Expired>) -> bool {
        let Some(newest) = self.newest.as_ref().filter(|_| self.opened.is_some()) else { return false };
        let in_grace = self.in_grace(now);
        if is_bare(watches) {
            self.release.begin_with(newest, now);
        }
        self.release.take_up(newest, now);
        self.release.forget_unasked(now, newest, self.resume_grace, watches);
        let released = self.release.advance(now, in_grace, self.gate_timeout, watches, expired);
        let settled = match self.release.released() {
            Some(released) => {
                self.settle.advance(now, released, in_grace, self.gate_timeout, watches, expired)
            }
            None => false,
        };
        released || settled
    }

    /// When [`Order::advance`] should be tried again though nothing happened.
    pub(crate) fn deadline(&self, now: Instant, watches: &Watches) -> Option<Instant> {
        self.newest.as_ref()?;
        let in_grace = self.in_grace(now);
        let grace = self.opened.filter(|_| in_grace).map(|opened| opened + self.resume_grace);
        let unasked = self.release.next_unasked(now, self.resume_grace);
        let release = self.release.deadline(in_grace, self.gate_timeout, watches);
        let released = self.release.released().filter(|_| !in_grace);
        let settle = released.and_then(|point| self.settle.deadline(point, self.gate_timeout, watches));
        [grace, unasked, release, settle].into_iter().flatten().min()
    }

    fn in_grace(&self, now: Instant) -> bool {
        self.resumed && self.opened.is_some_and(|opened| now < opened + self.resume_grace)
    }
}

/// Whether it is one of [`SECOND`], which follow each other among all types: asked for each type of each stream at each change.
fn is_second(type_url: &TypeUrl) -> bool {
    (TypeUrl::LISTENER.position()..=TypeUrl::VIRTUAL_HOST.position()).contains(&type_url.position())
}

/// Whether the client has not asked this stream for anything that could lead to a cluster: then there is no order to keep, and
/// what it asks for later begins with the newest.
fn is_bare(watches: &Watches) -> bool {
    !SECOND.iter().any(|kind| watches.contains_key(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_types_that_name_clusters_follow_each_other() {
        for type_url in TypeUrl::KNOWN.iter().chain([&TypeUrl::new("a/b")]) {
            assert_eq!(is_second(type_url), SECOND.contains(type_url), "{type_url}");
        }
    }
}
