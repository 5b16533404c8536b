//! Which of what the source says is believed: a pure guard between the source and the proxies. Holds changes back and lets them
//! go; never makes one up.
//!
//! # What is held
//!
//! An etcd that answers empty, a script that deletes too much, a registrar that dies with all of its leases: each looks like an
//! ordinary change, and the endpoints that it takes away are alive and serving. So a service may lose no more than a share of
//! its endpoints ([`Limits::max_removal`], half unless told otherwise) within a short time ([`Limits::window`]). What goes
//! beyond is *held*: the service keeps the endpoints that it had, everything else of the same change goes through, and an
//! operator is told.
//!
//! Counted is how many endpoints are left, against the most there were within the window. So a rollout that replaces every
//! instance under new names is not held, and neither is one that takes them away slowly; a loss in many small steps within the
//! window is, at the step that goes too far.
//!
//! # The states of a service
//!
//! ```text
//!          too many gone within the window
//! open ───────────────────────────────────────> held
//!   ^   enough are back, or an operator confirms   │
//!   └──────────────────────────────────────────────┘
//! ```
//!
//! While a service is held, what is added and changed still goes through: its endpoints are those that it had, overlaid with
//! those that the source has. Its policy, and the zones that its endpoints lie in, stay with it, and nothing else does: what
//! is said of zones meanwhile, drains included, counts for it as for all. The number to come back to is
//! the one that there was when the hold began; time alone releases nothing.
//!
//! A confirmation says how far down a service may go ([`Confirmation::endpoints`]), so that a second accident after the
//! operator's look is held again, and so that it means the same on every replica, whatever each of them saw and when.
//!
//! # Knowing from before
//!
//! A topology read from disk ([`Gate::remember`]) counts like one that was seen, for [`FRESH`]: a server that is restarted in
//! the middle of an accident is not fooled by it. An older one is no measure of what is normal now.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use zonebreak_core::{
    names::{ServiceName, Zone},
    units::{Millis, Percent},
};

use crate::model::{Confirmation, Endpoint, HeldId, InstanceId, Topology};

/// How long what was read from disk is a measure of what is normal: a restart takes seconds, an image pull minutes.
pub const FRESH: SignedDuration = SignedDuration::from_mins(10);

/// How much may go at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest share of a service's endpoints that may go within the window; the whole switches the guard off.
    pub max_removal: Percent,
    /// What counts as "at once".
    pub window: Millis,
}

/// What happens to the gate.
#[derive(Debug, Clone)]
pub enum Event {
    /// The source says this.
    Said(Arc<Topology>),
    /// An operator confirmed on this server alone, for want of an etcd.
    Confirmed(HeldId, Confirmation),
    /// Other limits are in force.
    Limits(Limits),
}

/// What comes of it.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// What is to be served.
    pub topology: Arc<Topology>,
    /// Holds that began.
    pub held: Vec<Held>,
    /// Holds that ended.
    pub released: Vec<(Held, Release)>,
}

/// A loss that is held back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The service.
    pub service: ServiceName,
    /// The most endpoints it had within the window before.
    pub before: usize,
    /// How many the source leaves it with.
    pub after: usize,
    /// How many are served in their place.
    pub served: usize,
    /// Since when.
    pub since: Timestamp,
    /// The revision that began it.
    pub revision: i64,
    /// The limit that it went beyond.
    pub limits: Limits,
}

/// Why a hold ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Release {
    /// Enough endpoints are back, or the limits changed.
    Undone,
    /// An operator said that it was meant.
    Confirmed(Confirmation),
}

/// The state between events.
#[derive(Debug)]
pub struct Gate {
    limits: Limits,
    said: Option<Arc<Topology>>,
    admitted: Option<Arc<Topology>>,
    /// When what was remembered was true, until the source has said something.
    remembered: Option<Timestamp>,
    /// Services with anything to remember.
    services: BTreeMap<ServiceName, Guarded>,
    confirmed: BTreeMap<HeldId, Confirmation>,
}

/// One service.
#[derive(Debug, Default)]
struct Guarded {
    /// How many endpoints there were until when, the most first: a number is forgotten when a later one is no smaller.
    peaks: Vec<(Timestamp, usize)>,
    held: Option<(Held, Arc<BTreeMap<InstanceId, Endpoint>>)>,
}

// === impl Limits ===

impl Limits {
    /// Whether going from `before` to `after` is too much.
    fn exceeded(self, before: usize, after: usize) -> bool {
        let gone = before.saturating_sub(after) as u128;
        self.max_removal != Percent::FULL
            && gone * 1000 > before as u128 * u128::from(self.max_removal.permille())
    }
}

impl Default for Limits {
    /// Half, within 10 s: the default lease of a registration, within which a dead registrar's instances all go.
    fn default() -> Self {
        // 50 % is a percentage.
        Self { max_removal: Percent::new(50.0).unwrap_or(Percent::FULL), window: Millis::secs(10) }
    }
}

// === impl Gate ===

impl Gate {
    /// A gate that has seen nothing: the first topology is believed as it is.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            said: None,
            admitted: None,
            remembered: None,
            services: BTreeMap::new(),
            confirmed: BTreeMap::new(),
        }
    }

    /// Starts from what was served at `then`, before this program did.
    pub fn remember(&mut self, topology: Arc<Topology>, then: Timestamp) {
        (self.admitted, self.remembered) = (Some(topology), Some(then));
    }

    /// Takes what happened. `None` before the first topology.
    pub fn step(&mut self, now: Timestamp, event: Event) -> Option<Admitted> {
        match event {
            Event::Said(topology) => self.said = Some(topology),
            Event::Limits(limits) => self.limits = limits,
            Event::Confirmed(id, confirmation) => _ = self.confirmed.insert(id, confirmation),
        }
        self.confirmed.retain(|_, confirmation| confirmation.active(now));
        let said = self.said.clone()?;
        if let Some(then) = self.remembered
            && self.admitted.as_ref().is_none_or(|known| !Arc::ptr_eq(known, &said))
        {
            self.remembered = None;
            if now.duration_since(then) > FRESH {
                self.admitted = None;
            }
        }
        Some(self.judge(now, &said))
    }

    /// Every hold in force, by service.
    pub fn held(&self) -> Vec<Held> {
        self.services.values().filter_map(|service| Some(service.held.as_ref()?.0.clone())).collect()
    }

    fn judge(&mut self, now: Timestamp, said: &Arc<Topology>) -> Admitted {
        let (mut began, mut released) = (Vec::new(), Vec::new());
        let before = self.admitted.clone().unwrap_or_default();
        for name in self.concerned(&before, said) {
            let confirmation = self.confirmation(said, &name, now);
            let guarded = self.services.entry(name.clone()).or_default();
            let was = before.endpoints.get(&name).cloned().unwrap_or_default();
            let after = said.endpoints.get(&name).map_or(0, |map| map.len());
            let most = guarded.most(now, self.limits.window, was.len());
            let allowed = confirmation.as_ref().is_some_and(|c| after >= c.endpoints);
            if allowed || !self.limits.exceeded(most, after) {
                guarded.seen(now, was.len(), after);
                if let Some((held, _)) = guarded.held.take() {
                    let why = confirmation.filter(|_| allowed).map_or(Release::Undone, Release::Confirmed);
                    released.push((Held { after, ..held }, why));
                }
                if allowed {
                    guarded.peaks.clear();
                }
            } else {
                let (limits, revision) = (self.limits, said.revision);
                match &mut guarded.held {
                    Some((held, _)) => held.after = after,
                    None => {
                        let held = Held {
                            service: name.clone(),
                            before: most,
                            after,
                            served: 0,
                            since: now,
                            revision,
                            limits,
                        };
                        began.push(held.clone());
                        guarded.held = Some((held, was));
                    }
                }
            }
            if guarded.is_idle(now, self.limits.window) {
                self.services.remove(&name);
            }
        }
        let topology = self.overlay(said, &before);
        for held in &mut began {
            held.served = topology.endpoints.get(&held.service).map_or(0, |map| map.len());
        }
        self.admitted = Some(topology.clone());
        Admitted { topology, held: began, released }
    }

    /// The services whose endpoints are others than before, and those that are held.
    fn concerned(&self, before: &Topology, said: &Topology) -> BTreeSet<ServiceName> {
        let differs = |name: &&ServiceName| match (before.endpoints.get(*name), said.endpoints.get(*name)) {
            (Some(old), Some(new)) => !Arc::ptr_eq(old, new),
            _ => true,
        };
        let names = before.endpoints.keys().chain(said.endpoints.keys()).filter(differs);
        let held = self.services.iter().filter(|(_, guarded)| guarded.held.is_some()).map(|(name, _)| name);
        names.chain(held).cloned().collect()
    }

    /// The operator's word on a service: of those in force, the one that goes furthest.
    fn confirmation(&self, said: &Topology, name: &ServiceName, now: Timestamp) -> Option<Confirmation> {
        let own = HeldId::Endpoints(name.clone());
        let of = |id: &HeldId| [said.confirmed.get(id), self.confirmed.get(id)];
        let whole =
            of(&HeldId::Source).into_iter().flatten().map(|c| Confirmation { endpoints: 0, ..c.clone() });
        let given = whole.chain(of(&own).into_iter().flatten().cloned());
        given
            .filter(|confirmation| confirmation.active(now))
            .min_by_key(|confirmation| confirmation.endpoints)
    }

    /// What the source says, with the held services as they were.
    fn overlay(&mut self, said: &Arc<Topology>, before: &Topology) -> Arc<Topology> {
        if self.services.values().all(|guarded| guarded.held.is_none()) {
            return said.clone();
        }
        let mut topology = Topology::clone(said);
        for (name, guarded) in &mut self.services {
            let Some((held, kept)) = &mut guarded.held else { continue };
            let mut served = BTreeMap::clone(kept);
            if let Some(there) = said.endpoints.get(name) {
                served.extend(there.iter().map(|(id, endpoint)| (id.clone(), endpoint.clone())));
            }
            held.served = served.len();
            if let Some(policy) = before.services.get(name).filter(|_| !said.services.contains_key(name)) {
                topology.services.insert(name.clone(), policy.clone());
            }
            for endpoint in served.values() {
                keep_zone(&mut topology, before, &endpoint.zone);
            }
            // The very same map as before where it holds the same, so that nothing downstream takes it for a change.
            let same = before.endpoints.get(name).filter(|old| ***old == served).cloned();
            topology.endpoints.insert(name.clone(), same.unwrap_or_else(|| Arc::new(served)));
        }
        Arc::new(topology)
    }
}

/// Keeps the zone that `before` knew under this name, with its other names, where `topology` knows it no more. Zones that it
/// knows, and all else that is said of zones, stay as they are said: a hold is one service's.
fn keep_zone(topology: &mut Topology, before: &Topology, name: &Zone) {
    let zone = before.canonical(name);
    let Some(spec) = before.zones.get(zone).filter(|_| !topology.zones.contains_key(zone)) else { return };
    Arc::make_mut(&mut topology.zones).insert(zone.clone(), spec.clone());
    let names = before.aliases.iter().filter(|(_, of)| *of == zone);
    for (alias, _) in names {
        // A name that was given to another zone, or is one by now, is that one's.
        if !topology.aliases.contains_key(alias) && !topology.zones.contains_key(alias) {
            Arc::make_mut(&mut topology.aliases).insert(alias.clone(), zone.clone());
        }
    }
}

// === impl Guarded ===

impl Guarded {
    /// The most endpoints of the window that ends now, when there are `count`; while held, those that there were then.
    fn most(&mut self, now: Timestamp, window: Millis, count: usize) -> usize {
        if let Some((held, _)) = &self.held {
            return held.before;
        }
        self.forget(now, window);
        self.peaks.iter().map(|(_, peak)| *peak).max().unwrap_or(0).max(count)
    }

    /// Notes that there were `was` until now and are `is` from now on.
    fn seen(&mut self, now: Timestamp, was: usize, is: usize) {
        if is < was {
            self.peaks.retain(|(_, peak)| *peak > was);
            self.peaks.push((now, was));
        }
    }

    fn forget(&mut self, now: Timestamp, window: Millis) {
        let window = SignedDuration::from_millis(i64::try_from(window.0).unwrap_or(i64::MAX));
        self.peaks.retain(|(until, _)| now.duration_since(*until) < window);
    }

    fn is_idle(&mut self, now: Timestamp, window: Millis) -> bool {
        self.forget(now, window);
        self.held.is_none() && self.peaks.is_empty()
    }
}

// === impl Held ===

impl Held {
    /// The name under which it is confirmed.
    pub fn id(&self) -> HeldId {
        HeldId::Endpoints(self.service.clone())
    }

    /// What happened and why it is held, in words.
    pub fn describe(&self) -> String {
        format!(
            "{} would go from {} endpoints to {} within {}; at most {} may go at once",
            self.service, self.before, self.after, self.limits.window, self.limits.max_removal
        )
    }
}

#[cfg(test)]
mod tests;
