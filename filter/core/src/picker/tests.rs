//! The picker against a model of Envoy: shares come out exact, whatever the zones keep.

use proptest::prelude::*;

use super::*;
use crate::{policy::Mode, shares};

/// What Envoy does with a key: among the endpoints that carry it, the first priority that has any, by weight of locality.
fn envoy(plan: &Plan<'_>, key: Option<&str>) -> Shares {
    let zones = 0..plan.zones.len();
    let carries = |zone: usize| {
        key.is_none_or(|key| subset::keys_of_endpoint(plan.zones, &plan.zones[zone]).iter().any(|k| k == key))
    };
    let priority = |zone: usize| match zone {
        // The control plane still has a pinned zone last; it has no zone there that is merely broken.
        _ if plan.drained.contains(zone) || plan.pinned.contains(zone) => 2,
        _ if plan.own.is_none() || plan.own == Some(zone) => 0,
        _ => 1,
    };
    let first = zones.clone().filter(|zone| carries(*zone)).map(priority).min().unwrap();
    let there = |zone: usize| zones.contains(&zone) && carries(zone) && priority(zone) == first;
    let sum: f64 = zones.clone().filter(|zone| there(*zone)).map(|zone| f64::from(plan.weights[zone])).sum();
    std::array::from_fn(|zone| if there(zone) { f64::from(plan.weights[zone]) / sum } else { 0.0 })
}

/// Shares that come out, and the share refused.
fn outcome(table: &Table, plan: &Plan<'_>) -> (Shares, f64) {
    let (mut out, mut spilled, mut from) = ([0.0; MAX_ZONES], 0.0, 0);
    for pick in &table.picks {
        let part = (pick.upto - from) as f64 / 4_294_967_296.0;
        from = pick.upto;
        let key = match pick.act {
            Act::Spill => {
                spilled += part;
                continue;
            }
            Act::Pass => None,
            Act::Serve { key, .. } => Some(table.key(key).unwrap()),
        };
        for (sum, share) in out.iter_mut().zip(envoy(plan, key)) {
            *sum += part * share;
        }
    }
    assert_eq!(from, 1 << 32);
    (out, spilled)
}

struct Case {
    zones: Vec<Zone>,
    own: Option<usize>,
    usual: Shares,
    keep: Vec<f64>,
    weights: Vec<u32>,
    drained: ZoneSet,
    pinned: ZoneSet,
}

impl Case {
    fn new(mode: Mode, own: Option<usize>, weights: &[u32], keep: &[f64]) -> Self {
        let zones = (0..weights.len()).map(|i| Zone::new(&format!("z{i}")).unwrap()).collect();
        let usual = shares::usual(mode, own, mode == Mode::Eventual, weights);
        let (keep, weights) = (keep.to_vec(), weights.to_vec());
        Self { zones, own, usual, keep, weights, drained: ZoneSet::EMPTY, pinned: ZoneSet::EMPTY }
    }

    fn check(&self) -> Table {
        let shares = shares::target(&self.usual, &self.keep, &self.weights).unwrap();
        let plan = Plan {
            zones: &self.zones,
            own: self.own,
            usual: &self.usual,
            shares: &shares,
            keep: &self.keep,
            weights: &self.weights,
            drained: self.drained,
            pinned: self.pinned,
            spill: 1.0,
        };
        let table = Table::new(&plan);
        let (out, spilled) = outcome(&table, &plan);
        assert_eq!(spilled, 0.0);
        for (zone, share) in shares.iter().enumerate() {
            assert!((out[zone] - share).abs() < 1e-6, "zone {zone}: {} is not {share}; {table:?}", out[zone]);
        }
        let draws = table.picks.iter().map(|pick| pick.upto);
        assert!(draws.clone().zip(draws.skip(1)).all(|(a, b)| a < b));
        table
    }

    fn keys(&self) -> Vec<String> {
        let table = self.check();
        let mut keys: Vec<_> = table
            .picks
            .iter()
            .map(|pick| match pick.act {
                Act::Serve { key, .. } => table.key(key).unwrap().to_owned(),
                other => format!("{other:?}"),
            })
            .collect();
        keys.dedup();
        keys
    }
}

#[test]
fn keys_leave_room_for_a_retry() {
    use Mode::{Eventual, Strong};
    let w = [80, 10, 10];
    let keys = |mode, own, weights: &[u32], keep: &[f64]| Case::new(mode, own, weights, keep).keys();
    assert_eq!(keys(Strong, Some(0), &w, &[1.0, 1.0, 1.0]), ["Pass"]);
    assert_eq!(keys(Strong, Some(0), &w, &[0.0, 1.0, 1.0]), ["no-z0"]);
    assert_eq!(keys(Strong, Some(0), &w, &[1.0, 0.0, 1.0]), ["no-z1"]);
    assert_eq!(keys(Eventual, Some(0), &w, &[1.0, 1.0, 1.0]), ["Pass", "no-z0"]);
    assert_eq!(keys(Eventual, Some(0), &w, &[1.0, 0.0, 1.0]), ["no-z1", "only-z2", "no-z1", "only-z2"]);
    assert_eq!(keys(Eventual, Some(0), &w, &[1.0, 0.3, 1.0]), ["Pass", "no-z0", "only-z2", "Pass"]);
    assert_eq!(keys(Eventual, Some(0), &w, &[0.3, 1.0, 1.0]), ["Pass", "no-z0"]);
    assert_eq!(keys(Eventual, None, &w, &[1.0, 1.0, 1.0]), ["Pass"]);
    assert_eq!(keys(Eventual, None, &w, &[0.5, 1.0, 1.0]), ["Pass", "no-z0"]);
    assert_eq!(keys(Eventual, Some(0), &[1, 1], &[1.0, 0.0]), ["only-z0"]);
}

#[test]
fn two_partial_zones_are_named_alone() {
    let keys = Case::new(Mode::Eventual, Some(0), &[1, 1, 1], &[1.0, 0.3, 0.5]).keys();
    assert!(keys.contains(&"only-z1".to_owned()) && keys.contains(&"only-z2".to_owned()), "{keys:?}");
}

#[test]
fn a_zone_whose_drain_just_ended_is_named() {
    let mut own = Case::new(Mode::Strong, Some(0), &[1, 1, 1], &[1.0, 1.0, 1.0]);
    own.pinned = [0].into_iter().collect();
    assert_eq!(own.keys(), ["only-z0"]);
    let mut other = Case::new(Mode::Eventual, Some(0), &[1, 1, 1], &[1.0, 1.0, 1.0]);
    other.pinned = [2].into_iter().collect();
    assert_eq!(other.keys(), ["Pass", "only-z1", "only-z2"]);
}

#[test]
fn more_than_may_be_moved_is_refused() {
    let case = Case::new(Mode::Strong, Some(0), &[1, 1], &[0.0, 1.0]);
    let shares = shares::target(&case.usual, &case.keep, &case.weights).unwrap();
    let plan = Plan {
        zones: &case.zones,
        own: case.own,
        usual: &case.usual,
        shares: &shares,
        keep: &case.keep,
        weights: &case.weights,
        drained: ZoneSet::EMPTY,
        pinned: ZoneSet::EMPTY,
        spill: 0.3,
    };
    let (out, spilled) = outcome(&Table::new(&plan), &plan);
    assert!((out[1] - 0.3).abs() < 1e-6 && (spilled - 0.7).abs() < 1e-6);
}

/// A user whose coin lies in a zone that is not left stays in it.
#[test]
fn only_the_users_of_a_left_zone_move() {
    let before = Case::new(Mode::Eventual, Some(0), &[50, 25, 25], &[1.0, 1.0, 1.0]).check();
    let after = Case::new(Mode::Eventual, Some(0), &[50, 25, 25], &[0.4, 1.0, 1.0]).check();
    let own = |pick: Pick| pick.act == Act::Pass;
    for coin in (0..u32::MAX).step_by(1 << 20) {
        let (then, now) = (before.draw(coin).unwrap(), after.draw(coin).unwrap());
        assert!(own(then) || !own(now));
        assert!(own(then) || !now.moved);
    }
}

proptest! {
    #[test]
    fn shares_are_exact_whatever_the_zones_keep(
        weights in prop::collection::vec(1_u32..100, 1..=8),
        keep in prop::collection::vec(prop_oneof![3 => Just(1.0), 2 => Just(0.0), 1 => 0.001..1.0_f64], 8),
        own in prop::option::of(0_usize..8),
        strong: bool,
        operator in 0_u8..4,
    ) {
        let mode = if strong { Mode::Strong } else { Mode::Eventual };
        let own = own.filter(|own| *own < weights.len());
        let mut case = Case::new(mode, own, &weights, &keep[..weights.len()]);
        // Some zones that are left are so by the operator, and one that is whole has just come back from that.
        case.drained = (0..weights.len()).filter(|z| keep[*z] == 0.0 && (*z as u8 + operator).is_multiple_of(2)).collect();
        case.pinned = (0..weights.len()).filter(|z| keep[*z] == 1.0 && *z as u8 == operator).take(1).collect();
        if shares::target(&case.usual, &case.keep, &case.weights).is_some() {
            case.check();
        }
    }
}
