//! The upstream role: sees every attempt with the zone that serves it, and counts it once, when its outcome is known.
//!
//! | what happened | seen as | counts as |
//! |---|---|---|
//! | an answer that came whole | headers, then the end of the stream | ok, or failed by its status |
//! | an answer that is still coming after 3 s | headers, no end | ok; its end then counts for nothing |
//! | an answer cut before that | headers, no end, then done | failed |
//! | no answer: refused, reset, timed out | done without headers | connect failure or failed |
//! | the client went away first | done with the flag for it | nothing |
//!
//! A failing status counts at once, a good one when the body is through: what is lost in speed is nothing, since good
//! answers are no news, and a cut body then counts once. But a zone whose answers never end (watches, events, sockets) must not
//! be one of which only failures are heard: hence the third row, which the [`worker`]'s tick sees to.

use proxy_wasm::{
    traits::{Context, HttpContext},
    types::{Action, MapType},
};
use zonebreak_core::{
    classify::{self, End},
    engine::{Attempt, Outcome},
};

use crate::{host, worker};

/// One attempt.
#[derive(Debug, Default)]
pub struct Upstream {
    attempt: Option<Attempt>,
    status: u16,
}

// === impl Upstream ===

impl HttpContext for Upstream {
    fn on_http_request_headers(&mut self, _num_headers: usize, _end_of_stream: bool) -> Action {
        #[cfg(feature = "test-panic")]
        crate::test_panic::if_asked("upstream");
        let id = host::property(&["xds", "upstream_host_metadata", "filter_metadata", "zonebreak", "id"]);
        let now = host::now_ns();
        self.attempt = match id.and_then(|id| String::from_utf8(id).ok()) {
            Some(id) => worker::with(|w| w.resolve(&id).map(|(s, z)| w.engine.attempt(s, z, now))).flatten(),
            // Endpoints that another control plane emitted: cluster and locality say the same, for one more call.
            None => {
                let cluster = host::text_property(&["xds", "cluster_name"], &["cluster_name"]);
                let zone =
                    host::text_property(&["upstream", "locality", "zone"], &["upstream_locality", "zone"]);
                cluster.zip(zone).and_then(|(cluster, zone)| {
                    worker::with(|w| w.find(&cluster, &zone).map(|(s, z)| w.engine.attempt(s, z, now)))
                        .flatten()
                })
            }
        };
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _num_headers: usize, end_of_stream: bool) -> Action {
        if let Some(attempt) = &mut self.attempt {
            let now = host::now_ns();
            self.status = host::status();
            let good = classify::status(self.status) == Outcome::Ok;
            worker::with(|w| w.answered(attempt, good && !end_of_stream, now));
            if end_of_stream {
                // A gRPC answer without a body carries its status here; plain ones of this shape are few.
                let grpc = host::header(MapType::HttpResponseHeaders, "grpc-status");
                self.answered(grpc.as_deref());
            } else if !good {
                self.answered(None);
            }
        }
        Action::Continue
    }

    fn on_http_response_body(&mut self, _body_size: usize, end_of_stream: bool) -> Action {
        if end_of_stream {
            self.answered(None);
        }
        Action::Continue
    }

    fn on_http_response_trailers(&mut self, _num_trailers: usize) -> Action {
        let grpc = host::header(MapType::HttpResponseTrailers, "grpc-status");
        self.answered(grpc.as_deref());
        Action::Continue
    }
}

impl Context for Upstream {
    fn on_done(&mut self) -> bool {
        if self.attempt.is_some() {
            self.finish(self.unfinished());
        }
        true
    }
}

impl Upstream {
    /// The answer came to its end.
    fn answered(&mut self, grpc_status: Option<&str>) {
        let grpc_status = grpc_status.and_then(|code| code.parse().ok());
        let end = End { status: Some(self.status), grpc_status, complete: true, ..End::default() };
        self.finish(classify::end(&end));
    }

    /// What an attempt was that is over before its answer was.
    fn unfinished(&self) -> Outcome {
        classify::end(&End {
            status: (self.status != 0).then_some(self.status),
            flags: host::int_property(&["response", "flags"]).unwrap_or_default().cast_unsigned(),
            transport_failure: self.is_unconnected(),
            ..End::default()
        })
    }

    /// Whether the attempt never had a connection. One that is refused has a reason for it; one that nobody took up before the time
    /// was out has none, but no near end either.
    fn is_unconnected(&self) -> bool {
        self.status == 0
            && (host::property(&["upstream", "transport_failure_reason"]).is_some()
                || host::property(&["upstream", "local_address"]).is_none())
    }

    fn finish(&mut self, outcome: Outcome) {
        let Some(attempt) = self.attempt.take() else { return };
        let now = host::now_ns();
        worker::with(|w| w.finish(&attempt, outcome, now));
    }
}
