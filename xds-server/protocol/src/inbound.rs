//! A stream's requests, out of the body of an HTTP request.
//!
//! A message that came in one piece is decoded where it lies; only one that is cut is put together first, and that memory is
//! given back with it. So a stream costs nothing between two requests, however long its first one was. It answers nothing.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, BodyDataStream};
use bytes::{Buf, Bytes};
use futures::Stream;
use tonic::{Code, Status};

use crate::session::Heard;
use crate::types::Protocol;

/// gRPC's length prefix: a flag and four bytes (PROTOCOL-HTTP2.md, "Length-Prefixed-Message").
const PREFIX: usize = 5;

/// The requests of one stream.
pub(crate) struct Inbound {
    protocol: Protocol,
    /// The longest message that is read, in bytes.
    limit: usize,
    data: BodyDataStream,
    /// What came last and was not read yet.
    whole: Bytes,
    /// The beginning of a message that was cut.
    partial: Vec<u8>,
}

// === impl Inbound ===

impl Inbound {
    pub(crate) fn new(protocol: Protocol, limit: usize, body: Body) -> Self {
        Self { protocol, limit, data: body.into_data_stream(), whole: Bytes::new(), partial: Vec::new() }
    }

    /// The next request; `None` when the client has closed its side or is gone.
    ///
    /// # Errors
    /// When the bytes are no request, or more than the limit.
    pub(crate) fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Heard>, Status>> {
        loop {
            if let Some(request) = self.take()? {
                return Poll::Ready(Ok(Some(request)));
            }
            match ready!(Pin::new(&mut self.data).poll_next(context)) {
                Some(Ok(bytes)) => self.whole = bytes,
                Some(Err(error)) => {
                    let status = Status::from_error(Box::new(error));
                    let gone = status.code() == Code::Cancelled;
                    return Poll::Ready(if gone { Ok(None) } else { Err(status) });
                }
                None if self.partial.is_empty() => return Poll::Ready(Ok(None)),
                None => {
                    return Poll::Ready(Err(Status::internal(
                        "the client closed its side in the middle of a message",
                    )));
                }
            }
        }
    }

    /// A request, if all of it is there.
    fn take(&mut self) -> Result<Option<Heard>, Status> {
        if self.partial.is_empty() {
            if let Some(len) = self.announced(&self.whole)?
                && self.whole.len() >= PREFIX + len
            {
                self.whole.advance(PREFIX);
                let message = self.whole.split_to(len);
                return self.read(message).map(Some);
            }
            self.partial.extend_from_slice(&std::mem::take(&mut self.whole));
            return Ok(None);
        }
        // The prefix itself may have been cut.
        self.fill(PREFIX);
        let Some(len) = self.announced(&self.partial)? else { return Ok(None) };
        // What was announced and never comes is not touched either, and so costs nothing.
        self.partial.reserve_exact((PREFIX + len).saturating_sub(self.partial.len()));
        self.fill(PREFIX + len);
        if self.partial.len() < PREFIX + len {
            return Ok(None);
        }
        let message = Bytes::from(std::mem::take(&mut self.partial));
        self.read(message.slice(PREFIX..)).map(Some)
    }

    /// Moves bytes until the cut message has so many, or there are no more.
    fn fill(&mut self, len: usize) {
        let missing = len.saturating_sub(self.partial.len()).min(self.whole.len());
        self.partial.extend_from_slice(&self.whole.split_to(missing));
    }

    /// The length that a message says it has, once its prefix is there.
    fn announced(&self, bytes: &[u8]) -> Result<Option<usize>, Status> {
        let &[flag, a, b, c, d, ..] = bytes else { return Ok(None) };
        if flag != 0 {
            return Err(Status::unimplemented("the message is compressed, which this server does not read"));
        }
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        if len > self.limit {
            return Err(Status::out_of_range(format!(
                "the message has {len} bytes, and this server reads at most {}",
                self.limit
            )));
        }
        Ok(Some(len))
    }

    fn read(&self, message: Bytes) -> Result<Heard, Status> {
        Heard::read(self.protocol, message).map_err(|error| {
            let protocol = self.protocol;
            Status::invalid_argument(format!("the message is not a {protocol} discovery request: {error}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
    use prost::Message;

    use super::*;

    impl Inbound {
        async fn message(&mut self) -> Result<Option<Heard>, Status> {
            std::future::poll_fn(|context| self.poll_message(context)).await
        }
    }

    fn framed(name: &str) -> Vec<u8> {
        let request = DeltaDiscoveryRequest { type_url: name.into(), ..Default::default() };
        let message = request.encode_to_vec();
        [&[0], &(message.len() as u32).to_be_bytes()[..], &message].concat()
    }

    fn inbound(bytes: &[u8], cut: usize) -> Inbound {
        let parts: Vec<_> =
            bytes.chunks(cut).map(|part| Ok::<_, Status>(Bytes::copy_from_slice(part))).collect();
        Inbound::new(Protocol::Delta, 1000, Body::from_stream(futures::stream::iter(parts)))
    }

    #[tokio::test]
    async fn requests_are_read_whole_however_their_bytes_are_cut() {
        let bytes = [framed("a"), framed(&"b".repeat(900)), framed("")].concat();
        for cut in [1, 4, 5, 6, 7, 100, bytes.len()] {
            let mut inbound = inbound(&bytes, cut);
            for expected in ["a", &"b".repeat(900), ""] {
                let request = inbound.message().await.unwrap().unwrap();
                assert_eq!(request.type_url(), expected, "cut by {cut}");
                assert_eq!(inbound.partial.capacity().min(1), usize::from(!inbound.partial.is_empty()));
            }
            assert!(inbound.message().await.unwrap().is_none());
        }
    }

    #[tokio::test]
    async fn what_is_no_request_ends_the_stream_with_a_status_that_says_why() {
        let code = async |bytes: &[u8]| inbound(bytes, 3).message().await.unwrap_err().code();
        assert_eq!(code(&[0, 0, 0, 0, 2, 0xff, 0xff]).await, Code::InvalidArgument);
        assert_eq!(code(&[1, 0, 0, 0, 0]).await, Code::Unimplemented);
        assert_eq!(code(&[0, 0, 0, 4, 0]).await, Code::OutOfRange, "refused before it is sent");
        assert_eq!(code(&framed("abc")[..6]).await, Code::Internal, "cut off");
    }
}
