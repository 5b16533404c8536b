//! How much still fits into a response. gRPC clients end the stream over a message that is longer than they take, and come back to
//! the same.
//!
//! It counts bytes and never chooses what goes first.

/// What is left of a response's bytes.
#[derive(Debug)]
pub(super) struct Room {
    most: usize,
    used: usize,
    limited: bool,
}

// === impl Room ===

impl Room {
    /// For so many bytes at most; where it is not `limited`, for all there is.
    pub(super) fn new(most: usize, limited: bool) -> Self {
        Self { most, used: 0, limited }
    }

    /// Whether so many bytes more fit. Then they count; and the first always do, so that each response brings something.
    pub(super) fn takes(&mut self, bytes: impl FnOnce() -> usize) -> bool {
        if !self.limited {
            return true;
        }
        let bytes = bytes();
        let fits = self.used == 0 || self.used + bytes <= self.most;
        if fits {
            self.used += bytes;
        }
        fits
    }

    /// What an unlimited response of so many bytes leaves to what could go in another one: an eighth at least, or it would never
    /// come to an end where each response repeats the whole state.
    pub(super) fn beside(self, bytes: usize) -> Self {
        if self.limited {
            return self;
        }
        Self { most: self.most.saturating_sub(bytes).max(self.most / 8), used: 0, limited: true }
    }
}
