//! `zonebreak replicate`: runs a replicator, and shows and proves what it did. Flags become the last layer of the
//! configuration; the work is in `zonebreak-replication`.

mod run;
mod status;
mod verify;

use std::path::PathBuf;

use clap::Subcommand;
use zonebreak_replication::{EtcdError, ReplicationError, pipeline::Halt, spool::SpoolError};

use crate::{
    config::{Config, Layers, Override, Requirement},
    exit::{Exit, Failure, Outcome},
};

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum ReplicateCommand {
    Run(run::RunArgs),
    Status(status::StatusArgs),
    Verify(verify::VerifyArgs),
}

/// Which two etcds, and what of them.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "What is replicated")]
pub struct StreamArgs {
    /// Client URLs of the etcd that changes come from, by commas [env: ZONEBREAK_REPLICATE__SOURCE].
    #[arg(long, value_name = "URL,...")]
    source: Option<String>,
    /// Client URLs of the etcd that they go to, by commas [env: ZONEBREAK_REPLICATE__DESTINATION].
    #[arg(long, value_name = "URL,...")]
    destination: Option<String>,
    /// Keys to replicate [default: /zonebreak/v1/].
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// What the prefix becomes at the destination [default: the same].
    #[arg(long, value_name = "PREFIX")]
    destination_prefix: Option<String>,
    /// Name of the stream [default: default].
    #[arg(long, value_name = "NAME")]
    stream: Option<String>,
    /// Configuration file, read for its `replicate` section.
    #[arg(long, value_name = "FILE", env = "ZONEBREAK_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
}

/// Runs a verb.
pub async fn run(command: ReplicateCommand) -> Outcome {
    match command {
        ReplicateCommand::Run(args) => run::run(args).await,
        ReplicateCommand::Status(args) => status::run(args).await,
        ReplicateCommand::Verify(args) => verify::run(args).await,
    }
}

// === impl StreamArgs ===

impl StreamArgs {
    fn load(&self, more: Vec<Override>) -> Result<Config, Failure> {
        let flags = [
            ("--source", "replicate.source", &self.source),
            ("--destination", "replicate.destination", &self.destination),
            ("--prefix", "replicate.prefix", &self.prefix),
            ("--destination-prefix", "replicate.destination_prefix", &self.destination_prefix),
            ("--stream", "replicate.stream", &self.stream),
        ];
        let flags = flags
            .into_iter()
            .filter_map(|(flag, path, value)| Some(Override { flag, path, value: value.clone()? }));
        let layers = Layers::of_process(self.config.clone(), flags.chain(more).collect());
        Ok(layers.load(Requirement::Nothing).map_err(Failure::usage)?.config)
    }
}

/// How an end of replication ends the command.
fn failure(error: ReplicationError) -> Failure {
    let exit = match &error {
        ReplicationError::Options(_) | ReplicationError::Etcd(EtcdError::Denied { .. }) => Exit::Usage,
        ReplicationError::Etcd(EtcdError::Unreachable { .. }) => Exit::Unreachable,
        ReplicationError::Etcd(_) => Exit::Unexpected,
        ReplicationError::Spool(SpoolError::Locked(_))
        | ReplicationError::Twin
        | ReplicationError::Halt(Halt::Superseded(_)) => Exit::Conflict,
        ReplicationError::Spool(
            SpoolError::Damaged { .. } | SpoolError::Missing { .. } | SpoolError::Foreign { .. },
        )
        | ReplicationError::Checkpoint(_) => Exit::CheckFailed,
        ReplicationError::Spool(_) => Exit::Unexpected,
        ReplicationError::Halt(_)
        | ReplicationError::NotEmpty { .. }
        | ReplicationError::Mismatch { .. }
        | ReplicationError::WentBack { .. }
        | ReplicationError::Strange(_) => Exit::Refused,
    };
    Failure::new(exit, format_args!("failed to {error}"))
}
