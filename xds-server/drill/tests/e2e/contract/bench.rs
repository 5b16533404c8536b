//! One proxy behind the server, two backends in each of three zones, and what the filter counted. Asks and reads; the promises stand
//! in the tests.

use std::{collections::BTreeMap, time::Duration};

use zonebreak_drill::{
    embedded::{Embedded, EmbeddedOptions},
    lab::{Backends, Lab, until},
    world::{SERVICE, SOON},
};

/// The zones; the proxy is in the first.
pub const ZONES: [&str; 3] = ["az-a", "az-b", "az-c"];

/// The proxy and what is around it.
pub struct Bench {
    pub lab: Lab,
    pub backends: Backends,
    pub proxy: Embedded,
}

/// What a request came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// The zone that answered; none when the proxy did.
    pub zone: Option<String>,
    /// What the filter decided, where the server is configured to have it told.
    pub decision: Option<String>,
}

// === impl Bench ===

impl Bench {
    pub async fn start(options: EmbeddedOptions) -> Self {
        Self::start_in(Lab::new().unwrap(), options).await
    }

    /// In a lab that has other programs than usual.
    pub async fn start_in(lab: Lab, options: EmbeddedOptions) -> Self {
        let backends = Backends::start(&ZONES, 2).await.unwrap();
        let proxy = Embedded::start(&lab, &backends, options).await.unwrap();
        Self { lab, backends, proxy }
    }

    /// So many requests, one after the other over one connection.
    pub async fn ask(&self, count: usize) -> Vec<Answer> {
        let client = client();
        let mut answers = Vec::with_capacity(count);
        for _ in 0..count {
            answers.push(self.send(&client, &[]).await.unwrap());
        }
        answers
    }

    /// One request with these headers; none when no whole answer came.
    pub async fn send(&self, client: &reqwest::Client, headers: &[(&str, &str)]) -> Option<Answer> {
        send(client, self.proxy.port.address(), headers).await
    }

    /// Attempts that the filter counted, by zone and result, without those that are 0.
    pub async fn attempts(&self) -> BTreeMap<(String, String), u64> {
        let stats = self.proxy.envoy.stats("zonebreak_attempts_total;").await.unwrap();
        let label = |name: &str, label: &str| {
            let from =
                name.split_once(&format!(";{label}=")).unwrap_or_else(|| panic!("no {label} in {name}")).1;
            from.split(';').next().unwrap_or_default().to_owned()
        };
        let counted = stats.into_iter().filter(|(_, value)| *value > 0);
        counted.map(|(name, value)| ((label(&name, "zone"), label(&name, "result")), value)).collect()
    }

    /// Waits until the filter has counted exactly these attempts. A client sees the end of an answer before the filter does, by as
    /// much as its worker waits for a core.
    pub async fn counted(&self, wanted: &BTreeMap<(String, String), u64>) {
        until("the attempts counted", SOON, async || match self.attempts().await {
            found if found == *wanted => Ok(()),
            found => Err(format!("{found:?}, not {wanted:?}")),
        })
        .await
        .unwrap();
    }

    /// A stat of Envoy; 0 when it is not there yet.
    pub async fn stat(&self, name: &str) -> u64 {
        self.proxy.envoy.stat(name).await.unwrap().unwrap_or_default()
    }

    /// Requests that the filter counted by what the client got.
    pub async fn requests(&self, outcome: &str) -> u64 {
        self.stat(&format!("wasmcustom.zonebreak_requests_total;service={SERVICE};outcome={outcome}")).await
    }

    /// Stats of the listener's connection manager.
    pub async fn downstream(&self, name: &str) -> u64 {
        self.stat(&format!("http.zonebreak_{}.{name}", self.proxy.port.number())).await
    }

    /// Requests that reached each zone, without those that none did.
    pub fn reached(&self) -> BTreeMap<String, u64> {
        self.backends.requests().into_iter().filter(|(_, count)| *count > 0).collect()
    }
}

/// One request with these headers to a proxy; none when no whole answer came.
pub async fn send(
    client: &reqwest::Client,
    to: std::net::SocketAddr,
    headers: &[(&str, &str)],
) -> Option<Answer> {
    let mut request = client.get(format!("http://{to}/")).header("host", SERVICE);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.ok()?;
    let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let answer = Answer {
        status: response.status().as_u16(),
        zone: header("x-backend-zone"),
        decision: header("x-zonebreak-decision"),
    };
    response.bytes().await.ok()?;
    Some(answer)
}

/// A client with connections of its own, one for requests that come one after the other.
pub fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().unwrap()
}

/// How many answers came from each zone.
pub fn zones(answers: &[Answer]) -> BTreeMap<&str, usize> {
    let mut zones = BTreeMap::new();
    for answer in answers {
        *zones.entry(answer.zone.as_deref().unwrap_or("none")).or_default() += 1;
    }
    zones
}
