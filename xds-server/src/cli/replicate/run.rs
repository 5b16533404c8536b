//! `zonebreak replicate run`: the replicator as a process, with its health and metrics beside it.

use std::path::PathBuf;

use prometheus::Registry;
use tokio_util::sync::CancellationToken;
use zonebreak_replication::{
    Metrics,
    snapshot::keeper::{self, KeeperMetrics},
    spool::Spool,
};

use super::{StreamArgs, failure, health};
use crate::{
    cli::signal,
    config::Override,
    exit::{Exit, Failure, Outcome},
    telemetry::log,
};

/// The flags of `zonebreak replicate run`.
#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    #[command(flatten)]
    stream: StreamArgs,
    /// Directory of the change log, for this stream alone [default: /var/lib/zonebreak/spool].
    #[arg(long, value_name = "DIR")]
    spool: Option<String>,
    /// Health checks and metrics [default: 0.0.0.0:19001].
    #[arg(long, value_name = "ADDRESS:PORT")]
    health: Option<String>,
    /// Make a destination that holds other keys, or the state of another source, what this source has.
    #[arg(long)]
    overwrite: bool,
    /// Put a damaged spool aside and begin an empty one.
    #[arg(long)]
    reset_spool: bool,
}

/// Runs the command.
pub async fn run(args: RunArgs) -> Outcome {
    let more = [("--spool", "replicate.spool_dir", &args.spool), ("--health", "health.listen", &args.health)];
    let more = more
        .into_iter()
        .filter_map(|(flag, path, value)| Some(Override { flag, path, value: value.clone()? }));
    let config = args.stream.load(more.collect())?;
    let mut options = config.replicate.options().map_err(Failure::usage)?;
    options.overwrite = args.overwrite;
    log::start(&config.log);
    if args.reset_spool {
        Spool::reset(&PathBuf::from(&options.spool)).map_err(|error| failure(error.into()))?;
    }
    let registry = Registry::new();
    let metrics = Metrics::new(&registry).map_err(anyhow::Error::from)?;
    let stop = CancellationToken::new();
    let ready = metrics.clone();
    let served = health::serve(config.health.listen, &registry, stop.clone(), move || {
        let (state, whole) = ready.state();
        (whole, state.to_owned())
    })?;
    tracing::info!(health = %config.health.listen, stream = options.stream, "replicating");
    tokio::spawn(signal::stop(stop.clone()));
    if let Some(policy) = config.snapshots.policy() {
        let kept = KeeperMetrics::new(&registry).map_err(anyhow::Error::from)?;
        tokio::spawn(keeper::keep(policy, options.clone(), metrics.clone(), kept, stop.clone()));
    }
    let ended = zonebreak_replication::run(options, metrics, stop.clone()).await;
    stop.cancel();
    let _stopped = served.await;
    ended.map_err(failure)?;
    Ok(Exit::Ok)
}
