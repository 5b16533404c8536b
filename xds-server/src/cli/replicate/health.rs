//! Health checks and metrics of a command that runs for long, beside what it does.

use std::net::SocketAddr;

use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
    routing::get,
};
use prometheus::{Registry, TextEncoder, process_collector::ProcessCollector};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    exit::Failure,
    serve::{grpc, http},
};

/// Answers until `stop`; `ready` says whether all is well, and what is to be said about it.
pub fn serve(
    listen: SocketAddr,
    registry: &Registry,
    stop: CancellationToken,
    ready: impl Fn() -> (bool, String) + Clone + Send + Sync + 'static,
) -> Result<JoinHandle<()>, Failure> {
    registry.register(Box::new(ProcessCollector::for_self())).map_err(anyhow::Error::from)?;
    let port = grpc::bind("health.listen", listen).map_err(Failure::usage)?;
    let router = router(registry.clone(), ready);
    Ok(tokio::spawn(async move {
        let _stopped = http::serve(port, router, stop).await;
    }))
}

fn router(registry: Registry, ready: impl Fn() -> (bool, String) + Clone + Send + Sync + 'static) -> Router {
    let ready = move || {
        let (well, said) = ready();
        let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        std::future::ready((status, format!("{said}\n")))
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
