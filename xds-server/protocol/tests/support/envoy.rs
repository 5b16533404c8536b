//! A real Envoy as a child process: it dies with the test, also when that panics.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use zonebreak_xds::Protocol;

use super::PATIENCE;

/// A running Envoy.
pub struct Envoy {
    child: Child,
    dir: TempDir,
    admin: SocketAddr,
}

/// An HTTP answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Envoy {
    /// Starts an Envoy of this cluster that gets everything by ADS from `server`, and waits until its admin port answers.
    pub async fn start(cluster: &str, protocol: Protocol, server: SocketAddr) -> Self {
        Self::start_with(cluster, protocol, server, &json!({})).await
    }

    /// The same with these parts of the bootstrap besides.
    pub async fn start_with(cluster: &str, protocol: Protocol, server: SocketAddr, extra: &Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("bootstrap.json");
        let mut bootstrap = bootstrap(protocol, server);
        for (key, value) in extra.as_object().into_iter().flatten() {
            bootstrap[key] = value.clone();
        }
        std::fs::write(&config, bootstrap.to_string()).unwrap();
        let log = std::fs::File::create(dir.path().join("envoy.log")).unwrap();
        let address = dir.path().join("admin");
        let child = Command::new(program())
            .args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "info"])
            .args(["--service-node", &format!("{cluster}-1"), "--service-cluster", cluster])
            .arg("--config-path")
            .arg(&config)
            .arg("--admin-address-path")
            .arg(&address)
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let started = Instant::now();
        let admin = loop {
            if let Some(admin) = std::fs::read_to_string(&address).ok().and_then(|text| text.parse().ok()) {
                break admin;
            }
            assert!(started.elapsed() < PATIENCE, "{}", log_of(&dir));
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        Self { child, dir, admin }
    }

    /// Which one it is: major and minor.
    pub async fn version() -> (u32, u32) {
        let said = Command::new(program()).arg("--version").output().await.unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        // "<program>  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL"
        let build = said.split("version: ").nth(1).unwrap();
        let mut parts = build.split('/').nth(1).unwrap().split('.').map(|part| part.parse().unwrap());
        (parts.next().unwrap(), parts.next().unwrap())
    }

    /// What an admin path answers.
    pub async fn admin(&self, path: &str) -> String {
        get(self.admin, path).await.unwrap_or_else(|error| panic!("{error}: {}", self.log())).body
    }

    /// A counter or gauge, 0 where Envoy has none of that name.
    pub async fn stat(&self, name: &str) -> u64 {
        let text = self.admin("/stats").await;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.map_or(0, |value| value.parse().unwrap())
    }

    /// Every counter of refused configuration that is not zero.
    pub async fn rejected(&self) -> Vec<String> {
        let text = self.admin("/stats?filter=update_rejected").await;
        text.lines().filter(|line| !line.ends_with(": 0")).map(str::to_owned).collect()
    }

    /// Where this listener listens, once it is active.
    pub async fn listener(&self, name: &str) -> Option<SocketAddr> {
        let text = self.admin("/listeners?format=json").await;
        let listeners: Value = serde_json::from_str(&text).unwrap();
        let listeners = listeners["listener_statuses"].as_array()?;
        let found = listeners.iter().find(|listener| listener["name"] == name)?;
        let address = &found["local_address"]["socket_address"];
        format!("{}:{}", address["address"].as_str()?, address["port_value"]).parse().ok()
    }

    /// Waits until the listener is there.
    pub async fn listening(&self, name: &str) -> SocketAddr {
        let started = Instant::now();
        loop {
            if let Some(address) = self.listener(name).await {
                return address;
            }
            assert!(started.elapsed() < PATIENCE, "no listener {name}: {}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn log(&self) -> String {
        log_of(&self.dir)
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

fn log_of(dir: &TempDir) -> String {
    std::fs::read_to_string(dir.path().join("envoy.log")).unwrap_or_default()
}

/// `ENVOY`, or the one that `scripts/setup` put into the checkout.
fn program() -> PathBuf {
    let default = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../.tools/bin/envoy"));
    let program = std::env::var_os("ENVOY").map_or_else(default, PathBuf::from);
    assert!(program.exists(), "{} is missing: run scripts/setup, or set ENVOY", program.display());
    program
}

fn bootstrap(protocol: Protocol, server: SocketAddr) -> Value {
    let kind = match protocol {
        Protocol::Sotw => "GRPC",
        Protocol::Delta => "DELTA_GRPC",
    };
    let address = json!({"socket_address": {"address": "127.0.0.1", "port_value": server.port()}});
    let endpoint = json!({"endpoint": {"address": address}});
    json!({
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": kind, "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
            },
            "cds_config": {"ads": {}, "resource_api_version": "V3"},
            "lds_config": {"ads": {}, "resource_api_version": "V3"},
        },
        "static_resources": {"clusters": [{
            "name": "xds", "type": "STATIC", "connect_timeout": "1s",
            "load_assignment": {"cluster_name": "xds", "endpoints": [{"lb_endpoints": [endpoint]}]},
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    "explicit_http_config": {"http2_protocol_options": {}},
                },
            },
        }]},
    })
}

/// One GET on a connection of its own.
pub async fn get(address: SocketAddr, path: &str) -> std::io::Result<Answer> {
    get_from(address, "test", path).await
}

/// The same of a host.
pub async fn get_from(address: SocketAddr, host: &str, path: &str) -> std::io::Result<Answer> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    };
    let text: std::io::Result<String> =
        tokio::time::timeout(PATIENCE, exchange).await.map_err(std::io::Error::other)?;
    let text = text?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = if head.contains("transfer-encoding: chunked") { unchunk(body) } else { body.to_owned() };
    Ok(Answer { status: status.unwrap_or(0), head: head.to_owned(), body })
}

fn unchunk(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        let Some(chunk) = rest.get(..size).filter(|_| size > 0) else { break };
        text.push_str(chunk);
        body = rest.get(size + 2..).unwrap_or_default();
    }
    text
}
