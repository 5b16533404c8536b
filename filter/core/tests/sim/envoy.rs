//! What Envoy does with a subset key: the endpoints that carry it, the first priority that has any, by weight of locality; and
//! a retry in another priority.

use std::collections::HashMap;

use zonebreak_core::{config::ServiceConfig, names::Zone, subset::keys_of_endpoint, units::Percent};

use super::rng::Rng;

type Odds = Vec<(f64, usize)>;

/// The endpoints of one service as one proxy sees them.
#[derive(Debug)]
pub struct Envoy {
    zones: usize,
    keys: Vec<Vec<String>>,
    weights: Vec<u32>,
    priorities: Vec<u32>,
    /// By key and by the priority of the attempt before: zones, each up to which coin.
    odds: HashMap<(Option<String>, Option<u32>), Odds>,
}

impl Envoy {
    pub fn new(service: &ServiceConfig, own: Option<&Zone>) -> Self {
        let zones: Vec<Zone> = service.zones.keys().cloned().collect();
        let own = own.filter(|own| zones.contains(own));
        let drained =
            |zone: &Zone| service.shifts.iter().any(|s| s.zone == *zone && s.keep_percent == Percent::ZERO);
        let priority = |zone: &Zone| match own {
            _ if drained(zone) => 2,
            Some(own) if own != zone => 1,
            _ => 0,
        };
        Self {
            zones: zones.len(),
            keys: zones.iter().map(|zone| keys_of_endpoint(&zones, zone)).collect(),
            weights: service
                .zones
                .iter()
                .map(|(zone, capacity)| service.policy.zone_weight(zone, *capacity))
                .collect(),
            priorities: zones.iter().map(priority).collect(),
            odds: HashMap::new(),
        }
    }

    /// The zone that an attempt goes to; `but` is the priority that the attempt before it went to.
    pub fn pick(&mut self, key: Option<&str>, but: Option<u32>, rng: &mut Rng) -> usize {
        let coin = rng.uniform();
        let at = (key.map(str::to_owned), but);
        if !self.odds.contains_key(&at) {
            let odds = self.work_out(key, but);
            self.odds.insert(at.clone(), odds);
        }
        let odds = &self.odds[&at];
        odds.iter().find(|(upto, _)| coin < *upto).or(odds.last()).expect("a zone").1
    }

    pub fn priority(&self, zone: usize) -> u32 {
        self.priorities[zone]
    }

    fn work_out(&self, key: Option<&str>, but: Option<u32>) -> Vec<(f64, usize)> {
        let carry = |zone: &usize| key.is_none_or(|key| self.keys[*zone].iter().any(|have| have == key));
        let carrying: Vec<usize> = (0..self.zones).filter(carry).collect();
        // An unknown key is the whole cluster (fallback ANY_ENDPOINT).
        let carrying = if carrying.is_empty() { (0..self.zones).collect() } else { carrying };
        let priorities = carrying.iter().map(|zone| self.priorities[*zone]);
        let other = priorities.clone().filter(|priority| Some(*priority) != but).min();
        let first = other.or(priorities.min()).expect("a priority");
        let there: Vec<usize> = carrying.into_iter().filter(|zone| self.priorities[*zone] == first).collect();
        let sum: f64 = there.iter().map(|zone| f64::from(self.weights[*zone])).sum();
        let mut upto = 0.0;
        there
            .into_iter()
            .map(|zone| {
                upto += f64::from(self.weights[zone]) / sum;
                (upto, zone)
            })
            .collect()
    }
}
