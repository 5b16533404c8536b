//! A closed loop: a few kept connections, each sending its next request when the last was answered. For CPU per request, where
//! only the number of requests counts; for failures see `lab::Load`.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinSet};

use crate::{lab::LabError, world::SERVICE};

/// What a call between services carries: a filter pays for headers by the piece.
const HEADERS: [(HeaderName, &str); 7] = [
    (header::HOST, SERVICE),
    (header::USER_AGENT, "order-client/2.3"),
    (header::ACCEPT, "application/json"),
    (header::ACCEPT_ENCODING, "gzip"),
    (header::AUTHORIZATION, "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJkZW1vIn0.c2lnbmF0dXJl"),
    (HeaderName::from_static("traceparent"), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    (HeaderName::from_static("x-tenant"), "demo"),
];

/// Kept connections to one proxy.
pub(crate) struct ClosedLoop {
    target: SocketAddr,
    senders: Vec<SendRequest<Empty<Bytes>>>,
}

// === impl ClosedLoop ===

impl ClosedLoop {
    pub(crate) async fn connect(target: SocketAddr, connections: usize) -> Result<Self, LabError> {
        let mut senders = Vec::with_capacity(connections);
        for _ in 0..connections {
            let stream =
                TcpStream::connect(target).await.map_err(LabError::io(format!("connect to {target}")))?;
            let _ = stream.set_nodelay(true);
            let (sender, connection) =
                handshake(TokioIo::new(stream)).await.map_err(|e| failure(target, &e))?;
            // Its end shows in the sender.
            tokio::spawn(connection);
            senders.push(sender);
        }
        Ok(Self { target, senders })
    }

    /// Sends `requests`, spread evenly over the connections, and returns every latency. An answer other than 200 is an
    /// error: a benchmark of failures measures something else.
    pub(crate) async fn send(&mut self, requests: usize) -> Result<Vec<Duration>, LabError> {
        let target = self.target;
        let each = requests.div_ceil(self.senders.len());
        let mut tasks = JoinSet::new();
        for sender in self.senders.drain(..) {
            tasks.spawn(run(sender, target, each));
        }
        let mut latencies = Vec::with_capacity(requests);
        while let Some(ended) = tasks.join_next().await {
            let (sender, some) = ended.map_err(|e| failure(target, &e))??;
            self.senders.push(sender);
            latencies.extend(some);
        }
        Ok(latencies)
    }
}

type Run = (SendRequest<Empty<Bytes>>, Vec<Duration>);

async fn run(
    mut sender: SendRequest<Empty<Bytes>>,
    target: SocketAddr,
    count: usize,
) -> Result<Run, LabError> {
    let mut latencies = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        sender.ready().await.map_err(|e| failure(target, &e))?;
        let response = sender.send_request(request()).await.map_err(|e| failure(target, &e))?;
        let status = response.status();
        response.into_body().collect().await.map_err(|e| failure(target, &e))?;
        if status != StatusCode::OK {
            return Err(failure(target, &std::io::Error::other(format!("status {status}"))));
        }
        latencies.push(start.elapsed());
    }
    Ok((sender, latencies))
}

fn request() -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = http::Uri::from_static("/orders/42?fields=all");
    for (name, value) in HEADERS {
        request.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    request
}

fn failure(target: SocketAddr, error: &dyn std::error::Error) -> LabError {
    LabError::Http { method: "GET", url: format!("http://{target}/"), why: error.to_string() }
}
