//! How the hub and the stream treat a session: it is given the snapshots that concern it, and the newest before anything else is.

use std::sync::Arc;
use std::task::Waker;

use crate::interest::{Ear, Index, Interests};
use crate::session::Session;
use crate::snapshot::Snapshot;
use crate::types::StreamId;

pub(super) struct Follower {
    ear: Arc<Ear>,
    index: Index,
    interests: Interests,
    passed_over: bool,
}

impl Follower {
    pub(super) fn new() -> Self {
        Self {
            ear: Ear::new(StreamId(1)),
            index: Index::default(),
            interests: Interests::default(),
            passed_over: false,
        }
    }

    /// Whether the session is given what was just published.
    pub(super) fn is_concerned(&mut self, session: &Session, old: &Snapshot, new: &Snapshot) -> bool {
        // Before the first ring nobody was given anything.
        self.ear.heard(Waker::noop());
        self.index.ring(old, new);
        let rung = self.ear.heard(Waker::noop()).is_some();
        self.passed_over = session.snapshot().is_some() && !rung;
        !self.passed_over
    }

    /// Whether the session is to be given the newest before what comes now.
    pub(super) fn catches_up(&mut self) -> bool {
        std::mem::take(&mut self.passed_over)
    }

    /// After each step.
    pub(super) fn listen(&mut self, session: &mut Session) {
        if let Some(interests) = session.turned() {
            self.index.replace(&self.ear, &self.interests, &interests);
            self.interests = interests;
        }
    }
}
