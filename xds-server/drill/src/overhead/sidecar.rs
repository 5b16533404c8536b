//! What a sidecar holds in memory by the number of its clusters, with the filter and without, and how long the module takes to
//! load. Measures and formats; sends no request.

use std::{fmt::Write as _, time::Duration};

use serde_json::{Value, json};

use super::{
    filters::{self, ZONES},
    measure::median,
};
use crate::{
    lab::{Envoy, EnvoyOptions, Lab, LabError, NodeId, Plane, PlaneOptions, Port, Tool, until},
    world::{self, Protocol, REGION, SOON},
};

/// Endpoints of each service, as many in each zone.
const ENDPOINTS: usize = 30;

/// Worker threads of each proxy.
const WORKERS: u32 = 2;

/// For a proxy with everything warmed up to have given back what it needed for that.
const SETTLED: Duration = Duration::from_secs(2);

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Sidecars {
    /// Clusters, then `RssAnon` without and with the filter, in MB (10^6 bytes).
    pub by_clusters: Vec<(usize, f64, f64)>,
    /// Size of the module, in KB (1,000 bytes).
    pub module_kb: f64,
    /// What it adds to the start of a proxy: median of the trials, in ms.
    pub load_ms: f64,
}

/// Measures proxies with these numbers of clusters, one after another.
pub async fn sidecars(
    clusters: &[usize],
    trials: usize,
    mut progress: impl FnMut(String),
) -> Result<Sidecars, LabError> {
    let mut by_clusters = Vec::new();
    for &count in clusters {
        progress(format!("{count} clusters of {ENDPOINTS} endpoints, {WORKERS} workers"));
        by_clusters.push((count, memory_mb(count, false).await?, memory_mb(count, true).await?));
    }
    progress("time to load the module".to_owned());
    let module = Lab::new()?.programs().path(Tool::Filter)?;
    let size = std::fs::metadata(&module).map_err(LabError::io(format!("read {}", module.display())))?.len();
    let mut added = Vec::new();
    for _ in 0..trials.max(1) {
        let (without, with) = (start_ms(false).await?, start_ms(true).await?);
        added.push(with - without);
    }
    Ok(Sidecars { by_clusters, module_kb: size as f64 / 1e3, load_ms: median(added) })
}

/// A proxy behind Zonebreak's server, in the first of three zones.
async fn memory_mb(clusters: usize, filter: bool) -> Result<f64, LabError> {
    let lab = Lab::new()?;
    let port = Port::reserve()?;
    let topology = topology(clusters, port.number()).to_string();
    let plane = PlaneOptions { topology: Some(topology), filter, ..Default::default() };
    let plane = Plane::start(&lab, plane).await?;
    let proxy = world::proxy_options(&lab, &plane, "envoy", ZONES[0], Protocol::Delta)?;
    let mut envoy = Envoy::start(&lab, proxy.concurrency(WORKERS)).await?;
    envoy.live(SOON).await?;
    envoy.listener(&format!("zonebreak_{}", port.number()), SOON).await?;
    if filter {
        let gauges = clusters * ZONES.len();
        until("the filter's gauges of every service", SOON, async || {
            let found = envoy.stats("zonebreak_zone_state").await.map_err(|e| e.to_string())?.len();
            if found == gauges { Ok(()) } else { Err(format!("{found} of {gauges}")) }
        })
        .await?;
    }
    tokio::time::sleep(SETTLED).await;
    Ok(envoy.memory()?.anonymous as f64 / 1e6)
}

fn topology(clusters: usize, port: u16) -> Value {
    let zones: Value = ZONES.iter().map(|zone| ((*zone).to_owned(), json!({"region": REGION}))).collect();
    let endpoint = |i: usize| {
        let zone = ZONES[i % ZONES.len()];
        // Nobody connects: there are no requests and no probes.
        (format!("i-{i}"), json!({"address": "127.0.0.1", "port": 1 + i, "region": REGION, "zone": zone}))
    };
    let endpoints: Value = (0..ENDPOINTS).map(endpoint).collect();
    let names = || (0..clusters).map(|i| format!("service-{i:03}"));
    let services: Value = names().map(|name| (name, json!({"port": port, "mode": "eventual"}))).collect();
    let endpoints: Value = names().map(|name| (name, endpoints.clone())).collect();
    // JSON is YAML.
    json!({"zones": zones, "services": services, "endpoints": endpoints})
}

/// From the start of a proxy with a static bootstrap until it is live, with the module in it or with none.
async fn start_ms(with_module: bool) -> Result<f64, LabError> {
    let lab = Lab::new()?;
    let bootstrap = filters::alone(with_module.then(|| lab.programs().path(Tool::Filter)).transpose()?);
    let options = EnvoyOptions::new("envoy", bootstrap).node(NodeId::in_zone(REGION, ZONES[0]));
    let began = std::time::Instant::now();
    Envoy::start(&lab, options.concurrency(1)).await?.live(SOON).await?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

// === impl Sidecars ===

impl Sidecars {
    /// As Markdown.
    pub fn table(&self) -> String {
        let mut text = format!(
            "| clusters of {ENDPOINTS} endpoints, {WORKERS} workers | RssAnon MB: no filter | Zonebreak | filter adds |\n\
             |---|---|---|---|\n"
        );
        for (clusters, without, with) in &self.by_clusters {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "| {clusters} | {without:.1} | {with:.1} | {:+.1} |", with - without);
        }
        let _ = writeln!(
            text,
            "\nThe module is {:.0} KB and adds {:.0} ms to a proxy's start.",
            self.module_kb, self.load_ms
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_the_filter_adds() {
        let found = Sidecars {
            by_clusters: vec![(1, 15.0, 35.0), (45, 28.25, 49.0)],
            module_kb: 249.6,
            load_ms: 81.2,
        };
        let text = found.table();
        assert!(text.contains("| 45 | 28.2 | 49.0 | +20.8 |"), "{text}");
        assert!(text.ends_with("The module is 250 KB and adds 81 ms to a proxy's start.\n"), "{text}");
    }

    #[test]
    fn a_topology_has_what_was_asked_for() {
        let topology = topology(3, 8080);
        assert_eq!(topology["services"].as_object().map(serde_json::Map::len), Some(3));
        assert_eq!(
            topology["endpoints"]["service-002"].as_object().map(serde_json::Map::len),
            Some(ENDPOINTS)
        );
    }
}
