//! A real etcd of one member, which can be killed and started again on the same data and ports.

use std::time::Duration;

use super::{Command, Http, Lab, LabError, Port, Process, Tool};

/// Until it answers: an election of one takes about a second, a busy machine stretches it.
const START: Duration = Duration::from_secs(30);

/// Starts that meet a taken port before we give up.
const TRIES: usize = 3;

/// A running etcd.
#[derive(Debug)]
pub struct Etcd {
    process: Process,
    client: Port,
    _peer: Port,
    http: Http,
}

// === impl Etcd ===

impl Etcd {
    /// Starts an empty etcd; its data lies in the lab.
    pub async fn start(lab: &Lab) -> Result<Self, LabError> {
        Self::start_named(lab, "etcd").await
    }

    /// The same under another name, for labs with more than one.
    pub async fn start_named(lab: &Lab, name: &str) -> Result<Self, LabError> {
        let mut tries = 1;
        loop {
            match Self::try_start(lab, name).await {
                Err(error) if error.is_taken_port() && tries < TRIES => tries += 1,
                result => return result,
            }
        }
    }

    async fn try_start(lab: &Lab, name: &str) -> Result<Self, LabError> {
        let (client, peer) = (Port::reserve()?, Port::reserve()?);
        let command = Command::new(lab.programs().path(Tool::Etcd)?)
            .args(["--name", name])
            .args(["--data-dir".into(), lab.path().join(format!("{name}.data")).into_os_string()])
            .args(["--listen-client-urls", &client.url(), "--advertise-client-urls", &client.url()])
            .args(["--listen-peer-urls", &peer.url(), "--initial-advertise-peer-urls", &peer.url()])
            .args(["--initial-cluster", &format!("{name}={}", peer.url())])
            .args(["--logger", "zap", "--log-level", "warn"]);
        let http = Http::new(client.url())?;
        let mut etcd = Self { process: Process::spawn(lab, name, command)?, client, _peer: peer, http };
        etcd.ready().await?;
        Ok(etcd)
    }

    /// Where clients connect: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        self.client.url()
    }

    /// The same as an address.
    pub fn address(&self) -> std::net::SocketAddr {
        self.client.address()
    }

    /// Kills it (SIGKILL); the data stay.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same data and ports, and waits until it answers.
    pub async fn restart(&mut self) -> Result<(), LabError> {
        self.process.restart()?;
        self.ready().await
    }

    /// The child, to signal it or to read its log.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    async fn ready(&mut self) -> Result<(), LabError> {
        let http = self.http.clone();
        self.process
            .ready("etcd answer /health", START, async || match http.get("/health").await {
                Ok((200, body)) if body.contains("\"true\"") => Ok(()),
                Ok((status, body)) => Err(format!("status {status}: {body}")),
                Err(error) => Err(error.to_string()),
            })
            .await
    }
}
