//! How a backend can be broken. Describes; the server in `serve.rs` carries it out.

use std::time::Duration;

/// What is wrong with a backend or a zone.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Fault {
    /// Nothing: 200 at once.
    #[default]
    None,
    /// Answers `status` to this fraction of the requests (0 to 1, by an independent coin for each), 200 to the rest.
    Status {
        /// The status to answer.
        status: u16,
        /// How many of the requests are hit, 0 to 1.
        fraction: f64,
    },
    /// Answers 200, but this much later.
    Delay(Duration),
    /// Nobody listens, and open connections are cut: what a killed backend looks like.
    Refuse,
    /// Nobody takes up a connection, and open ones are cut: what packets that are lost look like.
    Unreachable,
    /// Takes the request and resets the connection before the first byte of an answer.
    ResetBeforeHeaders,
    /// Answers 200 with a body that is cut off in the middle by a reset.
    CutBody,
    /// Answers 200 with a body that begins and never ends: a watch, an event stream.
    Endless,
    /// Answers 200 with this gRPC status in the trailers, which HTTP/2 has.
    Grpc(u32),
}

// === impl Fault ===

impl Fault {
    /// Every request answered with 503.
    pub const HARD: Self = Self::Status { status: 503, fraction: 1.0 };

    /// This fraction of the requests answered with 503.
    pub const fn gray(fraction: f64) -> Self {
        Self::Status { status: 503, fraction }
    }
}
