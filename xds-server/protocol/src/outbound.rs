//! A stream's responses as the body of an HTTP response: gRPC messages, then the status.
//!
//! It writes when it is asked to, one piece at a time, and keeps no buffer of its own between two responses: tonic's encoder keeps
//! the largest it ever needed, which for a proxy that was sent a thousand services is a megabyte and a half for ever.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::Stream;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use tonic::Status;
use tonic::body::Body;

use crate::codec::Pieces;
use crate::session::Response;

/// The responses of one stream.
struct Outbound<S> {
    responses: Pin<Box<S>>,
    writing: Option<Pieces>,
    over: bool,
}

/// The HTTP response that carries these.
pub(crate) fn carry<S>(responses: S) -> http::Response<Body>
where
    S: Stream<Item = Result<Response, Status>> + Send + 'static,
{
    let body = Outbound { responses: Box::pin(responses), writing: None, over: false };
    let mut response = http::Response::new(Body::new(body));
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

// === impl Outbound ===

impl<S: Stream<Item = Result<Response, Status>>> http_body::Body for Outbound<S> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        loop {
            if let Some(piece) = self.writing.as_mut().and_then(Pieces::next) {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            self.writing = None;
            if self.over {
                return Poll::Ready(None);
            }
            let status = match ready!(self.responses.as_mut().poll_next(context)) {
                Some(Ok(response)) => {
                    self.writing = Some(Pieces::new(response));
                    continue;
                }
                Some(Err(status)) => status,
                None => Status::ok(""),
            };
            self.over = true;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers(&status)))));
        }
    }
}

fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    // Fails for a message that cannot be a header even when it is escaped; then the code alone must do.
    if status.add_header(&mut trailers).is_err() {
        trailers.insert(Status::GRPC_STATUS, HeaderValue::from(status.code() as i32));
    }
    trailers
}
