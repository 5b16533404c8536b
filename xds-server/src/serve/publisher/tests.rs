//! The publisher against a model: whatever happens, the hub holds for every name that a proxy may use exactly what a fresh
//! build of that zone's view gives.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use proptest::prelude::*;
use zonebreak_topology::{
    registry::{self, Registry},
    view,
};

use super::*;

/// One thing that happens.
#[derive(Debug, Clone)]
enum Step {
    Put(&'static str, String),
    Delete(&'static str),
    Ask(&'static str),
    Module(bool),
    /// Minutes go by.
    Wait(i64),
}

fn options(module: bool) -> Arc<Options> {
    let module =
        module.then(|| resources::Module::Path { path: "/filter.wasm".to_owned(), sha256: String::new() });
    Arc::new(Options { listener_address: "127.0.0.1".to_owned(), module, debug_header: false })
}

fn start() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn zone(name: &str) -> Zone {
    Zone::new(name).unwrap()
}

/// A publisher, its source, its hub and its clock.
struct World {
    registry: Registry,
    publisher: Publisher,
    hub: BTreeMap<String, Arc<Snapshot>>,
    asked: BTreeSet<&'static str>,
    options: Arc<Options>,
    now: Timestamp,
    due: Option<Timestamp>,
}

// === impl World ===

impl World {
    fn new() -> Self {
        let options = options(false);
        let publisher = Publisher::new(options.clone());
        let (registry, hub, asked) = (Registry::default(), BTreeMap::new(), BTreeSet::new());
        Self { registry, publisher, hub, asked, options, now: start(), due: None }
    }

    fn take(&mut self, step: Step) {
        let revision = self.registry.topology().revision + 1;
        match step {
            Step::Put(key, value) => {
                let (key, value) = (key.to_owned(), value.into_bytes());
                self.change(registry::Event::Put { key, value, mod_revision: revision });
            }
            Step::Delete(key) => {
                self.change(registry::Event::Delete { key: key.to_owned(), mod_revision: revision })
            }
            Step::Ask(name) => {
                // As `Nodes` does: each name once.
                if self.asked.insert(name) {
                    self.step(Event::Asked(zone(name)));
                }
            }
            Step::Module(module) => {
                self.options = options(module);
                self.step(Event::Options(self.options.clone()));
            }
            Step::Wait(minutes) => {
                self.now += SignedDuration::from_mins(minutes);
                if self.due.is_some_and(|due| due <= self.now) {
                    self.step(Event::Due);
                }
            }
        }
    }

    fn change(&mut self, event: registry::Event) {
        if self.registry.apply(event) {
            self.step(Event::Topology(self.registry.topology()));
        }
    }

    fn step(&mut self, event: Event) -> Option<Publication> {
        let publication = self.publisher.step(self.now, event)?;
        for (key, snapshot) in &publication.views {
            let before = self.hub.insert(key.as_str().to_owned(), snapshot.clone());
            let same = before.is_some_and(|before| before.same_content(snapshot));
            assert_ne!(
                publication.changed.contains(key),
                same,
                "{key:?} is told as changed exactly when it is"
            );
        }
        for key in &publication.removed {
            assert!(self.hub.remove(key.as_str()).is_some(), "only what is there is removed");
        }
        self.due = publication.next_due;
        Some(publication)
    }

    /// What the hub must hold.
    fn check(&self) {
        let topology = self.registry.topology();
        if topology.revision == 0 {
            assert!(self.hub.is_empty(), "nothing before the first topology");
            return;
        }
        let known = topology.known_zones();
        let mut names: BTreeSet<Option<Zone>> = known.iter().cloned().map(Some).chain([None]).collect();
        names.extend(self.asked.iter().map(|name| Some(zone(name))));
        let expected: Vec<String> = names.iter().map(|name| key(name.as_ref()).as_str().to_owned()).collect();
        assert_eq!(self.hub.keys().cloned().collect::<Vec<_>>(), expected);
        for name in names {
            let view = view::view(&topology, name.as_ref(), self.now);
            let (fresh, _) = resources::snapshot(&view, &self.options, ChangeId(0), None).unwrap();
            let held = &self.hub[key(name.as_ref()).as_str()];
            assert!(held.same_content(&fresh), "the view of {name:?} is another than a fresh one");
        }
    }
}

fn value(kind: &'static str) -> BoxedStrategy<String> {
    let zones = prop::sample::select(vec!["az-a", "az-b", "az-c", "alias-of-a"]);
    match kind {
        "zones/az-a" => prop::sample::select(vec!["{}", r#"{"aliases": ["alias-of-a"]}"#]).prop_map(str::to_owned).boxed(),
        "services/s" => {
            let policies = vec!["{}", r#"{"mode": "eventual"}"#, r#"{"port": 9000}"#, r#"{"mode": "fast"}"#];
            prop::sample::select(policies).prop_map(str::to_owned).boxed()
        }
        "shifts/az-a" => (0..2_i64, 1..90_i64)
            .prop_map(|(keep, minutes)| {
                let end = start() + SignedDuration::from_mins(minutes);
                format!(
                    r#"{{"keep_percent": {}, "reason": "r", "actor": "a", "started_at": "2025-12-31T00:00:00Z",
                    "expires_at": "{end}"}}"#,
                    keep * 30
                )
            })
            .boxed(),
        _ => zones.prop_map(|zone| format!(r#"{{"address": "10.0.0.1", "port": 80, "zone": "{zone}"}}"#)).boxed(),
    }
}

fn step() -> impl Strategy<Value = Step> {
    let keys =
        vec!["zones/az-a", "services/s", "shifts/az-a", "endpoints/s/1", "endpoints/s/2", "endpoints/t/1"];
    let put = prop::sample::select(keys.clone()).prop_flat_map(|key| (Just(key), value(key)));
    prop_oneof![
        6 => put.prop_map(|(key, value)| Step::Put(key, value)),
        2 => prop::sample::select(keys).prop_map(Step::Delete),
        2 => prop::sample::select(vec!["az-a", "alias-of-a", "az-c", "nowhere"]).prop_map(Step::Ask),
        1 => any::<bool>().prop_map(Step::Module),
        2 => (1..60_i64).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn every_name_gets_what_a_fresh_build_gives(steps in prop::collection::vec(step(), 1..40)) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
            world.check();
        }
    }
}

#[test]
fn a_drains_end_is_announced_and_moves_the_view_without_any_key_changing() {
    let mut world = World::new();
    world.take(Step::Put(
        "endpoints/s/1",
        r#"{"address": "10.0.0.1", "port": 80, "zone": "az-a"}"#.to_owned(),
    ));
    world.take(Step::Put(
        "endpoints/s/2",
        r#"{"address": "10.0.0.2", "port": 80, "zone": "az-b"}"#.to_owned(),
    ));
    let usual = world.hub["az-a"].clone();
    let shift = r#"{"keep_percent": 0, "reason": "r", "actor": "a", "started_at": "2026-01-01T00:00:00Z",
        "expires_at": "2026-01-01T00:30:00Z"}"#;
    world.take(Step::Put("shifts/az-a", shift.to_owned()));
    assert!(!world.hub["az-a"].same_content(&usual));
    assert_eq!(world.due, Some(start() + SignedDuration::from_mins(30)));
    world.take(Step::Wait(30));
    assert!(world.hub["az-a"].same_content(&usual));
    assert_eq!(world.due, None);
}

#[test]
fn what_did_not_change_is_shared_and_not_told_as_changed() {
    let mut world = World::new();
    world.take(Step::Put(
        "endpoints/s/1",
        r#"{"address": "10.0.0.1", "port": 80, "zone": "az-a"}"#.to_owned(),
    ));
    let before = world.publisher.change;
    let again = world.step(Event::Topology(world.registry.topology())).unwrap();
    assert_eq!((again.change, again.changed.as_slice()), (before + 1, &[][..]));
}
