//! Which zone an attempt goes to, as Envoy decides it for the clusters that the control plane emits. Pure: chance comes in.
//!
//! 1. The subset key selects the localities that carry it. A key that none carries selects all (`fallback_policy:
//!    ANY_ENDPOINT`), and so does no key.
//! 2. The first attempt goes to the lowest priority that has a selected locality; a further attempt leaves out the priorities
//!    tried before, as long as another one remains (`previous_priorities`).
//! 3. Within the priority, localities share by weight (`locality_weight_aware`).

/// A zone's endpoints in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locality {
    /// 0 is tried first.
    pub priority: u8,
    /// Its share within the priority, relative to the others.
    pub weight: u32,
    /// The subset keys that its endpoints carry.
    pub keys: Vec<String>,
}

/// Where an attempt goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Index of the locality.
    pub zone: usize,
    /// Its priority.
    pub priority: u8,
}

/// The locality for one attempt. `tried` holds the priorities of the attempts before it; `coin` is uniform in 0 to 1. `None`
/// when nothing has any weight: `no_healthy_upstream`.
pub fn choose(localities: &[Locality], key: Option<&str>, tried: &[u8], coin: f64) -> Option<Target> {
    let usable = || localities.iter().enumerate().filter(|(_, locality)| locality.weight > 0);
    let carries = |locality: &Locality| key.is_none_or(|key| locality.keys.iter().any(|known| known == key));
    let any_carries = usable().any(|(_, locality)| carries(locality));
    let selected = || usable().filter(move |(_, locality)| carries(locality) || !any_carries);
    let lowest = |skip: &[u8]| selected().map(|(_, l)| l.priority).filter(|p| !skip.contains(p)).min();
    let priority = lowest(tried).or_else(|| lowest(&[]))?;
    let there = || selected().filter(|(_, locality)| locality.priority == priority);
    let whole: u32 = there().map(|(_, locality)| locality.weight).sum();
    let mut left = coin * f64::from(whole);
    let mut last = None;
    for (zone, locality) in there() {
        last = Some(Target { zone, priority });
        left -= f64::from(locality.weight);
        if left < 0.0 {
            break;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use zonebreak_core::{names::Zone, subset};

    use super::*;

    /// Own zone a, remote zones b and c at equal weights: the cluster of which Envoy's splits were measured.
    fn cluster() -> Vec<Locality> {
        let zones: Vec<_> = ["a", "b", "c"].into_iter().map(|name| Zone::new(name).unwrap()).collect();
        let locality = |zone: &Zone| Locality {
            priority: u8::from(zone.as_str() != "a"),
            weight: 10,
            keys: subset::keys_of_endpoint(&zones, zone),
        };
        zones.iter().map(locality).collect()
    }

    /// How many of 200 first attempts, spread evenly over the coin, each zone gets.
    fn split(key: Option<&str>, tried: &[u8]) -> [usize; 3] {
        let mut split = [0; 3];
        for i in 0..200 {
            let target = choose(&cluster(), key, tried, (f64::from(i) + 0.5) / 200.0).unwrap();
            split[target.zone] += 1;
        }
        split
    }

    #[test]
    fn splits_are_those_measured_on_envoy() {
        for (key, expected) in [
            (None, [200, 0, 0]),
            (Some("no-a"), [0, 100, 100]),
            (Some("no-b"), [200, 0, 0]),
            (Some("only-b"), [0, 200, 0]),
            (Some("only-z"), [200, 0, 0]),
        ] {
            assert_eq!(split(key, &[]), expected, "{key:?}");
        }
    }

    #[test]
    fn a_retry_leaves_the_priority_while_there_is_another() {
        assert_eq!(split(None, &[0]), [0, 100, 100]);
        assert_eq!(split(Some("no-b"), &[0]), [0, 0, 200]);
        assert_eq!(split(Some("no-a"), &[1]), [0, 100, 100], "nothing but priority 1 in the subset");
        assert_eq!(split(None, &[0, 1]), [200, 0, 0], "all tried: from the start");
    }

    #[test]
    fn without_weight_there_is_no_host() {
        let empty: Vec<_> = cluster().into_iter().map(|l| Locality { weight: 0, ..l }).collect();
        assert_eq!(choose(&empty, None, &[], 0.5), None);
        assert_eq!(choose(&[], None, &[], 0.5), None);
    }
}
