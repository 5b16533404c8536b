//! The topology in rows: what operators want to see of it at a moment. The command line makes them from etcd, the server
//! from what it has loaded; both by the functions here.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zonebreak_core::{
    names::{ServiceName, Zone},
    policy::Mode,
    units::Percent,
};
use zonebreak_topology::{
    HealthState, HeldId, InstanceId, Problem, Shift, ShiftTarget, Topology, gate::Held,
};

/// Where the topology comes from, and how fresh it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRow {
    /// `etcd` or `file`.
    pub kind: String,
    /// The endpoints or the path.
    pub location: String,
    /// Whether it answers. When not, the last good state is served.
    pub connected: bool,
    /// Since when it does, or does not.
    pub since: Timestamp,
    /// The revision that the source is known to be at.
    pub revision: i64,
    /// The revision that the views were built from; absent before the first one.
    pub applied_revision: Option<i64>,
    /// What went wrong last.
    pub error: Option<String>,
    /// Why what is served is not what the source says now: an etcd that came back without its data.
    pub held: Option<String>,
    /// When what is served was true, while it comes from the server's disk and the source has said nothing.
    #[serde(default)]
    pub saved_at: Option<Timestamp>,
}

/// A change that is held back until an operator confirms it, or it is undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldRow {
    /// What to confirm it by.
    pub id: String,
    /// What it is, and why it is held.
    pub reason: String,
    /// Endpoints, policies or zones before; 0 for the source as a whole.
    pub before: usize,
    /// How many of them the source would leave.
    pub after: usize,
    /// How many are served in their place.
    pub served: usize,
    /// Since when; unknown for the source as a whole.
    pub since: Option<Timestamp>,
    /// The revision that began it.
    pub revision: i64,
}

/// One zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneRow {
    /// Its canonical name.
    pub zone: Zone,
    /// Its region; empty when nobody said.
    pub region: String,
    /// Other names of it.
    pub aliases: Vec<Zone>,
    /// What it can carry, in requests a second, where an operator said.
    pub capacity: Option<u32>,
    /// Registered endpoints.
    pub endpoints: usize,
    /// Those of them that take requests.
    pub serving: usize,
    /// Whether it takes traffic.
    pub state: ZoneState,
    /// What it keeps of its usual share while it is drained.
    pub keep_percent: Option<Percent>,
    /// Why it is drained.
    pub reason: Option<String>,
    /// Who drained it.
    pub actor: Option<String>,
    /// When the drain ends by itself.
    pub until: Option<Timestamp>,
}

/// Whether a zone takes traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ZoneState {
    /// It does.
    Serving,
    /// Less than usual, on an operator's word.
    Reduced,
    /// None, on an operator's word.
    Drained,
    /// It has no endpoint that could.
    Empty,
}

/// A drain in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShiftRow {
    /// The zone.
    pub zone: Zone,
    /// The one service it is drained for; every service when absent.
    pub service: Option<ServiceName>,
    /// What the zone keeps of its usual share.
    pub keep_percent: Percent,
    /// Why.
    pub reason: String,
    /// Who.
    pub actor: String,
    /// Since when.
    pub started_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Timestamp,
}

/// One service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRow {
    /// Its name.
    pub service: ServiceName,
    /// How its zones share the load.
    pub mode: Mode,
    /// Registered endpoints by zone.
    pub endpoints: BTreeMap<Zone, usize>,
    /// Those of them that take no requests.
    pub out_of_service: usize,
}

/// A value that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemRow {
    /// Its key without the prefix, or the path of the file.
    pub key: String,
    /// The revision that wrote it.
    pub revision: i64,
    /// Line, from 1.
    pub line: Option<u32>,
    /// Column, from 1.
    pub column: Option<u32>,
    /// What is wrong, and what would be right.
    pub message: String,
    /// Whether an earlier, good value of the same key is in force in its place.
    pub kept: bool,
}

// === impl ShiftRow ===

impl ShiftRow {
    /// The row of a drain.
    pub fn of(target: &ShiftTarget, shift: &Shift) -> Self {
        Self {
            zone: target.zone.clone(),
            service: target.service.clone(),
            keep_percent: shift.keep_percent,
            reason: shift.reason.clone(),
            actor: shift.actor.clone(),
            started_at: shift.started_at,
            expires_at: shift.expires_at,
        }
    }
}

// === impl HeldRow ===

impl HeldRow {
    /// The row of a held loss.
    pub fn of(held: &Held) -> Self {
        Self {
            id: held.id.to_string(),
            reason: held.describe(),
            before: held.before,
            after: held.after,
            served: held.served,
            since: Some(held.since),
            revision: held.revision,
        }
    }

    /// The row of a source that lost its data.
    pub fn of_source(reason: &str, revision: i64) -> Self {
        let (id, reason) = (HeldId::Source.to_string(), reason.to_owned());
        Self { id, reason, before: 0, after: 0, served: 0, since: None, revision }
    }
}

/// Every known zone at `now`, by name.
pub fn zones(topology: &Topology, now: Timestamp) -> Vec<ZoneRow> {
    let mut counts: BTreeMap<&Zone, (usize, usize)> = BTreeMap::new();
    for (service, instances) in &topology.endpoints {
        for (instance, endpoint) in instances.iter() {
            let (all, serving) = counts.entry(topology.canonical(&endpoint.zone)).or_default();
            *all += 1;
            *serving += usize::from(serves(topology, service, instance, now));
        }
    }
    let row = |zone: Zone| {
        let (endpoints, serving) = counts.get(&zone).copied().unwrap_or_default();
        let spec = topology.zones.get(&zone).cloned().unwrap_or_default();
        let active = |(target, shift): &(&ShiftTarget, &Shift)| {
            target.service.is_none() && topology.canonical(&target.zone) == &zone && shift.active(now)
        };
        let shift = topology.shifts.iter().find(active).map(|(_, shift)| shift.clone());
        let state = match &shift {
            Some(shift) if shift.is_full() => ZoneState::Drained,
            _ if serving == 0 => ZoneState::Empty,
            Some(_) => ZoneState::Reduced,
            None => ZoneState::Serving,
        };
        let (region, aliases, capacity) = (spec.region, spec.aliases, spec.capacity);
        let row = ZoneRow {
            zone,
            region,
            aliases,
            capacity,
            endpoints,
            serving,
            state,
            keep_percent: None,
            reason: None,
            actor: None,
            until: None,
        };
        match shift {
            None => row,
            Some(shift) => ZoneRow {
                keep_percent: Some(shift.keep_percent),
                reason: Some(shift.reason),
                actor: Some(shift.actor),
                until: Some(shift.expires_at),
                ..row
            },
        }
    };
    topology.known_zones().into_iter().map(row).collect()
}

/// Every drain that is in force at `now`, those of single services included.
pub fn shifts(topology: &Topology, now: Timestamp) -> Vec<ShiftRow> {
    let active = topology.shifts.iter().filter(|(_, shift)| shift.active(now));
    active
        .map(|(target, shift)| ShiftRow {
            zone: topology.canonical(&target.zone).clone(),
            ..ShiftRow::of(target, shift)
        })
        .collect()
}

/// Every known service at `now`, by name.
pub fn services(topology: &Topology, now: Timestamp) -> Vec<ServiceRow> {
    let row = |service: ServiceName| {
        let mode = topology.services.get(&service).map(|policy| policy.mode).unwrap_or_default();
        let (mut endpoints, mut out_of_service) = (BTreeMap::new(), 0);
        for (instance, endpoint) in
            topology.endpoints.get(&service).iter().flat_map(|instances| instances.iter())
        {
            *endpoints.entry(topology.canonical(&endpoint.zone).clone()).or_default() += 1;
            out_of_service += usize::from(!serves(topology, &service, instance, now));
        }
        ServiceRow { service, mode, endpoints, out_of_service }
    };
    topology.known_services().into_iter().map(row).collect()
}

/// Every value that was refused, by key.
pub fn problems(topology: &Topology) -> Vec<ProblemRow> {
    let row = |problem: &Problem| ProblemRow {
        key: problem.key.clone(),
        revision: problem.revision,
        line: problem.line,
        column: problem.column,
        message: problem.message.clone(),
        kept: problem.kept,
    };
    topology.problems.values().map(row).collect()
}

/// Whether an instance takes requests: what an operator says, else what the prober found, else yes.
fn serves(topology: &Topology, service: &ServiceName, instance: &InstanceId, now: Timestamp) -> bool {
    let key = (service.clone(), instance.clone());
    let forced =
        topology.forced.get(&key).filter(|forced| now < forced.expires_at).map(|forced| forced.state);
    let found = || topology.health.get(&key).map(|health| health.state);
    forced.or_else(found).is_none_or(HealthState::serves)
}
