//! How many streams are brought up at once. When a server starts, or another one ends, the whole fleet connects; all of it at once
//! would have every proxy wait for the last one. Places are given in the order of asking, so nobody is overtaken.
//!
//! A stream takes a place before it gets its first snapshot, and gives it back when it has acknowledged all of that, goes away,
//! or has had it for [`PATIENCE`]: a client that answers slowly, or never, holds up nobody for longer. What a stream that has
//! been admitted is sent from then on is nobody's to hold up.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::clock::now;

/// How long a stream may take for its first sync before the next one is let in: what a proxy needs to compile a filter, and
/// little enough that a thousand deaf clients delay a fleet by seconds and not for ever.
const PATIENCE: Duration = Duration::from_secs(1);

/// The places of one server.
#[derive(Debug)]
pub(crate) struct Admission {
    places: Arc<Semaphore>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    waiting: AtomicU64,
    inside: AtomicU64,
}

/// Where one stream stands.
pub(crate) enum Entrance {
    /// It has not said who it is, or was admitted and is done.
    Open,
    /// It asked for a place.
    Waiting(Pin<Box<dyn Future<Output = Place> + Send>>),
    /// It has one.
    Inside(Place),
}

/// A place taken.
pub(crate) struct Place {
    _permit: Option<OwnedSemaphorePermit>,
    until: Instant,
    _inside: Counted,
}

/// One more in a count, until dropped.
struct Counted(Arc<Counts>, fn(&Counts) -> &AtomicU64);

// === impl Admission ===

impl Admission {
    /// With so many places, at least one.
    pub(crate) fn new(places: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(places.clamp(1, Semaphore::MAX_PERMITS))),
            counts: Arc::default(),
        }
    }

    /// Asks for a place.
    pub(crate) fn enter(&self) -> Entrance {
        let (places, counts) = (self.places.clone(), self.counts.clone());
        let waiting = Counted::new(&counts, |counts| &counts.waiting);
        Entrance::Waiting(Box::pin(async move {
            // The semaphore is never closed; if it were, waiting for it would be wrong.
            let permit = places.acquire_owned().await.ok();
            drop(waiting);
            let inside = Counted::new(&counts, |counts| &counts.inside);
            Place { _permit: permit, until: now() + PATIENCE, _inside: inside }
        }))
    }

    /// Streams that wait for a place.
    pub(crate) fn waiting(&self) -> u64 {
        self.counts.waiting.load(Relaxed)
    }

    /// Streams that have one.
    pub(crate) fn inside(&self) -> u64 {
        self.counts.inside.load(Relaxed)
    }
}

// === impl Entrance ===

impl Entrance {
    /// Waits for the place, if one was asked for. Safe to cancel: the place in the queue stays.
    pub(crate) async fn admitted(&mut self) {
        if let Self::Waiting(place) = self {
            *self = Self::Inside(place.await);
        }
    }

    /// When the place is given back at the latest.
    pub(crate) fn until(&self) -> Option<Instant> {
        match self {
            Self::Inside(place) => Some(place.until),
            Self::Open | Self::Waiting(_) => None,
        }
    }

    /// Gives the place back if the stream is done with it at `now`.
    pub(crate) fn leave_if(&mut self, now: Instant, done: impl FnOnce() -> bool) {
        if self.until().is_some_and(|until| until <= now || done()) {
            *self = Self::Open;
        }
    }
}

// === impl Counted ===

impl Counted {
    fn new(counts: &Arc<Counts>, which: fn(&Counts) -> &AtomicU64) -> Self {
        which(counts).fetch_add(1, Relaxed);
        Self(counts.clone(), which)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.1)(&self.0).fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn places_are_given_in_the_order_of_asking_and_back_when_done() {
        let admission = Admission::new(1);
        let (mut one, mut two, mut three) = (admission.enter(), admission.enter(), admission.enter());
        one.admitted().await;
        for later in [&mut two, &mut three] {
            assert!(futures::poll!(Box::pin(later.admitted())).is_pending());
        }
        assert_eq!((admission.inside(), admission.waiting()), (1, 2));
        one.leave_if(Instant::now(), || false);
        assert!(futures::poll!(Box::pin(two.admitted())).is_pending(), "it is not done");
        one.leave_if(Instant::now(), || true);
        assert!(futures::poll!(Box::pin(three.admitted())).is_pending(), "the second came first");
        two.admitted().await;
        // A client that never answers gives its place back all the same, and so does one that goes away in the queue.
        two.leave_if(Instant::now() + PATIENCE, || false);
        three.admitted().await;
        let gone = admission.enter();
        drop((three, gone));
        assert_eq!((admission.inside(), admission.waiting()), (0, 0));
        let mut four = admission.enter();
        four.admitted().await;
    }
}
