//! The second arrow of [`super::order`]: from what was released to what the client is known to use, and nothing else.
//!
//! The client is *settled* at a released snapshot when listeners, routes and what belongs to them have all been accepted at
//! that very snapshot. Accepted at *a later* one would not do: a route that the later one has dropped may still be an older
//! one at the client, and in use until its listener goes. Whatever was released since is remembered, for the client may be on
//! its way through any of it. A name may go when none of these has it.
//!
//! A refusal keeps the client where it was, and what it uses there with it: that is held until it is mended. When listeners
//! and routes change without a pause the client may never be at rest; then nothing is removed until it is, which harms nobody.

use std::time::{Duration, Instant};

use super::order::{Expired, Point, SECOND, Watches};
use super::watch::Watch;
use crate::types::TypeUrl;

/// How many snapshots with different routes are remembered before removals wait for the client to come to rest. Each costs
/// some pointers; more than a handful in one round trip is a storm, in which nothing needs to be tidied up.
const SINCE: usize = 16;

/// See the file's head.
#[derive(Debug, Default)]
pub(crate) struct Settle {
    settled: Option<Point>,
    /// What was released since, oldest first, where its routes and the like differ from the one before.
    since: Vec<Point>,
    /// Whether there was no more room in `since`.
    crowded: bool,
}

// === impl Settle ===

impl Settle {
    /// Whether nothing that the client may be using has this name.
    pub(crate) fn is_without(&self, type_url: &TypeUrl, name: &str) -> bool {
        let mut used = self.settled.iter().chain(&self.since);
        self.settled.is_some()
            && !self.crowded
            && used.all(|point| point.snapshot.get(type_url, name).is_none())
    }

    /// Settles at the released snapshot if the client has come to rest there, or never will. Answers whether it did.
    pub(crate) fn advance(
        &mut self,
        now: Instant,
        released: &Point,
        in_grace: bool,
        timeout: Duration,
        watches: &Watches,
        expired: &mut Vec<Expired>,
    ) -> bool {
        if self.is_settled_at(released) {
            return false;
        }
        self.remember(released);
        let behind = behind(released, watches);
        if in_grace || behind.clone().any(Watch::is_stuck) {
            return false;
        }
        let waits = behind.clone().map(Watch::in_flight_since);
        let waited = waits.map(|since| now.saturating_duration_since(since.unwrap_or(now)));
        if waited.clone().any(|waited| waited < timeout) {
            return false;
        }
        if let Some(waited) = waited.max() {
            let waiting_for = behind.map(|watch| watch.type_url().clone()).collect();
            expired.push(Expired { waiting_for, waited });
        }
        *self = Self { settled: Some(released.clone()), since: Vec::new(), crowded: false };
        true
    }

    /// When the client will have been silent for too long.
    pub(crate) fn deadline(&self, released: &Point, timeout: Duration, watches: &Watches) -> Option<Instant> {
        if self.is_settled_at(released) {
            // A type asked for since changes nothing about that, and neither does time.
            return None;
        }
        let mut latest = None;
        for watch in behind(released, watches) {
            if watch.is_stuck() {
                return None;
            }
            latest = latest.max(Some(watch.in_flight_since()?));
        }
        latest.map(|since| since + timeout)
    }

    fn is_settled_at(&self, released: &Point) -> bool {
        self.settled.as_ref().is_some_and(|settled| settled.number == released.number)
    }

    fn remember(&mut self, released: &Point) {
        let last = self.since.last().or(self.settled.as_ref());
        let same = |last: &Point| {
            SECOND.iter().all(|kind| released.snapshot.set(kind).same_content(last.snapshot.set(kind)))
        };
        if last.is_some_and(same) {
            return;
        }
        if self.since.len() < SINCE {
            self.since.push(released.clone());
        } else {
            self.crowded = true;
        }
    }
}

/// The watches that are not at the released snapshot.
fn behind<'a>(released: &Point, watches: &'a Watches) -> impl Iterator<Item = &'a Watch> + Clone {
    let number = released.number;
    let watched = SECOND.iter().filter_map(|type_url| watches.get(type_url)).map(Box::as_ref);
    watched.filter(move |watch| watch.accepted() != number)
}
