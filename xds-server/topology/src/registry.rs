//! The state of the schema's keys, kept up to date by puts, deletes and whole listings. Pure; never waits, reads or publishes.
//!
//! # What is kept when a value is bad
//!
//! A key has a value in force, a problem, both, or neither:
//!
//! | before | good put | bad put | delete |
//! |---|---|---|---|
//! | nothing | value | problem | nothing |
//! | value | new value | old value + problem | nothing |
//! | problem | value | new problem | nothing |
//! | value + problem | new value | old value + new problem | nothing |
//!
//! A listing ([`Registry::reset`]) is all of its puts, and a delete of every key that it does not name. So a listing and the
//! events that led to it give the same state, whichever came first.
//!
//! # What is derived
//!
//! Two things that no single value is to blame for become problems as well: a service with endpoints in more zones than a
//! filter can tell apart (under `endpoints/<service>`; views leave the last zones out), and a zone alias that names two zones
//! or another zone (under `zones/<zone>`, marked as an alias; the first one in order holds).
//!
//! # Cost
//!
//! A change copies the maps of names and the one map it touches, once per published topology, and shares everything else; see
//! [`Topology`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use zonebreak_core::{
    config::{MAX_SERVICES, MAX_ZONES},
    names::{ServiceName, Zone},
};

use crate::{
    entry::Entry,
    key::Key,
    model::{Problem, Topology},
};

/// A change to one key. Keys are without the prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The key has this value now.
    Put {
        /// Key without the prefix.
        key: String,
        /// JSON.
        value: Vec<u8>,
        /// The revision that wrote it.
        mod_revision: i64,
    },
    /// The key is gone.
    Delete {
        /// Key without the prefix.
        key: String,
        /// The revision that deleted it.
        mod_revision: i64,
    },
}

/// A key and its value, in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Key without the prefix.
    pub key: String,
    /// JSON.
    pub value: Vec<u8>,
    /// The revision that wrote it.
    pub mod_revision: i64,
    /// The lease that it dies with; 0 for none.
    pub lease: i64,
}

/// The state of the schema's keys.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    topology: Arc<Topology>,
}

/// A key that was read, or why it was not.
type Read = (String, i64, Result<(Key, Entry), Problem>);

// === impl Event ===

impl From<Listed> for Event {
    fn from(listed: Listed) -> Self {
        let Listed { key, value, mod_revision, lease: _ } = listed;
        Self::Put { key, value, mod_revision }
    }
}

// === impl Registry ===

impl Registry {
    /// The registry that has come to this topology.
    pub fn of(topology: Arc<Topology>) -> Self {
        Self { topology }
    }

    /// Every key with a value in force, and the value.
    pub fn entries(&self) -> impl Iterator<Item = (Key, Entry)> {
        let keys = self.keys().into_iter().filter_map(|key| Key::parse(&key).ok().flatten());
        keys.filter_map(|key| self.get(&key).map(|entry| (key, entry)))
    }

    /// What the keys say now. Shared: a change makes a new one and leaves this as it is.
    pub fn topology(&self) -> Arc<Topology> {
        Arc::clone(&self.topology)
    }

    /// Takes one change. True when the topology, or its problems, differ from before.
    pub fn apply(&mut self, event: Event) -> bool {
        match event {
            Event::Put { key, value, mod_revision } => match read(key, &value, mod_revision) {
                Some(read) => self.put(read),
                None => false,
            },
            Event::Delete { key, mod_revision } => self.delete(&key, mod_revision),
        }
    }

    /// Takes a whole listing of the keys, as of `revision`. True when anything differs from before.
    pub fn reset(&mut self, listing: impl IntoIterator<Item = Listed>, revision: i64) -> bool {
        let reads = listing.into_iter().filter_map(|l| read(l.key, &l.value, l.mod_revision)).collect();
        self.replace(reads, revision)
    }

    /// Takes the entries of a file, and its problems, as a whole listing.
    pub fn reset_to(&mut self, entries: BTreeMap<Key, Entry>, problems: Vec<Problem>, revision: i64) -> bool {
        let good = entries.into_iter().map(|(key, entry)| (key.to_string(), revision, Ok((key, entry))));
        let bad = problems.into_iter().map(|problem| {
            let problem = Problem { revision, ..problem };
            (problem.key.clone(), revision, Err(problem))
        });
        self.replace(good.chain(bad).collect(), revision)
    }

    /// Drops every key that is not among these. True when anything differs from before.
    pub fn keep_only(&mut self, keys: &BTreeSet<String>, revision: i64) -> bool {
        let gone: Vec<String> = self.keys().into_iter().filter(|key| !keys.contains(key)).collect();
        gone.into_iter().fold(false, |changed, key| self.delete(&key, revision) | changed)
    }

    /// Notes a problem with the listing as a whole, such as a file that cannot be read, and keeps everything else.
    pub fn report(&mut self, problem: Problem) -> bool {
        let kept = !self.topology.is_empty();
        self.note(Problem { kept, ..problem })
    }

    fn replace(&mut self, reads: Vec<Read>, revision: i64) -> bool {
        let named = reads.iter().map(|(key, ..)| key.clone()).collect();
        let mut changed = self.keep_only(&named, revision);
        for read in reads {
            changed |= self.put(read);
        }
        if changed {
            self.edit(revision);
        }
        changed
    }

    /// Every key with a value or a problem of its own. Derived problems stand under keys that are in here or that no event
    /// names, and come and go with what they are derived from.
    pub fn keys(&self) -> BTreeSet<String> {
        let t = &*self.topology;
        let zones = t.zones.keys().cloned().map(Key::Zone);
        let services = t.services.keys().cloned().map(Key::Service);
        let endpoints =
            t.endpoints.iter().flat_map(|(s, map)| map.keys().map(|i| Key::Endpoint(s.clone(), i.clone())));
        let shifts = t.shifts.keys().cloned().map(Key::Shift);
        let health = t.health.keys().cloned().map(|(s, i)| Key::Health(s, i));
        let forced = t.forced.keys().cloned().map(|(s, i)| Key::Forced(s, i));
        let confirmed = t.confirmed.keys().cloned().map(Key::Confirmed);
        let valued =
            zones.chain(services).chain(endpoints).chain(shifts).chain(health).chain(forced).chain(confirmed);
        let bad = t.problems.values().filter(|p| !is_derived(p)).map(|p| p.key.clone());
        valued.map(|key| key.to_string()).chain(bad).collect()
    }

    fn put(&mut self, (name, revision, read): Read) -> bool {
        match read {
            Ok((key, entry)) => {
                let healed = self.heal(&name);
                let changed = self.set(key, Some(entry));
                if healed || changed {
                    self.edit(revision);
                }
                healed || changed
            }
            Err(problem) => {
                let kept = matches!(Key::parse(&name), Ok(Some(key)) if self.get(&key).is_some());
                self.note(Problem { kept, revision, ..problem })
            }
        }
    }

    fn delete(&mut self, name: &str, revision: i64) -> bool {
        let healed = self.heal(name);
        let changed = match Key::parse(name) {
            Ok(Some(key)) => self.set(key, None),
            _ => false,
        };
        if healed || changed {
            self.edit(revision);
        }
        healed || changed
    }

    fn note(&mut self, problem: Problem) -> bool {
        if self.topology.problems.get(&problem.key) == Some(&problem) {
            return false;
        }
        let revision = problem.revision;
        self.edit(revision).problems.insert(problem.key.clone(), problem);
        true
    }

    fn heal(&mut self, key: &str) -> bool {
        self.topology.problems.contains_key(key) && {
            Arc::make_mut(&mut self.topology).problems.remove(key);
            true
        }
    }

    /// The topology, about to change at `revision`.
    fn edit(&mut self, revision: i64) -> &mut Topology {
        let topology = Arc::make_mut(&mut self.topology);
        topology.revision = revision;
        topology
    }

    fn get(&self, key: &Key) -> Option<Entry> {
        let t = &*self.topology;
        match key {
            Key::Zone(zone) => t.zones.get(zone).cloned().map(Entry::Zone),
            Key::Service(service) => t.services.get(service).cloned().map(Entry::Service),
            Key::Endpoint(service, id) => t.endpoints.get(service)?.get(id).cloned().map(Entry::Endpoint),
            Key::Shift(target) => t.shifts.get(target).cloned().map(Entry::Shift),
            Key::Health(service, id) => {
                t.health.get(&(service.clone(), id.clone())).cloned().map(Entry::Health)
            }
            Key::Forced(service, id) => {
                t.forced.get(&(service.clone(), id.clone())).cloned().map(Entry::Forced)
            }
            Key::Confirmed(held) => t.confirmed.get(held).cloned().map(Entry::Confirmed),
        }
    }

    /// Gives a key this value, or none. True when that is news.
    fn set(&mut self, key: Key, entry: Option<Entry>) -> bool {
        if self.get(&key) == entry {
            return false;
        }
        let t = Arc::make_mut(&mut self.topology);
        match (key, entry) {
            (Key::Zone(zone), entry) => {
                let value = if let Some(Entry::Zone(value)) = entry { Some(value) } else { None };
                put_or_remove(Arc::make_mut(&mut t.zones), zone, value);
                self.derive_aliases();
                self.derive_zone_counts();
            }
            (Key::Service(service), entry) => {
                let value = if let Some(Entry::Service(value)) = entry { Some(value) } else { None };
                put_or_remove(&mut t.services, service, value);
            }
            (Key::Endpoint(service, id), entry) => {
                let value = if let Some(Entry::Endpoint(value)) = entry { Some(value) } else { None };
                let map = t.endpoints.entry(service.clone()).or_default();
                put_or_remove(Arc::make_mut(map), id, value);
                if map.is_empty() {
                    t.endpoints.remove(&service);
                }
                self.derive_zone_count(&service);
                self.derive_service_count();
            }
            (Key::Shift(target), entry) => {
                let value = if let Some(Entry::Shift(value)) = entry { Some(value) } else { None };
                put_or_remove(Arc::make_mut(&mut t.shifts), target, value);
            }
            (Key::Health(service, id), entry) => {
                let value = if let Some(Entry::Health(value)) = entry { Some(value) } else { None };
                put_or_remove(Arc::make_mut(&mut t.health), (service, id), value);
            }
            (Key::Forced(service, id), entry) => {
                let value = if let Some(Entry::Forced(value)) = entry { Some(value) } else { None };
                put_or_remove(Arc::make_mut(&mut t.forced), (service, id), value);
            }
            (Key::Confirmed(held), entry) => {
                let value = if let Some(Entry::Confirmed(value)) = entry { Some(value) } else { None };
                put_or_remove(Arc::make_mut(&mut t.confirmed), held, value);
            }
        }
        true
    }

    fn derive_aliases(&mut self) {
        let topology = Arc::make_mut(&mut self.topology);
        topology.problems.retain(|key, _| !key.starts_with(ALIASES));
        let mut aliases: BTreeMap<Zone, Zone> = BTreeMap::new();
        for (zone, spec) in topology.zones.iter() {
            for alias in spec.aliases.iter().filter(|alias| *alias != zone) {
                let other = if topology.zones.contains_key(alias) { Some(alias) } else { aliases.get(alias) };
                match other {
                    None => _ = aliases.insert(alias.clone(), zone.clone()),
                    Some(other) if other == zone => {}
                    Some(other) => {
                        let message = format!(
                            "alias {alias} already stands for zone {other}; take it out of one of the two"
                        );
                        let key = format!("{ALIASES}{zone}");
                        topology.problems.insert(key.clone(), Problem::new(key, message));
                    }
                }
            }
        }
        topology.aliases = Arc::new(aliases);
    }

    fn derive_zone_counts(&mut self) {
        let services: Vec<ServiceName> = self.topology.endpoints.keys().cloned().collect();
        for service in services {
            self.derive_zone_count(&service);
        }
    }

    /// The filter has room for so many services; those beyond, by name, are served without a breaker.
    fn derive_service_count(&mut self) {
        let served = self.topology.endpoints.len();
        if served <= MAX_SERVICES {
            if self.topology.problems.contains_key(SERVICE_COUNT) {
                Arc::make_mut(&mut self.topology).problems.remove(SERVICE_COUNT);
            }
            return;
        }
        let first = self.topology.endpoints.keys().nth(MAX_SERVICES).map_or("", |service| service.as_str());
        let message = format!(
            "{served} services have endpoints, the filter has room for {MAX_SERVICES}; those from {first} on get zones and \
             retries but no breaker and no drain in part. Give parts of the fleet a prefix of their own"
        );
        let problem = Problem::new(SERVICE_COUNT.to_owned(), message);
        Arc::make_mut(&mut self.topology).problems.insert(SERVICE_COUNT.to_owned(), problem);
    }

    fn derive_zone_count(&mut self, service: &ServiceName) {
        let key = format!("{ZONE_COUNT}{service}");
        let zones: BTreeSet<&Zone> = match self.topology.endpoints.get(service) {
            Some(map) => map.values().map(|endpoint| self.topology.canonical(&endpoint.zone)).collect(),
            None => BTreeSet::new(),
        };
        if zones.len() <= MAX_ZONES {
            if self.topology.problems.contains_key(&key) {
                Arc::make_mut(&mut self.topology).problems.remove(&key);
            }
            return;
        }
        let left_out: Vec<&str> = zones.iter().skip(MAX_ZONES).map(|zone| zone.as_str()).collect();
        let message = format!(
            "{} zones have endpoints, at most {MAX_ZONES} can be told apart; left out: {}. Split the service, or register \
             in fewer zones",
            zones.len(),
            left_out.join(", ")
        );
        Arc::make_mut(&mut self.topology).problems.insert(key.clone(), Problem::new(key, message));
    }
}

/// Where the problem with too many services stands.
const SERVICE_COUNT: &str = "services with endpoints";
/// Where problems with aliases stand. No key of the schema is written like this, so no event can touch them.
pub(crate) const ALIASES: &str = "aliases of zones/";
/// Where problems with too many zones stand.
const ZONE_COUNT: &str = "zones of endpoints/";

fn is_derived(problem: &Problem) -> bool {
    problem.key.starts_with(ALIASES) || problem.key.starts_with(ZONE_COUNT) || problem.key == SERVICE_COUNT
}

/// Reads a key and its value; nothing when the key belongs to another part of Zonebreak.
fn read(key: String, value: &[u8], revision: i64) -> Option<Read> {
    let read = match Key::parse(&key) {
        Ok(None) => return None,
        Ok(Some(parsed)) => Entry::decode(&parsed, value).map(|entry| (parsed, entry)),
        Err(invalid) => Err(Problem::new(key.clone(), invalid.to_string())),
    };
    Some((key, revision, read))
}

fn put_or_remove<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => _ = map.insert(key, value),
        None => _ = map.remove(&key),
    }
}

#[cfg(test)]
mod tests;
