//! The port for orchestrators and Prometheus: `/livez`, `/readyz`, `/healthz`, `/health` and `/metrics`. Shows conditions,
//! counts and the names of refused values, never the topology itself: it is bound to every address.

use std::sync::Arc;

use axum::{
    Router,
    extract::{RawQuery, State as Extract},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};

use super::{
    checks::{Check, Verdict},
    http::{index, pretty, problem},
    state::State,
};

const PATHS: &[(&str, &str)] = &[
    ("/livez", "whether the process works; depends on nothing else"),
    ("/readyz", "whether proxies are served (?verbose names each part, ?exclude=NAME leaves one out)"),
    ("/healthz", "the same as /readyz, for older probes"),
    ("/health", "the same as JSON, with config_reload_ts"),
    ("/metrics", "Prometheus metrics"),
];

/// The routes.
pub fn router(state: Arc<State>) -> Router {
    Router::new()
        .route("/", get(|| async { index("zonebreak health and metrics", PATHS) }))
        .route(
            "/livez",
            get(|RawQuery(query): RawQuery| async move { verdict("livez", &[], query.as_deref()) }),
        )
        .route("/readyz", get(ready))
        .route("/healthz", get(ready))
        .route("/health", get(summary))
        .route("/metrics", get(metrics))
        .fallback(|| async { (StatusCode::NOT_FOUND, index("there is nothing here; there is", PATHS)) })
        .with_state(state)
}

async fn ready(Extract(state): Extract<Arc<State>>, RawQuery(query): RawQuery) -> Response {
    verdict("readyz", &state.checks(), query.as_deref())
}

async fn summary(Extract(state): Extract<Arc<State>>) -> Response {
    let summary = state.summary();
    let status = if summary.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, pretty(&summary)).into_response()
}

async fn metrics(Extract(state): Extract<Arc<State>>) -> Response {
    match state.metrics.render(&state.status()) {
        Ok(text) => ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            problem(StatusCode::INTERNAL_SERVER_ERROR, &format!("failed to write the metrics: {error}"))
        }
    }
}

/// `?verbose` stands alone in Kubernetes' probes, and `exclude` may come more than once.
fn verdict(probe: &str, checks: &[Check], query: Option<&str>) -> Response {
    let parts = || query.unwrap_or_default().split('&');
    let excluded: Vec<String> =
        parts().filter_map(|part| part.strip_prefix("exclude=")).map(str::to_owned).collect();
    let verbose = parts().any(|part| matches!(part.split('=').next(), Some("verbose")));
    let verdict = Verdict::of(probe, checks, &excluded, verbose);
    let status = if verdict.passed { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, verdict.body).into_response()
}
