//! The first arrow of [`super::order`]: from the newest snapshot to the one whose routes may be sent.
//!
//! One snapshot is *waiting*; it is *released* when the client has answered for its clusters and endpoints, *or for later ones*:
//! a stream of changes to endpoints cannot starve the routes. Then the newest is taken up next.
//!
//! - An answer is not enough where the answer was no. Every cluster of the snapshot and its endpoints must be at the client in
//!   *some* version: a refused change leaves the old one to route to; a new cluster that was refused, or whose endpoints were,
//!   must not get routes. That is held, not timed.
//! - A new cluster asks for its endpoints only after it arrived, perhaps after its ACK. What the clusters that were sent will
//!   ask for is *expected* until it is answered for, or until the client evidently does not ask (it does so in one burst with
//!   its ACK, if at all).
//! - Envoy ACKs clusters only once they are warm (state of the world), so endpoints that never come would hold up all
//!   clusters. What was there when its cluster was sent is sent, though a newer snapshot has dropped both.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::order::{Expired, FIRST, Point, Watches};
use super::watch::{Content, Watch};
use crate::resource::Resource;
use crate::type_set::TypeSet;
use crate::types::TypeUrl;

/// See the file's head.
#[derive(Debug, Default)]
pub(crate) struct Release {
    released: Option<Point>,
    /// And since when an answer is waited for.
    waiting: Option<(Point, Instant)>,
    /// Children of clusters sent that the client has not answered for.
    expected: BTreeMap<(TypeUrl, Arc<str>), Expected>,
    /// All endpoints, of a client that began with all clusters: the same in one piece, and then nothing is in `expected`.
    all: Option<ExpectedAll>,
}

/// What all clusters will ask for.
#[derive(Debug)]
struct ExpectedAll {
    serial: u64,
    answered: Option<Instant>,
    /// As it was then.
    endpoints: Arc<TypeSet>,
}

/// What a cluster that was sent will ask for.
#[derive(Debug)]
struct Expected {
    /// The serial number of the response that brought the cluster, and when the client answered it.
    serial: u64,
    answered: Option<Instant>,
    /// As it was then.
    resource: Arc<Resource>,
}

/// Where the waiting snapshot stands.
enum Verdict {
    Pass,
    /// Some answer is missing.
    Wait,
    /// Nothing is missing, and passing would do harm.
    Hold,
}

// === impl Release ===

impl Release {
    pub(crate) fn released(&self) -> Option<&Point> {
        self.released.as_ref()
    }

    pub(crate) fn waiting(&self) -> Option<&Point> {
        self.waiting.as_ref().map(|(point, _)| point)
    }

    /// Takes up the newest snapshot if none is waiting, or if the waiting one needs a cluster or endpoints that the
    /// newest has not: they would never be sent.
    pub(crate) fn take_up(&mut self, newest: &Point, now: Instant) {
        match &mut self.waiting {
            None if self.released.as_ref().is_none_or(|released| released.number < newest.number) => {
                self.waiting = Some((newest.clone(), now));
            }
            None => {}
            Some((waiting, _)) if waiting.number == newest.number => {}
            Some((waiting, _)) => {
                let lost = |kind: &TypeUrl| {
                    let now = newest.snapshot.set(kind);
                    let changed = now.changed_since(waiting.snapshot.set(kind));
                    changed.iter().any(|name| now.get(name).is_none())
                };
                if FIRST.iter().any(lost) {
                    *waiting = newest.clone();
                }
            }
        }
    }

    /// Forgets all snapshots before the newest: nothing of them was given to anybody.
    pub(crate) fn begin_with(&mut self, newest: &Point, now: Instant) {
        let known = self.released.iter().chain(self.waiting()).any(|point| point.number == newest.number);
        if !known {
            self.released = None;
            self.waiting = Some((newest.clone(), now));
        }
    }

    /// Answers whether there was nothing else to expect; if there was, each is to be expected by its name.
    pub(crate) fn expect_all(&mut self, endpoints: &Arc<TypeSet>, serial: u64) -> bool {
        let alone = self.expected.is_empty() && self.all.is_none();
        if alone {
            self.all = Some(ExpectedAll { serial, answered: None, endpoints: endpoints.clone() });
        }
        alone
    }

    pub(crate) fn expected_all(&self, type_url: &TypeUrl) -> Option<&TypeSet> {
        self.all.as_ref().filter(|_| *type_url == TypeUrl::ENDPOINT).map(|all| &*all.endpoints)
    }

    /// The same name by name, so that they can part.
    fn part(&mut self) {
        let Some(ExpectedAll { serial, answered, endpoints }) = self.all.take() else { return };
        for resource in endpoints.iter() {
            let expected = Expected { serial, answered, resource: resource.clone() };
            self.expected.insert((TypeUrl::ENDPOINT, resource.name().clone()), expected);
        }
    }

    pub(crate) fn expect(&mut self, child: &Arc<Resource>, serial: u64) {
        self.part();
        let expected = Expected { serial, answered: None, resource: child.clone() };
        self.expected.insert((child.type_url().clone(), child.name().clone()), expected);
    }

    pub(crate) fn expected(&self, type_url: &TypeUrl) -> impl Iterator<Item = &Arc<str>> {
        self.expected.keys().filter(move |(of, _)| of == type_url).map(|(_, name)| name)
    }

    pub(crate) fn promised(&self, type_url: &TypeUrl, name: &Arc<str>) -> Option<&Arc<Resource>> {
        match &self.all {
            Some(all) if *type_url == TypeUrl::ENDPOINT => all.endpoints.get(name),
            _ if self.expected.is_empty() => None,
            _ => self.expected.get(&(type_url.clone(), name.clone())).map(|expected| &expected.resource),
        }
    }

    /// The client answered a response: what it brought is there, and if it is to ask for anything because of it, it does so
    /// now.
    pub(crate) fn answered(&mut self, now: Instant, type_url: &TypeUrl, serial: u64, content: &Content) {
        if let Some(all) = &mut self.all {
            if all.serial == serial {
                all.answered.get_or_insert(now);
            }
            if *type_url == TypeUrl::ENDPOINT && serial > all.serial {
                if content.whole().is_some_and(|set| set.same_names(&all.endpoints)) {
                    self.all = None;
                } else if !content.is_empty() {
                    self.part();
                }
            }
        }
        if self.expected.is_empty() {
            return;
        }
        for expected in self.expected.values_mut().filter(|expected| expected.serial == serial) {
            expected.answered.get_or_insert(now);
        }
        for name in content.names() {
            let key = (type_url.clone(), name.clone());
            if self.expected.get(&key).is_some_and(|expected| serial > expected.serial) {
                self.expected.remove(&key);
            }
        }
    }

    /// Gives up what the client will not ask for, or will not get any more.
    pub(crate) fn forget_unasked(
        &mut self,
        now: Instant,
        newest: &Point,
        grace: Duration,
        watches: &Watches,
    ) {
        if let Some(all) = &self.all {
            // As below, for all at once; where they are not all in the same case, they part.
            let watch = watches.get(&TypeUrl::ENDPOINT);
            let asked = watch.is_some_and(|watch| watch.subscription().covers_all(&all.endpoints));
            let asks = all.answered.is_none_or(|at| now < at + grace) || asked;
            if !asks || !newest.snapshot.set(&TypeUrl::ENDPOINT).same_names(&all.endpoints) {
                self.part();
            }
        }
        if self.expected.is_empty() {
            return;
        }
        self.expected.retain(|(type_url, name), expected| {
            let watch = watches.get(type_url).filter(|watch| watch.covers(name));
            let asks = expected.answered.is_none_or(|at| now < at + grace) || watch.is_some();
            // Refused, and dropped before it was mended.
            let lost = watch.is_some_and(|watch| !watch.is_answering(name))
                && newest.snapshot.get(type_url, name).is_none();
            asks && !lost
        });
    }

    /// When the next expectation is given up because nothing asked.
    pub(crate) fn next_unasked(&self, now: Instant, grace: Duration) -> Option<Instant> {
        let all = self.all.iter().map(|all| all.answered);
        let answered = self.expected.values().map(|expected| expected.answered).chain(all);
        let given_up = answered.flatten().map(|answered| answered + grace);
        given_up.filter(|at| *at > now).min()
    }

    /// Releases the waiting snapshot if the client's answers or the time allow it. Answers whether it did.
    pub(crate) fn advance(
        &mut self,
        now: Instant,
        in_grace: bool,
        timeout: Duration,
        watches: &Watches,
        expired: &mut Vec<Expired>,
    ) -> bool {
        let verdict = self.verdict(in_grace, watches);
        let Some((point, since)) = self.waiting.take() else { return false };
        let waited = now.saturating_duration_since(since);
        match verdict {
            Verdict::Pass => {}
            Verdict::Wait if waited >= timeout => {
                expired.push(Expired { waiting_for: self.missing(&point, watches), waited });
            }
            Verdict::Wait => {
                self.waiting = Some((point, since));
                return false;
            }
            Verdict::Hold => {
                // What is held for a reason is not late: the wait for an answer begins when the reason is gone.
                self.waiting = Some((point, now));
                return false;
            }
        }
        self.released = Some(point);
        true
    }

    pub(crate) fn deadline(&self, in_grace: bool, timeout: Duration, watches: &Watches) -> Option<Instant> {
        match (&self.waiting, self.verdict(in_grace, watches)) {
            (Some((_, since)), Verdict::Wait) => Some(*since + timeout),
            _ => None,
        }
    }

    fn verdict(&self, in_grace: bool, watches: &Watches) -> Verdict {
        let Some((point, _)) = &self.waiting else { return Verdict::Hold };
        if in_grace && !FIRST.iter().all(|type_url| watches.contains_key(type_url)) {
            return Verdict::Hold;
        }
        if let Some(all) = &self.all {
            let watch = watches.get(&TypeUrl::ENDPOINT).filter(|watch| watch.refuses());
            let lost = |watch: &Watch, of: &Arc<Resource>| watch.is_refused_and_missing(of.name());
            if watch.is_some_and(|watch| all.endpoints.iter().any(|resource| lost(watch, resource))) {
                return Verdict::Hold;
            }
        }
        let refused = |(type_url, name): &(TypeUrl, Arc<str>)| {
            watches.get(type_url).is_some_and(|watch| watch.is_refused_and_missing(name))
        };
        if self.expected.keys().any(refused) {
            return Verdict::Hold;
        }
        let there = |type_url: &TypeUrl| {
            watches.get(type_url).is_none_or(|watch| watch.has_all_of(point.snapshot.set(type_url)))
        };
        if self.all.is_some() || !self.expected.is_empty() || behind(point, watches).next().is_some() {
            Verdict::Wait
        } else if FIRST.iter().all(there) {
            Verdict::Pass
        } else {
            Verdict::Hold
        }
    }

    /// The types whose answer is missing.
    fn missing(&self, point: &Point, watches: &Watches) -> Vec<TypeUrl> {
        let mut missing: Vec<TypeUrl> = behind(point, watches).cloned().collect();
        let all = self.all.iter().map(|_| &TypeUrl::ENDPOINT);
        for type_url in all.chain(self.expected.keys().map(|(type_url, _)| type_url)) {
            if !missing.contains(type_url) {
                missing.push(type_url.clone());
            }
        }
        missing
    }
}

/// The types of the first stage that were not answered for at this point.
fn behind<'a>(point: &'a Point, watches: &'a Watches) -> impl Iterator<Item = &'a TypeUrl> {
    let behind =
        |type_url: &TypeUrl| watches.get(type_url).is_some_and(|watch| watch.answered() < point.number);
    FIRST.iter().filter(move |type_url| behind(type_url))
}
