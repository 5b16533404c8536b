//! `zonebreak register` as a child: one endpoint of one service, under a lease.

use std::{net::SocketAddr, process::ExitStatus, time::Duration};

use super::{Command, Lab, LabError, Process, Tool};

/// What to register.
#[derive(Debug, Clone)]
pub struct RegistrationOptions {
    /// The service.
    pub service: String,
    /// Zone of the endpoint.
    pub zone: String,
    /// Region of the endpoint.
    pub region: String,
    /// Where the endpoint listens.
    pub address: SocketAddr,
    /// Where etcd is.
    pub etcd: String,
    /// Further arguments, such as `--ttl 2s`.
    pub args: Vec<String>,
}

/// A running registration. A drop kills it, so that the lease runs out; [`terminate`](Self::terminate) deregisters.
#[derive(Debug)]
pub struct Registration {
    process: Process,
}

// === impl Registration ===

impl Registration {
    /// Starts it. That the endpoint is in etcd is for the caller to wait for, who knows where to look.
    pub fn start(lab: &Lab, options: &RegistrationOptions) -> Result<Self, LabError> {
        let command = Command::new(lab.programs().path(Tool::Zonebreak)?)
            .args([
                "register",
                "--service",
                &options.service,
                "--zone",
                &options.zone,
                "--region",
                &options.region,
            ])
            .args(["--address", &options.address.to_string(), "--etcd", &options.etcd])
            .args(&options.args);
        let name = format!("register-{}-{}-{}", options.service, options.zone, options.address.port());
        Ok(Self { process: Process::spawn(lab, &name, command)? })
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Asks it to deregister and end (SIGTERM).
    pub async fn terminate(&mut self, grace: Duration) -> Result<ExitStatus, LabError> {
        self.process.terminate(grace).await
    }

    /// Kills it (SIGKILL): the endpoint stays until its lease runs out.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again with the same arguments.
    pub fn restart(&mut self) -> Result<(), LabError> {
        self.process.restart()
    }

    /// The child, to signal it or to read its log.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
