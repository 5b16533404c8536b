//! A client that speaks HTTP/2, as gRPC does: what it lets go of it resets. Sends and reads; the promises stand in the tests.

use std::{collections::BTreeMap, net::SocketAddr};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use zonebreak_drill::world::SERVICE;

/// One connection.
pub struct Client(http2::SendRequest<Empty<Bytes>>);

/// An answer that has begun.
pub type Answer = http::Response<Incoming>;

// === impl Client ===

impl Client {
    pub async fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).await.unwrap();
        let builder = http2::Builder::new(TokioExecutor::new());
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
        // It ends with the client.
        tokio::spawn(connection);
        Self(sender)
    }

    /// Opens a stream; to drop the future, or the answer, is to reset it.
    pub fn send(&mut self, headers: &[(&str, &str)]) -> BoxFuture<'static, hyper::Result<Answer>> {
        let mut request = Request::get(format!("http://{SERVICE}/"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Box::pin(self.0.send_request(request.body(Empty::new()).unwrap()))
    }

    /// A gRPC call, to its end: the status in the trailers, if they came.
    pub async fn call(&mut self) -> Option<String> {
        let answer = self.send(&[("content-type", "application/grpc"), ("te", "trailers")]).await.unwrap();
        let whole = answer.into_body().collect().await.unwrap();
        let status = whole.trailers()?.get("grpc-status")?;
        Some(status.to_str().unwrap().to_owned())
    }

    /// Requests at once, each read to its end: how many were answered with which status.
    pub async fn flood(&mut self, count: usize) -> BTreeMap<u16, usize> {
        let requests: Vec<_> = (0..count).map(|_| self.send(&[])).collect();
        let mut statuses = BTreeMap::new();
        for answer in futures::future::join_all(requests).await {
            let answer = answer.unwrap();
            *statuses.entry(answer.status().as_u16()).or_default() += 1;
            answer.into_body().collect().await.unwrap();
        }
        statuses
    }
}
