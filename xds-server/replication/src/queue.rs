//! The way from the source's watch to the disk: bounded in bytes and not in messages, since a revision has any size from a few
//! bytes to many mebibytes. When it is full the sender waits, and etcd keeps what it has not sent yet; nothing is dropped.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::spool::Entry;

/// What one piece of room stands for.
const UNIT: usize = 1024;

/// Entries, and the room that they take until they are dropped.
#[derive(Debug)]
pub(crate) struct Load {
    pub entries: Vec<Entry>,
    _room: OwnedSemaphorePermit,
}

/// The sending end.
#[derive(Debug, Clone)]
pub(crate) struct Sender {
    loads: mpsc::UnboundedSender<Load>,
    room: Arc<Semaphore>,
    units: u32,
}

/// A queue that holds about so many bytes; a load that is larger than that by itself goes through alone.
pub(crate) fn bounded(bytes: usize) -> (Sender, mpsc::UnboundedReceiver<Load>) {
    let (loads, receiver) = mpsc::unbounded_channel();
    let units = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX).max(1);
    (Sender { loads, room: Arc::new(Semaphore::new(units as usize)), units }, receiver)
}

// === impl Sender ===

impl Sender {
    /// Sends once there is room. `false` when nobody receives any more.
    pub(crate) async fn send(&self, entries: Vec<Entry>) -> bool {
        let bytes: usize = entries.iter().map(size).sum();
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, self.units);
        tokio::select! {
            biased;
            () = self.loads.closed() => false,
            room = Arc::clone(&self.room).acquire_many_owned(units) => {
                room.is_ok_and(|room| self.loads.send(Load { entries, _room: room }).is_ok())
            }
        }
    }
}

fn size(entry: &Entry) -> usize {
    match entry {
        Entry::Revision(source) => {
            source.changes.iter().map(|change| change.key.len() + change.op.size() + 32).sum()
        }
        Entry::Gap { .. } => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revision::{Change, Op, Revision, SourceRevision};

    fn entry(revision: i64, bytes: usize) -> Entry {
        let op = Op::Put { value: vec![0; bytes], lease: 0 };
        let changes = vec![Change { key: b"k".to_vec(), op }];
        Entry::Revision(SourceRevision { revision: Revision(revision), seen_ms: 0, changes })
    }

    #[tokio::test]
    async fn a_sender_waits_while_the_queue_holds_its_bytes_whatever_the_size_of_each() {
        for bytes in [10, 5_000, 60_000, 300_000] {
            let (send, mut loads) = bounded(100_000);
            let sent = Arc::new(std::sync::atomic::AtomicI64::new(0));
            let (counter, sender) = (Arc::clone(&sent), send.clone());
            let sending = tokio::spawn(async move {
                for at in 1..=200 {
                    assert!(sender.send(vec![entry(at, bytes)]).await);
                    counter.store(at, std::sync::atomic::Ordering::SeqCst);
                }
            });
            let mut received = 0;
            while received < 200 {
                for _ in 0..50 {
                    tokio::task::yield_now().await;
                }
                let waiting = sent.load(std::sync::atomic::Ordering::SeqCst) - received;
                let held = waiting as usize * bytes;
                assert!(held <= 100_000 || waiting == 1, "{waiting} loads of {bytes} bytes wait");
                assert_eq!(loads.recv().await.unwrap().entries, [entry(received + 1, bytes)]);
                received += 1;
            }
            sending.await.unwrap();
            drop(loads);
            assert!(!send.send(vec![entry(1, 1)]).await, "nobody is there");
        }
    }
}
