//! The picker against a model of Envoy: shares come out exact, whatever the zones keep.

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

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
    let (mut out, mut spilled) = ([0.0; MAX_ZONES], 0.0);
    let mut go = |part: f64, pick: &Pick| {
        let key = match pick.act {
            Act::Move => panic!("moved twice"),
            Act::Spill => {
                spilled += part;
                return;
            }
            Act::Pass => None,
            Act::Serve { key, .. } => Some(table.key(key).unwrap()),
        };
        let reached = envoy(plan, key);
        for (sum, share) in out.iter_mut().zip(reached) {
            *sum += part * share;
        }
        let within = |zone| reached[zone] == 0.0 || pick.zones.contains(zone);
        assert!((0..MAX_ZONES).all(within), "{key:?} leads out of {:?}", pick.zones);
        assert!(!plan.named || pick.zones.len() == 1, "{key:?} names no zone");
    };
    for (part, pick) in parts(&table.home) {
        match pick.act {
            Act::Move => parts(&table.moved).for_each(|(of, moved)| go(part * of, moved)),
            _ => go(part, pick),
        }
    }
    (out, spilled)
}

/// Stretches with the part of the range that each takes up.
fn parts(picks: &[Pick]) -> impl Iterator<Item = (f64, &Pick)> {
    assert_eq!(picks.last().map_or(1 << 32, |pick| pick.upto), 1 << 32);
    let from = std::iter::once(0).chain(picks.iter().map(|pick| pick.upto));
    from.zip(picks).map(|(from, pick)| {
        assert!(from < pick.upto);
        ((pick.upto - from) as f64 / WHOLE, pick)
    })
}

struct Case {
    zones: Vec<Zone>,
    own: Option<usize>,
    usual: Shares,
    keep: Vec<f64>,
    weights: Vec<u32>,
    drained: ZoneSet,
    pinned: ZoneSet,
    named: bool,
    /// Response times, where the spread is by latency.
    typical: Option<Vec<Option<f64>>>,
}

impl Case {
    fn new(mode: Mode, own: Option<usize>, weights: &[u32], keep: &[f64]) -> Self {
        let zones = (0..weights.len()).map(|i| Zone::new(&format!("z{i}")).unwrap()).collect();
        let usual = shares::usual(mode, own, 0.0, mode == Mode::Eventual, weights);
        let (keep, weights) = (keep.to_vec(), weights.to_vec());
        let (drained, pinned) = (ZoneSet::EMPTY, ZoneSet::EMPTY);
        Self { zones, own, usual, keep, weights, drained, pinned, named: false, typical: None }
    }

    /// The same, spread by response times.
    fn leaning(mut self, mode: Mode, typical: Vec<Option<f64>>) -> Self {
        if let Some(own) = self.own {
            let leaning = shares::lean(&self.weights, own, &typical);
            self.usual = shares::usual(mode, self.own, 0.0, mode == Mode::Eventual, &leaning);
            self.typical = Some(typical);
        }
        self
    }

    fn target(&self) -> Option<Shares> {
        let leaning = self.typical.as_ref().zip(self.own);
        let leaning = leaning.map(|(typical, own)| shares::lean(&self.weights, own, typical));
        let pull = leaning.as_ref().unwrap_or(&self.weights);
        shares::target(&self.usual, &self.keep, pull, None).map(|(shares, _)| shares)
    }

    fn plan<'a>(&'a self, shares: &'a Shares) -> Plan<'a> {
        Plan {
            zones: &self.zones,
            own: self.own,
            usual: &self.usual,
            shares,
            keep: &self.keep,
            weights: &self.weights,
            drained: self.drained,
            pinned: self.pinned,
            spill: 1.0,
            fits: 1.0,
            named: self.named,
        }
    }

    fn check(&self) -> Table {
        let shares = self.target().unwrap();
        let plan = self.plan(&shares);
        let table = Table::new(&plan);
        let (out, spilled) = outcome(&table, &plan);
        assert_eq!(spilled, 0.0);
        for (zone, share) in shares.iter().enumerate() {
            assert!((out[zone] - share).abs() < 1e-6, "zone {zone}: {} is not {share}; {table:?}", out[zone]);
        }
        table
    }

    fn keys(&self) -> Vec<String> {
        let table = self.check();
        let mut keys: Vec<_> = table
            .home
            .iter()
            .chain(&table.moved)
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
    assert_eq!(keys(Strong, Some(0), &w, &[0.0, 1.0, 1.0]), ["Move", "no-z0"]);
    assert_eq!(keys(Strong, Some(0), &w, &[1.0, 0.0, 1.0]), ["no-z1"]);
    assert_eq!(keys(Eventual, Some(0), &w, &[1.0, 1.0, 1.0]), ["Pass", "no-z0"]);
    assert_eq!(
        keys(Eventual, Some(0), &w, &[1.0, 0.0, 1.0]),
        ["no-z1", "Move", "only-z2", "no-z1", "only-z2"]
    );
    assert_eq!(keys(Eventual, Some(0), &w, &[1.0, 0.3, 1.0]), ["Pass", "no-z0", "only-z2", "Move", "Pass"]);
    assert_eq!(keys(Eventual, Some(0), &w, &[0.3, 1.0, 1.0]), ["Pass", "Move", "no-z0"]);
    assert_eq!(keys(Eventual, None, &w, &[1.0, 1.0, 1.0]), ["Pass"]);
    assert_eq!(keys(Eventual, None, &w, &[0.5, 1.0, 1.0]), ["Pass", "no-z0"]);
    assert_eq!(keys(Eventual, Some(0), &[1, 1], &[1.0, 0.0]), ["only-z0", "Move", "only-z0"]);
}

#[test]
fn faster_zones_get_more_and_most_keep_their_retry() {
    use Mode::{Eventual, Strong};
    let faster = |mode, keep: &[f64]| {
        Case::new(mode, Some(0), &[80, 10, 10], keep).leaning(mode, vec![None, Some(5.0), Some(15.0)])
    };
    assert_eq!(faster(Eventual, &[1.0, 1.0, 1.0]).keys(), ["Pass", "no-z0", "only-z1", "no-z0"]);
    assert_eq!(faster(Strong, &[0.0, 1.0, 1.0]).keys(), ["Move", "no-z0", "only-z1", "no-z0"]);
    let shares = faster(Strong, &[0.0, 1.0, 1.0]).target().unwrap();
    assert!((shares[1] - 2.0 / 3.0).abs() < 1e-3, "{shares:?}");
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
    let shares = case.target().unwrap();
    for (spill, fits) in [(0.3, 1.0), (1.0, 0.3), (0.8, 0.3)] {
        let plan = Plan { spill, fits, ..case.plan(&shares) };
        let table = Table::new(&plan);
        let (out, spilled) = outcome(&table, &plan);
        assert!((out[1] - 0.3).abs() < 1e-6 && (spilled - 0.7).abs() < 1e-6);
        assert!((table.spilled() - 0.7).abs() < 1e-6);
    }
}

/// A user whose coin lies in a zone that is not left stays in it.
#[test]
fn only_the_users_of_a_left_zone_move() {
    let before = Case::new(Mode::Eventual, Some(0), &[50, 25, 25], &[1.0, 1.0, 1.0]).check();
    let after = Case::new(Mode::Eventual, Some(0), &[50, 25, 25], &[0.4, 1.0, 1.0]).check();
    let own = |pick: Pick| pick.act == Act::Pass;
    for coin in (0..1_u64 << 32).step_by(1 << 20) {
        let (then, now) = (before.draw(coin).unwrap(), after.draw(coin).unwrap());
        assert!(own(then) || !own(now));
        assert!(own(then) || !now.moved);
    }
}

/// Where users are sticky: down from 100 % to 0 in any steps, and up again, each moves at most once in each direction, and comes
/// back to where he was.
#[test]
fn a_user_moves_once_as_his_zone_is_drained_and_once_as_it_comes_back() {
    for (mode, weights) in [(Mode::Strong, [1, 1, 1]), (Mode::Eventual, [80, 10, 10])] {
        let zone_of = |keep: f64, coin: u64| {
            let case = Case { named: true, ..Case::new(mode, Some(0), &weights, &[keep, 1.0, 1.0]) };
            let pick = case.check().draw(coin).unwrap();
            (0..3).find(|zone| pick.zones.contains(*zone)).unwrap()
        };
        let steps = [1.0, 0.9, 0.5, 0.05, 0.0, 0.05, 0.3, 0.7, 1.0];
        let mut moved = 0;
        for user in 0..300 {
            let way: Vec<_> = steps.map(|keep| zone_of(keep, mix(user))).into();
            let moves = |way: &[usize]| way.windows(2).filter(|pair| pair[0] != pair[1]).count();
            assert!(moves(&way[..5]) <= 1 && moves(&way[4..]) <= 1, "{way:?}");
            assert_eq!(way.first(), way.last());
            moved += usize::from(moves(&way) > 0);
        }
        assert!(moved > 200, "{moved} of 300 were in that zone at all");
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
        named: bool,
        typical in prop::option::of(prop::collection::vec(prop::option::of(0.0..300.0_f64), 8)),
    ) {
        let mode = if strong { Mode::Strong } else { Mode::Eventual };
        let own = own.filter(|own| *own < weights.len());
        let mut case = Case::new(mode, own, &weights, &keep[..weights.len()]);
        // Some zones that are left are so by the operator, and one that is whole has just come back from that.
        case.drained = (0..weights.len()).filter(|z| keep[*z] == 0.0 && (*z as u8 + operator).is_multiple_of(2)).collect();
        case.pinned = (0..weights.len()).filter(|z| keep[*z] == 1.0 && *z as u8 == operator).take(1).collect();
        case.named = named;
        if let Some(typical) = typical {
            case = case.leaning(mode, typical[..weights.len()].to_vec());
        }
        if case.target().is_some() {
            case.check();
        }
    }
}
