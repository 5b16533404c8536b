//! What changed between two topologies: the keys, for the log line of a change, and the audit events that follow from it.
//! Compares; knows no clock.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use zonebreak_core::names::Zone;
use zonebreak_topology::{
    Shift, ShiftTarget, Topology,
    gate::{Held, Release},
};

use super::lanes::Lane;
use crate::telemetry::audit::{Action, Event, Severity};

/// Keys that a log line names before it counts the rest.
const NAMED_KEYS: usize = 5;

/// The keys that differ, without the prefix and in order.
pub fn keys(old: &Topology, new: &Topology) -> Vec<String> {
    let mut keys = Vec::new();
    differing(&old.zones, &new.zones, |zone| keys.push(format!("zones/{zone}")));
    differing(&old.services, &new.services, |service| keys.push(format!("services/{service}")));
    let none = Arc::default();
    differing(&old.endpoints, &new.endpoints, |service| {
        let (old, new) = (old.endpoints.get(service), new.endpoints.get(service));
        differing(old.unwrap_or(&none), new.unwrap_or(&none), |id| {
            keys.push(format!("endpoints/{service}/{id}"))
        });
    });
    differing(&old.shifts, &new.shifts, |target| keys.push(shift_key(target)));
    differing(&old.health, &new.health, |(service, id)| keys.push(format!("health/{service}/{id}")));
    differing(&old.forced, &new.forced, |(service, id)| keys.push(format!("forced/{service}/{id}")));
    differing(&old.confirmed, &new.confirmed, |held| keys.push(format!("confirmed/{held}")));
    differing(&old.problems, &new.problems, |key| keys.push(format!("refused {key}")));
    keys
}

/// How urgent the change from one to the other is: endpoints that come and go can wait for each other, all else cannot.
pub fn lane(old: &Topology, new: &Topology) -> Lane {
    if careful(old, new) || !says_the_same(old, new) { Lane::Urgent } else { Lane::Bulk }
}

/// Whether policies or zones are others, which makes what a proxy can refuse and for which nobody is in a hurry.
pub fn careful(old: &Topology, new: &Topology) -> bool {
    !Arc::ptr_eq(&old.zones, &new.zones) || !same(&old.services, &new.services)
}

/// What of a change of both kinds need not wait until somebody has tried the rest: the endpoints, drains, health and operators'
/// words of `new`, under the policies and zones of `old`. `None` when there is nothing to try, or nothing besides.
///
/// What is nothing without its policy or its zone waits with them: the endpoints of a service that comes with a policy, those
/// that lie in a zone which `old` does not know and `new` declares, and the last endpoints of a service that goes.
pub fn at_once(old: &Topology, new: &Topology) -> Option<Arc<Topology>> {
    if !careful(old, new) {
        return None;
    }
    let mut part = new.under(old);
    let zones = old.known_zones();
    // By each one's own aliases: under those of `old`, a name that comes to be an alias is a zone that nobody declared.
    let is_new =
        |zone: &Zone| !zones.contains(old.canonical(zone)) && new.zones.contains_key(new.canonical(zone));
    part.endpoints.retain(|service, _| {
        let comes = !old.services.contains_key(service) && !old.endpoints.contains_key(service);
        !(comes && new.services.contains_key(service))
    });
    for (service, endpoints) in &mut part.endpoints {
        if !endpoints.values().any(|endpoint| is_new(&endpoint.zone)) {
            continue;
        }
        let before = old.endpoints.get(service);
        let there = endpoints.iter().filter_map(|(id, endpoint)| {
            let stays = if is_new(&endpoint.zone) { before?.get(id)? } else { endpoint };
            Some((id.clone(), stays.clone()))
        });
        let there: BTreeMap<_, _> = there.collect();
        // The very same map where it holds the same, so that nothing downstream takes it for a change.
        let same = before.filter(|before| ***before == there).cloned();
        *endpoints = same.unwrap_or_else(|| Arc::new(there));
    }
    part.endpoints.retain(|_, endpoints| !endpoints.is_empty());
    for (service, endpoints) in &old.endpoints {
        let goes = old.services.contains_key(service) && !new.services.contains_key(service);
        if goes && !new.endpoints.contains_key(service) {
            part.endpoints.insert(service.clone(), endpoints.clone());
        }
    }
    let moved = !same(&old.endpoints, &part.endpoints) || !says_the_same(old, &part);
    moved.then(|| Arc::new(part))
}

/// Whether all that is said of zones and instances for a while is the same.
fn says_the_same(old: &Topology, new: &Topology) -> bool {
    Arc::ptr_eq(&old.shifts, &new.shifts)
        && Arc::ptr_eq(&old.health, &new.health)
        && Arc::ptr_eq(&old.forced, &new.forced)
        && Arc::ptr_eq(&old.confirmed, &new.confirmed)
}

/// Whether the maps are of the very same values.
fn same<K: Ord, V>(old: &BTreeMap<K, Arc<V>>, new: &BTreeMap<K, Arc<V>>) -> bool {
    old.len() == new.len() && old.iter().zip(new).all(|((a, old), (b, new))| a == b && Arc::ptr_eq(old, new))
}

/// The keys in one line, at most a few by name.
pub fn cause(keys: &[String]) -> String {
    match keys.len().checked_sub(NAMED_KEYS) {
        None | Some(0) => keys.join(", "),
        Some(more) => format!("{} and {more} more", keys.get(..NAMED_KEYS).unwrap_or(keys).join(", ")),
    }
}

/// What an auditor wants to know of a change, seen at `now`; of the first topology when there is no `old` one.
pub fn events(old: Option<&Topology>, new: &Topology, now: Timestamp) -> Vec<Event> {
    let (first, none) = (old.is_none(), Topology::default());
    let old = old.unwrap_or(&none);
    let mut events = Vec::new();
    differing(&old.shifts, &new.shifts, |target| {
        let (action, shift) = match (old.shifts.get(target), new.shifts.get(target)) {
            (_, Some(shift)) if first && !shift.active(now) => return,
            (_, Some(shift)) if first => (Action::DrainInForce, shift),
            (None, Some(shift)) => (Action::DrainStarted, shift),
            (Some(_), Some(shift)) => (Action::DrainChanged, shift),
            // Ended by its own time: said when it ended, not when etcd swept the key away.
            (Some(shift), None) if !shift.active(now) => return,
            (Some(shift), None) => (Action::DrainRestored, shift),
            (None, None) => return,
        };
        events.push(drain(action, target, shift));
    });
    differing(&old.problems, &new.problems, |key| {
        events.push(match new.problems.get(key) {
            Some(problem) => Event::own(Severity::Warning, Action::ValueRefused, problem),
            None => Event::own(Severity::Info, Action::ValueAccepted, key),
        });
    });
    events
}

/// What an auditor wants to know of what the gate held and let go.
pub fn gate_events(held: &[Held], released: &[(Held, Release)]) -> Vec<Event> {
    let about = |severity, action, actor: &str, held: &Held, reason: String| Event {
        severity,
        action,
        actor: actor.to_owned(),
        zone: None,
        service: held.service().map(ToString::to_string),
        reason,
    };
    let began = held.iter().map(|held| {
        let reason = format!("{}; `zonebreak topology confirm {}` lets it through", held.describe(), held.id);
        about(Severity::Critical, Action::ChangeHeld, "zonebreak", held, reason)
    });
    let ended = released.iter().map(|(held, release)| match release {
        Release::Undone => {
            let reason = format!("{} of {} {} are there", held.after, held.before, held.counted());
            about(Severity::Info, Action::ChangeUndone, "zonebreak", held, reason)
        }
        Release::Confirmed(word) => {
            let reason = format!("{} ({} of {} {})", word.reason, held.after, held.before, held.counted());
            about(Severity::Warning, Action::ChangeConfirmed, &word.actor, held, reason)
        }
    });
    began.chain(ended).collect()
}

/// The drains that ended by their own time after `since`, up to `now`.
pub fn expired(topology: &Topology, since: Timestamp, now: Timestamp) -> Vec<Event> {
    let ended =
        topology.shifts.iter().filter(|(_, shift)| since < shift.expires_at && shift.expires_at <= now);
    ended.map(|(target, shift)| drain(Action::DrainExpired, target, shift)).collect()
}

fn drain(action: Action, target: &ShiftTarget, shift: &Shift) -> Event {
    let actor = match action {
        Action::DrainInForce | Action::DrainStarted | Action::DrainChanged => shift.actor.clone(),
        // Who took it back is not written down: the key is gone.
        _ => "zonebreak".to_owned(),
    };
    let severity = if action == Action::DrainStarted { Severity::Warning } else { Severity::Info };
    Event {
        severity,
        action,
        actor,
        zone: Some(target.zone.to_string()),
        service: target.service.as_ref().map(ToString::to_string),
        reason: format!("{} (keeps {} until {})", shift.reason, shift.keep_percent, shift.expires_at),
    }
}

fn shift_key(target: &ShiftTarget) -> String {
    match &target.service {
        Some(service) => format!("shifts/{}/{service}", target.zone),
        None => format!("shifts/{}", target.zone),
    }
}

/// Calls `found` with each key that only one of the maps has, or both with another value; in order.
fn differing<'a, K: Ord, V: PartialEq>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
    mut found: impl FnMut(&'a K),
) {
    let mut keys: Vec<&K> =
        old.iter().filter(|(key, value)| new.get(*key) != Some(*value)).map(|(key, _)| key).collect();
    keys.extend(new.keys().filter(|key| !old.contains_key(*key)));
    keys.sort_unstable();
    keys.into_iter().for_each(&mut found);
}

#[cfg(test)]
mod tests;
