//! `zonebreak snapshot`: saves the state of an etcd, shows what can be brought back, and brings it back. Flags become the last layer
//! of the configuration; the work is in `zonebreak-replication`.

mod document;
mod export;
mod ls;
mod restore;
mod save;
mod text;
mod verify;

use clap::Subcommand;
use zonebreak_replication::{
    EtcdError,
    snapshot::{SnapshotError, catalog::Catalog},
    spool::{History, SpoolError},
};

use super::{
    bar::Bar,
    connect::{SourceArgs, source as etcd},
    output::OutputArgs,
};
use crate::{
    config::{Config, Override},
    exit::{Exit, Failure, Outcome},
};

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Saves every key under a prefix, as of one revision, into one file.
    ///
    /// Reads the etcd page by page at its latest revision; writers do not wait. The file has its name when it is whole and safe on
    /// disk, and not before. Keys of replication itself are left out.
    #[command(after_help = "Examples:
  zonebreak snapshot save --etcd http://10.1.0.1:2379 --to /var/lib/zonebreak/snapshots
  zonebreak snapshot save --config /etc/zonebreak.yaml -o json")]
    Save(save::SaveArgs),
    /// Lists snapshots, and the revisions and times that can be restored.
    #[command(after_help = "Examples:
  zonebreak snapshot ls
  zonebreak snapshot ls --dir /var/lib/zonebreak/snapshots --spool /var/lib/zonebreak/spool -o json")]
    Ls(ls::LsArgs),
    /// Reads snapshots to the last byte: SHA-256, digest of all keys and values, order.
    ///
    /// With --live, also compares the digest with the etcd's own state as of the snapshot's revision, where that is not compacted
    /// yet. Exit code 3 when anything is not as it was written, or --all finds no snapshot.
    #[command(after_help = "Examples:
  zonebreak snapshot verify --all
  zonebreak snapshot verify r0000080211-20261126T101500Z --live --etcd http://10.1.0.1:2379")]
    Verify(verify::VerifyArgs),
    /// Brings a moment back: a snapshot, or any revision or time that the change log reaches.
    ///
    /// Writes only what differs, in transactions that compare every key they touch, so that revisions go on and watches stay open.
    /// It shows what would change and asks first; run again after a crash, it finishes. Keys under a lease come back under a lease
    /// that nobody but their owner renews.
    #[command(after_help = "Examples:
  zonebreak snapshot restore --time 2026-11-26T10:14:30Z --dry-run
  zonebreak snapshot restore --time 2026-11-26T10:14:30Z
  zonebreak snapshot restore --revision 80204 --yes -o json
  zonebreak snapshot restore r0000080211-20261126T101500Z --into http://10.9.0.1:2379 --yes")]
    Restore(restore::RestoreArgs),
    /// Writes every key under a prefix as YAML, for people to read and edit.
    ///
    /// Values that are JSON are laid out, other text is text, everything else is base64; `import` makes the same bytes of it.
    #[command(after_help = "Examples:
  zonebreak snapshot export --etcd http://10.1.0.1:2379 > state.yaml
  zonebreak snapshot export --prefix /zonebreak/v1/services/ > services.yaml")]
    Export(export::ExportArgs),
    /// Writes the keys of a YAML file into an etcd, where they differ.
    ///
    /// Keys that the file does not have stay, unless --prune says otherwise.
    #[command(after_help = "Examples:
  zonebreak snapshot import state.yaml --dry-run
  zonebreak snapshot import state.yaml --etcd http://10.1.0.1:2379 --yes")]
    Import(export::ImportArgs),
}

/// Which etcd, and what of it.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Where etcd is")]
pub struct EtcdArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// What every key starts with [default: /zonebreak/v1/].
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
}

/// Which snapshots, of which etcd, and how they are shown.
#[derive(Debug, Clone, clap::Args)]
pub struct PlaceArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    etcd: EtcdArgs,
    #[command(flatten)]
    dir: DirArgs,
}

/// Where snapshots are.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Where snapshots are")]
pub struct DirArgs {
    /// Directory of snapshots [default: /var/lib/zonebreak/snapshots].
    #[arg(long, visible_alias = "to", value_name = "DIR")]
    dir: Option<String>,
    /// The change log of the replicator [default: /var/lib/zonebreak/spool].
    #[arg(long, value_name = "DIR")]
    spool: Option<String>,
}

/// Runs a verb.
pub async fn run(command: SnapshotCommand) -> Outcome {
    match command {
        SnapshotCommand::Save(args) => save::run(args).await,
        SnapshotCommand::Ls(args) => ls::run(args).await,
        SnapshotCommand::Verify(args) => verify::run(args).await,
        SnapshotCommand::Restore(args) => restore::run(args).await,
        SnapshotCommand::Export(args) => export::export(args).await,
        SnapshotCommand::Import(args) => export::import(args).await,
    }
}

// === impl EtcdArgs ===

impl EtcdArgs {
    /// The configuration, with more flags as its last layer.
    fn load(&self, mut flags: Vec<Override>) -> Result<Config, Failure> {
        flags.extend(flag("--prefix", "replicate.prefix", self.prefix.as_ref()));
        self.source.load(flags)
    }
}

// === impl PlaceArgs ===

impl PlaceArgs {
    /// The configuration, with `into` in the place of the etcd when it is given.
    fn load(&self, into: Option<&String>) -> Result<Config, Failure> {
        let flags = [
            flag("--into", "replicate.source", into),
            flag("--dir", "snapshots.directory", self.dir.dir.as_ref()),
            flag("--spool", "replicate.spool_dir", self.dir.spool.as_ref()),
        ];
        self.etcd.load(flags.into_iter().flatten().collect())
    }
}

fn flag(flag: &'static str, path: &'static str, value: Option<&String>) -> Option<Override> {
    Some(Override { flag, path, value: value?.clone() })
}

fn catalog(config: &Config) -> Catalog {
    Catalog::new(&config.snapshots.directory)
}

/// The change log, where there is one.
async fn history(config: &Config) -> Result<Option<History>, Failure> {
    let directory = config.replicate.spool_dir.clone();
    let opened = blocking(move || History::open(directory)).await?;
    opened.map_err(|error| failure(error.into()))
}

/// Runs what blocks on the disk.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Failure::new(Exit::Unexpected, format_args!("failed to go on: {error}")))
}

/// How a failure ends the command.
fn failure(error: SnapshotError) -> Failure {
    let exit = match &error {
        SnapshotError::Options(_)
        | SnapshotError::Unknown { .. }
        | SnapshotError::Elsewhere { .. }
        | SnapshotError::Etcd(EtcdError::Denied { .. }) => Exit::Usage,
        SnapshotError::Etcd(EtcdError::Unreachable { .. }) => Exit::Unreachable,
        SnapshotError::Damaged { .. }
        | SnapshotError::Spool(SpoolError::Damaged { .. } | SpoolError::Missing { .. }) => Exit::CheckFailed,
        SnapshotError::NoMoment { .. }
        | SnapshotError::Stranger { .. }
        | SnapshotError::NotEmpty { .. }
        | SnapshotError::NotOwner { .. }
        | SnapshotError::Replica { .. } => Exit::Refused,
        SnapshotError::Busy(_) | SnapshotError::Conflict(_) => Exit::Conflict,
        SnapshotError::Io { .. }
        | SnapshotError::Etcd(_)
        | SnapshotError::Spool(_)
        | SnapshotError::Internal(_) => Exit::Unexpected,
    };
    Failure::new(exit, format_args!("failed to {error}"))
}
