//! Both sides of a restore, read at the same time in the order of keys. Changes nothing.

use std::sync::{Arc, atomic::Ordering};

use tokio::sync::mpsc;

use crate::{
    listing::Listing,
    revision::Revision,
    snapshot::{
        Item, Progress, SnapshotError,
        diff::{Step, judge},
        is_state,
        moment::State,
    },
};

/// Keys read from the disk at a time.
const PAGE: usize = 1024;

/// A walk over both sides.
pub(super) struct Walk {
    prefix: String,
    pages: mpsc::Receiver<Result<Vec<Item>, SnapshotError>>,
    page: std::vec::IntoIter<Item>,
    listing: Listing,
    wanted: Option<Item>,
    there: Option<Item>,
    started: bool,
    progress: Arc<Progress>,
    /// The etcd's revision that is read.
    pub at: Revision,
    /// Keys that are the same on both sides so far.
    pub equal: u64,
}

// === impl Walk ===

impl Walk {
    pub(super) fn new(
        prefix: &str,
        state: State,
        listing: Listing,
        at: Revision,
        progress: Arc<Progress>,
    ) -> Self {
        let (send, pages) = mpsc::channel(4);
        tokio::task::spawn_blocking(move || read(state, &send));
        Self {
            prefix: prefix.to_owned(),
            pages,
            page: Vec::new().into_iter(),
            listing,
            wanted: None,
            there: None,
            started: false,
            progress,
            at,
            equal: 0,
        }
    }

    /// The next key that differs.
    pub(super) async fn next(&mut self) -> Result<Option<Step>, SnapshotError> {
        if !self.started {
            self.started = true;
            self.wanted = self.next_wanted().await?;
            self.there = self.next_there().await?;
        }
        loop {
            let (step, take_wanted, take_there) = judge(self.wanted.as_ref(), self.there.as_ref());
            if !take_wanted && !take_there {
                return Ok(None);
            }
            if take_wanted {
                self.progress.done.fetch_add(1, Ordering::Relaxed);
                self.wanted = self.next_wanted().await?;
            }
            if take_there {
                self.there = self.next_there().await?;
            }
            match step {
                Some(step) => return Ok(Some(step)),
                None => self.equal += 1,
            }
        }
    }

    async fn next_wanted(&mut self) -> Result<Option<Item>, SnapshotError> {
        loop {
            if let Some(item) = self.page.next() {
                return Ok(Some(item));
            }
            match self.pages.recv().await {
                // Its end is an empty page. Without one nobody knows what else there was, and it would be deleted.
                None => {
                    return Err(SnapshotError::Internal(
                        "the snapshot's reader ended before its end".to_owned(),
                    ));
                }
                Some(page) => match page? {
                    page if page.is_empty() => return Ok(None),
                    page => self.page = page.into_iter(),
                },
            }
        }
    }

    async fn next_there(&mut self) -> Result<Option<Item>, SnapshotError> {
        while let Some(kv) = self.listing.next().await? {
            if is_state(&self.prefix, kv.key()) {
                return Ok(Some(item(kv)));
            }
        }
        Ok(None)
    }
}

/// An etcd's key as ours.
pub(super) fn item(kv: etcd_client::KeyValue) -> Item {
    let (modified, lease) = (Revision(kv.mod_revision()), kv.lease());
    let (key, value) = kv.into_key_value();
    Item { key, value, modified, lease }
}

fn read(mut state: State, send: &mpsc::Sender<Result<Vec<Item>, SnapshotError>>) {
    let mut page = Vec::with_capacity(PAGE);
    loop {
        match state.read() {
            Ok(Some(item)) => page.push(item),
            Ok(None) => {
                for page in [page, Vec::new()] {
                    let _gone = send.blocking_send(Ok(page));
                }
                return;
            }
            Err(error) => {
                let _gone = send.blocking_send(Err(error));
                return;
            }
        }
        if page.len() == PAGE {
            let full = std::mem::replace(&mut page, Vec::with_capacity(PAGE));
            if send.blocking_send(Ok(full)).is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{client::Cluster, options::ClusterOptions};

    /// A walk over these pages of the snapshot, and an etcd that holds one key.
    async fn walk(pages: Vec<Vec<Item>>) -> Walk {
        let (send, held) = mpsc::channel(4);
        let kv = etcd_client::proto::PbKeyValue { key: b"/app/held".into(), ..Default::default() };
        send.send(Ok(Some(vec![etcd_client::KeyValue(kv)]))).await.unwrap();
        send.send(Ok(None)).await.unwrap();
        let cluster = Arc::new(Cluster::new("destination", ClusterOptions::plain(["http://a:1"])));
        let listing = Listing::of(cluster, held, tokio::spawn(async {}));
        let (send, read) = mpsc::channel(4);
        for page in pages {
            send.send(Ok(page)).await.unwrap();
        }
        Walk {
            prefix: "/app/".to_owned(),
            pages: read,
            page: Vec::new().into_iter(),
            listing,
            wanted: None,
            there: None,
            started: false,
            progress: Arc::default(),
            at: Revision(9),
            equal: 0,
        }
    }

    /// Taken for the end, everything behind it would be deleted.
    #[tokio::test]
    async fn a_reader_of_a_snapshot_that_died_is_an_error_and_not_the_end_of_the_snapshot() {
        let first = Item { key: b"/app/a".into(), value: Vec::new(), modified: Revision(1), lease: 0 };
        for pages in [vec![], vec![vec![first.clone()]]] {
            let mut walk = walk(pages).await;
            let error = loop {
                match walk.next().await {
                    Ok(Some(step)) => assert_ne!(step.key, b"/app/held", "nothing says that it may go"),
                    Ok(None) => panic!("that was no end"),
                    Err(error) => break error.to_string(),
                }
            };
            assert!(error.contains("ended before its end"), "{error}");
        }
        let mut walk = walk(vec![vec![first], Vec::new()]).await;
        let mut steps = Vec::new();
        while let Some(step) = walk.next().await.unwrap() {
            steps.push((step.key, step.wanted.is_some()));
        }
        assert_eq!(steps, [(b"/app/a".to_vec(), true), (b"/app/held".to_vec(), false)]);
    }
}
