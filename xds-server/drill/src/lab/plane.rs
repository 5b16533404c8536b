//! `zonebreak serve` as a child, and its command line against it.

use std::{path::PathBuf, process::Output, time::Duration};

use super::{Command, Http, Lab, LabError, Port, Process, Tool};

/// Until it is ready: it has to load a topology first.
const START: Duration = Duration::from_secs(30);

/// Starts that meet a taken port before we give up.
const TRIES: usize = 3;

/// What to serve.
#[derive(Debug, Clone)]
pub struct PlaneOptions {
    /// Name of its log and files in the lab; unique there.
    pub name: String,
    /// Text of the configuration file (`--config`); none when absent.
    pub config: Option<String>,
    /// Text of the topology file (`--topology`), for a plane without etcd.
    pub topology: Option<String>,
    /// Where etcd is (`--etcd`).
    pub etcd: Option<String>,
    /// Hand the workspace's filter to the proxies (`--filter`).
    pub filter: bool,
    /// Further arguments of `serve`.
    pub args: Vec<String>,
}

/// A running control plane.
#[derive(Debug)]
pub struct Plane {
    process: Process,
    lab: Lab,
    options: PlaneOptions,
    xds: Port,
    admin: Port,
    health: Port,
    http: Http,
}

// === impl PlaneOptions ===

impl Default for PlaneOptions {
    fn default() -> Self {
        Self {
            name: "zonebreak".to_owned(),
            config: None,
            topology: None,
            etcd: None,
            filter: true,
            args: Vec::new(),
        }
    }
}

// === impl Plane ===

impl Plane {
    /// Starts one on free ports and waits until it is ready.
    pub async fn start(lab: &Lab, options: PlaneOptions) -> Result<Self, LabError> {
        let mut plane = Self::spawn(lab, options).await?;
        plane.ready(START).await?;
        Ok(plane)
    }

    /// Starts one and waits only until its health port answers, ready or not: for a plane whose etcd is not there.
    pub async fn spawn(lab: &Lab, options: PlaneOptions) -> Result<Self, LabError> {
        let mut tries = 1;
        loop {
            match Self::try_spawn(lab, options.clone()).await {
                Err(error) if error.is_taken_port() && tries < TRIES => tries += 1,
                result => return result,
            }
        }
    }

    async fn try_spawn(lab: &Lab, options: PlaneOptions) -> Result<Self, LabError> {
        let (xds, admin, health) = (Port::reserve()?, Port::reserve()?, Port::reserve()?);
        let mut command = Command::new(lab.programs().path(Tool::Zonebreak)?).args(["serve"]);
        if let Some(text) = &options.config {
            let file = lab.write(&format!("{}.config.yaml", options.name), text)?;
            command = command.args(["--config".into(), file.into_os_string()]);
        }
        if let Some(text) = &options.topology {
            let file = lab.write(&format!("{}.topology.yaml", options.name), text)?;
            command = command.args(["--topology".into(), file.into_os_string()]);
        }
        if let Some(url) = &options.etcd {
            command = command.args(["--etcd", url]);
        }
        if options.filter {
            // A copy: the server watches the file, and a build that runs beside the lab would change the filter under test.
            let (built, copy) =
                (lab.programs().path(Tool::Filter)?, lab.path().join("zonebreak_filter.wasm"));
            if !copy.exists() {
                std::fs::copy(&built, &copy).map_err(LabError::io(format!("copy {}", built.display())))?;
            }
            command = command.args(["--filter".into(), copy.into_os_string()]);
        }
        let command = command
            .args(["--listen", &xds.address().to_string()])
            .args(["--admin", &admin.address().to_string()])
            .args(["--health", &health.address().to_string()])
            .args(&options.args);
        let process = Process::spawn(lab, &options.name, command)?;
        let http = Http::new(admin.url())?;
        let mut plane = Self { process, lab: lab.clone(), options, xds, admin, health, http };
        plane.answers().await?;
        Ok(plane)
    }

    /// The xDS port that proxies connect to.
    pub fn xds(&self) -> std::net::SocketAddr {
        self.xds.address()
    }

    /// Its admin interface.
    pub fn admin(&self) -> &Http {
        &self.http
    }

    /// Address of its health and metrics port: `http://127.0.0.1:PORT`.
    pub fn health_url(&self) -> String {
        self.health.url()
    }

    /// The topology file, to be changed with [`write_topology`](Self::write_topology).
    pub fn topology_file(&self) -> PathBuf {
        self.lab.path().join(format!("{}.topology.yaml", self.options.name))
    }

    /// Replaces the topology file, which the server watches.
    pub fn write_topology(&self, text: &str) -> Result<(), LabError> {
        self.lab.write(&format!("{}.topology.yaml", self.options.name), text).map(|_| ())
    }

    /// Replaces the configuration file, which the server watches.
    pub fn write_config(&self, text: &str) -> Result<(), LabError> {
        self.lab.write(&format!("{}.config.yaml", self.options.name), text).map(|_| ())
    }

    /// Kills it (SIGKILL).
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again with the same arguments and ports, and waits until it is ready.
    pub async fn restart(&mut self) -> Result<(), LabError> {
        self.process.restart()?;
        self.ready(START).await
    }

    /// The child, to signal it or to read its log.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Runs `zonebreak ARGS`, which finds this server and its etcd by the environment.
    pub async fn cli(&self, args: &[&str]) -> Result<Output, LabError> {
        let mut command = Command::new(self.lab.programs().path(Tool::Zonebreak)?)
            .args(args)
            .env("ZONEBREAK_SERVER", self.admin.url());
        if let Some(url) = &self.options.etcd {
            command = command.env("ZONEBREAK_ETCD__ENDPOINTS", url);
        }
        let mut child = tokio::process::Command::from(command.to_std());
        child.current_dir(self.lab.path()).kill_on_drop(true).stdin(std::process::Stdio::null());
        child.output().await.map_err(LabError::io(format!("run zonebreak {}", args.join(" "))))
    }

    /// Waits until `/readyz` says yes.
    pub async fn ready(&mut self, limit: Duration) -> Result<(), LabError> {
        let http = Http::new(self.health.url())?;
        self.process
            .ready("the control plane ready", limit, async || match http.get("/readyz?verbose").await {
                Ok((200, _)) => Ok(()),
                Ok((status, body)) => Err(format!("status {status}: {body}")),
                Err(error) => Err(error.to_string()),
            })
            .await
    }

    async fn answers(&mut self) -> Result<(), LabError> {
        let http = Http::new(self.health.url())?;
        self.process
            .ready("the control plane's health port", START, async || {
                http.get("/livez").await.map(|_| ()).map_err(|e| e.to_string())
            })
            .await
    }
}
