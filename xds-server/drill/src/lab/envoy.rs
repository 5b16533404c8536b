//! A real Envoy: started from a bootstrap, watched through its admin interface and /proc. Adds admin and node to the
//! bootstrap and changes nothing else in it.

use std::{collections::BTreeMap, fs, net::SocketAddr, path::PathBuf, time::Duration};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Command, Http, Lab, LabError, Memory, Process, Tool, procfs};

/// Until the admin interface answers: Envoy's own start takes 100 ms, compiling wasm and a busy machine stretch it.
const START: Duration = Duration::from_secs(30);

/// Who the proxy is: `node` in its bootstrap.
#[derive(Debug, Clone)]
pub struct NodeId {
    /// `node.id`.
    pub id: String,
    /// `node.cluster`.
    pub cluster: String,
    /// `node.locality.region`.
    pub region: String,
    /// `node.locality.zone`.
    pub zone: String,
}

/// How to start an Envoy.
#[derive(Debug, Clone)]
pub struct EnvoyOptions {
    /// Name of its log and files in the lab; unique there.
    pub name: String,
    /// Bootstrap as YAML or JSON, without `admin`. A listener may use port 0 (see [`Envoy::listener`]).
    pub bootstrap: String,
    /// Replaces the bootstrap's `node` where given.
    pub node: Option<NodeId>,
    /// Worker threads.
    pub concurrency: u32,
    /// `--log-level`; `warning` unless set.
    pub log_level: String,
    /// Further arguments.
    pub args: Vec<String>,
}

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    http: Http,
    admin_file: PathBuf,
}

#[derive(Deserialize)]
struct Stats {
    stats: Vec<Value>,
}

// === impl NodeId ===

impl NodeId {
    /// A node of a zone, with the zone's name in its id.
    pub fn in_zone(region: &str, zone: &str) -> Self {
        Self {
            id: format!("sidecar-{zone}"),
            cluster: "lab".to_owned(),
            region: region.to_owned(),
            zone: zone.to_owned(),
        }
    }
}

// === impl EnvoyOptions ===

impl EnvoyOptions {
    /// One worker, warnings only.
    pub fn new(name: &str, bootstrap: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            bootstrap: bootstrap.into(),
            node: None,
            concurrency: 1,
            log_level: "warning".to_owned(),
            args: Vec::new(),
        }
    }

    /// With this identity.
    pub fn node(mut self, node: NodeId) -> Self {
        self.node = Some(node);
        self
    }

    /// With this many workers.
    pub fn concurrency(mut self, workers: u32) -> Self {
        self.concurrency = workers;
        self
    }
}

// === impl Envoy ===

impl Envoy {
    /// Starts one and waits until its admin interface answers. It may still wait for its first xDS answers then: see
    /// [`live`](Self::live).
    pub async fn start(lab: &Lab, options: EnvoyOptions) -> Result<Self, LabError> {
        let EnvoyOptions { name, bootstrap, node, concurrency, log_level, args } = options;
        let config = lab.write(&format!("{name}.yaml"), &bootstrap)?;
        let admin_file = lab.path().join(format!("{name}.admin"));
        let command = Command::new(lab.programs().path(Tool::Envoy)?)
            .args(["--config-path".into(), config.into_os_string()])
            .args(["--config-yaml", &extra(node).to_string()])
            .args(["--admin-address-path".into(), admin_file.clone().into_os_string()])
            .args(["--concurrency", &concurrency.to_string(), "--log-level", &log_level])
            // No shared memory, so that any number of them run side by side.
            .args(["--disable-hot-restart"])
            .args(args);
        let mut process = Process::spawn(lab, &name, command)?;
        let http = admin(&mut process, &admin_file).await?;
        Ok(Self { process, http, admin_file })
    }

    /// Waits until it is initialised: bootstrap clusters, first xDS answers, listeners.
    pub async fn live(&mut self, limit: Duration) -> Result<(), LabError> {
        let http = self.http.clone();
        self.process
            .ready("Envoy LIVE", limit, async || match http.get("/ready").await {
                Ok((200, _)) => Ok(()),
                Ok((status, body)) => Err(format!("status {status}: {}", body.trim())),
                Err(error) => Err(error.to_string()),
            })
            .await
    }

    /// The bound address of a listener, waited for; this is how to learn what port 0 became.
    pub async fn listener(&mut self, name: &str, limit: Duration) -> Result<SocketAddr, LabError> {
        let http = self.http.clone();
        self.process
            .ready(&format!("the listener {name}"), limit, async || {
                let dump: Value = http.json("/listeners?format=json").await.map_err(|e| e.to_string())?;
                bound_address(&dump, name).ok_or_else(|| dump.to_string())
            })
            .await
    }

    /// The admin interface, for what has no method here.
    pub fn admin(&self) -> &Http {
        &self.http
    }

    /// Counters and gauges whose name matches a regular expression. Histograms and texts are left out.
    pub async fn stats(&self, filter: &str) -> Result<BTreeMap<String, u64>, LabError> {
        // The filter is a regular expression in a query, so anything but letters, digits, '.', '_' and '-' is escaped.
        let escaped: String = filter
            .bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' => char::from(byte).to_string(),
                other => format!("%{other:02X}"),
            })
            .collect();
        let found: Stats = self.http.json(&format!("/stats?format=json&filter={escaped}")).await?;
        let number =
            |stat: &Value| Some((stat.get("name")?.as_str()?.to_owned(), stat.get("value")?.as_u64()?));
        Ok(found.stats.iter().filter_map(number).collect())
    }

    /// One counter or gauge by its whole name; `None` when Envoy does not have it (yet).
    pub async fn stat(&self, name: &str) -> Result<Option<u64>, LabError> {
        let escaped: String = name
            .chars()
            .map(|c| if c.is_alphanumeric() || c == '_' { c.to_string() } else { format!("\\{c}") })
            .collect();
        Ok(self.stats(&format!("^{escaped}$")).await?.remove(name))
    }

    /// `/config_dump`, endpoints included.
    pub async fn config_dump(&self) -> Result<Value, LabError> {
        self.http.json("/config_dump?include_eds").await
    }

    /// `/server_info`.
    pub async fn server_info(&self) -> Result<Value, LabError> {
        self.http.json("/server_info").await
    }

    /// What it holds now.
    pub fn memory(&self) -> Result<Memory, LabError> {
        procfs::memory(self.process.pid())
    }

    /// CPU time used since it started.
    pub fn cpu_time(&self) -> Result<Duration, LabError> {
        procfs::cpu_time(self.process.pid())
    }

    /// Starts it again with the same bootstrap, after a kill if it runs. Listeners on port 0 get new ports.
    pub async fn restart(&mut self) -> Result<(), LabError> {
        self.process.kill();
        // The file of the last run names a port that is gone.
        let _ = fs::remove_file(&self.admin_file);
        self.process.restart()?;
        self.http = admin(&mut self.process, &self.admin_file).await?;
        Ok(())
    }

    /// The child, to kill it or to read its log.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// What the lab merges over the bootstrap (`--config-yaml`): the admin interface on a port of the kernel's choice, and node.
fn extra(node: Option<NodeId>) -> Value {
    let address = json!({"socket_address": {"address": "127.0.0.1", "port_value": 0}});
    let mut extra = json!({"admin": {"address": address}});
    if let (Some(NodeId { id, cluster, region, zone }), Some(fields)) = (node, extra.as_object_mut()) {
        fields.insert(
            "node".to_owned(),
            json!({"id": id, "cluster": cluster, "locality": {"region": region, "zone": zone}}),
        );
    }
    extra
}

async fn admin(process: &mut Process, file: &PathBuf) -> Result<Http, LabError> {
    let address = process
        .ready("Envoy's admin address", START, async || {
            let text = fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
            text.trim().parse::<SocketAddr>().map_err(|e| format!("{text:?}: {e}"))
        })
        .await?;
    let http = Http::new(format!("http://{address}"))?;
    let looked = http.clone();
    process
        .ready("Envoy's admin interface", START, async || {
            looked.get("/server_info").await.map(|_| ()).map_err(|e| e.to_string())
        })
        .await?;
    Ok(http)
}

fn bound_address(dump: &Value, name: &str) -> Option<SocketAddr> {
    let listeners = dump.get("listener_statuses")?.as_array()?;
    let found =
        listeners.iter().find(|listener| listener.get("name").and_then(Value::as_str) == Some(name))?;
    let socket = found.get("local_address")?.get("socket_address")?;
    let port = u16::try_from(socket.get("port_value")?.as_u64()?).ok()?;
    let address = socket.get("address")?.as_str()?.parse::<std::net::IpAddr>().ok()?;
    // A listener on every address is reached on the loopback one.
    let address = if address.is_unspecified() { std::net::Ipv4Addr::LOCALHOST.into() } else { address };
    Some(SocketAddr::new(address, port))
}
