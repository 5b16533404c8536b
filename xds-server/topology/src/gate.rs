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
//! The same goes for policies and for zones, each counted over the whole topology: services whose policies are gone are served by
//! the defaults, on other hosts and ports, and no proxy has a reason to refuse that.
//!
//! Counted is how many are left, against the most there were within the window. So a rollout that replaces every
//! instance under new names is not held, and neither is one that takes them away slowly; a loss in many small steps within the
//! window is, at the step that goes too far.
//!
//! # The states of a service, of the policies, of the zones
//!
//! ```text
//!          too many gone within the window
//! open ───────────────────────────────────────> held
//!   ^   enough are back, or an operator confirms   │
//!   └──────────────────────────────────────────────┘
//! ```
//!
//! While they are held, what is added and changed goes through likewise: policies and zones are those that there were, overlaid
//! with those that the source has. While a service is held, what is added and changed still goes through: its endpoints are those that it had, overlaid with
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
    policy::ServicePolicy,
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
    /// What is lost, and the name under which it is confirmed.
    pub id: HeldId,
    /// The most there were within the window before: endpoints of the service, or policies, or zones.
    pub before: usize,
    /// How many the source leaves.
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
    services: BTreeMap<ServiceName, Guarded<Arc<BTreeMap<InstanceId, Endpoint>>>>,
    policies: Guarded<BTreeMap<ServiceName, Arc<ServicePolicy>>>,
    /// What is kept is all that was said of zones.
    zones: Guarded<Arc<Topology>>,
    confirmed: BTreeMap<HeldId, Confirmation>,
}

/// What is counted, and kept while it is held: the endpoints of one service, the policies, the zones.
#[derive(Debug)]
struct Guarded<T> {
    /// How many there were until when, the most first: a number is forgotten when a later one is no smaller.
    peaks: Vec<(Timestamp, usize)>,
    held: Option<(Held, T)>,
}

/// One look at what is counted.
#[derive(Debug)]
struct Look {
    id: HeldId,
    /// How many are served.
    was: usize,
    /// How many the source leaves.
    after: usize,
    confirmation: Option<Confirmation>,
}

/// A moment, and what holds in it.
#[derive(Debug, Clone, Copy)]
struct Moment {
    now: Timestamp,
    limits: Limits,
    revision: i64,
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
            policies: Guarded::default(),
            zones: Guarded::default(),
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

    /// Every hold in force: of endpoints by service, of policies, of zones.
    pub fn held(&self) -> Vec<Held> {
        let services = self.services.values().map(Guarded::held);
        services.chain([self.policies.held(), self.zones.held()]).flatten().cloned().collect()
    }

    fn judge(&mut self, now: Timestamp, said: &Arc<Topology>) -> Admitted {
        let before = self.admitted.clone().unwrap_or_default();
        let moment = Moment { now, limits: self.limits, revision: said.revision };
        let mut released = Vec::new();
        let mut began = BTreeSet::new();
        for name in self.concerned(&before, said) {
            let look = self.look(
                HeldId::Endpoints(name.clone()),
                [&before, said].map(|of| of.endpoints.get(&name).map_or(0, |map| map.len())),
                said,
                now,
            );
            let guarded = self.services.entry(name.clone()).or_default();
            let was = || before.endpoints.get(&name).cloned().unwrap_or_default();
            began.extend(guarded.judge(moment, look, was, &mut released));
            if guarded.is_idle(now, self.limits.window) {
                self.services.remove(&name);
            }
        }
        let look = self.look(HeldId::Policies, [&before, said].map(|of| of.services.len()), said, now);
        began.extend(self.policies.judge(moment, look, || before.services.clone(), &mut released));
        let look = self.look(HeldId::Zones, [&before, said].map(|of| of.zones.len()), said, now);
        began.extend(self.zones.judge(moment, look, || before.clone(), &mut released));
        let topology = self.overlay(said, &before);
        let held = self.held().into_iter().filter(|held| began.contains(&held.id)).collect();
        self.admitted = Some(topology.clone());
        Admitted { topology, held, released }
    }

    fn look(&self, id: HeldId, [was, after]: [usize; 2], said: &Topology, now: Timestamp) -> Look {
        let confirmation = self.confirmation(said, &id, now);
        Look { id, was, after, confirmation }
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

    /// The operator's word on a loss: of those in force, the one that goes furthest.
    fn confirmation(&self, said: &Topology, own: &HeldId, now: Timestamp) -> Option<Confirmation> {
        let of = |id: &HeldId| [said.confirmed.get(id), self.confirmed.get(id)];
        let whole =
            of(&HeldId::Source).into_iter().flatten().map(|c| Confirmation { endpoints: 0, ..c.clone() });
        let given = whole.chain(of(own).into_iter().flatten().cloned());
        given
            .filter(|confirmation| confirmation.active(now))
            .min_by_key(|confirmation| confirmation.endpoints)
    }

    /// What the source says, with what is held as it was.
    fn overlay(&mut self, said: &Arc<Topology>, before: &Topology) -> Arc<Topology> {
        if self.held().is_empty() {
            return said.clone();
        }
        let mut topology = Topology::clone(said);
        if let Some((held, kept)) = &mut self.policies.held {
            for (name, policy) in kept {
                topology.services.entry(name.clone()).or_insert_with(|| policy.clone());
            }
            held.served = topology.services.len();
        }
        if let Some((held, kept)) = &mut self.zones.held {
            kept.zones.keys().for_each(|zone| keep_zone(&mut topology, kept, zone));
            held.served = topology.zones.len();
        }
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
        if topology.zones == before.zones && topology.aliases == before.aliases {
            (topology.zones, topology.aliases) = (before.zones.clone(), before.aliases.clone());
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

impl<T> Guarded<T> {
    /// Judges one look. Gives the name of a hold that begins, of what `kept` gives, and adds to `released` one that ends.
    fn judge(
        &mut self,
        Moment { now, limits, revision }: Moment,
        Look { id, was, after, confirmation }: Look,
        kept: impl FnOnce() -> T,
        released: &mut Vec<(Held, Release)>,
    ) -> Option<HeldId> {
        let most = self.most(now, limits.window, was);
        let allowed = confirmation.as_ref().is_some_and(|c| after >= c.endpoints);
        if allowed || !limits.exceeded(most, after) {
            self.seen(now, was, after);
            if let Some((held, _)) = self.held.take() {
                let why = confirmation.filter(|_| allowed).map_or(Release::Undone, Release::Confirmed);
                released.push((Held { after, ..held }, why));
            }
            if allowed {
                self.peaks.clear();
            }
            return None;
        }
        if let Some((held, _)) = &mut self.held {
            held.after = after;
            return None;
        }
        let held = Held { id: id.clone(), before: most, after, served: 0, since: now, revision, limits };
        self.held = Some((held, kept()));
        Some(id)
    }

    fn held(&self) -> Option<&Held> {
        self.held.as_ref().map(|(held, _)| held)
    }

    /// The most of the window that ends now, when there are `count`; while held, those that there were then.
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

impl<T> Default for Guarded<T> {
    fn default() -> Self {
        Self { peaks: Vec::new(), held: None }
    }
}

// === impl Held ===

impl Held {
    /// The service whose endpoints are held, where it is about endpoints.
    pub fn service(&self) -> Option<&ServiceName> {
        match &self.id {
            HeldId::Endpoints(service) => Some(service),
            HeldId::Policies | HeldId::Zones | HeldId::Source => None,
        }
    }

    /// What is counted.
    pub fn counted(&self) -> &'static str {
        match self.id {
            HeldId::Endpoints(_) => "endpoints",
            HeldId::Policies => "policies",
            HeldId::Zones => "zones",
            HeldId::Source => "keys",
        }
    }

    /// What happened and why it is held, in words.
    pub fn describe(&self) -> String {
        let whose = self.service().map_or("the topology", ServiceName::as_str);
        let counted = match (&self.id, self.before) {
            (HeldId::Endpoints(_), 1) => "endpoint",
            (HeldId::Policies, 1) => "policy",
            (HeldId::Zones, 1) => "zone",
            _ => self.counted(),
        };
        format!(
            "{whose} would go from {} {counted} to {} within {}; at most {} may go at once",
            self.before, self.after, self.limits.window, self.limits.max_removal
        )
    }
}

#[cfg(test)]
mod tests;
