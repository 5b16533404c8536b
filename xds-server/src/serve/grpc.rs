//! The port where proxies connect: xDS, with the standard gRPC health and reflection services beside it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures::TryStreamExt;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::{ServingStatus, server::HealthReporter};
use zonebreak_xds::{TransportOptions, service_names};

use super::tls::Tls;

/// The aggregated service, whose health is that of the server as a whole.
const ADS: &str = "envoy.service.discovery.v3.AggregatedDiscoveryService";

/// The services beside those of discovery that reflection names. The descriptors of xDS are Envoy's
/// (`envoy/service/*/v3/*.proto`) and are not carried here, so `grpcurl list` works and `grpcurl describe` needs `-import-path`.
const BESIDE: [&str; 5] = [
    "envoy.service.load_stats.v3.LoadReportingService",
    "envoy.service.status.v3.ClientStatusDiscoveryService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// How old a connection and its streams may get before proxies open new ones, perhaps to a server that came later. Nothing is
/// sent again when they do.
pub const MAX_AGE: Duration = Duration::from_secs(30 * 60);

/// Tells gRPC health clients whether proxies are served. `NOT_SERVING` until the first topology was loaded.
#[derive(Debug, Clone)]
pub struct Readiness(HealthReporter);

// === impl Readiness ===

impl Readiness {
    /// Reports `ready` for the server as a whole and for ADS.
    pub async fn set(&self, ready: bool) {
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in ["", ADS] {
            self.0.set_service_status(service, status).await;
        }
    }
}

/// Everything that the port serves: `xds` and the standard services.
///
/// # Errors
/// When the descriptors of the standard services, which are compiled in, cannot be read.
pub async fn routes(xds: Routes) -> anyhow::Result<(Routes, Readiness)> {
    let reporter = HealthReporter::new();
    let health = tonic_health::pb::health_server::HealthServer::new(
        tonic_health::server::HealthService::from_health_reporter(reporter.clone()),
    );
    let reflection = || {
        let builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
        service_names().chain(BESIDE).fold(builder, |builder, service| builder.with_service_name(service))
    };
    let routes = xds
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    let readiness = Readiness(reporter);
    readiness.set(false).await;
    Ok((routes, readiness))
}

/// Serves until `stop`, with TLS if given, then lets the connections end.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    routes: Routes,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let transport = TransportOptions { max_connection_age: Some(MAX_AGE), ..TransportOptions::default() };
    let incoming = transport.incoming(listener);
    let router = transport.server().add_routes(routes);
    let stopped = stop.cancelled_owned();
    match tls {
        None => router.serve_with_incoming_shutdown(incoming, stopped).await?,
        Some(tls) => {
            let secured = tls.secure(incoming).map_ok(move |stream| transport.watch(stream));
            router.serve_with_incoming_shutdown(secured, stopped).await?;
        }
    }
    Ok(())
}

/// Binds a port, saying which setting names it when that fails.
///
/// # Errors
/// When the address is taken or not ours.
pub fn bind(setting: &str, address: SocketAddr) -> Result<TcpListener, std::io::Error> {
    zonebreak_xds::listen(address).map_err(|error| {
        std::io::Error::new(error.kind(), format!("failed to listen on {address} ({setting}): {error}"))
    })
}
