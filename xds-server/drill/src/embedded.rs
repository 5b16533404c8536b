//! Zonebreak without etcd: a server that reads a topology file and a proxy that gets everything from it. What the benchmarks
//! run, since nothing changes there while they measure.

use serde_json::{Value, json};

use crate::{
    lab::{Backends, Envoy, Lab, LabError, Plane, PlaneOptions, Port, until},
    world::{self, Protocol, REGION, SERVICE, SOON},
};

/// What to run.
#[derive(Debug, Clone)]
pub struct EmbeddedOptions {
    /// The service's policy, without `port`.
    pub policy: Value,
    /// Worker threads of the proxy.
    pub concurrency: u32,
    /// Whether the proxy runs the filter.
    pub filter: bool,
    /// Configuration file of the server; none when absent.
    pub config: Option<String>,
    /// Runtime of the proxy (Envoy's word for settings such as `circuit_breakers.<cluster>.default.max_pending_requests`), for
    /// what no policy sets; none when null.
    pub runtime: Value,
    /// What an operator has forced on every endpoint (the value of a key under `forced`); nothing when null.
    pub forced: Value,
}

/// The running pair. The proxy is in the first zone of the backends and listens on `port`.
#[derive(Debug)]
pub struct Embedded {
    /// The proxy.
    pub envoy: Envoy,
    /// Where it takes requests to [`SERVICE`].
    pub port: Port,
    _plane: Plane,
}

// === impl EmbeddedOptions ===

impl Default for EmbeddedOptions {
    /// 80 % at home, one worker, the filter.
    fn default() -> Self {
        Self {
            policy: json!({"mode": "eventual"}),
            concurrency: 1,
            filter: true,
            config: None,
            runtime: Value::Null,
            forced: Value::Null,
        }
    }
}

// === impl Embedded ===

impl Embedded {
    /// Starts both and waits until the proxy has its listener and, where wanted, the filter works.
    pub async fn start(lab: &Lab, backends: &Backends, options: EmbeddedOptions) -> Result<Self, LabError> {
        let EmbeddedOptions { policy, concurrency, filter, config, runtime, forced } = options;
        let port = Port::reserve()?;
        let topology = topology(policy, backends, port.number(), &forced).to_string();
        let plane = PlaneOptions { topology: Some(topology), filter, config, ..Default::default() };
        let plane = Plane::start(lab, plane).await?;
        let own = backends.zones()[0].name();
        let mut proxy = world::proxy_options(lab, &plane, "envoy", own, Protocol::Delta)?;
        if !runtime.is_null() {
            let layers = json!({"layers": [{"name": "lab", "static_layer": runtime}]});
            // JSON is YAML.
            proxy.bootstrap.push_str(&format!("\nlayered_runtime: {layers}\n"));
        }
        let mut envoy = Envoy::start(lab, proxy.concurrency(concurrency)).await?;
        envoy.live(SOON).await?;
        envoy.listener(&format!("zonebreak_{}", port.number()), SOON).await?;
        if filter {
            until("the filter at work", SOON, async || {
                world::zone_gauges(&envoy, own).await.map(|_| ()).map_err(|e| e.to_string())
            })
            .await?;
        }
        Ok(Self { envoy, port, _plane: plane })
    }
}

fn topology(mut policy: Value, backends: &Backends, port: u16, forced: &Value) -> Value {
    let zone = |name: &str| (name.to_owned(), json!({"region": REGION}));
    let zones: Value = backends.zones().iter().map(|it| zone(it.name())).collect();
    let mut endpoints = serde_json::Map::new();
    for zone in backends.zones() {
        for backend in zone.backends() {
            let (address, port) = (backend.address().ip().to_string(), backend.address().port());
            let endpoint = json!({"address": address, "port": port, "region": REGION, "zone": zone.name()});
            endpoints.insert(backend.id().to_owned(), endpoint);
        }
    }
    policy["port"] = json!(port);
    let mut topology =
        json!({"zones": zones, "services": {SERVICE: policy}, "endpoints": {SERVICE: &endpoints}});
    if !forced.is_null() {
        let each: Value = endpoints.keys().map(|id| (id.clone(), forced.clone())).collect();
        topology["forced"] = json!({SERVICE: each});
    }
    // JSON is YAML.
    topology
}
