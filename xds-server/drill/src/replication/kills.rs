//! The kill loop: a replicator is killed (SIGKILL) again and again under writes, deletes and transactions, while a client keeps
//! its own ledger of what the source acknowledged. In the end the destination must hold exactly that, and on the way it must
//! never have shown an older write after a newer, one write twice, one that was deleted, or one of two keys that change together
//! without the other.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use etcd_client::{Client, EventType, GetOptions, Txn, TxnOp, WatchOptions};

use super::{
    PREFIX,
    contender::{Contender, Far, Pair, Running},
    server::Server,
};
use crate::lab::until;

/// Keys of the ledger.
const KEYS: u64 = 500;

/// For the destination to catch up at the end.
const PATIENCE: Duration = Duration::from_secs(120);

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kills {
    /// Times that the replicator was killed.
    pub kills: u32,
    /// Changes that the source acknowledged.
    pub changes: u64,
    /// Revisions that the destination showed.
    pub revisions: u64,
    /// Keys of the ledger that the destination lacks, or has with another value.
    pub lost: u64,
    /// Keys that the ledger says are deleted and the destination has, and times that it showed a write again after its delete.
    pub resurrected: u64,
    /// Times that the destination showed one write of a key twice.
    pub doubled: u64,
    /// Times that the destination showed an older write of a key after a newer.
    pub back: u64,
    /// Times that a reader saw one of two keys that change together without the other.
    pub torn: u64,
}

/// What the destination's watch has told.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    /// Of each key the newest write, and whether it has been deleted since.
    newest: BTreeMap<Vec<u8>, (u64, bool)>,
    revisions: u64,
    resurrected: u64,
    doubled: u64,
    back: u64,
    torn: u64,
}

type Ledger = BTreeMap<String, u64>;

// === impl Kills ===

impl Kills {
    /// Whether nothing was lost, doubled, resurrected or torn.
    pub const fn is_clean(&self) -> bool {
        self.lost == 0 && self.resurrected == 0 && self.doubled == 0 && self.back == 0 && self.torn == 0
    }
}

/// Kills the replicator `kills` times, between two etcds of this version.
///
/// # Errors
/// When a process does not start, or the destination does not catch up.
pub async fn kill_loop(server: &Server, kills: u32, say: impl Fn(String)) -> anyhow::Result<Kills> {
    let pair = Pair::start(server, Far::Nowhere).await?;
    let mut running = pair.run(Contender::Zonebreak)?;
    // The first comparison of an empty source is over before anything is written: from then on no key is ever torn.
    if let Running::Ours(replicator) = &mut running {
        replicator.ready().await?;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let watching = tokio::spawn(watch(pair.to().await?));
    tokio::time::sleep(Duration::from_millis(200)).await;
    let writing = tokio::spawn(write(pair.from().await?, Arc::clone(&stop)));
    for round in 0..kills {
        // Some die while they start or still compare both sides, and every other one in the stream, however slow the machine.
        if let (1, Running::Ours(replicator)) = (round % 2, &mut running) {
            replicator.ready().await?;
        }
        tokio::time::sleep(Duration::from_millis(fastrand::u64(20..700))).await;
        running.kill();
        if let Running::Ours(replicator) = &mut running {
            replicator.restart()?;
        }
        if round % 10 == 9 {
            say(format!("{} of {kills} kills", round + 1));
        }
    }
    stop.store(true, Ordering::Relaxed);
    let (ledger, changes) = writing.await??;
    let to = pair.to().await?;
    let begun = Instant::now();
    let mut result = Kills { kills, changes, ..Kills::default() };
    let caught_up = until("the destination to hold what the ledger holds", PATIENCE, async || {
        let found = list(&mut to.clone()).await.map_err(|error| error.to_string())?;
        if found == ledger { Ok(()) } else { Err(format!("{} keys, not {}", found.len(), ledger.len())) }
    })
    .await;
    if caught_up.is_err() {
        say(format!("not equal after {} s", begun.elapsed().as_secs()));
    }
    let found = list(&mut to.clone()).await?;
    result.lost = ledger.iter().filter(|(key, value)| found.get(*key) != Some(value)).count() as u64;
    let resurrected = found.keys().filter(|key| !ledger.contains_key(*key)).count() as u64;
    let mut last = to;
    last.put(format!("{PREFIX}z/end"), "0", None).await?;
    let seen = watching.await??;
    result.resurrected = resurrected + seen.resurrected;
    (result.revisions, result.doubled, result.back, result.torn) =
        (seen.revisions, seen.doubled, seen.back, seen.torn);
    Ok(result)
}

/// Writes until told to stop, one change after the other; answers with what the source must hold then.
async fn write(mut from: Client, stop: Arc<AtomicBool>) -> anyhow::Result<(Ledger, u64)> {
    let (mut ledger, mut number) = (Ledger::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let key = format!("{PREFIX}k/{:04}", fastrand::u64(0..KEYS));
        match number % 10 {
            0 | 1 => {
                from.delete(key.as_str(), None).await?;
                ledger.remove(&key);
            }
            2 | 3 => {
                // Two keys that are always equal.
                let pair = [format!("{PREFIX}p/left"), format!("{PREFIX}p/right")];
                let puts: Vec<_> =
                    pair.iter().map(|key| TxnOp::put(key.as_str(), number.to_string(), None)).collect();
                from.txn(Txn::new().and_then(puts)).await?;
                ledger.extend(pair.map(|key| (key, number)));
            }
            _ => {
                from.put(key.as_str(), number.to_string(), None).await?;
                ledger.insert(key, number);
            }
        }
    }
    Ok((ledger, number))
}

async fn list(client: &mut Client) -> anyhow::Result<Ledger> {
    let found = client.get(PREFIX, Some(GetOptions::new().with_prefix())).await?;
    let entry = |kv: &etcd_client::KeyValue| Ok((kv.key_str()?.to_owned(), kv.value_str()?.parse()?));
    found.kvs().iter().map(entry).collect()
}

/// Follows the destination to the end.
async fn watch(mut to: Client) -> anyhow::Result<Seen> {
    let mut watch = to.watch(PREFIX, Some(WatchOptions::new().with_prefix())).await?;
    let mut seen = Seen::default();
    while let Some(response) = watch.message().await? {
        let events: Vec<_> =
            response.events().iter().filter_map(|event| Some((event.event_type(), event.kv()?))).collect();
        for revision in events.chunk_by(|a, b| a.1.mod_revision() == b.1.mod_revision()) {
            seen.revisions += 1;
            let mut pair = Vec::new();
            for (kind, kv) in revision {
                if kv.key().starts_with(format!("{PREFIX}z/").as_bytes()) {
                    return Ok(seen);
                }
                if *kind == EventType::Delete {
                    seen.delete(kv.key());
                    continue;
                }
                let number: u64 = kv.value_str()?.parse()?;
                seen.put(kv.key(), number);
                if kv.key().starts_with(format!("{PREFIX}p/").as_bytes()) {
                    pair.push(number);
                }
            }
            seen.torn += u64::from(!pair.is_empty() && (pair.len() != 2 || pair.first() != pair.last()));
        }
    }
    anyhow::bail!("the destination ended the watch")
}

// === impl Seen ===

impl Seen {
    /// No number is written twice by the source, so that each has its place in the order.
    fn put(&mut self, key: &[u8], number: u64) {
        let (before, deleted) = self.newest.insert(key.to_vec(), (number, false)).unwrap_or((0, false));
        self.resurrected += u64::from(deleted && number <= before);
        self.doubled += u64::from(!deleted && number == before);
        self.back += u64::from(!deleted && number < before);
    }

    fn delete(&mut self, key: &[u8]) {
        if let Some((_, deleted)) = self.newest.get_mut(key) {
            *deleted = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_twice_or_back_is_counted_for_what_it_is() {
        let mut seen = Seen::default();
        seen.put(b"k", 1);
        seen.put(b"k", 3);
        seen.delete(b"k");
        seen.put(b"k", 4);
        assert_eq!((seen.resurrected, seen.doubled, seen.back), (0, 0, 0));
        seen.put(b"k", 4);
        assert_eq!((seen.resurrected, seen.doubled, seen.back), (0, 1, 0));
        seen.put(b"k", 2);
        assert_eq!((seen.resurrected, seen.doubled, seen.back), (0, 1, 1));
        seen.delete(b"k");
        seen.put(b"k", 2);
        assert_eq!((seen.resurrected, seen.doubled, seen.back), (1, 1, 1));
    }
}
