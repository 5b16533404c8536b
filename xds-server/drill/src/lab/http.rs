//! A small client for admin interfaces: JSON and text, with errors that name the address. Not for load.

use std::time::Duration;

use serde::de::DeserializeOwned;

use super::{LabError, error::chain};

/// For one request: an admin interface on the same machine answers in milliseconds, config dumps in a second, and one that waits for a
/// core in several.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A client bound to one base address.
#[derive(Debug, Clone)]
pub struct Http {
    base: String,
    client: reqwest::Client,
}

// === impl Http ===

impl Http {
    /// For `http://host:port`, without a slash at the end.
    pub fn new(base: impl Into<String>) -> Result<Self, LabError> {
        let base = base.into();
        // Labs live on the loopback address; a proxy of the environment has no part in them.
        let client = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build();
        let client =
            client.map_err(|e| LabError::Http { method: "GET", url: base.clone(), why: chain(&e) })?;
        Ok(Self { base, client })
    }

    /// The base address.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// GET, whatever the status: `(status, body)`. `path` may hold a query.
    pub async fn get(&self, path: &str) -> Result<(u16, String), LabError> {
        self.send("GET", self.client.get(format!("{}{path}", self.base)), path).await
    }

    /// GET with `host` as its `Host`, whatever the status: `(status, body)`.
    pub async fn get_as(&self, path: &str, host: &str) -> Result<(u16, String), LabError> {
        let request = self.client.get(format!("{}{path}", self.base)).header(http::header::HOST, host);
        self.send("GET", request, path).await
    }

    /// POST without a body, whatever the status: `(status, body)`.
    pub async fn post(&self, path: &str) -> Result<(u16, String), LabError> {
        self.send("POST", self.client.post(format!("{}{path}", self.base)), path).await
    }

    /// GET of a JSON value; any status but 200 is an error.
    pub async fn json<T: DeserializeOwned>(&self, path: &str) -> Result<T, LabError> {
        let (status, body) = self.get(path).await?;
        let error = |why| LabError::Http { method: "GET", url: format!("{}{path}", self.base), why };
        if status != 200 {
            return Err(error(format!("status {status}: {body}")));
        }
        serde_json::from_str(&body).map_err(|e| error(format!("not the JSON expected: {e}: {body}")))
    }

    async fn send(
        &self,
        method: &'static str,
        request: reqwest::RequestBuilder,
        path: &str,
    ) -> Result<(u16, String), LabError> {
        let error = |e: reqwest::Error| LabError::Http {
            method,
            url: format!("{}{path}", self.base),
            why: chain(&e),
        };
        let response = request.send().await.map_err(error)?;
        let status = response.status().as_u16();
        Ok((status, response.text().await.map_err(error)?))
    }
}
