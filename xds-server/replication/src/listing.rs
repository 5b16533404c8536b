//! Reads a whole prefix as of one revision, page by page, in the order of its keys. Pages are asked for ahead of who reads
//! them, two at most; nothing is kept.

use std::{sync::Arc, time::Duration};

use etcd_client::{GetOptions, KeyValue};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    client::{Cluster, EtcdError, Member, after_prefix, range_start},
    revision::Revision,
};

/// Keys in a page: the fewest, with which a listing begins, and the most. etcd counts the rest of the range for every page, so
/// that small pages make large prefixes slow; large pages of large values are long on the wire. Pages adapt between the two.
const PAGE: (i64, i64) = (16, 10_000);

/// Bytes of a page that are aimed at.
const PAGE_BYTES: usize = 4 << 20;

/// Keys in a page of an etcd that others are working with, at least; the more there are, the more are in each, since etcd counts
/// the rest of the range for every page: [`PARTS`] pages of it, down to this size.
const GENTLE_PAGE: i64 = 1_000;

/// See [`GENTLE_PAGE`].
const PARTS: i64 = 50;

/// After a page an etcd that others work with is left alone for so many times what the page took: three quarters of the time.
const RESTS: u32 = 3;

/// The longest rest: all of a listing are a second at most while there are [`PARTS`] pages in it.
const REST: Duration = Duration::from_millis(20);

/// An etcd whose first page, a small one, takes so long is far away.
const FAR: Duration = Duration::from_millis(10);

/// Whom a listing must not be in the way of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Nobody: the etcd is ours to load.
    Fast,
    /// Writers: small pages, and a rest after each. A far etcd rests anyway while a page travels, and is asked for large ones.
    Gentle,
}

/// What of each entry is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// All of it.
    Entries,
    /// The key and its revisions: values are left where they are.
    Keys,
}

/// Entries of a prefix, in order.
pub(crate) struct Listing {
    /// `None` after the last page: a channel that is merely closed is not the end of the prefix.
    pages: mpsc::Receiver<Result<Option<Vec<KeyValue>>, EtcdError>>,
    cluster: Arc<Cluster>,
    done: bool,
    page: std::vec::IntoIter<KeyValue>,
    task: tokio::task::JoinHandle<()>,
}

// === impl Listing ===

impl Listing {
    /// Begins to read `prefix` as of `revision`, as fast as it can.
    pub(crate) fn start(cluster: &Arc<Cluster>, member: &Member, prefix: &[u8], revision: Revision) -> Self {
        Self::start_as(cluster, member, prefix, revision, Manner::Fast, What::Entries)
    }

    /// The same, of an etcd whose writers shall notice little of it.
    pub(crate) fn gently(cluster: &Arc<Cluster>, member: &Member, prefix: &[u8], revision: Revision) -> Self {
        Self::start_as(cluster, member, prefix, revision, Manner::Gentle, What::Entries)
    }

    /// The same of keys and revisions alone: values come empty.
    pub(crate) fn keys(cluster: &Arc<Cluster>, member: &Member, prefix: &[u8], revision: Revision) -> Self {
        Self::start_as(cluster, member, prefix, revision, Manner::Gentle, What::Keys)
    }

    fn start_as(
        cluster: &Arc<Cluster>,
        member: &Member,
        prefix: &[u8],
        revision: Revision,
        manner: Manner,
        what: What,
    ) -> Self {
        let (send, pages) = mpsc::channel(2);
        let (ours, member, prefix) = (Arc::clone(cluster), member.clone(), prefix.to_vec());
        let task = tokio::spawn(async move {
            let end = read(&ours, &member, &prefix, revision, (manner, what), &send).await.map(|()| None);
            // A reader that went away wants to hear nothing.
            let _gone = send.send(end).await;
        });
        Self::of(Arc::clone(cluster), pages, task)
    }

    pub(crate) fn of(
        cluster: Arc<Cluster>,
        pages: mpsc::Receiver<Result<Option<Vec<KeyValue>>, EtcdError>>,
        task: tokio::task::JoinHandle<()>,
    ) -> Self {
        Self { pages, cluster, done: false, page: Vec::new().into_iter(), task }
    }

    /// The next entry.
    pub(crate) async fn next(&mut self) -> Result<Option<KeyValue>, EtcdError> {
        loop {
            if let Some(entry) = self.page.next() {
                return Ok(Some(entry));
            }
            if self.done {
                return Ok(None);
            }
            match self.pages.recv().await {
                None => {
                    let why = "a listing of its keys broke off before the last of them".to_owned();
                    return Err(self.cluster.unreachable(why));
                }
                Some(page) => match page? {
                    Some(page) => self.page = page.into_iter(),
                    None => self.done = true,
                },
            }
        }
    }
}

impl Drop for Listing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read(
    cluster: &Cluster,
    member: &Member,
    prefix: &[u8],
    revision: Revision,
    (mut manner, what): (Manner, What),
    pages: &mpsc::Sender<Result<Option<Vec<KeyValue>>, EtcdError>>,
) -> Result<(), EtcdError> {
    let (mut start, end) = (range_start(prefix), after_prefix(prefix));
    let (mut kv, mut limit) = (member.kv(), PAGE.0);
    loop {
        let asked = Instant::now();
        let mut options =
            GetOptions::new().with_range(end.clone()).with_limit(limit).with_revision(revision.0);
        if what == What::Keys {
            options = options.with_keys_only();
        }
        let answer = match cluster.ask(kv.get(start.clone(), Some(options))).await {
            Ok(answer) => answer,
            // Values that are much larger than those before them.
            Err(EtcdError::TooLong(_)) if limit > 1 => {
                limit = (limit / 16).max(1);
                continue;
            }
            Err(EtcdError::Compacted { side, .. }) => {
                return Err(EtcdError::Compacted { side, asked: revision });
            }
            Err(error) => return Err(error),
        };
        let took = asked.elapsed();
        if took >= FAR && limit == PAGE.0 {
            manner = Manner::Fast;
        }
        let (more, left) = (answer.more(), answer.count());
        let page = { answer }.take_kvs();
        let bytes: usize = page.iter().map(|kv| kv.key().len() + kv.value().len()).sum();
        limit = adapt(page.len(), bytes, left, manner);
        start = page.last().map(|kv| [kv.key(), b"\0"].concat()).unwrap_or_default();
        let empty = page.is_empty();
        if pages.send(Ok(Some(page))).await.is_err() || !more || empty {
            return Ok(());
        }
        if manner == Manner::Gentle {
            tokio::time::sleep(rest(took)).await;
        }
    }
}

/// How long writers have the etcd to themselves after a page that took so long.
fn rest(took: Duration) -> Duration {
    took.saturating_mul(RESTS).min(REST)
}

/// How many keys of this size make a page, with so many left.
fn adapt(keys: usize, bytes: usize, left: i64, manner: Manner) -> i64 {
    let each = (bytes / keys.max(1)).max(1);
    let most = match manner {
        Manner::Fast => PAGE.1,
        Manner::Gentle => (left / PARTS).clamp(GENTLE_PAGE, PAGE.1),
    };
    i64::try_from(PAGE_BYTES / each).unwrap_or(most).clamp(PAGE.0, most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::ClusterOptions;

    /// Taken for the end, it would have everything behind it deleted at the other side.
    #[tokio::test]
    async fn a_listing_whose_reader_died_is_an_error_and_not_the_end_of_the_prefix() {
        let cluster = Arc::new(Cluster::new("source", ClusterOptions::plain(["http://a:1"])));
        let (send, pages) = mpsc::channel(2);
        send.send(Ok(Some(Vec::new()))).await.unwrap();
        let mut listing = Listing::of(Arc::clone(&cluster), pages, tokio::spawn(async {}));
        drop(send);
        let error = listing.next().await.unwrap_err().to_string();
        assert!(error.contains("broke off"), "{error}");
        let (send, pages) = mpsc::channel(2);
        send.send(Ok(None)).await.unwrap();
        let mut listing = Listing::of(cluster, pages, tokio::spawn(async {}));
        assert!(listing.next().await.unwrap().is_none());
        drop(send);
        assert!(listing.next().await.unwrap().is_none(), "and it stays at its end");
    }

    #[test]
    fn pages_hold_about_as_many_bytes_whatever_the_size_of_values() {
        let fast = |keys, bytes| adapt(keys, bytes, 50_000, Manner::Fast);
        assert_eq!(fast(500, 500 * 100), 10_000);
        assert_eq!(fast(500, 500 * 4096), 1024);
        assert_eq!(fast(500, 500 << 20), 16);
        assert_eq!(fast(0, 0), 10_000);
    }

    #[test]
    fn writers_have_most_of_the_time_and_a_listing_still_ends() {
        assert_eq!(rest(Duration::from_millis(2)), Duration::from_millis(6));
        for (keys, most) in [(20_000, 1_000), (100_000, 1_000), (1_000_000, 2_500)] {
            let (mut left, mut ms) = (keys, 0);
            while left > 0 {
                left -= adapt(500, 500 * 100, left, Manner::Gentle);
                ms += rest(Duration::from_secs(1)).as_millis();
            }
            assert!(ms <= most * 2, "{keys} keys: {ms} ms of rests");
        }
    }

    #[test]
    fn pages_are_small_where_writers_wait_and_few_where_keys_are_many() {
        let gentle = |left| adapt(500, 500 * 100, left, Manner::Gentle);
        assert_eq!((gentle(20_000), gentle(100_000), gentle(1_000_000)), (1_000, 2_000, 10_000));
        assert_eq!(adapt(500, 500 << 20, 20_000, Manner::Gentle), 16);
    }
}
