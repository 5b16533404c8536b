//! Where publishers put snapshots and streams find them.
//!
//! Reading never waits for a lock. A publication replaces all its views in one step and wakes the streams of those whose content
//! changed. The hub never builds, orders or sends anything.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::snapshot::Snapshot;
use crate::types::ViewKey;

/// The current snapshot of every view.
#[derive(Debug, Default)]
pub struct Hub {
    views: ArcSwap<Views>,
    /// One bell for each view that some stream follows. Its lock also puts publications in a row.
    bells: Mutex<Bells>,
}

type Views = HashMap<ViewKey, Arc<Snapshot>>;
type Bells = HashMap<ViewKey, watch::Sender<()>>;

/// One stream's ear on one view.
#[derive(Debug)]
pub(crate) struct Subscription {
    hub: Arc<Hub>,
    view: ViewKey,
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
        let mut next = Views::clone(&self.views.load());
        let mut changed = Vec::new();
        for (view, snapshot) in views {
            let same = next.get(&view).is_some_and(|old| old.same_content(&snapshot));
            next.insert(view.clone(), snapshot);
            if !same {
                changed.push(view);
            }
        }
        self.views.store(Arc::new(next));
        changed.iter().filter_map(|view| bells.get(view)).for_each(|bell| {
            bell.send_replace(());
        });
    }

    /// Forgets these views. Their streams keep what they have and are told nothing until the view is published again.
    pub fn remove<'a>(&self, views: impl IntoIterator<Item = &'a ViewKey>) {
        let _in_a_row = self.bells();
        let mut next = Views::clone(&self.views.load());
        for view in views {
            next.remove(view);
        }
        self.views.store(Arc::new(next));
    }

    /// The view's current snapshot, if it was published.
    pub fn snapshot(&self, view: &ViewKey) -> Option<Arc<Snapshot>> {
        self.views.load().get(view).cloned()
    }

    /// All views as of one moment.
    pub fn views(&self) -> Arc<HashMap<ViewKey, Arc<Snapshot>>> {
        self.views.load_full()
    }

    /// Follows a view; the first snapshot seen is the current one.
    pub(crate) fn subscribe(self: &Arc<Self>, view: ViewKey) -> Subscription {
        let mut bells = self.bells();
        let mut bell = bells.entry(view.clone()).or_insert_with(|| watch::channel(()).0).subscribe();
        drop(bells);
        bell.mark_changed();
        Subscription { hub: self.clone(), view, bell: Some(bell) }
    }

    fn bells(&self) -> MutexGuard<'_, Bells> {
        // Nothing in here can panic half-way, so a poisoned lock still guards a whole map.
        self.bells.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
            if let Some(snapshot) = self.hub.snapshot(&self.view) {
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
        let mut stream = hub.subscribe(view.clone());
        hub.publish([(ViewKey::new("az-b"), snapshot(1, b"b"))]);
        assert!(futures::poll!(Box::pin(stream.next())).is_pending(), "another view is nothing to it");

        hub.publish([(view.clone(), snapshot(2, b"x"))]);
        hub.publish([(view.clone(), snapshot(3, b"y"))]);
        assert_eq!(stream.next().await.change(), ChangeId(3));

        hub.publish([(view.clone(), snapshot(4, b"y"))]);
        assert!(futures::poll!(Box::pin(stream.next())).is_pending(), "equal content wakes nobody");
        assert_eq!(hub.snapshot(&view).unwrap().change(), ChangeId(4), "but is what a reader gets");

        let mut late = hub.subscribe(view);
        assert_eq!(late.next().await.change(), ChangeId(4));
    }

    #[tokio::test]
    async fn bells_nobody_listens_to_are_dropped() {
        let hub = Hub::new();
        let streams: Vec<_> =
            (0..10).map(|n| hub.subscribe(ViewKey::new(&format!("node-{}", n / 2)))).collect();
        assert_eq!(hub.bells().len(), 5);
        drop(streams);
        assert!(hub.bells().is_empty());
    }

    #[tokio::test]
    async fn a_removed_view_leaves_its_streams_alone() {
        let hub = Hub::new();
        let view = ViewKey::new("az-a");
        hub.publish([(view.clone(), snapshot(1, b"x"))]);
        let mut stream = hub.subscribe(view.clone());
        stream.next().await;
        hub.remove([&view]);
        assert!(hub.snapshot(&view).is_none());
        assert!(futures::poll!(Box::pin(stream.next())).is_pending());
        hub.publish([(view, snapshot(2, b"x"))]);
        assert_eq!(stream.next().await.change(), ChangeId(2));
    }
}
