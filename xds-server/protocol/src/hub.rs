//! Where publishers put snapshots and streams find them.
//!
//! Reading never waits for a lock. A publication replaces all its views in one step and wakes the streams that what changed
//! concerns ([`crate::interest`]). A *trial* gives other snapshots to a few chosen streams, until the next publication or trial: the rest see what they
//! saw. The hub never builds, orders or sends anything, and chooses nobody.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use arc_swap::ArcSwap;

use crate::interest::{Ear, Ears, Index, Interests};
use crate::snapshot::Snapshot;
use crate::types::{ChangeId, StreamId, ViewKey};

#[cfg(test)]
mod tests;

/// The current snapshot of every view.
#[derive(Debug, Default)]
pub struct Hub {
    current: ArcSwap<Current>,
    /// Who follows which view. Its lock also puts publications in a row.
    followers: Mutex<HashMap<ViewKey, Followers>>,
}

/// The streams that follow a view.
#[derive(Debug, Default)]
struct Followers {
    all: Ears,
    index: Index,
    /// Publications since all of them were woken.
    passed_over: u32,
}

/// What streams get.
#[derive(Clone, Debug, Default)]
struct Current {
    views: Arc<Views>,
    trial: Option<Arc<Trial>>,
}

/// What a few streams get in its place.
#[derive(Debug)]
struct Trial {
    views: Views,
    streams: BTreeSet<StreamId>,
}

type Views = HashMap<ViewKey, Arc<Snapshot>>;

/// Everybody is brought to the newest snapshot once in so many publications, concerned or not: an old snapshot is kept for as long
/// as some stream is at it, and so no more than these are.
const TOGETHER: u32 = 64;

/// One stream's ear on one view.
#[derive(Debug)]
pub(crate) struct Subscription {
    hub: Arc<Hub>,
    stream: StreamId,
    view: ViewKey,
    /// What it was given last.
    last: Option<Arc<Snapshot>>,
    ear: Arc<Ear>,
    /// The change that it was woken for last.
    woken_for: Option<ChangeId>,
    interests: Interests,
}

// === impl Hub ===

impl Hub {
    /// A hub with no views: every stream waits.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Replaces these views, all at once, and wakes the streams that subscribe to something that changed.
    ///
    /// A view that was never published holds its streams without an answer, so that nothing is taken for empty which only
    /// was not loaded yet. Views not named stay as they are.
    pub fn publish(&self, views: impl IntoIterator<Item = (ViewKey, Arc<Snapshot>)>) {
        let mut followers = self.followers();
        let before = self.current.load();
        let mut next = Views::clone(&before.views);
        let mut changed = Vec::new();
        for (view, snapshot) in views {
            let old = next.insert(view.clone(), snapshot.clone());
            // One of other versions only wakes nobody: the index knows contents. But it counts among those passed over.
            if !old.as_ref().is_some_and(|old| old.reads_the_same(&snapshot)) {
                changed.push((view, old, snapshot));
            }
        }
        self.current.store(Arc::new(Current { views: Arc::new(next), trial: None }));
        for (view, old, new) in changed {
            if let Some(followers) = followers.get_mut(&view) {
                followers.ring(old.as_deref(), &new);
            }
        }
        // Whoever took part in a trial may have something else to go back to.
        if let Some(trial) = &before.trial {
            ring_all(&followers, trial);
        }
    }

    /// Gives these views to these streams alone. Ends with the next publication, or with another trial, which may have more
    /// streams and must have the same views.
    pub fn try_out(
        &self,
        views: impl IntoIterator<Item = (ViewKey, Arc<Snapshot>)>,
        streams: impl IntoIterator<Item = StreamId>,
    ) {
        let followers = self.followers();
        let trial = Trial { views: views.into_iter().collect(), streams: streams.into_iter().collect() };
        let trial = Arc::new(trial);
        let views = self.current.load().views.clone();
        self.current.store(Arc::new(Current { views, trial: Some(trial.clone()) }));
        ring_all(&followers, &trial);
    }

    /// Forgets these views. Their streams keep what they have and are told nothing until the view is published again.
    pub fn remove<'a>(&self, views: impl IntoIterator<Item = &'a ViewKey>) {
        let _in_a_row = self.followers();
        let old = self.current.load();
        let mut next = Views::clone(&old.views);
        for view in views {
            next.remove(view);
        }
        self.current.store(Arc::new(Current { views: Arc::new(next), trial: old.trial.clone() }));
    }

    /// The view's current snapshot, if it was published.
    pub fn snapshot(&self, view: &ViewKey) -> Option<Arc<Snapshot>> {
        self.current.load().views.get(view).cloned()
    }

    /// What this stream gets of the view: the trial's snapshot if it takes part in one.
    pub(crate) fn snapshot_for(&self, stream: StreamId, view: &ViewKey) -> Option<Arc<Snapshot>> {
        let current = self.current.load();
        let tried = current.trial.as_ref().filter(|trial| trial.streams.contains(&stream));
        tried.and_then(|trial| trial.views.get(view)).or_else(|| current.views.get(view)).cloned()
    }

    /// All views as of one moment.
    pub fn views(&self) -> Arc<HashMap<ViewKey, Arc<Snapshot>>> {
        self.current.load().views.clone()
    }

    /// Follows a view; the first snapshot seen is the current one.
    pub(crate) fn subscribe(self: &Arc<Self>, stream: StreamId, view: ViewKey) -> Subscription {
        let ear = Ear::new(stream);
        self.followers().entry(view.clone()).or_default().all.insert(&ear);
        Subscription {
            hub: self.clone(),
            stream,
            view,
            last: None,
            ear,
            woken_for: None,
            interests: Interests::default(),
        }
    }

    fn followers(&self) -> MutexGuard<'_, HashMap<ViewKey, Followers>> {
        // Nothing in here can panic half-way, so a poisoned lock still guards a whole map.
        self.followers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ring_all(followers: &HashMap<ViewKey, Followers>, trial: &Trial) {
    for (view, snapshot) in &trial.views {
        if let Some(followers) = followers.get(view) {
            followers.all.ring(snapshot.change());
        }
    }
}

// === impl Followers ===

impl Followers {
    fn ring(&mut self, old: Option<&Snapshot>, new: &Snapshot) {
        self.passed_over += 1;
        match old {
            Some(old) if self.passed_over < TOGETHER => self.index.ring(old, new),
            _ => {
                self.passed_over = 0;
                self.all.ring(new.change());
            }
        }
    }
}

// === impl Subscription ===

impl Subscription {
    /// The newest snapshot, once there is one that concerns the stream and that it has not seen. Those in between are skipped. Safe to
    /// cancel.
    pub(crate) async fn next(&mut self) -> Arc<Snapshot> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// Waits until there is a snapshot, and takes none.
    pub(crate) fn poll_published(&self, context: &mut Context<'_>) -> Poll<()> {
        // Before the look, so that nothing published after it is missed.
        let heard = self.ear.heard(context.waker());
        if self.hub.snapshot_for(self.stream, &self.view).is_none() {
            return Poll::Pending;
        }
        if let Some(change) = heard {
            self.ear.ring(change);
        }
        Poll::Ready(())
    }

    /// See [`Subscription::next`].
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Arc<Snapshot>> {
        if let Some(change) = self.ear.heard(context.waker())
            && let Some(snapshot) = self.newer()
        {
            self.woken_for = Some(change);
            return Poll::Ready(snapshot);
        }
        Poll::Pending
    }

    /// The first change that may concern the stream and came after what it had when it was given its newest snapshot; all between
    /// the two passed it over. `None` where there was no such change.
    pub(crate) fn concerned_since(&mut self) -> Option<ChangeId> {
        self.woken_for.take().or_else(|| self.ear.rung())
    }

    /// The newest snapshot if it holds anything else than the one this stream was given last, whether that concerns it or not, or
    /// says it in other versions: what the client asks for next is told in those.
    pub(crate) fn newer(&mut self) -> Option<Arc<Snapshot>> {
        let snapshot = self.hub.snapshot_for(self.stream, &self.view)?;
        let last = self.last.replace(snapshot.clone());
        // The bell rings for others too: for those who take part in a trial, and those who do not.
        let same = |last: &Arc<Snapshot>| Arc::ptr_eq(last, &snapshot) || last.reads_the_same(&snapshot);
        (!last.as_ref().is_some_and(same)).then_some(snapshot)
    }

    /// From now on only changes of these are heard. Until it is told for the first time, a stream hears none.
    pub(crate) fn listen(&mut self, interests: Interests) {
        let mut followers = self.hub.followers();
        if let Some(followers) = followers.get_mut(&self.view) {
            followers.index.replace(&self.ear, &self.interests, &interests);
        }
        drop(followers);
        self.interests = interests;
        // What was published in between was for others than the stream is now.
        self.ear.ring(ChangeId(0));
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // View keys and names come from clients: where nobody listens nothing must stay behind.
        let mut followers = self.hub.followers();
        if let Some(of_view) = followers.get_mut(&self.view) {
            of_view.index.replace(&self.ear, &self.interests, &Interests::default());
            of_view.all.remove(&self.ear);
            if of_view.all.is_empty() {
                followers.remove(&self.view);
            }
        }
    }
}
