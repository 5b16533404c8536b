//! The engine's public face: services by id, and nothing decided here.

use std::collections::BTreeSet;

use crate::{
    breaker::{InvalidState, State, Transition, ZoneAssessment},
    config::{FilterConfig, MAX_SERVICES, MAX_ZONES},
    engine::{service::Service, types::*},
    names::Zone,
    policy::Sticky,
    units::Percent,
    window::Totals,
};

/// One worker's view of all services. [`Engine::default`] knows none and lets everything pass.
///
/// How a filter drives it: [`configure`](Self::configure) with each new policy; [`decide`](Self::decide) for each request;
/// [`attempt`](Self::attempt) and [`finish`](Self::finish) for each upstream attempt, then [`due`](Self::due);
/// [`sweep`](Self::sweep) and [`tick`](Self::tick) every 100 ms. A [`Proposal`] is shared by compare-and-swap, and what was
/// agreed on is given to [`adopt`](Self::adopt), in every worker.
#[derive(Debug, Default)]
pub struct Engine {
    /// In the order of their names.
    services: Vec<Service>,
    tenants: u32,
}

// === impl Engine ===

impl Engine {
    /// Takes a new policy. What was learned of services and zones that stay is kept, matched by name; ids are dealt anew.
    ///
    /// `own_zone` is the proxy's zone, unless the configuration says otherwise. Services beyond 256 and zones beyond eight a
    /// service are left out ([`FilterConfig::parse`] refuses such a configuration).
    pub fn configure(&mut self, config: &FilterConfig, own_zone: Option<&Zone>, _now: Now) {
        let own_zone = config.zone.as_ref().or(own_zone);
        let mut names = BTreeSet::new();
        let mut old = std::mem::take(&mut self.services).into_iter().enumerate().peekable();
        for (place, (name, service)) in config.services.iter().take(MAX_SERVICES).enumerate() {
            // Both lists are in order of name.
            while old.next_if(|(_, have)| have.name < *name).is_some() {}
            let known = old.next_if(|(_, have)| have.name == *name);
            let (was_at, mut kept) = known.unwrap_or_else(|| (usize::MAX, Service::new(name)));
            let had = kept.zones.clone();
            // Zones have the same names everywhere: one copy of each will do.
            let zones = service.zones.keys().take(MAX_ZONES);
            let zones = zones.map(|zone| names.get(zone).cloned().unwrap_or_else(|| zone.clone())).collect();
            kept.configure(service, zones, own_zone);
            names.extend(kept.zones.iter().cloned());
            if was_at != place || had != kept.zones {
                self.tenants = self.tenants.wrapping_add(1);
                kept.let_to(self.tenants);
            }
            self.services.push(kept);
        }
    }

    /// The service whose cluster has this name.
    pub fn service(&self, cluster: &str) -> Option<ServiceId> {
        self.services
            .binary_search_by(|have| have.name.as_str().cmp(cluster))
            .ok()
            .map(|i| ServiceId(i as u16))
    }

    /// The zone of that name, if the service has endpoints there.
    pub fn zone(&self, service: ServiceId, name: &str) -> Option<ZoneId> {
        self.zones(service).iter().position(|zone| zone.as_str() == name).map(|i| ZoneId(i as u8))
    }

    /// All services, in the order of their ids.
    pub fn services(&self) -> impl Iterator<Item = ServiceId> + use<> {
        (0..self.services.len()).map(|i| ServiceId(i as u16))
    }

    /// The name of a service; empty for one that is gone.
    pub fn service_name(&self, service: ServiceId) -> &str {
        self.services.get(service.index()).map_or("", |service| service.name.as_str())
    }

    /// The zones of a service, in the order of their ids; none for a service that is gone.
    pub fn zones(&self, service: ServiceId) -> &[Zone] {
        self.services.get(service.index()).map_or(&[], |service| service.zones.as_slice())
    }

    /// The ids of those zones.
    pub fn zone_ids(&self, service: ServiceId) -> impl Iterator<Item = ZoneId> + use<> {
        (0..self.zones(service).len()).map(|i| ZoneId(i as u8))
    }

    /// What keeps a user of the service in his zone, where that is asked for: [`decide`](Self::decide) then wants
    /// [`Coin::User`] of that value, where the request has it.
    pub fn sticky(&self, service: ServiceId) -> Option<&Sticky> {
        self.services.get(service.index())?.sticky.as_deref()
    }

    /// What to do with one request. `idempotent` is called only when a trial request is considered.
    pub fn decide(
        &mut self,
        service: ServiceId,
        now: Now,
        coin: Coin,
        idempotent: impl FnOnce() -> bool,
    ) -> Decision<'_> {
        match self.services.get_mut(service.index()) {
            Some(service) => service.decide(now.0, coin, idempotent),
            None => Decision::Pass,
        }
    }

    /// A request that [`decide`](Self::decide) moved ([`Reason::Moved`]) was answered, or failed. One whose client went away is not
    /// told.
    pub fn settle(&mut self, service: ServiceId, now: Now, answered: bool) {
        if let Some(service) = self.services.get_mut(service.index()) {
            service.settle(now.0, answered);
        }
    }

    /// The zone that a request with this subset key, or none, is meant for: the one that the key names, or the own zone where the key
    /// does not exclude it. `None` where Envoy chooses among several.
    pub fn chosen(&self, service: ServiceId, key: Option<&str>) -> Option<ZoneId> {
        self.services.get(service.index())?.chosen(key)
    }

    /// An attempt starts, at `now_ns` of any clock that [`finish`](Self::finish) uses too.
    pub fn attempt(&mut self, service: ServiceId, zone: ZoneId, now_ns: u64) -> Attempt {
        let known = self.services.get_mut(service.index());
        let (tenant, epoch) = known.map_or((0, 0), |known| (known.tenant(), known.begin(zone, now_ns)));
        Attempt { service, zone, tenant, epoch, began_ns: now_ns, answer: None }
    }

    /// The answer to an attempt begins. From here on the attempt is under way for as long as its caller likes (a stream, a
    /// download), and neither overdue nor slow for that. Where this is not called, [`finish`](Self::finish) takes the end for the
    /// beginning.
    pub fn answered(&mut self, attempt: &mut Attempt, now_ns: u64) {
        if let Some(service) = self.services.get_mut(attempt.service.index())
            && service.tenant() == attempt.tenant
        {
            service.answered(attempt, now_ns);
        }
    }

    /// After [`answered`](Self::answered): the answer is good so far, and there is more of it to come. Where it goes on for 3 s it is
    /// good, and [`sweep`](Self::sweep) counts it. True when it was slow to come, which is to be added to the zone's `slow` counter.
    pub fn goes_on(&mut self, attempt: &mut Attempt) -> bool {
        match self.services.get_mut(attempt.service.index()) {
            Some(service) if service.tenant() == attempt.tenant => service.goes_on(attempt),
            _ => false,
        }
    }

    /// An attempt ends: which process-wide counters of its zone to raise.
    pub fn finish(&mut self, attempt: &Attempt, outcome: Outcome, now_ns: u64) -> Bump {
        match self.services.get_mut(attempt.service.index()) {
            Some(service) if service.tenant() == attempt.tenant => service.finish(attempt, outcome, now_ns),
            _ => attempt.overtaken(),
        }
    }

    /// What has become of the attempts under way since this was last asked: to be added to the zone's counters, right before
    /// [`tick`](Self::tick). That way a zone that never answers is noticed long before the time-out, and one whose answers never
    /// end is seen to answer; such an attempt is not counted again when it ends.
    pub fn sweep(&mut self, service: ServiceId, zone: ZoneId, now_ns: u64) -> Swept {
        self.services.get_mut(service.index()).map_or(Swept::default(), |service| service.sweep(zone, now_ns))
    }

    /// Every 100 ms, with the process-wide counters of the service's zones in their order (they only grow; lower ones than before
    /// have started anew). What it proposes changes nothing until it is adopted.
    pub fn tick(&mut self, service: ServiceId, now: Now, totals: &[Totals]) -> Option<Proposal> {
        self.services.get_mut(service.index())?.tick(now.0, totals)
    }

    /// Right after [`finish`](Self::finish): what cannot wait for the next tick (a run of failures, a failed trial). Costs
    /// nothing when there is none.
    pub fn due(&mut self, service: ServiceId, now: Now) -> Option<Proposal> {
        self.services.get_mut(service.index())?.due(now.0)
    }

    /// How near each zone is to being left and what is in the way, as of the last tick: for `zonebreak explain`. The filter does
    /// not call this.
    pub fn assess(&self, service: ServiceId, now: Now) -> Vec<ZoneAssessment> {
        self.services.get(service.index()).map_or(Vec::new(), |service| service.assess(now.0))
    }

    /// Takes over the state that the workers agreed on, whatever its number. Returns what changed in this worker.
    pub fn adopt(
        &mut self,
        service: ServiceId,
        encoded: &[u8],
        now: Now,
    ) -> Result<Vec<Transition>, InvalidState> {
        self.services.get_mut(service.index()).map_or(Ok(Vec::new()), |service| service.adopt(encoded, now.0))
    }

    /// The current state: exactly the bytes that were adopted last, or those of a fresh state, which are the same in all workers.
    pub fn encoded(&self, service: ServiceId) -> Vec<u8> {
        self.services.get(service.index()).map_or(Vec::new(), Service::encoded)
    }

    /// Number of the current state, raised by each transition.
    pub fn epoch(&self, service: ServiceId) -> u64 {
        self.services.get(service.index()).map_or(0, Service::epoch)
    }

    /// A zone, for the gauges.
    pub fn zone_state(&self, service: ServiceId, zone: ZoneId, now: Now) -> ZoneStatus {
        match self.services.get(service.index()) {
            Some(service) => service.status(zone, now.0),
            None => ZoneStatus { state: State::Disabled, keep: Percent::FULL, shadow: false },
        }
    }
}

#[cfg(test)]
mod actuation;
#[cfg(test)]
mod tests;
