//! What an answer, or the want of one, says about the zone it came from. Reads codes; counts nothing.
//!
//! The question is never whether a request went well for the caller, but whether *another zone would have answered better*:
//!
//! | seen | counts as | since |
//! |---|---|---|
//! | 1xx, 2xx, 3xx, 4xx | ok | a 404 is an answer; the next zone has the same |
//! | 429 | answered | the service asks for less, wherever it is asked; the caller hears it, with its `retry-after` |
//! | 501, 505 | answered | the next zone has not implemented it either |
//! | 500, 502, 503, 504 and other 5xx | failed | |
//! | 503 with `retry-after` | failed | this zone has no room, another may; the caller hears it if none has |
//! | gRPC 2 UNKNOWN, 4 DEADLINE_EXCEEDED, 13 INTERNAL, 14 UNAVAILABLE, 15 DATA_LOSS | failed | the server's troubles |
//! | gRPC 8 RESOURCE_EXHAUSTED, 12 UNIMPLEMENTED | answered | a 429, a 501 |
//! | gRPC 1 CANCELLED | neutral | the caller's will |
//! | all other gRPC codes | ok | the caller's mistakes, answered |
//!
//! *Answered* is neutral as well, but for a zone on trial: that it answers is what was to be found out.
//!
//! The flags are Envoy's `%RESPONSE_FLAGS%` as a number (`envoy/stream_info/stream_info.h`, `CoreResponseFlag`). A client that
//! went away (HTTP/1 closes its connection, HTTP/2 and so gRPC reset their stream), and what this proxy did to the request itself
//! (faults, aborts, limits, overload, no route), says nothing about a zone. Nor does the end of an answer that had begun well and
//! that this proxy cut, being idle or too long for its settings; where none had begun, that was a time-out. A request
//! for which there was no host or no room ([`flag::NO_ATTEMPT`]) is a failure of the zone that was chosen for it
//! ([`crate::engine::Engine::chosen`]), as no upstream filter sees it.

use crate::engine::Outcome;

/// Everything known about an attempt, or a request, that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct End {
    /// HTTP status, if there were response headers.
    pub status: Option<u16>,
    /// gRPC status: the header or trailer `grpc-status` as the service sent it. (The attribute of that name is no substitute: Envoy
    /// makes one up where there is none.)
    pub grpc_status: Option<u32>,
    /// Envoy's response flags.
    pub flags: u64,
    /// The answer came to its end.
    pub complete: bool,
    /// There is a transport failure reason: no connection was made.
    pub transport_failure: bool,
}

/// Envoy's response flags, as far as they matter here.
pub mod flag {
    /// UH: no healthy host.
    pub const NO_HEALTHY_UPSTREAM: u64 = 1 << 1;
    /// UT: no answer in time.
    pub const UPSTREAM_TIMEOUT: u64 = 1 << 2;
    /// UF: no connection.
    pub const CONNECTION_FAILURE: u64 = 1 << 5;
    /// UO: no room in the pool.
    pub const OVERFLOW: u64 = 1 << 7;
    /// NR: no route.
    pub const NO_ROUTE: u64 = 1 << 8;
    /// DI: delayed on purpose.
    pub const DELAY_INJECTED: u64 = 1 << 9;
    /// FI: failed on purpose.
    pub const FAULT_INJECTED: u64 = 1 << 10;
    /// RL: over a rate limit.
    pub const RATE_LIMITED: u64 = 1 << 11;
    /// UAEX: refused by an authorization service.
    pub const UNAUTHORIZED: u64 = 1 << 12;
    /// RLSE: the rate limit service failed.
    pub const RATE_LIMIT_SERVICE: u64 = 1 << 13;
    /// DC: the client closed its connection.
    pub const DOWNSTREAM_GONE: u64 = 1 << 14;
    /// SI: nothing moved on the stream for too long.
    pub const STREAM_IDLE: u64 = 1 << 16;
    /// IH: a header for Envoy that it refuses.
    pub const INVALID_HEADERS: u64 = 1 << 17;
    /// DPE: the client broke the protocol.
    pub const DOWNSTREAM_PROTOCOL: u64 = 1 << 18;
    /// UMSDR: the attempt took longer than is allowed (`max_stream_duration`).
    pub const UPSTREAM_DURATION: u64 = 1 << 19;
    /// NFCF: a filter has no configuration.
    pub const NO_FILTER_CONFIG: u64 = 1 << 21;
    /// DT: the request took longer than is allowed.
    pub const DURATION: u64 = 1 << 22;
    /// NC: no cluster.
    pub const NO_CLUSTER: u64 = 1 << 24;
    /// OM: this proxy is overloaded.
    pub const OVERLOAD_MANAGER: u64 = 1 << 25;
    /// DO: dropped, as the control plane asks of a share (`drop_overloads`).
    pub const DROPPED: u64 = 1 << 27;
    /// DR: the client reset its stream.
    pub const DOWNSTREAM_RESET: u64 = 1 << 28;
    /// UDO: dropped, as the control plane asks of all.
    pub const ALL_DROPPED: u64 = 1 << 29;

    /// There was no attempt that anyone upstream could see: no host to be had, or no room in the pool.
    pub const NO_ATTEMPT: u64 = NO_HEALTHY_UPSTREAM | OVERFLOW;
    /// What this proxy or its client did: no zone is to blame.
    pub const NOT_THE_ZONE: u64 = NO_ROUTE
        | FAULT_INJECTED
        | RATE_LIMITED
        | UNAUTHORIZED
        | RATE_LIMIT_SERVICE
        | DOWNSTREAM_GONE
        | INVALID_HEADERS
        | DOWNSTREAM_PROTOCOL
        | NO_FILTER_CONFIG
        | NO_CLUSTER
        | OVERLOAD_MANAGER
        | DROPPED
        | DOWNSTREAM_RESET
        | ALL_DROPPED;
    /// The client, or this proxy's own limits, ended it on the way.
    pub const CUT_SHORT: u64 =
        DOWNSTREAM_GONE | DOWNSTREAM_RESET | STREAM_IDLE | UPSTREAM_DURATION | DURATION;
}

/// gRPC's word for 503.
pub const UNAVAILABLE: u32 = 14;

/// gRPC's word for 429.
pub const RESOURCE_EXHAUSTED: u32 = 8;

/// Methods whose requests may be sent twice (RFC 9110, 9.2.2): what may be retried after it may have arrived, and what may be
/// the request that finds a zone still broken.
pub const IDEMPOTENT_METHODS: [&str; 6] = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"];

/// What it says about the zone.
pub fn end(end: &End) -> Outcome {
    if end.flags & flag::CUT_SHORT != 0 && end.status.map(status) == Some(Outcome::Ok) {
        return Outcome::Answered;
    }
    if end.flags & flag::NOT_THE_ZONE != 0 {
        return Outcome::Neutral;
    }
    match (end.status, end.grpc_status) {
        _ if end.flags & flag::CONNECTION_FAILURE != 0 || (end.status.is_none() && end.transport_failure) => {
            Outcome::ConnectFailed
        }
        (None, _) => Outcome::Failed,
        (Some(code), grpc) => match (status(code), grpc) {
            // Cut midway: the status promised what did not come.
            (Outcome::Ok, _) if !end.complete => Outcome::Failed,
            (Outcome::Ok, Some(code)) => grpc_status(code),
            (outcome, _) => outcome,
        },
    }
}

/// What an HTTP status says.
pub const fn status(status: u16) -> Outcome {
    match status {
        429 | 501 | 505 => Outcome::Answered,
        500.. => Outcome::Failed,
        _ => Outcome::Ok,
    }
}

/// What a gRPC status says (numbers from `grpc/doc/statuscodes.md`).
pub const fn grpc_status(status: u32) -> Outcome {
    match status {
        2 | 4 | 13 | 14 | 15 => Outcome::Failed,
        8 | 12 => Outcome::Answered,
        1 => Outcome::Neutral,
        _ => Outcome::Ok,
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    /// The rows that were measured on a real Envoy, in the reference's order.
    #[test]
    fn the_measured_endings_are_told_apart() {
        let answer = |status| End { status: Some(status), complete: true, ..End::default() };
        let flagged = |status, flags| End { flags, ..answer(status) };
        for (what, seen, outcome) in [
            ("upstream 503", answer(503), Outcome::Failed),
            ("connect refused, local reply", flagged(503, 32), Outcome::ConnectFailed),
            (
                "connect refused, no reply",
                End { transport_failure: true, ..End::default() },
                Outcome::ConnectFailed,
            ),
            ("closed before headers", flagged(503, 64), Outcome::Failed),
            ("garbage", flagged(502, 8_388_608), Outcome::Failed),
            ("route timeout", flagged(504, 4), Outcome::Failed),
            ("cut midway", End { complete: false, ..answer(200) }, Outcome::Failed),
            ("no host", flagged(503, 2), Outcome::Failed),
            ("pool overflow", flagged(503, 128), Outcome::Failed),
            ("no route", flagged(404, 256), Outcome::Neutral),
            ("client gone", End { flags: 16_384, ..End::default() }, Outcome::Neutral),
            ("stream reset by the client", End { flags: 1 << 28, ..End::default() }, Outcome::Neutral),
            (
                "the same in the middle of an answer",
                End { status: Some(200), flags: 1 << 28, ..End::default() },
                Outcome::Answered,
            ),
            (
                "the same in the middle of a bad one",
                End { status: Some(503), flags: 1 << 28, ..End::default() },
                Outcome::Neutral,
            ),
            ("idle before an answer", End { flags: 1 << 16, ..End::default() }, Outcome::Failed),
            (
                "idle in the middle of one",
                End { status: Some(200), flags: 1 << 16, ..End::default() },
                Outcome::Answered,
            ),
            ("too long", End { status: Some(200), flags: 1 << 22, ..End::default() }, Outcome::Answered),
            ("a client's mistake", flagged(400, 1 << 18), Outcome::Neutral),
            ("rate limit service", flagged(500, 1 << 13), Outcome::Neutral),
            ("proxy overloaded", flagged(503, 1 << 25), Outcome::Neutral),
            ("dropped", flagged(503, 1 << 27), Outcome::Neutral),
            ("all dropped", flagged(503, 1 << 29), Outcome::Neutral),
            ("injected abort", flagged(503, 1_024), Outcome::Neutral),
            ("injected delay", flagged(200, 512), Outcome::Ok),
            ("rate limited by the service", answer(429), Outcome::Answered),
            ("not found", answer(404), Outcome::Ok),
            ("gRPC unavailable", End { grpc_status: Some(14), ..answer(200) }, Outcome::Failed),
            ("gRPC not found", End { grpc_status: Some(5), ..answer(200) }, Outcome::Ok),
            ("gRPC exhausted", End { grpc_status: Some(8), ..answer(200) }, Outcome::Answered),
            ("gRPC cancelled", End { grpc_status: Some(1), ..answer(200) }, Outcome::Neutral),
        ] {
            assert_eq!(end(&seen), outcome, "{what}");
        }
    }
}
