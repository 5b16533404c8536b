//! Subset keys: how a set of excluded zones is spelled in the one header that the filter sets and in the `serve` metadata
//! that the control plane puts on endpoints. Both sides call this file, so that they cannot disagree. Spells; decides nothing.
//!
//! A request whose header names a key goes to the endpoints that carry that key. For the zones a, b, c, d:
//!
//! | excluded | key | why so |
//! |---|---|---|
//! | nothing | none | no header: Envoy's own priorities and weights |
//! | a | `no-a` | a retry can still reach b, c or d |
//! | a, b | `no-a+b` | likewise |
//! | a, b, c | `only-d` | one zone is left, so inclusion says it in one word |
//!
//! An endpoint carries every key whose subset it is in: with N zones, `1 + (N-1) + (N-1)(N-2)/2` of them. Excluding three of
//! five zones or more would need ever more keys on every endpoint, so it has none (see [`key`]).

use crate::{config::MAX_ZONES, names::Zone};

/// A set of the zones of one service, by their index in its list of zones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ZoneSet(u8);

/// Every key whose subset contains `zone`, `only-<zone>` first: the value of `serve` in the metadata of its endpoints.
///
/// `zones` are all zones of the service that have endpoints, in any order; a `zone` that is not among them gets its
/// `only-` key alone.
pub fn keys_of_endpoint(zones: &[Zone], zone: &Zone) -> Vec<String> {
    let sorted = sorted(zones);
    let mut keys = vec![only(zone)];
    let left_after = |excluded: usize| sorted.len().saturating_sub(excluded);
    for (i, a) in sorted.iter().enumerate() {
        if *a == zone {
            continue;
        }
        if left_after(1) > 1 {
            keys.push(format!("no-{a}"));
        }
        if left_after(2) > 1 {
            let others = sorted.iter().skip(i.saturating_add(1)).filter(|b| **b != zone);
            keys.extend(others.map(|b| format!("no-{a}+{b}")));
        }
    }
    keys
}

/// The key that keeps requests away from the `excluded` zones, by their index in `zones`.
///
/// `None` when nothing is excluded, when nothing would be left, and where no key exists: three or more of more than four
/// zones. There the caller picks one zone that is kept and uses [`only`].
pub fn key(zones: &[Zone], excluded: ZoneSet) -> Option<String> {
    let (mut out, mut kept) = (Vec::new(), Vec::new());
    for (i, zone) in zones.iter().enumerate() {
        if excluded.contains(i) { out.push(zone) } else { kept.push(zone) }
    }
    match (out.as_slice(), kept.as_slice()) {
        ([], _) | (_, []) => None,
        (_, [one]) => Some(only(one)),
        ([a], _) => Some(format!("no-{a}")),
        // The zones come in any order, the key's two by name.
        ([a, b], _) => Some(format!("no-{}+{}", a.min(b), a.max(b))),
        _ => None,
    }
}

/// The key of the endpoints of one zone.
pub fn only(zone: &Zone) -> String {
    format!("only-{zone}")
}

fn sorted(zones: &[Zone]) -> Vec<&Zone> {
    let mut sorted: Vec<_> = zones.iter().collect();
    sorted.sort();
    sorted.dedup();
    sorted
}

// === impl ZoneSet ===

impl ZoneSet {
    /// No zone.
    pub const EMPTY: Self = Self(0);

    /// This set and the zone at `index`; an index that no service can have changes nothing.
    #[must_use]
    pub const fn with(self, index: usize) -> Self {
        if index < MAX_ZONES { Self(self.0 | 1_u8.wrapping_shl(index as u32)) } else { self }
    }

    /// Whether the zone at `index` is in it.
    pub const fn contains(self, index: usize) -> bool {
        index < MAX_ZONES && self.0 & 1_u8.wrapping_shl(index as u32) != 0
    }

    /// This set and another.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether every zone of it is in the other.
    pub const fn is_within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// Zones in it.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether no zone is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<usize> for ZoneSet {
    fn from_iter<I: IntoIterator<Item = usize>>(indices: I) -> Self {
        indices.into_iter().fold(Self::EMPTY, Self::with)
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn zones(names: &str) -> Vec<Zone> {
        names.chars().map(|c| Zone::new(&c.to_string()).unwrap()).collect()
    }

    #[test]
    fn the_keys_of_three_zones_are_spelled_as_documented() {
        let abc = zones("abc");
        assert_eq!(keys_of_endpoint(&abc, &abc[1]), ["only-b", "no-a", "no-c"]);
        assert_eq!(keys_of_endpoint(&zones("cab"), &abc[1]), ["only-b", "no-a", "no-c"]);
        assert_eq!(key(&abc, [0].into_iter().collect()).unwrap(), "no-a");
        assert_eq!(key(&abc, [0, 2].into_iter().collect()).unwrap(), "only-b");
        assert_eq!(key(&abc, ZoneSet::EMPTY), None);
        assert_eq!(key(&abc, [0, 1, 2].into_iter().collect()), None);
        assert_eq!(key(&zones("abcde"), [0, 1, 2].into_iter().collect()), None);
        assert_eq!(key(&zones("dcba"), [0, 2].into_iter().collect()).unwrap(), "no-b+d");
    }

    /// For every set of every number of zones: the key selects exactly the zones that are not excluded.
    #[test]
    fn a_key_is_carried_by_exactly_the_zones_that_it_keeps() {
        for n in 1..=MAX_ZONES {
            let zones = zones("abcdefgh".get(..n).unwrap());
            let carried: Vec<_> = zones.iter().map(|z| keys_of_endpoint(&zones, z)).collect();
            for bits in 1..(1_usize << n) - 1 {
                let excluded: ZoneSet = (0..n).filter(|i| bits & (1 << i) != 0).collect();
                let Some(key) = key(&zones, excluded) else {
                    assert!(
                        n > 4 && excluded.len() >= 3 && excluded.len() < n - 1,
                        "{n} zones, {excluded:?}"
                    );
                    continue;
                };
                for (i, keys) in carried.iter().enumerate() {
                    assert_eq!(keys.contains(&key), !excluded.contains(i), "{key} in zone {i} of {n}");
                }
            }
            let most = 1 + (n - 1) + (n - 1) * n.saturating_sub(2) / 2;
            assert!(carried.iter().all(|keys| keys.len() <= most));
        }
    }
}
