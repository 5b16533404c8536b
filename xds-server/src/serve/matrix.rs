//! How the fleet's requests fare, from each zone to each zone, by service: what the proxies report, summed over a sliding
//! window. Counts and reports; moves no traffic.
//!
//! A row of the matrix that is bad is a zone whose *clients* are in trouble, a column is a zone whose *endpoints* are, and a
//! single cell is the link between two zones: the gray failures that no single proxy can tell apart.
//!
//! A cell has samples or it is not there. Proxies report nothing of a locality that they sent nothing to, so silence is not
//! health; and a cell that nobody reported on for [`WINDOW`] is gone.
//!
//! The clock comes in as an argument. The number of cells is bounded by what the topology knows: a report that names a service
//! or a zone that is not in it is not counted, or a client could fill the memory with names.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use zonebreak_core::{
    names::{ServiceName, Zone},
    stats,
};
use zonebreak_topology::Topology;
use zonebreak_xds::LoadReport;

use crate::model::LoadRow;

/// What is summed: long enough for a service of a few requests a second to have something to say, short enough to show what is
/// so now.
pub const WINDOW: Duration = Duration::from_secs(60);

/// The window moves in steps of this: one report at the shortest interval that anybody asks for.
const STEP: Duration = Duration::from_secs(5);

/// Two-sided 95 %: what people expect of an interval that nobody qualifies.
const Z: f64 = 1.959_964;

/// All cells with samples.
#[derive(Debug, Default)]
pub struct Matrix {
    cells: BTreeMap<Route, Cell>,
}

/// From where to where, for which service. A client of no known zone has none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Route {
    service: ServiceName,
    client: Option<Zone>,
    target: Zone,
}

/// The samples of one route, oldest first.
#[derive(Debug, Default)]
struct Cell {
    steps: VecDeque<Step>,
}

#[derive(Debug)]
struct Step {
    from: Instant,
    requests: u64,
    errors: u64,
}

/// What of a report was counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// The client's zone, if it is known.
    pub client: Option<Zone>,
    /// The endpoints' zone.
    pub target: Zone,
    /// Requests that were answered well.
    pub successes: u64,
    /// Requests that were not.
    pub errors: u64,
}

// === impl Matrix ===

impl Matrix {
    /// Takes a client's report at `now`, and says what of it counts.
    pub fn add(
        &mut self,
        now: Instant,
        topology: &Topology,
        zone: &str,
        report: &LoadReport,
    ) -> Vec<Counted> {
        let service = ServiceName::new(&report.service).ok();
        let Some(service) = service.filter(|service| topology.endpoints.contains_key(service)) else {
            return Vec::new();
        };
        let client = known(topology, &service, zone);
        let mut counted = Vec::new();
        for load in &report.localities {
            let Some(target) = known(topology, &service, &load.locality.zone) else { continue };
            let (successes, errors) = (load.successes, load.errors);
            if successes == 0 && errors == 0 {
                continue;
            }
            let route = Route { service: service.clone(), client: client.clone(), target: target.clone() };
            self.cells.entry(route).or_default().add(now, successes, errors);
            counted.push(Counted { client: client.clone(), target, successes, errors });
        }
        counted
    }

    /// Every cell with samples at `now`, the surest failure first.
    pub fn rows(&mut self, now: Instant) -> Vec<LoadRow> {
        self.cells.retain(|_, cell| {
            cell.forget(now);
            !cell.steps.is_empty()
        });
        let mut rows: Vec<LoadRow> = self.cells.iter().map(|(route, cell)| cell.row(route)).collect();
        rows.sort_by(|a, b| b.error_lower.total_cmp(&a.error_lower));
        rows
    }
}

/// A zone by its canonical name, if the topology has it.
fn known(topology: &Topology, service: &ServiceName, zone: &str) -> Option<Zone> {
    let zone = Zone::new(zone).ok()?;
    let canonical = topology.canonical(&zone);
    let used = || {
        let endpoints = topology.endpoints.get(service);
        endpoints.is_some_and(|map| map.values().any(|e| topology.canonical(&e.zone) == canonical))
    };
    (topology.zones.contains_key(canonical) || used()).then(|| canonical.clone())
}

// === impl Cell ===

impl Cell {
    fn add(&mut self, now: Instant, successes: u64, errors: u64) {
        self.forget(now);
        let requests = successes.saturating_add(errors);
        match self.steps.back_mut().filter(|step| now.saturating_duration_since(step.from) < STEP) {
            Some(step) => {
                step.requests = step.requests.saturating_add(requests);
                step.errors = step.errors.saturating_add(errors);
            }
            None => self.steps.push_back(Step { from: now, requests, errors }),
        }
    }

    fn forget(&mut self, now: Instant) {
        while self.steps.front().is_some_and(|step| now.saturating_duration_since(step.from) >= WINDOW) {
            self.steps.pop_front();
        }
    }

    fn row(&self, route: &Route) -> LoadRow {
        let sum = |of: fn(&Step) -> u64| self.steps.iter().map(of).fold(0, u64::saturating_add);
        let (requests, errors) = (sum(|step| step.requests), sum(|step| step.errors));
        // Exact up to 2^53 requests a minute.
        let n = requests as f64;
        let rate = if requests == 0 { 0.0 } else { errors as f64 / n };
        LoadRow {
            service: route.service.clone(),
            client_zone: route.client.clone(),
            target_zone: route.target.clone(),
            requests,
            errors,
            error_rate: rate,
            // The least failure rate is what is left of the highest success rate.
            error_lower: 1.0 - stats::wilson_upper(1.0 - rate, n, Z),
            error_upper: stats::wilson_upper(rate, n, Z),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zonebreak_topology::registry::{Event, Registry};
    use zonebreak_xds::{Locality, LocalityLoad};

    use super::*;

    fn topology() -> std::sync::Arc<Topology> {
        let mut registry = Registry::default();
        for (key, value) in [
            ("zones/az-a", r#"{"aliases": ["use1-az1"]}"#),
            ("endpoints/s/a", r#"{"address": "10.0.0.1", "port": 80, "zone": "az-a"}"#),
            ("endpoints/s/b", r#"{"address": "10.0.0.2", "port": 80, "zone": "az-b"}"#),
        ] {
            let (key, value) = (key.to_owned(), value.as_bytes().to_vec());
            registry.apply(Event::Put { key, value, mod_revision: 1 });
        }
        registry.topology()
    }

    fn report(service: &str, loads: &[(&str, u64, u64)]) -> LoadReport {
        let load = |(zone, successes, errors): &(&str, u64, u64)| LocalityLoad {
            locality: Locality { zone: (*zone).to_owned(), ..Locality::default() },
            priority: 0,
            successes: *successes,
            errors: *errors,
        };
        let localities = loads.iter().map(load).collect();
        LoadReport { service: service.to_owned(), interval: STEP, localities, dropped: 0 }
    }

    fn seen(matrix: &mut Matrix, now: Instant) -> Vec<(String, String, u64, u64)> {
        let zone = |zone: &Option<Zone>| zone.as_ref().map_or_else(String::new, ToString::to_string);
        let rows = matrix.rows(now).into_iter();
        rows.map(|row| (zone(&row.client_zone), row.target_zone.to_string(), row.requests, row.errors))
            .collect()
    }

    #[test]
    fn reports_of_all_clients_add_up_by_zone_and_go_with_the_window() {
        let (topology, start) = (topology(), Instant::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut matrix = Matrix::default();
        matrix.add(at(0), &topology, "use1-az1", &report("s", &[("az-a", 90, 0), ("az-b", 1, 9)]));
        matrix.add(at(1), &topology, "az-a", &report("s", &[("az-a", 10, 0)]));
        matrix.add(at(30), &topology, "az-b", &report("s", &[("az-b", 5, 0)]));
        let (a, b) = ("az-a".to_owned(), "az-b".to_owned());
        let first = (a.clone(), b.clone(), 10, 9);
        assert_eq!(seen(&mut matrix, at(31))[0], first, "the surest failure comes first");
        assert!(seen(&mut matrix, at(31)).contains(&(a.clone(), a.clone(), 100, 0)));
        assert_eq!(seen(&mut matrix, at(60)), [(b.clone(), b.clone(), 5, 0)], "no report, no sample");
        assert_eq!(seen(&mut matrix, at(90)), []);
        assert!(matrix.cells.is_empty());
    }

    #[test]
    fn what_the_topology_does_not_know_is_not_counted_and_cells_are_bounded() {
        let (topology, now, mut matrix) = (topology(), Instant::now(), Matrix::default());
        for n in 0..10_000 {
            matrix.add(now, &topology, "az-a", &report(&format!("made-up-{n}"), &[("az-a", 1, 0)]));
            matrix.add(
                now,
                &topology,
                &format!("z-{n}"),
                &report("s", &[("az-a", 1, 0), (&format!("y-{n}"), 1, 0)]),
            );
        }
        assert_eq!(seen(&mut matrix, now), [(String::new(), "az-a".to_owned(), 10_000, 0)]);
        assert_eq!(matrix.add(now, &topology, "az-a", &report("s", &[("az-a", 0, 0)])), []);
        for n in 0..10_000 {
            matrix.add(now + STEP * n, &topology, "az-a", &report("s", &[("az-a", 1, 0)]));
        }
        assert!(matrix.cells.values().all(|cell| cell.steps.len() <= 12), "and so are steps");
    }

    proptest! {
        #[test]
        fn the_rate_lies_between_its_bounds(successes in 0..10_000_u64, errors in 0..10_000_u64) {
            prop_assume!(successes + errors > 0);
            let (topology, now, mut matrix) = (topology(), Instant::now(), Matrix::default());
            matrix.add(now, &topology, "az-a", &report("s", &[("az-a", successes, errors)]));
            let row = &matrix.rows(now)[0];
            prop_assert!(row.error_lower <= row.error_rate + 1e-12 && row.error_rate <= row.error_upper + 1e-12);
            prop_assert!((0.0..=1.0).contains(&row.error_lower) && (0.0..=1.0).contains(&row.error_upper));
        }
    }
}
