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
