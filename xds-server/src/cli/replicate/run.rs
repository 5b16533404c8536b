//! `zonebreak replicate run`: the replicator as a process, with its health and metrics beside it.

use std::path::PathBuf;

use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
    routing::get,
};
use prometheus::{Registry, TextEncoder};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use zonebreak_replication::{
    Metrics,
    snapshot::keeper::{self, KeeperMetrics},
    spool::Spool,
};

use super::{StreamArgs, failure};
use crate::{
    config::Override,
    exit::{Exit, Failure, Outcome},
    serve::{grpc, http},
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
    let process = prometheus::process_collector::ProcessCollector::for_self();
    registry.register(Box::new(process)).map_err(anyhow::Error::from)?;
    let port = grpc::bind("health.listen", config.health.listen).map_err(Failure::usage)?;
    tracing::info!(health = %config.health.listen, stream = options.stream, "replicating");
    let stop = CancellationToken::new();
    tokio::spawn(stop_on_signal(stop.clone()));
    let served = tokio::spawn(http::serve(port, router(registry.clone(), metrics.clone()), stop.clone()));
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

fn router(registry: Registry, metrics: Metrics) -> Router {
    let ready = move || {
        let (state, whole) = metrics.state();
        let status = if whole { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        std::future::ready((status, format!("{state}\n")))
    };
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready.clone()))
        .route("/healthz", get(ready))
        .route("/metrics", get(move || std::future::ready(render(&registry))))
}

fn render(registry: &Registry) -> Response {
    match TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(text) => ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            http::problem(StatusCode::INTERNAL_SERVER_ERROR, &format!("failed to write the metrics: {error}"))
        }
    }
}

pub(super) async fn stop_on_signal(stop: CancellationToken) {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stop.cancel();
}
