//! A request on its way. Data.

use std::time::Duration;

use super::fault::Answer;
use crate::{proxy::FilterStream, vm::Headers};

/// A request between its arrival and its end.
pub(super) struct Flight {
    pub worker: usize,
    /// When the route's timeout strikes.
    pub deadline: Duration,
    pub headers: Headers,
    /// The subset key that `header_to_metadata` took from the filter's header.
    pub key: Option<String>,
    pub downstream: Option<FilterStream>,
    pub attempt: Option<Attempt>,
    pub attempts: u32,
    /// Priorities of the attempts so far.
    pub tried: Vec<u8>,
    /// It counts against the retry budget.
    pub retrying: bool,
}

/// The attempt under way.
pub(super) struct Attempt {
    pub stream: Option<FilterStream>,
    pub zone: usize,
    pub began: Duration,
    pub answer: Answer,
}
