//! Losses, one step at a time, and any sequence of them against what must hold after each.

use proptest::prelude::*;

use super::*;
use crate::registry::{Event as Change, Registry};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + seconds).unwrap()
}

/// A source under the test's hands, and the gate behind it.
struct World {
    registry: Registry,
    gate: Gate,
    revision: i64,
}

impl World {
    fn new(endpoints: usize) -> Self {
        let mut world =
            Self { registry: Registry::default(), gate: Gate::new(Limits::default()), revision: 1 };
        world.put("zones/az-a", r#"{"region": "eu", "aliases": ["a"]}"#);
        world.put("services/s", r#"{"mode": "strong", "port": 9}"#);
        (0..endpoints).for_each(|n| world.add(n));
        world.say(0);
        world
    }

    fn put(&mut self, key: &str, value: &str) {
        self.revision += 1;
        let (key, value) = (key.to_owned(), value.as_bytes().to_vec());
        self.registry.apply(Change::Put { key, value, mod_revision: self.revision });
    }

    fn delete(&mut self, key: &str) {
        self.revision += 1;
        self.registry.apply(Change::Delete { key: key.to_owned(), mod_revision: self.revision });
    }

    fn add(&mut self, n: usize) {
        let value = format!(r#"{{"address": "10.0.0.{n}", "port": 80, "zone": "a"}}"#);
        self.put(&format!("endpoints/s/{n}"), &value);
    }

    fn remove(&mut self, n: usize) {
        self.delete(&format!("endpoints/s/{n}"));
    }

    fn say(&mut self, seconds: i64) -> Admitted {
        self.gate.step(at(seconds), Event::Said(self.registry.topology())).unwrap()
    }
}

fn names(admitted: &Admitted) -> String {
    let all = admitted.topology.endpoints.get("s").into_iter().flat_map(|map| map.keys());
    all.map(|id| id.as_str()).collect::<Vec<_>>().join(" ")
}

fn shift() -> String {
    r#"{"keep_percent": 0, "reason": "r", "actor": "a", "started_at": "2026-01-01T00:00:00Z",
        "expires_at": "2026-01-01T00:30:00Z"}"#
        .to_owned()
}

fn confirmation(endpoints: usize, seconds: i64) -> Confirmation {
    let (reason, actor) = ("scaled down".to_owned(), "eve".to_owned());
    Confirmation { endpoints, reason, actor, confirmed_at: at(seconds), expires_at: at(seconds + 600) }
}

#[test]
fn half_may_go_and_more_than_half_is_held_with_all_that_it_stands_on() {
    let mut world = World::new(4);
    (0..2).for_each(|n| world.remove(n));
    let admitted = world.say(100);
    assert_eq!((names(&admitted).as_str(), admitted.held.len()), ("2 3", 0));

    let mut world = World::new(4);
    (0..3).for_each(|n| world.remove(n));
    world.delete("zones/az-a");
    world.delete("services/s");
    world.put("zones/az-z", "{}");
    let admitted = world.say(100);
    assert_eq!(names(&admitted), "0 1 2 3");
    assert_eq!(admitted.topology.services["s"].port, 9, "its policy stays");
    let zone = &admitted.topology.endpoints["s"].values().next().unwrap().zone;
    assert_eq!(admitted.topology.canonical(zone).as_str(), "az-a", "and so does what its zone is called");
    let held = &admitted.held[0];
    assert_eq!(admitted.held.len(), 2, "its policy was the last one");
    assert_eq!((held.before, held.after, held.served, held.since), (4, 1, 4, at(100)));
    assert_eq!(held.describe(), "s would go from 4 endpoints to 1 within 10s; at most 50 % may go at once");
}

#[test]
fn what_is_added_to_a_held_service_is_served_and_what_comes_back_releases_it() {
    let mut world = World::new(4);
    (0..4).for_each(|n| world.remove(n));
    assert_eq!(names(&world.say(100)), "0 1 2 3");
    world.add(7);
    let admitted = world.say(101);
    assert_eq!((names(&admitted).as_str(), admitted.released.len()), ("0 1 2 3 7", 0));
    assert_eq!(world.gate.held()[0].after, 1);
    world.add(8);
    let admitted = world.say(3600);
    assert_eq!(names(&admitted), "7 8", "half of what there was is back, under other names");
    assert_eq!(admitted.released[0].1, Release::Undone);
    assert!(world.gate.held().is_empty());
}

#[test]
fn a_hold_of_one_service_stops_nothing_that_is_said_of_zones() {
    let mut world = World::new(4);
    (0..4).for_each(|n| world.remove(n));
    world.delete("zones/az-a");
    world.say(100);
    world.put("zones/az-b", r#"{"region": "eu-2", "aliases": ["b"]}"#);
    world.put("shifts/az-b", &shift());
    let admitted = world.say(101);
    assert_eq!((names(&admitted).as_str(), world.gate.held().len()), ("0 1 2 3", 1));
    let zones: Vec<&str> = admitted.topology.zones.keys().map(|zone| zone.as_str()).collect();
    assert_eq!(zones, ["az-a", "az-b"], "a zone that is new is there, and the held one's stays");
    for (alias, zone) in [("a", "az-a"), ("b", "az-b")] {
        let alias = zonebreak_core::names::Zone::new(alias).unwrap();
        assert_eq!(admitted.topology.canonical(&alias).as_str(), zone);
    }
    assert_eq!(admitted.topology.shifts.len(), 1);
    // A zone that comes back as something else is that.
    world.put("zones/az-a", r#"{"region": "eu-3"}"#);
    let admitted = world.say(102);
    assert_eq!(admitted.topology.zones["az-a"].region, "eu-3");
}

#[test]
fn most_policies_and_most_zones_go_as_little_as_most_endpoints_do() {
    let mut world = World::new(1);
    for n in 0..9 {
        world.put(&format!("services/t{n}"), r#"{"port": 9}"#);
        world.put(&format!("zones/az-{n}"), &format!(r#"{{"region": "eu", "aliases": ["z{n}"]}}"#));
    }
    assert!(world.say(1).held.is_empty());
    // `etcdctl del --prefix`, but for what is not there any more and what came meanwhile.
    for n in 0..9 {
        world.delete(&format!("services/t{n}"));
        world.delete(&format!("zones/az-{n}"));
    }
    world.put("services/s", r#"{"mode": "eventual", "port": 9}"#);
    world.put("shifts/az-a", &shift());
    let admitted = world.say(100);
    let words: Vec<String> = admitted.held.iter().map(Held::describe).collect();
    assert_eq!(
        words,
        [
            "the topology would go from 10 policies to 1 within 10s; at most 50 % may go at once",
            "the topology would go from 10 zones to 1 within 10s; at most 50 % may go at once"
        ]
    );
    let topology = &admitted.topology;
    assert_eq!((topology.services.len(), topology.zones.len(), topology.shifts.len()), (10, 10, 1));
    assert_eq!(topology.services["s"].mode, zonebreak_core::policy::Mode::Eventual, "what is said counts");
    assert_eq!(topology.canonical(&"z3".parse().unwrap()).as_str(), "az-3", "with its other names");
    let ids: Vec<String> = world.gate.held().iter().map(|held| held.id.to_string()).collect();
    assert_eq!((ids, world.gate.held()[1].served), (vec!["services".to_owned(), "zones".to_owned()], 10));
    // It is nobody's change as long as nothing is said.
    let again = world.say(101).topology;
    assert!(Arc::ptr_eq(&again.zones, &topology.zones));
    assert!(again.services.iter().all(|(name, policy)| Arc::ptr_eq(policy, &topology.services[name])));

    // Each is let through by itself, as far as the operator saw.
    world.put("confirmed/services", &serde_json::to_string(&confirmation(1, 102)).unwrap());
    let admitted = world.say(102);
    assert_eq!((admitted.topology.services.len(), admitted.topology.zones.len()), (1, 10));
    assert!(matches!(admitted.released[..], [(_, Release::Confirmed(_))]));
    for n in 0..4 {
        world.put(&format!("zones/az-{n}"), "{}");
    }
    let admitted = world.say(103);
    assert_eq!((admitted.topology.zones.len(), &admitted.released[0].1), (5, &Release::Undone));
    assert!(world.gate.held().is_empty());
}

#[test]
fn a_wiped_source_on_which_everybody_registered_again_keeps_its_policies() {
    let mut world = World::new(4);
    world.delete("services/s");
    world.delete("zones/az-a");
    let admitted = world.say(100);
    assert_eq!((names(&admitted).as_str(), admitted.held.len()), ("0 1 2 3", 2));
    assert_eq!(admitted.topology.services["s"].port, 9);
    world.put("confirmed/source", &serde_json::to_string(&confirmation(0, 101)).unwrap());
    let admitted = world.say(101);
    assert!(admitted.topology.services.is_empty() && admitted.topology.zones.is_empty());
}

#[test]
fn a_loss_in_small_steps_is_held_within_the_window_and_not_beyond_it() {
    for (pause, left) in [(1, "2 3"), (6, "2 3"), (12, "3")] {
        let mut world = World::new(4);
        let mut last = None;
        for n in 0..3 {
            world.remove(n);
            last = Some(world.say(100 + pause * i64::try_from(n).unwrap()));
        }
        assert_eq!(names(&last.unwrap()), left, "one every {pause} s");
    }
}

#[test]
fn a_rollout_under_new_names_is_not_held() {
    let mut world = World::new(4);
    (0..4).for_each(|n| world.remove(n));
    (10..14).for_each(|n| world.add(n));
    let admitted = world.say(100);
    assert_eq!((names(&admitted).as_str(), admitted.held.len()), ("10 11 12 13", 0));
}

#[test]
fn a_confirmation_lets_it_go_so_far_and_no_further() {
    for local in [true, false] {
        let mut world = World::new(10);
        (0..7).for_each(|n| world.remove(n));
        assert_eq!(world.say(100).held.len(), 1);
        // The fourth from last goes after the operator looked.
        world.remove(7);
        let given = confirmation(3, 101);
        let admitted = if local {
            world.say(101);
            world.gate.step(
                at(101),
                Event::Confirmed(HeldId::Endpoints(ServiceName::new("s").unwrap()), given.clone()),
            )
        } else {
            world.put("confirmed/endpoints/s", &serde_json::to_string(&given).unwrap());
            Some(world.say(101))
        };
        assert_eq!(admitted.unwrap().topology.endpoints["s"].len(), 10, "two are left, three were confirmed");
        world.add(7);
        let admitted = world.say(102);
        assert_eq!(
            (names(&admitted).as_str(), &admitted.released[0].1),
            ("7 8 9", &Release::Confirmed(given))
        );
        world.remove(7);
        world.remove(8);
        assert_eq!(names(&world.say(103)), "7 8 9", "and what goes beyond it is held again");
        assert_eq!(world.gate.held()[0].before, 3);
    }
}

#[test]
fn the_word_that_the_source_is_right_lets_everything_go() {
    let mut world = World::new(4);
    (0..4).for_each(|n| world.remove(n));
    world.put("confirmed/source", &serde_json::to_string(&confirmation(0, 100)).unwrap());
    assert_eq!(names(&world.say(100)), "");
    let mut world = World::new(4);
    (0..4).for_each(|n| world.remove(n));
    world.put("confirmed/source", &serde_json::to_string(&confirmation(0, 100)).unwrap());
    assert_eq!(names(&world.say(701)), "0 1 2 3", "it is void by then");
}

#[test]
fn a_guard_that_is_switched_off_lets_go_of_what_it_held() {
    let mut world = World::new(4);
    (0..4).for_each(|n| world.remove(n));
    world.say(100);
    let off = Limits { max_removal: Percent::FULL, ..Limits::default() };
    let admitted = world.gate.step(at(101), Event::Limits(off)).unwrap();
    assert_eq!((names(&admitted).as_str(), admitted.released.len()), ("", 1));
}

#[test]
fn what_was_served_before_a_restart_is_a_measure_while_it_is_fresh() {
    for (seconds, left) in [(60, "0 1 2 3"), (601, "")] {
        let mut world = World::new(4);
        let saved = world.registry.topology();
        world.gate = Gate::new(Limits::default());
        world.gate.remember(saved.clone(), at(0));
        // The source went without etcd at first, and served what was on disk.
        assert_eq!(names(&world.gate.step(at(1), Event::Said(saved)).unwrap()), "0 1 2 3");
        (0..4).for_each(|n| world.remove(n));
        assert_eq!(names(&world.say(seconds)), left, "{seconds} s later");
    }
}

#[test]
fn services_that_are_not_held_pass_as_they_are() {
    let mut world = World::new(4);
    let said = world.registry.topology();
    assert!(Arc::ptr_eq(&world.say(1).topology, &said), "nothing is copied");
    world.remove(0);
    world.say(2);
    world.say(60);
    world.remove(1);
    world.say(61);
    world.put("zones/az-b", "{}");
    world.say(80);
    world.remove(2);
    world.say(81);
    assert!(world.gate.services.len() <= 1, "quiet services are forgotten");
}

#[derive(Debug, Clone)]
enum Step {
    Add(usize),
    Remove(usize),
    Wait(i64),
    Confirm(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..8_usize).prop_map(Step::Add),
        6 => (0..8_usize).prop_map(Step::Remove),
        2 => (0..15_i64).prop_map(Step::Wait),
        1 => (0..6_usize).prop_map(Step::Confirm),
    ]
}

proptest! {
    /// Whatever happens: nothing that the source has is withheld; nothing is served that neither the source nor the past had;
    /// and within any window the served number never falls below half without a confirmation.
    #[test]
    fn the_guard_holds_in_any_sequence(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new(6);
        let mut now = 0;
        let mut served: Vec<(i64, usize)> = vec![(0, 6)];
        let mut ever: BTreeSet<InstanceId> = world.registry.topology().endpoints["s"].keys().cloned().collect();
        let mut confirmed = false;
        for step in steps {
            match step {
                Step::Add(n) => world.add(n),
                Step::Remove(n) => world.remove(n),
                Step::Wait(seconds) => now += seconds,
                Step::Confirm(n) => {
                    confirmed = true;
                    let given = serde_json::to_string(&confirmation(n, now)).unwrap();
                    world.put("confirmed/endpoints/s", &given);
                }
            }
            let before = served.last().copied().unwrap();
            let admitted = world.say(now);
            let said = world.registry.topology();
            let got = admitted.topology.endpoints.get("s").cloned().unwrap_or_default();
            if let Some(said) = said.endpoints.get("s") {
                ever.extend(said.keys().cloned());
                for (id, endpoint) in said.iter() {
                    prop_assert_eq!(got.get(id), Some(endpoint));
                }
            }
            prop_assert!(got.keys().all(|id| ever.contains(id)));
            served.push((now, got.len()));
            let held = !world.gate.held().is_empty();
            if !held {
                prop_assert_eq!(got.len(), said.endpoints.get("s").map_or(0, |map| map.len()));
            }
            // The number before this step counted until now.
            if !confirmed && admitted.released.is_empty() && before.1 > 0 {
                prop_assert!(got.len() * 2 >= before.1, "{} after {}", got.len(), before.1);
            }
        }
    }
}
