//! How attempts and requests end: answers come or do not, are tried again or passed on, and each end is counted as what it
//! was.

use std::time::Duration;

use super::{End, Mesh, fault::Answer, flight::Flight, queue::Event};
use crate::{
    Crashed,
    proxy::FilterStream,
    vm::{DOWNSTREAM_GONE, Headers, StreamInfo},
};

/// From the headers of an answer to the cut of its body.
const UNTIL_CUT: Duration = Duration::from_millis(20);
/// Bytes of an answer's body.
const BODY: u32 = 512;
/// Retries at once that no budget forbids (`retry_budget.min_retry_concurrency`).
const RETRIES_AT_ONCE: usize = 3;

/// What is left of an attempt once its answer has come.
pub(super) enum Heard {
    /// An answer to pass on.
    Answer(u16),
    /// An answer with a gRPC status in its trailers.
    Grpc(u16),
    /// None: the router answers in its stead, with this status.
    Nothing(u16),
}

// === impl Mesh ===

impl Mesh {
    pub(super) fn answer(&mut self, request: u64, attempt: u32) {
        let Some(flight) = self.flights.get(&request).filter(|flight| flight.attempts == attempt) else {
            return;
        };
        let Some(current) = &flight.attempt else { return };
        match current.answer {
            Answer::Cut => self.begin_cut(request),
            Answer::Status(status) => self.hear(request, Heard::Answer(status)),
            Answer::Grpc(status) => self.hear(request, Heard::Grpc(status)),
            Answer::Reset => self.hear(request, Heard::Nothing(503)),
            Answer::Refused => {
                if let Some(stream) = &current.stream {
                    stream.update(|info| info.transport_failure = Some("remote connection failure"));
                }
                self.hear(request, Heard::Nothing(503));
            }
            Answer::Never => {}
        }
    }

    /// The upstream filter sees what there is of an answer; then it is tried again or passed on.
    fn hear(&mut self, request: u64, heard: Heard) {
        let Some(flight) = self.flights.get_mut(&request) else { return };
        let Some(attempt) = flight.attempt.take() else { return };
        let failed = match heard {
            Heard::Answer(status) | Heard::Nothing(status) => status >= 500,
            Heard::Grpc(_) => false,
        };
        let (tries, retrying) = (flight.attempts, flight.retrying);
        let again = failed && tries <= self.setup.retries && (retrying || self.may_retry());
        let passed = match attempt.stream {
            Some(stream) => upstream_answer(stream, &heard, again),
            None => true,
        };
        let bad = failed || matches!(heard, Heard::Grpc(status) if status != 0);
        let truth = self.record.attempt(attempt.began, attempt.zone);
        truth.ok += u64::from(!bad);
        truth.failed += u64::from(bad);
        truth.refused += u64::from(attempt.answer == Answer::Refused);
        if !passed {
            self.crash(request);
        } else if again {
            self.retry(request);
        } else {
            self.finish(request, heard);
        }
    }

    /// The retry budget: a part of the active requests, and a few in any case.
    fn may_retry(&self) -> bool {
        let budget = (self.setup.retry_budget * self.flights.len() as f64) as usize;
        self.retrying < budget.max(RETRIES_AT_ONCE)
    }

    fn retry(&mut self, request: u64) {
        self.record.retries += 1;
        if let Some(flight) = self.flights.get_mut(&request).filter(|flight| !flight.retrying) {
            flight.retrying = true;
            self.retrying += 1;
        }
        self.attempt(request);
    }

    /// The answer, or the router's own in its want, goes back through the downstream filter chain.
    pub(super) fn finish(&mut self, request: u64, heard: Heard) {
        let Some(flight) = self.take(request) else { return };
        let (status, grpc) = match heard {
            Heard::Answer(status) | Heard::Nothing(status) => (status, None),
            Heard::Grpc(status) => (200, Some(status)),
        };
        let passed = flight.downstream.is_none_or(|stream| answer_through(stream, status, grpc));
        let end = if status < 500 { End::Answered } else { End::Failed };
        self.count_end(if passed { end } else { End::Crashed });
    }

    /// The headers of an answer pass, and its body never ends.
    fn begin_cut(&mut self, request: u64) {
        let now = self.now();
        let Some(flight) = self.flights.get(&request) else { return };
        let streams = flight.attempt.iter().filter_map(|a| a.stream.as_ref()).chain(&flight.downstream);
        for stream in streams {
            let mut headers = Headers::from([(":status", "200")]);
            let passed =
                stream.response_headers(&mut headers, false).and_then(|_| stream.response_body(BODY, false));
            if passed.is_err() {
                return self.crash(request);
            }
        }
        self.queue.put(now + UNTIL_CUT, Event::Cut { request });
    }

    pub(super) fn time_out(&mut self, request: u64) {
        let Some(flight) = self.flights.get_mut(&request) else { return };
        if let Some(attempt) = flight.attempt.take() {
            self.record.attempt(attempt.began, attempt.zone).failed += 1;
            if attempt.stream.is_some_and(|stream| stream.close().is_err()) {
                return self.crash(request);
            }
        }
        self.finish(request, Heard::Nothing(504));
    }

    pub(super) fn leave(&mut self, request: u64) {
        self.end_attempt(request, End::Left, |info| info.flags = DOWNSTREAM_GONE);
    }

    /// A request ends with no answer, or no whole one: both roles see their stream end, whatever the attributes then say.
    pub(super) fn end_attempt(&mut self, request: u64, end: End, change: impl Fn(&mut StreamInfo)) {
        let Some(flight) = self.take(request) else { return };
        let mut passed = true;
        if let Some(attempt) = flight.attempt {
            let truth = self.record.attempt(attempt.began, attempt.zone);
            truth.left += u64::from(end == End::Left);
            truth.failed += u64::from(end != End::Left);
            if let Some(stream) = attempt.stream {
                stream.update(&change);
                passed &= stream.close().is_ok();
            }
        }
        if let Some(stream) = flight.downstream {
            stream.update(&change);
            passed &= stream.close().is_ok();
        }
        self.count_end(if passed || end == End::Left { end } else { End::Crashed });
    }

    /// The VM of a request's worker has crashed: it ends with 503, and no filter is called any more.
    pub(super) fn crash(&mut self, request: u64) {
        if self.take(request).is_some() {
            self.count_end(End::Crashed);
        }
    }

    fn take(&mut self, request: u64) -> Option<Flight> {
        let flight = self.flights.remove(&request)?;
        self.retrying -= usize::from(flight.retrying);
        Some(flight)
    }

    pub(super) fn count_end(&mut self, end: End) {
        self.record.end(self.now(), end);
    }
}

/// The upstream filter sees an answer, as far as the router lets it: one that is tried again ends with its headers.
fn upstream_answer(stream: FilterStream, heard: &Heard, again: bool) -> bool {
    let passed = match heard {
        Heard::Nothing(_) => Ok(()),
        Heard::Answer(status) => {
            let mut headers = Headers::from([(":status", status.to_string().as_str())]);
            let passed = stream.response_headers(&mut headers, false);
            if again {
                passed.map(drop)
            } else {
                passed.and_then(|_| stream.response_body(BODY, true)).map(drop)
            }
        }
        Heard::Grpc(status) => with_trailers(&stream, *status),
    };
    passed.and_then(|()| stream.close()).is_ok()
}

/// The downstream filter sees an answer to its end.
fn answer_through(stream: FilterStream, status: u16, grpc: Option<u16>) -> bool {
    let passed = match grpc {
        Some(grpc) => with_trailers(&stream, grpc),
        None => {
            let mut headers = Headers::from([(":status", status.to_string().as_str())]);
            let passed = stream.response_headers(&mut headers, false);
            passed.and_then(|_| stream.response_body(BODY, true)).map(drop)
        }
    };
    passed.and_then(|()| stream.close()).is_ok()
}

fn with_trailers(stream: &FilterStream, grpc_status: u16) -> Result<(), Crashed> {
    let mut headers = Headers::from([(":status", "200"), ("content-type", "application/grpc")]);
    stream.response_headers(&mut headers, false)?;
    stream.response_body(BODY, false)?;
    let mut trailers = Headers::from([("grpc-status", grpc_status.to_string().as_str())]);
    stream.response_trailers(&mut trailers).map(drop)
}
