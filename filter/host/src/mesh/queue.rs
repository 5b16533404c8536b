//! What is to happen, in the order of time. Two things at the same time happen in the order they were put in.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

/// What is to happen to a request, or the arrival of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    /// A request arrives.
    Arrival,
    /// An attempt of a request comes to its answer, or to its want of one.
    Answer { request: u64, attempt: u32 },
    /// The body of an answer is cut.
    Cut { request: u64 },
    /// The route's timeout.
    Timeout { request: u64 },
    /// The client goes away.
    Leave { request: u64 },
}

/// Events by time.
#[derive(Debug, Default)]
pub(super) struct Queue {
    heap: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    count: u64,
}

// === impl Queue ===

impl Queue {
    pub fn put(&mut self, at: Duration, event: Event) {
        self.count += 1;
        self.heap.push(Reverse((at, self.count, event)));
    }

    /// When the next event is due.
    pub fn next(&self) -> Option<Duration> {
        self.heap.peek().map(|Reverse((at, _, _))| *at)
    }

    pub fn take(&mut self) -> Option<Event> {
        self.heap.pop().map(|Reverse((_, _, event))| event)
    }
}
