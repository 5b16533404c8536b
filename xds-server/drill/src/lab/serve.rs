//! The HTTP side of a backend: accepts, answers, and breaks as its fault says. Keeps no fault of its own; see `backend.rs`.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    Fault,
    backend::{BackendState, ZoneState},
    wait::POLL,
};

const ZONE: HeaderName = HeaderName::from_static("x-backend-zone");
const ID: HeaderName = HeaderName::from_static("x-backend-id");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Headers that Zonebreak's filter uses inside Envoy; one of them at a backend is a leak.
const INTERNAL_PREFIX: &str = "x-zonebreak-";

/// What a body that will be cut promises, and what is sent of it.
const CUT_PROMISED: usize = 4096;
const CUT_SENT: usize = 1024;

/// More than a queue for one holds.
const OCCUPANTS: usize = 8;

/// Between the first part of a body and the reset, so that the part is not thrown away with the connection.
const CUT_AFTER: Duration = Duration::from_millis(20);

/// How HTTP/2 without TLS begins, as far as no request of HTTP/1 does.
const PREFACE: &[u8] = b"PRI";

type Body = BoxBody<Bytes, io::Error>;

/// Serves one backend until its task is dropped. `listener` is the first one; later ones, after [`Fault::Refuse`] or
/// [`Fault::Unreachable`], are bound to the same address.
pub(super) async fn run(backend: Arc<BackendState>, mut listener: TcpListener, address: SocketAddr) {
    let mut faults = backend.faults();
    loop {
        let connections = CancellationToken::new();
        let _cut = connections.clone().drop_guard();
        tokio::select! {
            () = accept(&listener, &backend, &connections) => {}
            () = faults.until(is_closed) => {}
        }
        drop(listener);
        connections.cancel();
        while is_closed(backend.fault()) {
            let fault = backend.fault();
            let _full = if fault == Fault::Unreachable { Some(occupy(address).await) } else { None };
            faults.until(|now| now != fault).await;
        }
        listener = bind(address).await;
    }
}

fn is_closed(fault: Fault) -> bool {
    matches!(fault, Fault::Refuse | Fault::Unreachable)
}

/// Listens, accepts nobody, and keeps the queue full: Linux drops the packets of whoever knocks then.
async fn occupy(address: SocketAddr) -> (TcpListener, JoinSet<io::Result<TcpStream>>) {
    let listener = loop {
        match TcpSocket::new_v4().and_then(|socket| {
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            socket.listen(1)
        }) {
            Ok(listener) => break listener,
            Err(_) => tokio::time::sleep(POLL).await,
        }
    };
    let mut queue = JoinSet::new();
    for _ in 0..OCCUPANTS {
        queue.spawn(TcpStream::connect(address));
    }
    (listener, queue)
}

/// Connections of the time before a refusal linger for a moment, hence the second look; the port is ours.
async fn bind(address: SocketAddr) -> TcpListener {
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

async fn accept(listener: &TcpListener, backend: &Arc<BackendState>, connections: &CancellationToken) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (backend, cut) = (Arc::clone(backend), connections.clone());
                tokio::spawn(async move {
                    // A connection that ends badly has ended: the fault wanted it so, or the client is gone.
                    let _ = cut.run_until_cancelled(serve(stream, backend)).await;
                });
            }
            // Out of file descriptors, or a client that was gone before it was accepted: the next one may fare better.
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

async fn serve(stream: TcpStream, backend: Arc<BackendState>) -> Result<(), hyper::Error> {
    // A close becomes a reset: what a crash looks like. Nothing is lost otherwise, because a healthy backend never closes
    // first.
    let _ = stream.set_zero_linger();
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| answer(request, Arc::clone(&backend)));
    if speaks_http2(&stream).await {
        http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await
    } else {
        http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
    }
}

/// Waits for the first bytes, and leaves them where they are.
async fn speaks_http2(stream: &TcpStream) -> bool {
    let mut first = [0; PREFACE.len()];
    loop {
        match stream.peek(&mut first).await {
            Ok(seen) if (1..PREFACE.len()).contains(&seen) && PREFACE.starts_with(&first[..seen]) => {
                tokio::time::sleep(POLL).await;
            }
            Ok(_) => return first == PREFACE,
            Err(_) => return false,
        }
    }
}

async fn answer(request: Request<Incoming>, backend: Arc<BackendState>) -> Result<Response<Body>, io::Error> {
    observe(request.headers(), &backend);
    let grpc = is_grpc(request.headers());
    let fault = backend.fault();
    let (status, body) = match fault {
        Fault::None => (StatusCode::OK, whole("ok\n")),
        Fault::Status { status, fraction } if fastrand::f64() < fraction => {
            (StatusCode::from_u16(status).map_err(io::Error::other)?, whole("broken\n"))
        }
        Fault::Status { .. } => (StatusCode::OK, whole("ok\n")),
        Fault::Delay(time) => {
            tokio::time::sleep(time).await;
            (StatusCode::OK, whole("ok\n"))
        }
        // An error makes hyper close the connection without an answer. A request that was accepted just before the refusal
        // meets the same end.
        Fault::Refuse | Fault::Unreachable | Fault::ResetBeforeHeaders => {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Fault::CutBody => (StatusCode::OK, cut_body()),
        Fault::Endless => (StatusCode::OK, endless_body()),
        Fault::Grpc(status) => (StatusCode::OK, body_with_trailers(status)),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(ZONE, backend.zone_header().clone());
    headers.insert(ID, backend.id_header().clone());
    if fault == Fault::CutBody {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(CUT_PROMISED));
    }
    if grpc {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        if !matches!(fault, Fault::Grpc(_) | Fault::Endless) {
            // gRPC carries its outcome beside HTTP's: 14 is UNAVAILABLE.
            let status = if status == StatusCode::OK { "0" } else { "14" };
            headers.insert(GRPC_STATUS, HeaderValue::from_static(status));
        }
    }
    Ok(response)
}

fn observe(headers: &HeaderMap, backend: &BackendState) {
    let zone: &ZoneState = backend.zone();
    backend.requests.fetch_add(1, Ordering::Relaxed);
    zone.timeline.record(Instant::now());
    for name in headers.keys().filter(|name| name.as_str().starts_with(INTERNAL_PREFIX)) {
        zone.leaked(name.as_str());
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    kind.starts_with(b"application/grpc")
}

fn whole(text: &'static str) -> Body {
    Full::new(Bytes::from_static(text.as_bytes())).map_err(|never: Infallible| match never {}).boxed()
}

fn endless_body() -> Body {
    let part = stream::once(async { Ok(Frame::data(Bytes::from_static(b"event\n"))) });
    BodyExt::boxed(StreamBody::new(part.chain(stream::pending())))
}

fn body_with_trailers(grpc_status: u32) -> Body {
    let trailers = HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from(grpc_status))]);
    let parts = [Frame::data(Bytes::from_static(b"answer\n")), Frame::trailers(trailers)];
    BodyExt::boxed(StreamBody::new(stream::iter(parts.map(Ok))))
}

fn cut_body() -> Body {
    let part = stream::once(async { Ok(Frame::data(Bytes::from_static(&[b'x'; CUT_SENT]))) });
    let cut = stream::once(async {
        tokio::time::sleep(CUT_AFTER).await;
        Err(io::Error::from(io::ErrorKind::ConnectionReset))
    });
    BodyExt::boxed(StreamBody::new(part.chain(cut)))
}
