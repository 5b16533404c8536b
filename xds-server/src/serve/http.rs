//! Serves an HTTP port until it is told to stop, and the few things that both ports share.

use std::net::SocketAddr;

use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const JSON: &str = "application/json";

/// Serves until `stop`, then lets the answers in flight end.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) -> anyhow::Result<()> {
    axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>())
        .with_graceful_shutdown(stop.cancelled_owned())
        .await?;
    Ok(())
}

/// `data` as indented JSON: people read it with curl.
pub fn pretty<T: Serialize>(data: &T) -> Response {
    match serde_json::to_string_pretty(data) {
        Ok(text) => ([(CONTENT_TYPE, JSON)], text + "\n").into_response(),
        Err(error) => {
            problem(StatusCode::INTERNAL_SERVER_ERROR, &format!("failed to write the answer: {error}"))
        }
    }
}

/// An error as JSON, with what to do about it in its words.
pub fn problem(status: StatusCode, message: &str) -> Response {
    let body = serde_json::json!({ "error": message }).to_string() + "\n";
    (status, [(CONTENT_TYPE, JSON)], body).into_response()
}

/// What a wrong path is answered with: the right ones.
pub fn index(title: &str, paths: &[(&str, &str)]) -> String {
    let width = paths.iter().map(|(path, _)| path.len()).max().unwrap_or(0);
    let lines = paths.iter().map(|(path, what)| format!("  {path:width$}  {what}\n"));
    format!("{title}\n{}", lines.collect::<String>())
}
