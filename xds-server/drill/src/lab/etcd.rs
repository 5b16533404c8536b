//! A real etcd of one member or of several, each of which can be killed and started again on the same data and ports.

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
        Self::start_with(lab, name, &[]).await
    }

    /// The same with more arguments; of a flag that is there twice the last counts.
    pub async fn start_with(lab: &Lab, name: &str, args: &[&str]) -> Result<Self, LabError> {
        let mut tries = 1;
        loop {
            match Self::try_start(lab, name, args).await {
                Err(error) if error.is_taken_port() && tries < TRIES => tries += 1,
                result => return result,
            }
        }
    }

    /// Starts an empty cluster of so many members, named `name-0` and so on, and waits until each has a leader.
    pub async fn start_cluster(lab: &Lab, name: &str, members: usize) -> Result<Vec<Self>, LabError> {
        let names: Vec<String> = (0..members).map(|at| format!("{name}-{at}")).collect();
        let mut ports = Vec::with_capacity(members);
        for _ in &names {
            ports.push((Port::reserve()?, Port::reserve()?));
        }
        let all: Vec<String> =
            names.iter().zip(&ports).map(|(name, (_, peer))| format!("{name}={}", peer.url())).collect();
        let mut cluster = Vec::with_capacity(members);
        for (name, (client, peer)) in names.iter().zip(ports) {
            cluster.push(Self::spawn(lab, name, client, peer, &all.join(","), &[])?);
        }
        for member in &mut cluster {
            member.ready().await?;
        }
        Ok(cluster)
    }

    async fn try_start(lab: &Lab, name: &str, args: &[&str]) -> Result<Self, LabError> {
        let (client, peer) = (Port::reserve()?, Port::reserve()?);
        let alone = format!("{name}={}", peer.url());
        let mut etcd = Self::spawn(lab, name, client, peer, &alone, args)?;
        etcd.ready().await?;
        Ok(etcd)
    }

    fn spawn(
        lab: &Lab,
        name: &str,
        client: Port,
        peer: Port,
        cluster: &str,
        args: &[&str],
    ) -> Result<Self, LabError> {
        let command = Command::new(lab.programs().path(Tool::Etcd)?)
            .args(["--name", name])
            .args(["--data-dir".into(), lab.path().join(format!("{name}.data")).into_os_string()])
            .args(["--listen-client-urls", &client.url(), "--advertise-client-urls", &client.url()])
            .args(["--listen-peer-urls", &peer.url(), "--initial-advertise-peer-urls", &peer.url()])
            .args(["--initial-cluster", cluster])
            .args(["--logger", "zap", "--log-level", "warn"])
            .args(args);
        let http = Http::new(client.url())?;
        Ok(Self { process: Process::spawn(lab, name, command)?, client, _peer: peer, http })
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

    /// The same with more arguments; of a flag that is there twice the last counts.
    pub async fn restart_with(&mut self, args: &[&str]) -> Result<(), LabError> {
        self.process.restart_with(args)?;
        self.ready().await
    }

    /// Starts it again and waits for nothing: a member of a cluster answers when enough others are there.
    pub fn launch(&mut self) -> Result<(), LabError> {
        self.process.restart()
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
