//! Keeps the view of one zone up to date at the cost of what changed: a service whose inputs are the same keeps its
//! [`super::ServiceView`] behind the same `Arc`. Gives what [`super::view`] gives, never anything else.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use zonebreak_core::names::{ServiceName, Zone};

use super::{ZoneView, canonical_zone, next_expiry, service};
use crate::model::{InstanceId, Topology};

/// The view of one zone and what it was made of.
#[derive(Debug, Default)]
pub struct Follower {
    client_zone: Option<Zone>,
    last: Option<(Arc<Topology>, Timestamp, ZoneView)>,
}

/// Which services a change touches.
enum Touched {
    All,
    Some(BTreeSet<ServiceName>),
}

// === impl Follower ===

impl Follower {
    /// For clients in that zone.
    pub fn new(client_zone: Option<Zone>) -> Self {
        Self { client_zone, last: None }
    }

    /// The view now. Equal to [`super::view`] of the same arguments.
    pub fn view(&mut self, topology: &Arc<Topology>, now: Timestamp) -> ZoneView {
        let zone = canonical_zone(topology, self.client_zone.as_ref());
        let view = match &self.last {
            Some((old, then, last)) if last.client_zone == zone => {
                // A clock set back can bring an ended drain back, so everything is looked at again.
                let ended = now < *then || last.next_expiry.is_some_and(|at| at <= now);
                match touched(old, topology) {
                    Touched::Some(touched) if !ended => update(last, topology, &touched, now),
                    _ => keep_equal(last, super::view(topology, self.client_zone.as_ref(), now)),
                }
            }
            _ => super::view(topology, self.client_zone.as_ref(), now),
        };
        self.last = Some((Arc::clone(topology), now, view.clone()));
        view
    }
}

/// What has to be made anew. A drain or an alias can touch every service, so those do; they are rare.
fn touched(old: &Topology, new: &Topology) -> Touched {
    let same = Arc::ptr_eq(&old.zones, &new.zones) && Arc::ptr_eq(&old.shifts, &new.shifts);
    if !same {
        return Touched::All;
    }
    let mut touched = BTreeSet::new();
    differing(&old.services, &new.services, Arc::ptr_eq, |name| _ = touched.insert(name.clone()));
    differing(&old.endpoints, &new.endpoints, Arc::ptr_eq, |name| _ = touched.insert(name.clone()));
    let mut insert = |(name, _): &(ServiceName, InstanceId)| _ = touched.insert(name.clone());
    if !Arc::ptr_eq(&old.health, &new.health) {
        differing(&old.health, &new.health, PartialEq::eq, &mut insert);
    }
    if !Arc::ptr_eq(&old.forced, &new.forced) {
        differing(&old.forced, &new.forced, PartialEq::eq, &mut insert);
    }
    Touched::Some(touched)
}

/// Calls `each` with every key whose value is not `same` in both maps.
fn differing<K: Ord, V>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    same: impl Fn(&V, &V) -> bool,
    mut each: impl FnMut(&K),
) {
    for (key, value) in new {
        if !old.get(key).is_some_and(|before| same(before, value)) {
            each(key);
        }
    }
    for key in old.keys().filter(|key| !new.contains_key(key)) {
        each(key);
    }
}

fn update(last: &ZoneView, topology: &Topology, touched: &BTreeSet<ServiceName>, now: Timestamp) -> ZoneView {
    let mut view = last.clone();
    view.next_expiry = next_expiry(topology, now);
    for name in touched {
        if topology.services.contains_key(name) || topology.endpoints.contains_key(name) {
            let made = service::view(topology, name, view.client_zone.as_ref(), now);
            if view.services.get(name).is_none_or(|before| **before != made) {
                view.services.insert(name.clone(), Arc::new(made));
            }
        } else {
            view.services.remove(name);
        }
    }
    view
}

/// Puts the old `Arc` in the place of every equal new one.
fn keep_equal(last: &ZoneView, mut made: ZoneView) -> ZoneView {
    for (name, service) in &mut made.services {
        if let Some(before) = last.services.get(name).filter(|before| **before == *service) {
            *service = Arc::clone(before);
        }
    }
    made
}
