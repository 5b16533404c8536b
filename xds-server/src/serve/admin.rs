//! The admin port: what the server has loaded and what the proxies have of it, as JSON. Read only; bound to loopback unless
//! an operator says otherwise.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, Query, State as Extract},
    http::StatusCode,
    response::Response,
    routing::get,
};
use serde::Deserialize;

use super::{
    http::{index, pretty, problem},
    state::State,
};
use crate::model::Convergence;

const PATHS: &[(&str, &str)] = &[
    ("/status", "source, filter, proxies, zones, services, refused values"),
    ("/proxies", "every connected proxy and how it stands"),
    ("/proxies/{id}", "one of them, by node.id"),
    ("/topology", "zones, services, endpoints and drains as loaded"),
    ("/problems", "values that were refused"),
    ("/convergence?revision=R", "how many proxies have acknowledged revision R or later"),
];

/// `?revision=R`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    revision: i64,
}

/// The routes.
pub fn router(state: Arc<State>) -> Router {
    Router::new()
        .route("/", get(|| async { index("zonebreak admin (read only)", PATHS) }))
        .route("/status", get(|Extract(state): Extract<Arc<State>>| async move { pretty(&state.status()) }))
        .route("/proxies", get(|Extract(state): Extract<Arc<State>>| async move { pretty(&state.proxies()) }))
        .route("/proxies/{id}", get(proxy))
        .route("/topology", get(topology))
        .route(
            "/problems",
            get(|Extract(state): Extract<Arc<State>>| async move { pretty(&state.problems()) }),
        )
        .route("/convergence", get(convergence))
        .fallback(|| async { (StatusCode::NOT_FOUND, index("there is nothing here; there is", PATHS)) })
        .with_state(state)
}

async fn proxy(Extract(state): Extract<Arc<State>>, Path(id): Path<String>) -> Response {
    match state.proxies().into_iter().find(|proxy| proxy.id == id) {
        Some(proxy) => pretty(&proxy),
        None => problem(
            StatusCode::NOT_FOUND,
            &format!("no proxy with node.id {id:?} is connected; /proxies lists them"),
        ),
    }
}

async fn topology(Extract(state): Extract<Arc<State>>) -> Response {
    match state.applied() {
        Some(applied) => pretty(&super::state::document(&applied.topology)),
        None => problem(StatusCode::SERVICE_UNAVAILABLE, "no topology was loaded yet; /status says why"),
    }
}

async fn convergence(
    Extract(state): Extract<Arc<State>>,
    asked: Result<Query<Asked>, axum::extract::rejection::QueryRejection>,
) -> Response {
    match asked {
        Ok(Query(Asked { revision })) => pretty::<Convergence>(&state.convergence(revision)),
        Err(error) => problem(StatusCode::BAD_REQUEST, &format!("ask as /convergence?revision=42: {error}")),
    }
}
