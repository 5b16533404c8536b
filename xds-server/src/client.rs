//! Asks a running server's admin port. Reads, but for the one thing that can be told it: see [`AdminClient::post`].

use std::time::Duration;

use reqwest::RequestBuilder;
use serde::{Serialize, de::DeserializeOwned};

use crate::exit::{Exit, Failure};

/// The server answers from memory: what takes longer than this is not there.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A client of one server.
#[derive(Debug, Clone)]
pub struct AdminClient {
    base: String,
    http: reqwest::Client,
}

/// Why the server gave no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Nobody answered.
    #[error("failed to reach the server at {base}: {why}")]
    Unreachable {
        /// Its admin URL.
        base: String,
        /// Why.
        why: String,
    },
    /// It said no.
    #[error("failed to get {path} from the server at {base}: {body} (HTTP {status})")]
    Status {
        /// Its admin URL.
        base: String,
        /// What was asked.
        path: String,
        /// The status.
        status: u16,
        /// Its words.
        body: String,
    },
    /// Something that is not ours answered.
    #[error("{base}{path} did not answer as a zonebreak server: {why}")]
    Answer {
        /// The URL.
        base: String,
        /// What was asked.
        path: String,
        /// What is wrong with the answer.
        why: String,
    },
}

// === impl AdminClient ===

impl AdminClient {
    /// A client of the server whose admin URL is `base`, such as `http://127.0.0.1:19000`.
    ///
    /// # Errors
    /// When the URL is none, or the client cannot be built.
    pub fn new(base: &str) -> Result<Self, Failure> {
        let base = base.trim_end_matches('/').to_owned();
        if !base.starts_with("http://") {
            return Err(Failure::usage(format_args!(
                "the server is named as http://host:port, not {base:?}"
            )));
        }
        let http = reqwest::Client::builder().timeout(ANSWER_TIMEOUT).build();
        let http =
            http.map_err(|e| Failure::new(Exit::Unexpected, format_args!("failed to build a client: {e}")))?;
        Ok(Self { base, http })
    }

    /// The admin URL.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// GETs `path` (with its query) and reads the JSON.
    ///
    /// # Errors
    /// When nobody answers, or not what was asked for.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, AdminError> {
        self.answer(path, self.http.get(format!("{}{path}", self.base))).await
    }

    /// GETs `path` with these parameters and reads the JSON.
    ///
    /// # Errors
    /// When nobody answers, or not what was asked for.
    pub async fn get_with<T: DeserializeOwned>(
        &self,
        path: &str,
        parameters: &[(&str, &str)],
    ) -> Result<T, AdminError> {
        self.answer(path, self.http.get(format!("{}{path}", self.base)).query(parameters)).await
    }

    /// POSTs `data` as JSON to `path` and reads the JSON that comes back.
    ///
    /// # Errors
    /// When nobody answers, or not what was asked for.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        data: &impl Serialize,
    ) -> Result<T, AdminError> {
        self.answer(path, self.http.post(format!("{}{path}", self.base)).json(data)).await
    }

    async fn answer<T: DeserializeOwned>(
        &self,
        path: &str,
        request: RequestBuilder,
    ) -> Result<T, AdminError> {
        let base = self.base.clone();
        let answer = request.send().await;
        let answer = answer
            .map_err(|error| AdminError::Unreachable { base: base.clone(), why: root_cause(&error) })?;
        let status = answer.status();
        if !status.is_success() {
            let body = said(answer.text().await.unwrap_or_default().trim());
            return Err(AdminError::Status { base, path: path.to_owned(), status: status.as_u16(), body });
        }
        answer.json().await.map_err(|error| AdminError::Answer {
            base,
            path: path.to_owned(),
            why: root_cause(&error),
        })
    }
}

/// The words in an answer that is no success.
fn said(body: &str) -> String {
    #[derive(serde::Deserialize)]
    struct Problem {
        error: String,
    }
    serde_json::from_str(body).map_or_else(|_| body.to_owned(), |problem: Problem| problem.error)
}

/// The innermost reason: "connection refused" rather than "error sending request".
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

// === impl AdminError ===

impl From<AdminError> for Failure {
    fn from(error: AdminError) -> Self {
        match error {
            AdminError::Unreachable { .. } => Self::new(Exit::Unreachable, error).hint(
                "is `zonebreak serve` running? name its admin port with --server URL or $ZONEBREAK_SERVER",
            ),
            // The list of its paths, which a server's health port answers every other one with.
            AdminError::Status { status: 404, base, body, .. }
                if body.contains("/readyz") && !body.contains("/status") =>
            {
                let message =
                    format!("failed to ask {base}: it is a health port, which has no other answers");
                Self::usage(message)
                    .hint("name the server's admin port, 19000 unless configured: --server URL or $ZONEBREAK_SERVER")
            }
            AdminError::Status { status: 404, .. } => Self::new(Exit::CheckFailed, error),
            AdminError::Status { .. } | AdminError::Answer { .. } => Self::new(Exit::Unexpected, error),
        }
    }
}
