//! How connections are kept honest: signs of life, an end to those that never speak, a bound on what one may open.
//!
//! It configures tonic and watches a connection's first bytes; TLS and addresses are set on what it returns. What a single
//! stream may cost is [`crate::ServerOptions`]' matter.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Sleep, sleep};
use tonic::transport::server::Connected;

use crate::gather::Gather;

/// What a client of HTTP/2 sends before anything else (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How many connections may wait to be accepted. A fleet that lost its server comes back all at once, and what finds no room waits
/// a second or more to try again. The kernel has a limit of its own (net.core.somaxconn, 4,096 unless changed).
const BACKLOG: u32 = 65_535;

/// Listens at an address, with room for a whole fleet that connects in the same moment.
///
/// # Errors
/// When the address is taken or not ours.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // As tokio's own `bind` does: what a server that just ended leaves behind is no obstacle.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// How connections are looked after.
#[derive(Clone, Debug)]
pub struct TransportOptions {
    /// How long a silent connection is trusted before it is asked for a sign of life. 30 s: half of the shortest idle timeout
    /// that load balancers on the way usually have.
    pub keepalive: Duration,
    /// How long that sign may take. 10 s.
    pub keepalive_timeout: Duration,
    /// How long a new connection may take to begin HTTP/2. 10 s.
    pub handshake_timeout: Duration,
    /// How many streams one connection may have open at once: 1,024. A proxy that uses the per-type services has about ten.
    pub max_streams: u32,
    /// After how long a connection is told to open its next stream elsewhere, so that proxies spread over servers that came
    /// later. Its streams end by themselves, those of load reports too: give [`crate::ServerOptions::max_stream_age`] the same.
    /// `None`: never.
    pub max_connection_age: Option<Duration>,
}

/// A connection that fails unless HTTP/2 begins in time, and that writes what its streams say together in one piece.
#[derive(Debug)]
pub struct Punctual<S = TcpStream> {
    stream: S,
    /// What is missing of the preface, and until when.
    missing: &'static [u8],
    until: Option<Pin<Box<Sleep>>>,
    /// Once HTTP/2 has begun, where nothing lies between it and this connection.
    gather: Option<Box<Gather>>,
    /// Whether what began is something else, such as TLS.
    veiled: bool,
}

// === impl TransportOptions ===

impl Default for TransportOptions {
    fn default() -> Self {
        Self {
            keepalive: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(10),
            max_streams: 1024,
            max_connection_age: None,
        }
    }
}

impl TransportOptions {
    /// A tonic server with these settings: add the routes, and TLS if wanted.
    pub fn server(&self) -> tonic::transport::Server {
        let server = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(self.keepalive))
            .http2_keepalive_timeout(Some(self.keepalive_timeout))
            .max_concurrent_streams(self.max_streams);
        match self.max_connection_age {
            Some(age) => server.max_connection_age(age),
            None => server,
        }
    }

    /// The listener's connections, each of which fails unless it begins in time. Nothing is delayed to fill packets: a small
    /// change is one small frame. A connection that cannot be accepted is skipped.
    pub fn incoming(&self, listener: TcpListener) -> impl Stream<Item = io::Result<Punctual>> + use<> {
        let options = self.clone();
        let accepted = futures::stream::unfold(listener, |listener| async {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => return Some((stream, listener)),
                    // Out of descriptors, or gone before it was accepted: neither is a reason to stop listening.
                    Err(error) => {
                        tracing::warn!(%error, "failed to accept a connection");
                        sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        });
        accepted.map(move |stream| {
            let _ = stream.set_nodelay(true);
            Ok(options.watch(stream))
        })
    }

    /// A connection that fails unless its client begins in time: for one that has come through a handshake of TLS.
    pub fn watch<S>(&self, stream: S) -> Punctual<S> {
        let until = Some(Box::pin(sleep(self.handshake_timeout)));
        Punctual { stream, missing: PREFACE, until, gather: None, veiled: false }
    }
}

// === impl Punctual ===

impl<S: Connected> Connected for Punctual<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> S::ConnectInfo {
        self.stream.connect_info()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Punctual<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(gather) = &mut self.gather {
            gather.turn();
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if !self.missing.is_empty() {
            let came = buffer.filled().get(before..).unwrap_or_default();
            let (expected, missing) = self.missing.split_at(came.len().min(self.missing.len()));
            self.veiled |= !came.starts_with(expected);
            self.missing = missing;
            if missing.is_empty() {
                self.until = None;
                self.gather = (!self.veiled).then(Box::default);
            } else if read.is_pending()
                && let Some(until) = &mut self.until
                && until.as_mut().poll(context).is_ready()
            {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "HTTP/2 did not begin in time",
                )));
            }
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Punctual<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { stream, gather, .. } = self.get_mut();
        match gather {
            Some(gather) => gather.poll_write(Pin::new(stream), context, slices),
            None => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, gather, .. } = self.get_mut();
        match gather {
            Some(gather) => gather.poll_flush(Pin::new(stream), context),
            None => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, gather, .. } = self.get_mut();
        if let Some(gather) = gather {
            ready!(gather.poll_out(Pin::new(stream), context))?;
        }
        Pin::new(stream).poll_shutdown(context)
    }
}
