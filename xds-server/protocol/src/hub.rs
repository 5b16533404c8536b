//! Where publishers put snapshots and streams find them.
//!
//! Reading never waits for a lock. A publication replaces all its views in one step and wakes the streams of those whose content
//! changed. A *trial* gives other snapshots to a few chosen streams, until the next publication or trial: the rest see what they
//! saw. The hub never builds, orders or sends anything, and chooses nobody.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::snapshot::Snapshot;
use crate::types::{StreamId, ViewKey};

/// The current snapshot of every view.
#[derive(Debug, Default)]
pub struct Hub {
    current: ArcSwap<Current>,
    /// One bell for each view that some stream follows. Its lock also puts publications in a row.
    bells: Mutex<Bells>,
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
type Bells = HashMap<ViewKey, watch::Sender<()>>;

/// One stream's ear on one view.
#[derive(Debug)]
pub(crate) struct Subscription {
    hub: Arc<Hub>,
    stream: StreamId,
    view: ViewKey,
    /// What it was given last.
    last: Option<Arc<Snapshot>>,
    /// `None` only while it is being dropped.
    bell: Option<watch::Receiver<()>>,
}

// === impl Hub ===

impl Hub {
    /// A hub with no views: every stream waits.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Replaces these views, all at once, and wakes the streams of those that changed.
    ///
    /// A view that was never published holds its streams without an answer, so that nothing is taken for empty which only
    /// was not loaded yet. Views not named stay as they are.
    pub fn publish(&self, views: impl IntoIterator<Item = (ViewKey, Arc<Snapshot>)>) {
        let bells = self.bells();
        let old = self.current.load();
        let mut next = Views::clone(&old.views);
        // Whoever took part in a trial may have something else to go back to.
        let mut changed: Vec<ViewKey> =
            old.trial.iter().flat_map(|trial| trial.views.keys().cloned()).collect();
        for (view, snapshot) in views {
            let same = next.get(&view).is_some_and(|old| old.same_content(&snapshot));
            next.insert(view.clone(), snapshot);
            if !same {
                changed.push(view);
            }
        }
        self.current.store(Arc::new(Current { views: Arc::new(next), trial: None }));
        ring(&bells, &changed);
    }

    /// Gives these views to these streams alone. Ends with the next publication, or with another trial, which may have more
    /// streams and must have the same views.
    pub fn try_out(
        &self,
        views: impl IntoIterator<Item = (ViewKey, Arc<Snapshot>)>,
        streams: impl IntoIterator<Item = StreamId>,
    ) {
        let bells = self.bells();
        let trial = Trial { views: views.into_iter().collect(), streams: streams.into_iter().collect() };
        let changed: Vec<ViewKey> = trial.views.keys().cloned().collect();
        let views = self.current.load().views.clone();
        self.current.store(Arc::new(Current { views, trial: Some(Arc::new(trial)) }));
        ring(&bells, &changed);
    }

    /// Forgets these views. Their streams keep what they have and are told nothing until the view is published again.
    pub fn remove<'a>(&self, views: impl IntoIterator<Item = &'a ViewKey>) {
        let _in_a_row = self.bells();
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
        let mut bells = self.bells();
        let mut bell = bells.entry(view.clone()).or_insert_with(|| watch::channel(()).0).subscribe();
        drop(bells);
        bell.mark_changed();
        Subscription { hub: self.clone(), stream, view, last: None, bell: Some(bell) }
    }

    fn bells(&self) -> MutexGuard<'_, Bells> {
        // Nothing in here can panic half-way, so a poisoned lock still guards a whole map.
        self.bells.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ring(bells: &Bells, views: &[ViewKey]) {
    views.iter().filter_map(|view| bells.get(view)).for_each(|bell| {
        bell.send_replace(());
    });
}

// === impl Subscription ===

impl Subscription {
    /// The newest snapshot, once there is one this stream has not seen. Those in between are skipped. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Arc<Snapshot> {
        loop {
            let Some(bell) = &mut self.bell else { return std::future::pending().await };
            if bell.changed().await.is_err() {
                // The bell goes only after its last listener.
                return std::future::pending().await;
            }
            let Some(snapshot) = self.hub.snapshot_for(self.stream, &self.view) else { continue };
            // The bell rings for others too: for those who take part in a trial, and those who do not.
            if !self.last.as_ref().is_some_and(|last| last.same_content(&snapshot)) {
                self.last = Some(snapshot.clone());
                return snapshot;
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // View keys come from clients' nodes: a bell nobody listens to must not stay behind.
        let mut bells = self.hub.bells();
        self.bell = None;
        if bells.get(&self.view).is_some_and(|bell| bell.receiver_count() == 0) {
            bells.remove(&self.view);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::Resource;
    use crate::types::{ChangeId, TypeUrl};

    fn snapshot(change: u64, content: &'static [u8]) -> Arc<Snapshot> {
        let mut builder = Snapshot::builder(ChangeId(change));
        builder.put(Resource::from_value("a", TypeUrl::CLUSTER, content)).unwrap();
        Arc::new(builder.build())
    }

    #[tokio::test]
    async fn a_stream_waits_for_its_view_and_then_sees_only_the_newest() {
        let hub = Hub::new();
        let view = ViewKey::new("az-a");
        let mut stream = hub.subscribe(StreamId(1), view.clone());
        hub.publish([(ViewKey::new("az-b"), snapshot(1, b"b"))]);
        assert!(futures::poll!(Box::pin(stream.next())).is_pending(), "another view is nothing to it");

        hub.publish([(view.clone(), snapshot(2, b"x"))]);
        hub.publish([(view.clone(), snapshot(3, b"y"))]);
        assert_eq!(stream.next().await.change(), ChangeId(3));

        hub.publish([(view.clone(), snapshot(4, b"y"))]);
        assert!(futures::poll!(Box::pin(stream.next())).is_pending(), "equal content wakes nobody");
        assert_eq!(hub.snapshot(&view).unwrap().change(), ChangeId(4), "but is what a reader gets");

        let mut late = hub.subscribe(StreamId(2), view);
        assert_eq!(late.next().await.change(), ChangeId(4));
    }

    #[tokio::test]
    async fn a_trial_reaches_those_who_take_part_and_a_publication_ends_it() {
        let hub = Hub::new();
        let view = ViewKey::new("az-a");
        hub.publish([(view.clone(), snapshot(1, b"old"))]);
        let (mut one, mut two) =
            (hub.subscribe(StreamId(1), view.clone()), hub.subscribe(StreamId(2), view.clone()));
        assert_eq!((one.next().await.change(), two.next().await.change()), (ChangeId(1), ChangeId(1)));
        hub.try_out([(view.clone(), snapshot(2, b"new"))], [StreamId(1)]);
        assert_eq!(one.next().await.change(), ChangeId(2));
        assert!(futures::poll!(Box::pin(two.next())).is_pending());
        assert_eq!(hub.snapshot(&view).unwrap().change(), ChangeId(1), "nobody else sees it");
        let mut late = hub.subscribe(StreamId(3), view.clone());
        assert_eq!(late.next().await.change(), ChangeId(1));

        hub.try_out([(view.clone(), snapshot(2, b"new"))], [StreamId(1), StreamId(2)]);
        assert!(futures::poll!(Box::pin(one.next())).is_pending(), "it has it already");
        assert_eq!(two.next().await.change(), ChangeId(2));
        // Taken back: to those who did not take part nothing happened.
        hub.publish([(view.clone(), snapshot(3, b"old"))]);
        assert_eq!((one.next().await.change(), two.next().await.change()), (ChangeId(3), ChangeId(3)));
        assert!(futures::poll!(Box::pin(late.next())).is_pending());
    }

    #[tokio::test]
    async fn bells_nobody_listens_to_are_dropped() {
        let hub = Hub::new();
        let streams: Vec<_> =
            (0..10).map(|n| hub.subscribe(StreamId(n), ViewKey::new(&format!("node-{}", n / 2)))).collect();
        assert_eq!(hub.bells().len(), 5);
        drop(streams);
        assert!(hub.bells().is_empty());
    }

    #[tokio::test]
    async fn a_removed_view_leaves_its_streams_alone() {
        let hub = Hub::new();
        let view = ViewKey::new("az-a");
        hub.publish([(view.clone(), snapshot(1, b"x"))]);
        let mut stream = hub.subscribe(StreamId(1), view.clone());
        stream.next().await;
        hub.remove([&view]);
        assert!(hub.snapshot(&view).is_none());
        assert!(futures::poll!(Box::pin(stream.next())).is_pending());
        hub.publish([(view.clone(), snapshot(2, b"x"))]);
        assert!(futures::poll!(Box::pin(stream.next())).is_pending(), "it has this");
        hub.publish([(view, snapshot(3, b"y"))]);
        assert_eq!(stream.next().await.change(), ChangeId(3));
    }
}
