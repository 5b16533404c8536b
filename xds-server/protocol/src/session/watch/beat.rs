//! Times to live: when a type's heartbeat is due and what it holds.
//!
//! One beat for a type, at half of the shortest time to live, renews them all: a client that misses one has as long again. It is
//! never an update: no content of an incremental resource, no new version, no point of the stream's history.
//!
//! In state of the world a heartbeat without content would do by the letter (xds_protocol.rst, "TTL"), but Envoy's own
//! multiplexer for it drops such resources before it looks at their time, and takes a response without clusters for an order to
//! remove them all. So there the resource itself is said again, in the version the client has.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::room::Room;
use super::state::Watch;
use crate::codec;
use crate::resource::Resource;
use crate::session::held::Holds;
use crate::type_set::TypeSet;
use crate::types::Protocol;
use crate::wire;

/// How often a type beats at most, whatever the time to live.
const FASTEST: Duration = Duration::from_millis(10);

/// When a type's times to live last began anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Beat {
    /// The client was sent nothing on this stream that could run out.
    Idle,
    /// Then.
    At(Instant),
    /// Then, but for those from this name on: they had no room in the response.
    Partly(Instant, Arc<str>),
    /// The client refused a heartbeat: it gets none until it takes something.
    Refused,
}

// === impl Watch ===

impl Watch {
    /// What is to be kept alive at `now`, if a heartbeat is due and as far as there is room; it then counts as given.
    pub(super) fn beat(&mut self, now: Instant, goal: &TypeSet, room: &mut Room) -> Vec<Arc<Resource>> {
        let Some(interval) = self.interval(goal) else { return Vec::new() };
        let (began, from) = match &self.beat {
            Beat::Refused => return Vec::new(),
            Beat::At(last) if now < *last + interval => return Vec::new(),
            // What an earlier stream brought has been running out since, who knows how long.
            Beat::Idle | Beat::At(_) => (now, None),
            Beat::Partly(began, from) => (*began, Some(from.clone())),
        };
        let alive = |resource: &&Arc<Resource>| {
            let holds = |name: &Arc<str>| self.has_just(name, resource);
            let own = |name: &Arc<str>| self.subscription.covers(name) && holds(name);
            let alias = |name: &Arc<str>| self.subscription.names_exactly(name) && holds(name);
            resource.ttl().is_some() && (own(resource.name()) || resource.aliases().iter().any(alias))
        };
        let left = |resource: &&Arc<Resource>| from.as_ref().is_none_or(|from| resource.name() >= from);
        let mut beats = Vec::new();
        let mut rest = None;
        for resource in goal.iter().filter(left).filter(alive) {
            let len = || match self.protocol {
                Protocol::Sotw => codec::body_len(self.protocol, self.features.ttl, resource),
                Protocol::Delta => codec::beat_len(resource),
            };
            if !room.takes(|| wire::bytes_len(len())) {
                rest = Some(resource.name().clone());
                break;
            }
            beats.push(resource.clone());
        }
        self.beat = match rest {
            Some(name) => Beat::Partly(began, name),
            None if beats.is_empty() && from.is_none() => Beat::Idle,
            None => Beat::At(began),
        };
        beats
    }

    /// These were sent: if any of them can run out, it begins to.
    pub(super) fn starts_to_age(&mut self, now: Instant, sent: &[Arc<Resource>]) {
        let aging = self.features.ttl && sent.iter().any(|resource| resource.ttl().is_some());
        if aging && !matches!(self.beat, Beat::At(_) | Beat::Partly(..)) {
            self.beat = Beat::At(now);
        }
    }

    /// When the next heartbeat is due.
    pub(crate) fn next_beat(&self) -> Option<Instant> {
        match &self.beat {
            Beat::At(last) | Beat::Partly(last, _) if self.in_flight.is_none() => {
                Some(*last + self.interval(self.held.base())?)
            }
            _ => None,
        }
    }

    fn interval(&self, goal: &TypeSet) -> Option<Duration> {
        let shortest = goal.ttl().filter(|_| self.features.ttl)?;
        Some((shortest / 2).max(FASTEST))
    }

    fn has_just(&self, name: &str, resource: &Arc<Resource>) -> bool {
        !matches!(self.held.of(name), Holds::Doubtful { .. }) && self.held.of(name).is(Some(resource))
    }
}
