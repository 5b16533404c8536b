//! Writes at a rate, and the lag of each write: from the source's acknowledgement to the destination's watch, by one clock.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use etcd_client::{Client, WatchOptions};
use tokio::task::JoinSet;

use super::PREFIX;

/// Keys that are written in turn.
const KEYS: u64 = 20_000;

/// What the client saw.
#[derive(Debug, Clone)]
pub struct Lag {
    /// Writes acknowledged a second.
    pub rate: f64,
    /// Lag of each write that arrived, in milliseconds, sorted.
    pub ms: Vec<f64>,
    /// Writes that had not arrived when the wait was given up.
    pub missing: u64,
    /// From the last acknowledgement until everything had arrived.
    pub drain: Option<Duration>,
    /// The writes themselves: when each was sent, and its latency in milliseconds.
    pub puts: Vec<(Instant, f64)>,
}

#[derive(Default)]
struct Account {
    /// When each write was acknowledged, by its number.
    acknowledged: HashMap<u64, Instant>,
    /// When the destination first had it, or a later write of its key.
    arrived: HashMap<u64, Instant>,
    puts: Vec<(Instant, f64)>,
}

// === impl Lag ===

impl Lag {
    /// The p99 of the writes that were sent in that time, in milliseconds.
    pub fn put_p99(&self, within: Range<Instant>) -> f64 {
        let sent = self.puts.iter().filter(|(at, _)| within.contains(at));
        let mut ms: Vec<f64> = sent.map(|(_, ms)| *ms).collect();
        ms.sort_by(f64::total_cmp);
        percentile(&ms, 0.99)
    }
}

// === impl Account ===

impl Account {
    /// How long after `stopped` the last write arrived; `None` while some have not.
    fn drained(&self, stopped: Instant) -> Option<Duration> {
        let all = self.acknowledged.keys().all(|number| self.arrived.contains_key(number));
        let last = self.arrived.values().max().copied().unwrap_or(stopped);
        all.then(|| last.saturating_duration_since(stopped))
    }
}

/// The value below which this share of the sorted values lies.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let at = (sorted.len() as f64 * share) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// Writes for `time` at `rate` a second, or as fast as `writers` can, then waits at most `patience` for the rest to arrive.
pub(super) async fn load(
    from: &Client,
    to: &Client,
    rate: Option<u64>,
    writers: u64,
    time: Duration,
    patience: Duration,
) -> anyhow::Result<Lag> {
    let account = Arc::new(Mutex::new(Account::default()));
    let watching = tokio::spawn(watch(to.clone(), Arc::clone(&account)));
    // The watch must be there before the first write.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (next, begun, mut tasks) = (Arc::new(AtomicU64::new(0)), Instant::now(), JoinSet::new());
    for _ in 0..writers {
        let (mut from, next, account) = (from.clone(), Arc::clone(&next), Arc::clone(&account));
        tasks.spawn(async move {
            while begun.elapsed() < time {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if let Some(rate) = rate {
                    let due = begun + Duration::from_secs_f64(number as f64 / rate as f64);
                    tokio::time::sleep_until(due.into()).await;
                }
                let (key, sent) = (format!("{PREFIX}l/{:05}", number % KEYS), Instant::now());
                let value = format!("{number:010}{:190}", "");
                if from.put(key, value, None).await.is_ok() {
                    let mut account = lock(&account);
                    account.acknowledged.insert(number, Instant::now());
                    account.puts.push((sent, sent.elapsed().as_secs_f64() * 1000.0));
                }
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    let stopped = Instant::now();
    let written = lock(&account).acknowledged.len() as u64;
    let mut drain = None;
    while stopped.elapsed() < patience && drain.is_none() {
        drain = lock(&account).drained(stopped);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    watching.abort();
    let account = lock(&account);
    let lag = |(number, at): (&u64, &Instant)| {
        let arrived = account.arrived.get(number)?;
        // The destination's watch may be quicker than the source's answer.
        Some(arrived.saturating_duration_since(*at).as_secs_f64() * 1000.0)
    };
    let mut ms: Vec<f64> = account.acknowledged.iter().filter_map(lag).collect();
    ms.sort_by(f64::total_cmp);
    let missing = written - ms.len() as u64;
    Ok(Lag {
        rate: written as f64 / (stopped - begun).as_secs_f64(),
        ms,
        missing,
        drain,
        puts: account.puts.clone(),
    })
}

async fn watch(mut to: Client, account: Arc<Mutex<Account>>) -> anyhow::Result<()> {
    let options = WatchOptions::new().with_prefix();
    let mut watch = to.watch(format!("{PREFIX}l/"), Some(options)).await?;
    let mut before: HashMap<Vec<u8>, u64> = HashMap::new();
    while let Some(response) = watch.message().await? {
        let now = Instant::now();
        let mut account = lock(&account);
        for kv in response.events().iter().filter_map(|event| event.kv()) {
            let number = std::str::from_utf8(kv.value()).ok().and_then(|text| text.get(..10)?.parse().ok());
            let Some(number) = number else { continue };
            // What was skipped of this key is there in its successor.
            let first = before.insert(kv.key().to_vec(), number).map_or(number % KEYS, |last| last + KEYS);
            let mut each = first;
            while each <= number {
                account.arrived.entry(each).or_insert(now);
                each += KEYS;
            }
        }
    }
    Ok(())
}

fn lock(account: &Mutex<Account>) -> std::sync::MutexGuard<'_, Account> {
    account.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let sorted: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(
            (percentile(&sorted, 0.5), percentile(&sorted, 0.99), percentile(&sorted, 1.0)),
            (51.0, 100.0, 100.0)
        );
        assert!(percentile(&[], 0.5).is_nan());
    }
}
