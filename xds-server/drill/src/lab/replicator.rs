//! `zonebreak replicate run` as a child, which can be killed and started again on the same spool.

use std::time::Duration;

use super::{Command, Http, Lab, LabError, Port, Process, Tool};

/// Until it follows the source: a comparison of both sides, on a busy machine.
const READY: Duration = Duration::from_secs(120);

/// What to replicate.
#[derive(Debug, Clone)]
pub struct ReplicatorOptions {
    /// Client URL of the source.
    pub source: String,
    /// Client URL of the destination.
    pub destination: String,
    /// Keys to replicate.
    pub prefix: String,
    /// Further settings as variables, such as `ZONEBREAK_REPLICATE__BACKLOG`.
    pub environment: Vec<(&'static str, String)>,
}

/// A running replicator.
#[derive(Debug)]
pub struct Replicator {
    process: Process,
    http: Http,
    _health: Port,
}

// === impl Replicator ===

impl Replicator {
    /// Starts one with a spool named after it in the lab.
    pub fn start(lab: &Lab, name: &str, options: &ReplicatorOptions) -> Result<Self, LabError> {
        let health = Port::reserve()?;
        let mut command = Command::new(lab.programs().path(Tool::Zonebreak)?)
            .args(["replicate", "run", "--source", &options.source, "--destination", &options.destination])
            .args(["--prefix", &options.prefix, "--health", &health.address().to_string()])
            .args(["--spool".into(), lab.path().join(format!("{name}.spool")).into_os_string()]);
        for (key, value) in &options.environment {
            command = command.env(key, value);
        }
        let http = Http::new(health.url())?;
        Ok(Self { process: Process::spawn(lab, name, command)?, http, _health: health })
    }

    /// Waits until it follows the source.
    pub async fn ready(&mut self) -> Result<(), LabError> {
        let http = self.http.clone();
        self.process
            .ready("the replicator follow the source", READY, async || match http.get("/readyz").await {
                Ok((200, _)) => Ok(()),
                Ok((status, body)) => Err(format!("status {status}: {body}")),
                Err(error) => Err(error.to_string()),
            })
            .await
    }

    /// Kills it (SIGKILL); the spool stays.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same spool.
    pub fn restart(&mut self) -> Result<(), LabError> {
        self.process.restart()
    }

    /// Its metrics, in Prometheus' form.
    pub async fn metrics(&self) -> Result<String, LabError> {
        self.http.get("/metrics").await.map(|(_, body)| body)
    }

    /// The child, to signal it or to read its log.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
