//! Turns topologies into published views: which ones to build, when, and why.
//!
//! # What moves it
//!
//! - a new **topology**: every view is built anew. There are as many as zones, not as proxies, and what did not change in one
//!   keeps its bytes and its version, so that building a view nobody needed costs microseconds and sends nothing.
//! - new **options** (the filter's module, the listeners' address): likewise.
//! - a proxy of a **zone** that was not asked for before. A view is kept under the name that the proxy uses: its zone's own
//!   name, an alias, or a name that nobody knows and that is served as nobody's zone. So a proxy that connects before its zone
//!   was declared moves to the right view when it is, without a reconnect.
//! - **time**: a drain ends when its time is over, with no key in etcd changing. The publication says when to come back.
//!
//! Nothing is published before the first topology: an empty view would tell proxies to forget what they have.
//!
//! No clock and no I/O of its own: `now` comes in, a [`Publication`] goes out.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use zonebreak_core::names::Zone;
use zonebreak_topology::{Topology, view::Follower};
use zonebreak_xds::{ChangeId, Snapshot, SnapshotError, ViewKey};

use super::nodes::MAX_ASKED_EVER;
use crate::resources::{self, Clash, Options};

/// What moves the publisher.
#[derive(Debug, Clone)]
pub enum Event {
    /// The source has a new state.
    Topology(Arc<Topology>),
    /// The configuration has.
    Options(Arc<Options>),
    /// A proxy names this zone.
    Asked(Zone),
    /// The time has come that the last publication named.
    Due,
}

/// What to publish.
#[derive(Debug, Clone, Default)]
pub struct Publication {
    /// The number of this publication, from 1; the label of its snapshots.
    pub change: u64,
    /// The revision of the topology behind it.
    pub revision: i64,
    /// Views to put into the hub, by key.
    pub views: Vec<(ViewKey, Arc<Snapshot>)>,
    /// The keys among them whose content is another than before.
    pub changed: Vec<ViewKey>,
    /// Keys to take out of the hub: their zones are gone and no proxy ever named them.
    pub removed: Vec<ViewKey>,
    /// Host names that two services of one port claim.
    pub clashes: BTreeSet<Clash>,
    /// Views that could not be built and stay as they were.
    pub failed: Vec<(ViewKey, SnapshotError)>,
    /// When to send [`Event::Due`].
    pub next_due: Option<Timestamp>,
}

/// The state between events.
#[derive(Debug)]
pub struct Publisher {
    change: u64,
    options: Arc<Options>,
    topology: Option<Arc<Topology>>,
    /// No more than [`MAX_ASKED_EVER`].
    asked: BTreeSet<Zone>,
    /// The view of each zone, kept up to date at the cost of what changed.
    followers: BTreeMap<Option<Zone>, Follower>,
    /// The last snapshot of each zone, by canonical name; `None` is nobody's zone.
    built: BTreeMap<Option<Zone>, Arc<Snapshot>>,
    /// What the hub holds.
    published: BTreeMap<Option<Zone>, Arc<Snapshot>>,
    clashes: BTreeSet<Clash>,
    failed: Vec<(ViewKey, SnapshotError)>,
    next_due: Option<Timestamp>,
}

/// The key under which proxies of a zone find their view; of nobody's zone without one.
pub fn key(zone: Option<&Zone>) -> ViewKey {
    ViewKey::new(zone.map_or("", Zone::as_str))
}

// === impl Publisher ===

impl Publisher {
    /// A publisher that has seen no topology.
    pub fn new(options: Arc<Options>) -> Self {
        Self {
            change: 0,
            options,
            topology: None,
            asked: BTreeSet::new(),
            followers: BTreeMap::new(),
            built: BTreeMap::new(),
            published: BTreeMap::new(),
            clashes: BTreeSet::new(),
            failed: Vec::new(),
            next_due: None,
        }
    }

    /// What the event calls for; `None` when there is nothing to publish.
    pub fn step(&mut self, now: Timestamp, event: Event) -> Option<Publication> {
        match event {
            Event::Topology(topology) => self.topology = Some(topology),
            Event::Options(options) => self.options = options,
            Event::Asked(zone) => {
                // Who asks has its bound as well: a view that is not made would be waited for.
                if self.asked.len() < MAX_ASKED_EVER {
                    self.asked.insert(zone);
                }
                let topology = self.topology.clone()?;
                return Some(self.publish(&topology));
            }
            Event::Due => {}
        }
        let topology = self.topology.clone()?;
        self.change += 1;
        self.rebuild(&topology, now);
        Some(self.publish(&topology))
    }

    fn rebuild(&mut self, topology: &Arc<Topology>, now: Timestamp) {
        (self.next_due, self.clashes, self.failed) = (None, BTreeSet::new(), Vec::new());
        let old = std::mem::take(&mut self.built);
        let mut followers = std::mem::take(&mut self.followers);
        for zone in topology.known_zones().into_iter().map(Some).chain([None]) {
            let mut follower = followers.remove(&zone).unwrap_or_else(|| Follower::new(zone.clone()));
            let view = follower.view(topology, now);
            self.followers.insert(zone.clone(), follower);
            self.next_due = [self.next_due, view.next_expiry].into_iter().flatten().min();
            let previous = old.get(&zone);
            match resources::snapshot(&view, &self.options, ChangeId(self.change), previous) {
                Ok((snapshot, clashes)) => {
                    self.clashes.extend(clashes);
                    self.built.insert(zone, Arc::new(snapshot));
                }
                Err(error) => {
                    self.failed.push((key(zone.as_ref()), error));
                    self.built.extend(previous.map(|previous| (zone, previous.clone())));
                }
            }
        }
    }

    /// Every name that a proxy may use, with what it stands for now.
    fn publish(&mut self, topology: &Topology) -> Publication {
        let names = self.built.keys().cloned().chain(self.asked.iter().cloned().map(Some));
        let mut views = BTreeMap::new();
        for name in names {
            let canonical = name.as_ref().map(|zone| topology.canonical(zone).clone());
            if let Some(snapshot) = self.built.get(&canonical).or_else(|| self.built.get(&None)) {
                views.insert(name, snapshot.clone());
            }
        }
        let differs = |(name, snapshot): &(&Option<Zone>, &Arc<Snapshot>)| {
            self.published.get(*name).is_none_or(|old| !old.same_content(snapshot))
        };
        let changed = views.iter().filter(differs).map(|(name, _)| key(name.as_ref())).collect();
        let gone = self.published.keys().filter(|name| !views.contains_key(*name));
        let removed = gone.map(|name| key(name.as_ref())).collect();
        self.published = views;
        Publication {
            change: self.change,
            revision: topology.revision,
            views: self
                .published
                .iter()
                .map(|(name, snapshot)| (key(name.as_ref()), snapshot.clone()))
                .collect(),
            changed,
            removed,
            clashes: self.clashes.clone(),
            failed: std::mem::take(&mut self.failed),
            next_due: self.next_due,
        }
    }
}

#[cfg(test)]
mod tests;
