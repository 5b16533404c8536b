//! The world that the end-to-end tests and the demo break: one etcd, one `zonebreak serve`, zones of backends that register
//! themselves, and a proxy in one of the zones with the shipped bootstrap. Builds it and reads its gauges; breaks nothing.

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};

use crate::lab::{
    Backends, Envoy, EnvoyOptions, Etcd, Lab, LabError, Load, LoadOptions, NodeId, Plane, PlaneOptions, Port,
    Registration, RegistrationOptions, until,
};

/// The service that everything is about.
pub const SERVICE: &str = "order-svc";

/// The region that all zones are in.
pub const REGION: &str = "region-1";

/// For anything that takes a moment: processes start, a change arrives. Generous, since a test that fails here says what it
/// saw, and one that passes does not wait.
pub const SOON: Duration = Duration::from_secs(60);

/// What to build.
#[derive(Debug, Clone)]
pub struct WorldOptions {
    /// The zones; the proxy is in the first.
    pub zones: Vec<String>,
    /// Backends in each.
    pub backends: usize,
    /// The service's policy, without `port`.
    pub policy: Value,
    /// Worker threads of the proxy.
    pub concurrency: u32,
    /// Lease time of the registrations.
    pub ttl: String,
    /// Configuration file of the control plane; none when absent.
    pub config: Option<String>,
}

/// Everything running. Fields are public: tests break what they like.
#[derive(Debug)]
pub struct World {
    /// The folder, the programs.
    pub lab: Lab,
    /// The store.
    pub etcd: Etcd,
    /// The control plane.
    pub plane: Plane,
    /// The service.
    pub backends: Backends,
    /// One for each backend, in the order of the zones.
    pub registrations: Vec<Registration>,
    /// The proxy.
    pub envoy: Envoy,
    /// Where the proxy takes requests.
    pub listener: SocketAddr,
    policy: Value,
    /// Keeps other labs away from the listener's port.
    _port: Port,
}

/// How a proxy talks to the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Incremental.
    Delta,
    /// State of the world.
    Sotw,
}

/// A zone as the filter's gauges show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZoneGauges {
    /// 0 closed, 1 open, 2 half-open, 3 ramp, 4 forced open, 5 forced closed, 6 disabled.
    pub state: u64,
    /// What it keeps of its usual share, in permille.
    pub keep: u64,
}

// === impl WorldOptions ===

impl Default for WorldOptions {
    /// Three zones of two backends, 80 % at home, one worker.
    fn default() -> Self {
        Self {
            zones: ["az-a", "az-b", "az-c"].map(str::to_owned).to_vec(),
            backends: 2,
            policy: json!({"mode": "eventual"}),
            concurrency: 1,
            ttl: "10s".to_owned(),
            config: None,
        }
    }
}

// === impl World ===

impl World {
    /// Builds it and waits until a request through the proxy is answered by a backend and the filter runs.
    pub async fn start(options: WorldOptions) -> Result<Self, LabError> {
        let lab = Lab::new()?;
        let zones: Vec<&str> = options.zones.iter().map(String::as_str).collect();
        let (etcd, backends) =
            futures::try_join!(Etcd::start(&lab), Backends::start(&zones, options.backends))?;
        let serve = PlaneOptions { etcd: Some(etcd.url()), config: options.config, ..Default::default() };
        let plane = Plane::start(&lab, serve).await?;
        let port = Port::reserve()?;
        let listener = port.address();

        let mut registrations = Vec::new();
        for zone in backends.zones() {
            for backend in zone.backends() {
                registrations.push(Registration::start(
                    &lab,
                    &RegistrationOptions {
                        service: SERVICE.to_owned(),
                        zone: zone.name().to_owned(),
                        region: REGION.to_owned(),
                        address: backend.address(),
                        etcd: etcd.url(),
                        args: vec!["--ttl".to_owned(), options.ttl.clone()],
                    },
                )?);
            }
        }
        let mut policy = options.policy;
        policy["port"] = json!(port.number());
        let known: Value = zones.iter().map(|z| ((*z).to_owned(), json!({"region": REGION}))).collect();
        apply(&lab, &plane, &json!({"zones": known, "services": {SERVICE: policy}})).await?;
        // All of them, so that no test begins with half a service.
        let expected = registrations.len();
        until("all backends registered", SOON, async || {
            let topology: Value = plane.admin().json("/topology").await.map_err(|e| e.to_string())?;
            let found = topology["endpoints"][SERVICE].as_object().map_or(0, serde_json::Map::len);
            if found == expected { Ok(()) } else { Err(format!("{found} of {expected} endpoints")) }
        })
        .await?;

        let proxy = proxy_options(&lab, &plane, "envoy", zones[0], Protocol::Delta)?;
        let envoy = Envoy::start(&lab, proxy.concurrency(options.concurrency)).await?;
        let mut world =
            Self { lab, etcd, plane, backends, registrations, envoy, listener, policy, _port: port };
        world.envoy.live(SOON).await?;
        world.envoy.listener(&format!("zonebreak_{}", listener.port()), SOON).await?;
        world.serves().await?;
        Ok(world)
    }

    /// Another proxy on the same listener port (the kernel spreads connections over the two).
    pub async fn another_envoy(&self, name: &str, zone: &str, protocol: Protocol) -> Result<Envoy, LabError> {
        let mut envoy =
            Envoy::start(&self.lab, proxy_options(&self.lab, &self.plane, name, zone, protocol)?).await?;
        envoy.live(SOON).await?;
        envoy.listener(&format!("zonebreak_{}", self.listener.port()), SOON).await?;
        Ok(envoy)
    }

    /// Requests at a constant rate.
    pub fn load(&self, rate: f64) -> Result<Load, LabError> {
        Load::start(self.load_options(rate))
    }

    /// What [`load`](Self::load) sends, to be changed before it starts.
    pub fn load_options(&self, rate: f64) -> LoadOptions {
        LoadOptions::new(self.listener, SERVICE, rate)
    }

    /// Merges `change` into the service's policy and applies it through the command line.
    pub async fn change_policy(&mut self, change: Value) -> Result<(), LabError> {
        self.policy = crate::lab::bootstrap::merged(self.policy.clone(), change);
        apply(&self.lab, &self.plane, &json!({"services": {SERVICE: self.policy}})).await
    }

    /// Runs a command of `zonebreak` against this control plane; an error with its words when it fails.
    pub async fn run(&self, args: &[&str]) -> Result<(), LabError> {
        run(&self.plane, args).await
    }

    /// What the filter says of a zone.
    pub async fn zone(&self, zone: &str) -> Result<ZoneGauges, LabError> {
        zone_gauges(&self.envoy, zone).await
    }

    /// Waits until the filter's gauges of a zone are as wanted.
    pub async fn until_zone(
        &self,
        zone: &str,
        limit: Duration,
        wanted: impl Fn(ZoneGauges) -> bool,
    ) -> Result<ZoneGauges, LabError> {
        until(&format!("the wanted state of {zone}"), limit, async || {
            let seen = self.zone(zone).await.map_err(|e| e.to_string())?;
            if wanted(seen) { Ok(seen) } else { Err(format!("{seen:?}")) }
        })
        .await
    }

    /// Transitions of all zones into a state (`open`, `half_open`, `ramp`, `closed`) since the proxy started.
    pub async fn transitions(&self, to: &str) -> Result<u64, LabError> {
        let stats = self.envoy.stats(&format!("zonebreak_transitions_total;.*;to={to}$")).await?;
        Ok(stats.values().sum())
    }

    async fn serves(&self) -> Result<(), LabError> {
        let http = crate::lab::Http::new(format!("http://{}", self.listener))?;
        until("a request answered through the proxy", SOON, async || match http.get_as("/", SERVICE).await {
            Ok((200, _)) => Ok(()),
            Ok((status, body)) => Err(format!("status {status}: {body}")),
            Err(error) => Err(error.to_string()),
        })
        .await?;
        until("the filter at work", SOON, async || {
            self.zone(self.backends.zones()[0].name()).await.map(|_| ()).map_err(|e| e.to_string())
        })
        .await
    }
}

/// What the filter in a proxy says of a zone.
pub async fn zone_gauges(envoy: &Envoy, zone: &str) -> Result<ZoneGauges, LabError> {
    let gauge = async |name: &str| {
        let stat = format!("wasmcustom.zonebreak_{name};service={SERVICE};zone={zone}");
        let missing =
            || LabError::Http { method: "GET", url: "/stats".to_owned(), why: format!("no stat {stat}") };
        envoy.stat(&stat).await?.ok_or_else(missing)
    };
    Ok(ZoneGauges { state: gauge("zone_state").await?, keep: gauge("zone_keep_permille").await? })
}

/// Writes a topology with `zonebreak topology apply`.
async fn apply(lab: &Lab, plane: &Plane, topology: &Value) -> Result<(), LabError> {
    // JSON is YAML.
    let file = lab.write("apply.yaml", &topology.to_string())?;
    run(plane, &["topology", "apply", &file.to_string_lossy()]).await
}

/// Runs a command that has to succeed.
async fn run(plane: &Plane, args: &[&str]) -> Result<(), LabError> {
    let output = plane.cli(args).await?;
    if output.status.success() {
        return Ok(());
    }
    Err(LabError::Command {
        what: format!("zonebreak {}", args.join(" ")),
        status: output.status,
        words: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// A proxy of a zone with the bootstrap that users copy, in which this lab's control plane stands.
pub fn proxy_options(
    lab: &Lab,
    plane: &Plane,
    name: &str,
    zone: &str,
    protocol: Protocol,
) -> Result<EnvoyOptions, LabError> {
    let shipped = lab.programs().workspace().join("envoy/bootstrap/zonebreak.yaml");
    let text =
        std::fs::read_to_string(&shipped).map_err(LabError::io(format!("read {}", shipped.display())))?;
    let text = text.replace("port_value: 18000", &format!("port_value: {}", plane.xds().port()));
    // The lab gives the admin interface a port of its own.
    let text = text.replace("port_value: 9901", "port_value: 0");
    let text = match protocol {
        Protocol::Delta => text,
        Protocol::Sotw => text.replace("api_type: DELTA_GRPC", "api_type: GRPC"),
    };
    let node = NodeId { id: format!("{name}-{zone}"), ..NodeId::in_zone(REGION, zone) };
    Ok(EnvoyOptions::new(name, text).node(node))
}
