//! Looks at a running world: until it is steady, when a zone is left, which requests failed, how a gauge moves. Measures;
//! holds nobody to it.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::Value;
use zonebreak_drill::{
    lab::{Http, Load, Plane, Sample, until},
    world::{SOON, World},
};

/// A zone counts as left from the start of the first stretch of this length without a request. It gets at least 20 requests
/// a second while it is in use, so such a stretch does not come by chance.
const QUIET: Duration = Duration::from_millis(500);

/// How long the world is looked at before it is broken.
const STEADY: Duration = Duration::from_millis(2_500);

/// A counter or gauge of a proxy, read again and again in the background.
#[derive(Debug)]
pub struct Watched {
    seen: Arc<Mutex<Vec<Look>>>,
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

/// When an answer came, and the value; none when there was no answer or no such stat.
pub type Look = (Instant, Option<u64>);

/// Waits until every zone is closed and nothing has failed for a while. How often a zone was left before that, which only a busy
/// machine does.
pub async fn steady(world: &World, load: &Load, rate: f64) -> u64 {
    until("a steady state", 2 * SOON, async || {
        let recent = load.recent(STEADY).total;
        if (recent.requests as f64) < 0.95 * rate * STEADY.as_secs_f64() || recent.failed > 0 {
            return Err(format!("{recent:?} in {STEADY:?}"));
        }
        for zone in world.backends.zones() {
            let gauges = world.zone(zone.name()).await.map_err(|e| e.to_string())?;
            if gauges.state != 0 || gauges.keep != 1_000 {
                return Err(format!("{}: {gauges:?}", zone.name()));
            }
        }
        Ok(())
    })
    .await
    .unwrap();
    let opened = world.transitions("open").await.unwrap();
    if opened > 0 {
        eprintln!("before anything was broken, a zone was left {opened} times: this machine is busy");
    }
    opened
}

/// Waits until so many proxies are connected and have what they should have, and gives what is known of them.
pub async fn in_sync(plane: &Plane, wanted: usize) -> Vec<Value> {
    until(&format!("{wanted} proxies in sync"), 2 * SOON, async || {
        let proxies: Value = plane.admin().json("/proxies").await.map_err(|e| e.to_string())?;
        let all = proxies.as_array().cloned().unwrap_or_default();
        let synced = all.iter().filter(|proxy| proxy["state"] == "synced").count();
        if all.len() == wanted && synced == wanted { Ok(all) } else { Err(proxies.to_string()) }
    })
    .await
    .unwrap()
}

/// Waits until a zone gets no requests any more, and says how long after `onset` the last one came; none when it was never
/// left.
pub async fn left_after(world: &World, zone: &str, onset: Instant, limit: Duration) -> Option<Duration> {
    let zone = world.backends.zone(zone);
    let left = until("the zone left", limit, async || {
        zone.left_after(onset, QUIET, Instant::now()).ok_or_else(|| "requests".to_owned())
    });
    left.await.ok()
}

/// Waits until `requests` that were due from `from` on have come to an end, and gives them.
pub async fn ran(load: &Load, from: Instant, requests: usize) -> Vec<Sample> {
    until("enough requests", 3 * SOON, async || {
        let samples = load.samples(from, Instant::now());
        if samples.len() >= requests { Ok(samples) } else { Err(format!("{} of {requests}", samples.len())) }
    })
    .await
    .unwrap()
}

/// Holds every request to have been answered.
///
/// # Panics
/// With what came instead.
pub fn no_failure(load: &Load, from: Instant, what: &str) {
    let samples = load.samples(from, Instant::now());
    assert!(!samples.is_empty(), "{what}: no requests, so nothing is shown");
    let failed: Vec<_> = samples.iter().filter(|s| s.outcome.failed()).collect();
    let told: Vec<_> = failed
        .iter()
        .take(10)
        .map(|s| format!("{:?} after {:?}, zone {:?}, late {:?}", s.outcome, s.due - from, s.zone, s.late))
        .collect();
    assert!(failed.is_empty(), "{what}: {} of {} requests failed: {told:#?}", failed.len(), samples.len());
}

// === impl Watched ===

impl Watched {
    /// Begins to read a stat of an Envoy through its admin interface, every 20 ms or so.
    pub fn stat(admin: &Http, name: &str) -> Self {
        let (seen, stop) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<AtomicBool>::default());
        let (admin, path) =
            (admin.clone(), format!("/stats?format=json&filter=^{}$", name.replace('.', "\\.")));
        let (writes, stops) = (Arc::clone(&seen), Arc::clone(&stop));
        let task = tokio::spawn(async move {
            while !stops.load(Ordering::Relaxed) {
                let answer: Result<Value, _> = admin.json(&path).await;
                let value = answer.ok().and_then(|json| json["stats"][0]["value"].as_u64());
                writes.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), value));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Self { seen, stop, task }
    }

    /// Ends and gives all that was seen.
    pub async fn stop(self) -> Vec<Look> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
