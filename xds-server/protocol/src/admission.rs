//! How many streams are brought up at once. When a server starts, or another one ends, the whole fleet connects; all of it at once
//! would have every proxy wait for the last one. Places are given in the order of asking, so nobody is overtaken.
//!
//! A stream takes a place before it gets its first snapshot, as soon as there is one, and gives it back when it has acknowledged all of that, goes away,
//! or has had it for [`PATIENCE`]: a client that answers slowly, or never, holds up nobody for longer. What a stream that has
//! been admitted is sent from then on is nobody's to hold up.
//!
//! A stream runs only while its client reads. So the place is not the stream's: a small task waits for it and holds it, for
//! [`PATIENCE`] at most, and the stream only says when it is done.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{Semaphore, oneshot};

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
#[derive(Debug)]
pub(crate) enum Entrance {
    /// It has not said who it is, or was admitted and is done.
    Open,
    /// There is nothing to give it yet, and so nothing to take a place for.
    Early,
    /// It asked for a place.
    Waiting(oneshot::Receiver<()>, Stay),
    /// It has one, or had it for as long as anybody may.
    Inside(Stay),
}

/// A stream's interest in its place, or in its turn: given up by dropping it.
type Stay = oneshot::Sender<Infallible>;

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

    /// Asks for a place. Only within a runtime.
    pub(crate) fn enter(&self) -> Entrance {
        let counts = self.counts.clone();
        let waiting = Counted::new(&counts, |counts| &counts.waiting);
        let (stay, mut gone) = oneshot::channel::<Infallible>();
        let (admit, admitted) = oneshot::channel();
        let mut place = Box::pin(self.places.clone().acquire_owned());
        // Asked for once here, so that places are given in the order of coming and not of the tasks' beginning.
        let at_once = tokio::task::coop::unconstrained(&mut place).now_or_never();
        tokio::spawn(async move {
            // The semaphore is never closed; if it were, waiting for it would be wrong.
            let place = match at_once {
                Some(place) => place.ok(),
                None => tokio::select! {
                    place = place => place.ok(),
                    _ = &mut gone => return,
                },
            };
            drop(waiting);
            let _inside = Counted::new(&counts, |counts| &counts.inside);
            // Fails when the stream is gone, which the next line notices.
            _ = admit.send(());
            // Either the stream is done or its time is.
            _ = tokio::time::timeout(PATIENCE, gone).await;
            drop(place);
        });
        Entrance::Waiting(admitted, stay)
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
    /// Waits for the place, if one was asked for.
    pub(crate) fn poll_admitted(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Self::Waiting(admitted, _) = self {
            // Who admits goes away without a word only with the whole runtime.
            _ = ready!(Pin::new(admitted).poll(context));
            if let Self::Waiting(_, stay) = std::mem::replace(self, Self::Open) {
                *self = Self::Inside(stay);
            }
        }
        Poll::Ready(())
    }

    pub(crate) fn is_early(&self) -> bool {
        matches!(self, Self::Early)
    }

    /// Whether it is to be given nothing yet.
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self, Self::Early | Self::Waiting(..))
    }

    /// Gives the place back if the stream is done with it; asks only one that has it still.
    pub(crate) fn leave_if(&mut self, done: impl FnOnce() -> bool) {
        if let Self::Inside(stay) = self
            && (stay.is_closed() || done())
        {
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

    impl Entrance {
        async fn admitted(&mut self) {
            std::future::poll_fn(|context| self.poll_admitted(context)).await;
        }
    }

    /// Lets the tasks that hold places come to rest.
    async fn settle() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn places_are_given_in_the_order_of_asking_and_back_when_done() {
        let admission = Admission::new(1);
        let (mut one, mut two, mut three) = (admission.enter(), admission.enter(), admission.enter());
        one.admitted().await;
        settle().await;
        for later in [&mut two, &mut three] {
            assert!(futures::poll!(Box::pin(later.admitted())).is_pending());
        }
        assert_eq!((admission.inside(), admission.waiting()), (1, 2));
        one.leave_if(|| false);
        settle().await;
        assert!(futures::poll!(Box::pin(two.admitted())).is_pending(), "it is not done");
        one.leave_if(|| true);
        settle().await;
        assert!(futures::poll!(Box::pin(three.admitted())).is_pending(), "the second came first");
        two.admitted().await;
        // One that goes away, from within and from the queue, leaves nothing behind.
        let gone = admission.enter();
        drop((two, gone));
        three.admitted().await;
        drop(three);
        settle().await;
        assert_eq!((admission.inside(), admission.waiting()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn streams_that_nobody_drives_give_their_places_back_in_time() {
        let admission = Admission::new(1);
        // Neither is ever looked at again: their clients do not read.
        let deaf = [admission.enter(), admission.enter()];
        let mut other = admission.enter();
        let asked = tokio::time::Instant::now();
        other.admitted().await;
        let waited = asked.elapsed();
        assert!(waited >= 2 * PATIENCE && waited < 3 * PATIENCE, "{waited:?}");
        drop(deaf);
    }
}
