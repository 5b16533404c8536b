//! `zonebreak replicate`: runs a replicator, and shows and proves what it did. Flags become the last layer of the
//! configuration; the work is in `zonebreak-replication`.

mod conflicts;
mod health;
mod leader;
mod promote;
mod run;
mod status;
mod verify;

use std::path::PathBuf;

use clap::Subcommand;
use zonebreak_replication::{
    EtcdError, ReplicationError, overlap::OverlapError, pipeline::Halt, region::RegionError,
    spool::SpoolError,
};

use crate::{
    config::{Config, Layers, Override, Requirement},
    exit::{Exit, Failure, Outcome},
};

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum ReplicateCommand {
    /// Replicates a prefix of one etcd into another, until SIGTERM.
    ///
    /// Run it next to the destination. Every change is safe in the spool before it is written there; every transaction leaves the
    /// destination as the source was at one revision, with the checkpoint in it; and what the destination holds is compared all
    /// the time. A second one with a spool of its own stands by and takes over.
    #[command(after_help = "Examples:
  zonebreak replicate run --source http://10.1.0.1:2379 --destination http://10.2.0.1:2379 --spool DIR
  zonebreak replicate run --config /etc/zonebreak.yaml

`zonebreak config defaults` prints the whole replicate section: users, TLS, filters, latencies, leases.")]
    Run(run::RunArgs),
    /// Shows which revision of the source the destination holds, and how far and how long that is behind.
    ///
    /// Reads both etcds and asks no replicator: it says the same when the replicator is dead, or the source. Exit code 3 when the
    /// destination was never replicated to, or is between two revisions.
    #[command(after_help = "Examples:
  zonebreak replicate status --source http://10.1.0.1:2379 --destination http://10.2.0.1:2379
  zonebreak replicate status --config /etc/zonebreak.yaml -o json")]
    Status(status::StatusArgs),
    /// Makes the destination's region the owner of the prefix; the source's is it no more.
    ///
    /// While the source answers, nothing is lost: it is fenced, so that its writers are refused; the destination is made and found
    /// equal to it, key by key; then the destination is taken, and whatever a replicator still has on its way there fails. A source
    /// that does not answer is given up only after you have read what that may cost and said yes. Killed at any step and run again,
    /// it goes on. Exit code 6 when somebody else did the same at the same moment.
    ///
    /// The source is fenced once the destination is known to take writes. Should the promotion not come to its end all the same,
    /// nobody may write: run it again, or give the source its prefix back with --abort.
    #[command(after_help = "Examples:
  zonebreak replicate promote --source http://10.1.0.1:2379 --destination http://10.2.0.1:2379
  zonebreak replicate promote --config /etc/zonebreak.yaml --yes
  zonebreak replicate promote --config /etc/zonebreak.yaml --abort")]
    Promote(promote::PromoteArgs),
    /// Fences a source that answers again after its destination was promoted without it.
    ///
    /// A replicator in the other direction does so by itself as soon as it reaches it.
    #[command(after_help = "Example:
  zonebreak replicate demote --source http://10.1.0.1:2379 --destination http://10.2.0.1:2379")]
    Demote(promote::DemoteArgs),
    /// Keeps the leader of one etcd that spans regions where it may be, and shows which region may be lost.
    ///
    /// A leader that has strayed for a while is moved to a voter of an allowed region that answers and is close behind; never to a
    /// learner, and less and less often when it keeps straying. With --once it only shows: exit code 3 when the leader is
    /// elsewhere, or the loss of any one region would leave no quorum.
    #[command(after_help = "Examples:
  zonebreak replicate leader-guard --etcd http://10.1.0.1:2379 --place m1=west --place m2=west --place m3=east --allow west --once
  zonebreak replicate leader-guard --etcd http://10.1.0.1:2379 --place http://10.1.0.1:2380=west --allow west")]
    LeaderGuard(leader::LeaderArgs),
    /// Shows keys that two regions wrote without knowing of each other, and decides about those that nobody won.
    ///
    /// For a prefix that both regions write (`replicate.overlap`). They are written down at the destination by the replicator that
    /// found them, with both values. Those that are open keep their own value in each region until somebody decides, here or there.
    #[command(subcommand)]
    Conflicts(conflicts::ConflictsCommand),
    /// Compares both etcds key by key, at the one revision at which they must be equal.
    ///
    /// Reads the destination and the source as of the revision that the destination's checkpoint names, while both go on. Exit code
    /// 3 when anything differs, or nothing was ever replicated; the first differing keys are named. Nothing is changed: a running replicator repairs by itself.
    #[command(after_help = "Examples:
  zonebreak replicate verify --source http://10.1.0.1:2379 --destination http://10.2.0.1:2379
  zonebreak replicate verify --config /etc/zonebreak.yaml --keys 100 -o json")]
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
        ReplicateCommand::Promote(args) => promote::promote(args).await,
        ReplicateCommand::Demote(args) => promote::demote(args).await,
        ReplicateCommand::Conflicts(command) => conflicts::run(command).await,
        ReplicateCommand::LeaderGuard(args) => leader::run(args).await,
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
        ReplicationError::Region(error) => region_exit(error),
        ReplicationError::Overlap(error) => overlap_exit(error),
        ReplicationError::Options(_) | ReplicationError::Etcd(EtcdError::Denied { .. }) => Exit::Usage,
        ReplicationError::Etcd(EtcdError::Unreachable { .. }) => Exit::Unreachable,
        ReplicationError::Etcd(_) => Exit::Unexpected,
        ReplicationError::Spool(SpoolError::Locked(_))
        | ReplicationError::Twin
        | ReplicationError::Contended { .. }
        | ReplicationError::Halt(Halt::Superseded(_)) => Exit::Conflict,
        ReplicationError::Spool(
            SpoolError::Damaged { .. } | SpoolError::Missing { .. } | SpoolError::Foreign { .. },
        )
        | ReplicationError::NothingHere { .. }
        | ReplicationError::Checkpoint(_) => Exit::CheckFailed,
        ReplicationError::Spool(_) => Exit::Unexpected,
        ReplicationError::Halt(_)
        | ReplicationError::NotEmpty { .. }
        | ReplicationError::Mismatch { .. }
        | ReplicationError::WentBack { .. }
        | ReplicationError::Unproven { .. }
        | ReplicationError::Strange(_) => Exit::Refused,
    };
    Failure::new(exit, format_args!("failed to {error}"))
}

fn overlap_exit(error: &OverlapError) -> Exit {
    match error {
        OverlapError::Unreadable { .. } => Exit::CheckFailed,
        OverlapError::NotShared { .. } => Exit::Usage,
        OverlapError::Undecidable { .. } => Exit::Conflict,
        OverlapError::Contradicts { .. }
        | OverlapError::Owned { .. }
        | OverlapError::Taken { .. }
        | OverlapError::Shared { .. } => Exit::Refused,
    }
}

fn region_exit(error: &RegionError) -> Exit {
    match error {
        RegionError::Name(_) => Exit::Usage,
        RegionError::Unreadable { .. } => Exit::CheckFailed,
        RegionError::Lost { .. } => Exit::Conflict,
        RegionError::SourceSilent { .. } => Exit::Unreachable,
        RegionError::Export { .. } => Exit::Unexpected,
        RegionError::NeverReplicated { .. }
        | RegionError::OtherSource { .. }
        | RegionError::Alike { .. }
        | RegionError::SourceWentBack { .. }
        | RegionError::SourceDiffers { .. }
        | RegionError::SourceForgot { .. }
        | RegionError::Elsewhere { .. }
        | RegionError::SourceBack
        | RegionError::Torn { .. }
        | RegionError::Unwritten { .. }
        | RegionError::Busy { .. }
        | RegionError::NotPromoted { .. }
        | RegionError::Completed { .. }
        | RegionError::DestinationSilent { .. }
        | RegionError::Overlap { .. }
        | RegionError::Taken { .. }
        | RegionError::Owned { .. } => Exit::Refused,
    }
}
