//! Puts the server together, and takes it apart again: what is started here in one order ends in the other.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use zonebreak_topology::{Source, gate::Gate, saved::Saved, watch_etcd, watch_file};
use zonebreak_xds::{ClientStatus, Hub, LoadReporting, Node, Server, ServerOptions, SessionOptions};

use super::{
    admin,
    apply::{self, Live},
    feed, grpc, health, http,
    module::Module,
    nodes::Nodes,
    reload,
    replica::Replica,
    saved::Disk,
    state::{Running, State},
    tls::Tls,
};
use crate::{
    config::{Config, Layers, Requirement},
    exit::{Exit, Failure, Outcome},
    host,
    telemetry::{log, metrics::Metrics},
};

/// How long streams and answers in flight may take to end after SIGTERM. Kubernetes kills after 30 s.
const GRACE: Duration = Duration::from_secs(8);

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// When the configuration cannot be used, a port is taken, or the topology file cannot be read at the start.
pub async fn run(layers: Layers) -> Outcome {
    let effective = layers.load(Requirement::Source).map_err(Failure::usage)?;
    let module = Module::load(&effective.config.filter).map_err(Failure::usage)?.map(Arc::new);
    let config = effective.config.clone();
    let tls = Tls::open(&config.xds).map_err(Failure::usage)?;
    let replicate = config.replicate.enabled.then(|| config.replicate.options());
    let replicate = replicate.transpose().map_err(Failure::usage)?;
    let log = log::start(&config.log);
    let stop = CancellationToken::new();

    // Ports first: a server that cannot be reached should not trouble etcd.
    let xds_port = grpc::bind("xds.listen", config.xds.listen).map_err(Failure::usage)?;
    let admin_port = grpc::bind("admin.listen", config.admin.listen).map_err(Failure::usage)?;
    let health_port = grpc::bind("health.listen", config.health.listen).map_err(Failure::usage)?;
    // As bound: port 0 asks the system for one.
    let at = (address(&xds_port), address(&admin_port), address(&health_port));
    let disk = disk(&config)?;
    let prefix = config.etcd.prefix.to_string();
    let saved = disk.as_ref().and_then(|disk| disk.read(&prefix));
    let source = source(&config, saved.as_ref(), &stop)?;
    let mut gate = Gate::new(config.guard.limits());
    if let Some(saved) = saved {
        gate.remember(saved.topology, saved.saved_at);
    }

    let (news, asked) = mpsc::unbounded_channel();
    let (hub, nodes) = (Hub::new(), Arc::new(Nodes::new(news)));
    let xds = engine(&hub, nodes.clone());
    let metrics = Metrics::new(&xds, !config.etcd.endpoints.is_empty()).map_err(anyhow::Error::from)?;
    let running = Running { effective, module: module.clone(), read_at: Timestamp::now() };
    let (options, options_seen) = watch::channel(Arc::new(apply::options(&config, module.as_deref())));
    let (limits, limits_seen) = watch::channel(config.guard.limits());
    let (said, words) = mpsc::unbounded_channel();
    let (keep, kept) = watch::channel(None);
    let inputs = feed::Inputs {
        topology: source.topology.clone(),
        status: source.status.clone(),
        options: options_seen,
        nodes,
        asked,
        limits: limits_seen,
        words,
        keep: disk.is_some().then_some((keep, prefix)),
        still_true: feed::STILL_TRUE,
        withheld: disk.as_ref().map(|disk| disk.read_quarantine()).unwrap_or_default(),
    };
    let registry = metrics.registry().clone();
    let state = State::new(source, xds, metrics, running, disk.clone(), said);
    let (routes, readiness) = grpc::routes(with_reports(&state, state.xds.routes())).await?;

    let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
    tasks.spawn(http::serve(health_port, health::router(state.clone()), stop.clone()));
    tasks.spawn(http::serve(admin_port, admin::router(state.clone()), stop.clone()));
    tasks.spawn(grpc::serve(xds_port, tls.clone(), routes, stop.clone()));
    tasks.spawn(announce(state.clone(), readiness, stop.clone()));
    tasks.spawn(feed::run(state.clone(), hub, inputs, gate, stop.clone()));
    if let Some(options) = replicate {
        let replica =
            Replica::new(options, config.snapshots.policy(), &registry).map_err(anyhow::Error::from)?;
        state.replicate(replica.clone());
        tasks.spawn(replica.run(stop.clone()));
    } else if config.snapshots.policy().is_some() {
        tracing::info!("no snapshots are taken here: they are beside a replicator alone (replicate.enabled)");
    }
    if let Some(disk) = disk {
        tasks.spawn(disk.keep(kept, stop.clone()));
    }
    let live = Live { state: state.clone(), options, limits, log };
    let (file, shown) = (layers.file.clone(), state.clone());
    let files = move || file.iter().chain(&shown.running().effective.config.filter.file).cloned().collect();
    tasks.spawn(reload::watch(files, move |cause| live.reload(&layers, cause), stop.clone()));
    state.set_listening(true);
    tracing::info!(
        xds = at.0,
        tls = tls.is_some(),
        admin = at.1,
        health = at.2,
        filter = module.as_ref().map(|module| module.sha256.as_str()),
        version = env!("CARGO_PKG_VERSION"),
        "serving"
    );
    if module.is_none() {
        tracing::warn!(
            "no filter is configured: proxies get zones and retries but no breaker; give one with --filter FILE.wasm, or \
             filter.file in the configuration"
        );
    }

    let ended = until_told(&mut tasks).await;
    state.set_listening(false);
    state.xds.drain();
    wind_down(tasks, &stop).await;
    ended.map(|()| Exit::Ok)
}

/// The routes of xDS, with client status and, where they are wanted, load reports.
fn with_reports(state: &Arc<State>, routes: Routes) -> Routes {
    let routes = routes.add_service(ClientStatus::new(&state.xds).into_service());
    let interval = Duration::from_millis(state.running().effective.config.load_reports.interval.0);
    if interval.is_zero() {
        return routes;
    }
    // The routes live in the server, which the state holds: a strong reference would keep both for ever.
    let to = Arc::downgrade(state);
    let reporting = LoadReporting::new(&state.xds, interval, move |node, report| {
        if let Some(state) = to.upgrade() {
            state.report(node, &report);
        }
    });
    state.metrics.load.count_reports(reporting.metrics());
    routes.add_service(reporting.into_service())
}

/// Where the last good state is kept, if anywhere. A topology file is its own.
fn disk(config: &Config) -> Result<Option<Arc<Disk>>, Failure> {
    let directory = config.state.dir.as_ref().filter(|_| config.topology.file.is_none());
    directory.map(|directory| Disk::open(directory)).transpose().map_err(Failure::usage)
}

fn source(config: &Config, saved: Option<&Saved>, stop: &CancellationToken) -> Result<Source, Failure> {
    match &config.topology.file {
        Some(file) => watch_file(file, stop.child_token())
            .map_err(|error| Failure::usage(format_args!("failed to {error}"))),
        None => Ok(watch_etcd(config.etcd.options().map_err(Failure::usage)?, saved, stop.child_token())),
    }
}

fn address(port: &TcpListener) -> String {
    port.local_addr().map_or_else(|error| error.to_string(), |address| address.to_string())
}

/// The engine, with each proxy on the view of the zone that its node names.
fn engine(hub: &Arc<Hub>, nodes: Arc<Nodes>) -> Server {
    let host = host::name().map_or_else(String::new, |host| format!("@{host}"));
    let session =
        SessionOptions { control_plane: format!("zonebreak{host}").into(), ..SessionOptions::default() };
    let view_of = move |node: &Node| {
        let zone = node.locality.as_ref().map_or("", |locality| locality.zone.as_str());
        nodes.view(&node.id, zone)
    };
    let options = ServerOptions { session, max_stream_age: Some(grpc::MAX_AGE), ..ServerOptions::default() };
    Server::new(hub.clone(), view_of, options)
}

/// Waits for a signal, or for a task that ends without being told to.
async fn until_told(tasks: &mut JoinSet<anyhow::Result<()>>) -> Result<(), Failure> {
    let unexpected = |error: &dyn std::fmt::Display| {
        Failure::new(Exit::Unexpected, format_args!("the server ended: {error}"))
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| unexpected(&error))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| unexpected(&error))?;
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: draining streams"),
        _ = interrupt.recv() => tracing::info!("SIGINT: draining streams"),
        Some(ended) = tasks.join_next() => return Err(match ended {
            Ok(Ok(())) => unexpected(&"a part of it stopped by itself"),
            Ok(Err(error)) => unexpected(&format_args!("{error:#}")),
            Err(panic) => unexpected(&panic),
        }),
    }
    Ok(())
}

/// Tells gRPC health clients once the first topology was published.
async fn announce(
    state: Arc<State>,
    readiness: grpc::Readiness,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        () = state.first_publication() => readiness.set(true).await,
    }
    stop.cancelled().await;
    readiness.set(false).await;
    Ok(())
}

/// Ends the streams, then everything else, in at most [`GRACE`].
async fn wind_down(mut tasks: JoinSet<anyhow::Result<()>>, stop: &CancellationToken) {
    stop.cancel();
    let ended = tokio::time::timeout(GRACE, async { while tasks.join_next().await.is_some() {} }).await;
    match ended {
        Ok(()) => tracing::info!("stopped"),
        Err(_) => tracing::warn!(seconds = GRACE.as_secs(), "stopped with connections that would not end"),
    }
}
