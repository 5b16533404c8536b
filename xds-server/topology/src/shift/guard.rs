//! Whether a drain may be made. Pure: judges a topology at a moment, writes nothing.

use std::{collections::BTreeSet, fmt, ops::Deref};

use jiff::Timestamp;
use zonebreak_core::names::{ServiceName, Zone};

use super::Drain;
use crate::{
    model::{Shift, ShiftTarget, Topology},
    near, view,
};

/// Why a guard says no, and what to do instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody declares the zone and no endpoint is in it.
    UnknownZone {
        /// As it was asked for.
        zone: Zone,
        /// The zones that are known.
        known: Vec<Zone>,
    },
    /// Nobody declares the service and nothing is registered for it.
    UnknownService {
        /// As it was asked for.
        service: ServiceName,
        /// The services that are known.
        known: Vec<ServiceName>,
    },
    /// Another drain is in force.
    Active {
        /// What was asked for.
        asked: ShiftTarget,
        /// What is drained.
        target: ShiftTarget,
        /// The drain.
        shift: Box<Shift>,
    },
    /// Nothing else can carry these services.
    LastZone {
        /// As it was asked for.
        zone: Zone,
        /// The services that would be left without a zone.
        services: Vec<ServiceName>,
    },
    /// There is no drain to end or extend.
    NotDrained {
        /// As it was asked for.
        target: ShiftTarget,
        /// What is drained.
        drained: Vec<ShiftTarget>,
    },
}

/// Whether the drain may be made at `now`.
pub fn check(topology: &Topology, drain: &Drain, now: Timestamp) -> Result<(), Refusal> {
    let zone = topology.canonical(&drain.zone);
    let known = topology.known_zones();
    if !known.contains(zone) {
        return Err(Refusal::UnknownZone { zone: drain.zone.clone(), known: known.into_iter().collect() });
    }
    let services = topology.known_services();
    if let Some(service) = drain.service.as_ref().filter(|service| !services.contains(*service)) {
        let known = services.into_iter().collect();
        return Err(Refusal::UnknownService { service: service.clone(), known });
    }
    if drain.force {
        return Ok(());
    }
    if let Some((target, shift)) = topology.shifts.iter().find(|(_, shift)| shift.active(now)) {
        let asked = ShiftTarget { zone: zone.clone(), service: drain.service.clone() };
        return Err(Refusal::Active { asked, target: target.clone(), shift: Box::new(shift.clone()) });
    }
    let asked =
        services.into_iter().filter(|name| drain.service.as_ref().is_none_or(|service| service == name));
    let stranded: Vec<ServiceName> = asked.filter(|name| nowhere_else(topology, name, zone, now)).collect();
    if stranded.is_empty() {
        Ok(())
    } else {
        Err(Refusal::LastZone { zone: zone.clone(), services: stranded })
    }
}

/// Whether the service has endpoints in the zone and no capacity in any other.
fn nowhere_else(topology: &Topology, name: &ServiceName, zone: &Zone, now: Timestamp) -> bool {
    let Some(endpoints) = topology.endpoints.get(name) else { return false };
    let here = |endpoint: &crate::model::Endpoint| topology.canonical(&endpoint.zone) == zone;
    let serves = |instance| view::health(topology, name, instance, now).serves();
    endpoints.values().any(here) && !endpoints.iter().any(|(instance, e)| !here(e) && serves(instance))
}

/// The drain in force for the target, under the name by which it is stored.
pub fn in_force(
    topology: &Topology,
    target: &ShiftTarget,
    now: Timestamp,
) -> Result<(ShiftTarget, Shift), Refusal> {
    let zone = topology.canonical(&target.zone);
    let active = || topology.shifts.iter().filter(|(_, shift)| shift.active(now));
    let matches =
        |stored: &ShiftTarget| topology.canonical(&stored.zone) == zone && stored.service == target.service;
    match active().find(|(stored, _)| matches(stored)) {
        Some((stored, shift)) => Ok((stored.clone(), shift.clone())),
        None => {
            let drained: BTreeSet<ShiftTarget> = active().map(|(target, _)| target.clone()).collect();
            Err(Refusal::NotDrained { target: target.clone(), drained: drained.into_iter().collect() })
        }
    }
}

/// A drain in one line: what, how much, by whom, until when, why.
pub(super) fn describe(target: &ShiftTarget, shift: &Shift) -> String {
    let Shift { keep_percent, reason, actor, expires_at, .. } = shift;
    format!("{target} keeps {keep_percent}, by {actor} until {expires_at:.0} ({reason})")
}

// === impl Refusal ===

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownZone { zone, known } if known.is_empty() => {
                write!(
                    f,
                    "drain {zone}: no zone is known yet; register endpoints or declare it under zones/{zone}"
                )
            }
            Self::UnknownZone { zone, known } => {
                let meant = meant(zone, known);
                write!(f, "drain {zone}: no such zone; known are {}{meant}", names(known))
            }
            Self::UnknownService { service, known } => {
                let meant = meant(service, known);
                write!(f, "drain a zone for {service}: no such service; known are {}{meant}", names(known))
            }
            Self::Active { asked, target, shift } => {
                write!(f, "drain {asked} while another drain is in force: {}. ", describe(target, shift))?;
                if asked == target {
                    f.write_str("Extend or restore that one, or use --force to replace it")
                } else {
                    write!(f, "Restore {target} first, or use --force to drain both")
                }
            }
            Self::LastZone { zone, services } => {
                let (count, names) = (services.len(), names(services));
                let noun = if count == 1 { "service" } else { "services" };
                write!(
                    f,
                    "drain {zone}: no other zone has a healthy endpoint of {count} {noun} ({names}). Register \
                     endpoints elsewhere first, or use --force to go without"
                )
            }
            Self::NotDrained { target, drained } if drained.is_empty() => {
                write!(f, "find a drain of {target}: nothing is drained")
            }
            Self::NotDrained { target, drained } => {
                let drained: Vec<String> = drained.iter().map(ToString::to_string).collect();
                write!(f, "find a drain of {target}: what is drained is {}", drained.join(", "))
            }
        }
    }
}

/// Those of the known that are most like what was asked for, where that tells them from the rest.
fn meant<T: Deref<Target = str>>(asked: &str, known: &[T]) -> String {
    let known = || known.iter().map(|name| &**name);
    if near::nearest(asked, known()).len() < known().count() {
        near::did_you_mean(asked, known())
    } else {
        String::new()
    }
}

fn names(names: &[impl fmt::Display]) -> String {
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
