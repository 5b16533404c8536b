//! Two workers of a real Envoy, which share no memory, leave a zone within one tick of each other.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::task::JoinHandle;
use zonebreak_drill::{
    lab::Fault,
    world::{SOON, World, WorldOptions},
};

use super::bench::{client, send};
use crate::support::{Calm, judged};

/// A tick of the filter, and what an event loop adds to a timer and a request to its sending.
const A_TICK: Duration = Duration::from_millis(100 + 50);

/// Between two requests on a connection.
const PACE: Duration = Duration::from_millis(4);

/// Connections that each worker has at least, and in all at most: the kernel deals them out.
const EACH: usize = 2;
const MOST: usize = 64;

/// A zone that was left is not tried again for so long (5 s less jitter), so that until then each request shows the one or the other.
const LEFT_FOR: Duration = Duration::from_secs(4);

/// One request: when it was sent, when its answer came, and whether its worker still used the zone.
#[derive(Debug, Clone, Copy)]
struct Seen {
    sent: Instant,
    came: Instant,
    used: bool,
}

/// Requests over one connection, again and again until told to stop.
fn watch(client: reqwest::Client, world: &World, stop: &Arc<AtomicBool>) -> JoinHandle<Vec<Seen>> {
    let (to, stop) = (world.listener, Arc::clone(stop));
    tokio::spawn(async move {
        let mut seen = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let sent = Instant::now();
            if let Some(answer) = send(&client, to, &[]).await {
                let used = answer.decision.as_deref() == Some("any");
                seen.push(Seen { sent, came: Instant::now(), used });
            }
            tokio::time::sleep(PACE).await;
        }
        seen
    })
}

/// Clients of one connection each, by the worker that took it.
async fn clients(world: &World) -> BTreeMap<String, Vec<reqwest::Client>> {
    let port = format!("_{}.", world.listener.port());
    let taken = async || {
        let stats = world.envoy.stats("^listener\\..*\\.worker_[0-9]+\\.downstream_cx_total$").await.unwrap();
        stats.into_iter().filter(|(name, _)| name.contains(&port)).collect::<BTreeMap<_, _>>()
    };
    let mut clients: BTreeMap<String, Vec<_>> = BTreeMap::new();
    let mut before = taken().await;
    for _ in 0..MOST {
        if clients.len() == 2 && clients.values().all(|of| of.len() >= EACH) {
            return clients;
        }
        let client = client();
        send(&client, world.listener, &[]).await.unwrap();
        let now = taken().await;
        let worker = now.iter().find(|(name, count)| before.get(*name) != Some(*count));
        let worker = worker.expect("a worker took the connection").0.clone();
        clients.entry(worker).or_default().push(client);
        before = now;
    }
    panic!("{MOST} connections, and not {EACH} for each of two workers: {:?}", clients.keys());
}

/// From the first answer that shows that `one` had left the zone to the last request that `other` was sent and still let into it: by
/// so much at least the other was later.
fn later_by(one: &[Seen], other: &[Seen]) -> Duration {
    let left = one.iter().filter(|seen| !seen.used).map(|seen| seen.came).min();
    let used = other.iter().filter(|seen| seen.used).map(|seen| seen.sent).max();
    left.zip(used).map_or(Duration::MAX, |(left, used)| used.saturating_duration_since(left))
}

#[tokio::test(flavor = "multi_thread")]
async fn both_workers_leave_a_zone_within_one_tick() {
    judged(async || {
        let config = Some("filter: { debug_header: true }\n".to_owned());
        let policy = json!({"mode": "strong"});
        let options = WorldOptions { policy, config, concurrency: 2, ..WorldOptions::default() };
        let mut world = World::start(options).await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        for (worker, clients) in clients(&world).await {
            for client in clients {
                tasks.push((worker.clone(), watch(client, &world, &stop)));
            }
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let calm = Calm::begin(&mut world);
        let onset = Instant::now();
        world.backends.zone("az-a").set_fault(Fault::HARD);
        world.until_zone("az-a", SOON, |zone| zone.state == 1).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        stop.store(true, Ordering::Relaxed);
        let mut seen: BTreeMap<String, Vec<Seen>> = BTreeMap::new();
        for (worker, task) in tasks {
            let of_it = task.await.unwrap().into_iter().filter(|seen| seen.sent < onset + LEFT_FOR);
            seen.entry(worker).or_default().extend(of_it);
        }
        for (worker, seen) in &seen {
            let (before, after) =
                (seen.iter().filter(|s| s.used).count(), seen.iter().filter(|s| !s.used).count());
            calm.promise(before > 50 && after > 20, || {
                format!("{worker} was seen to use az-a {before} times and to avoid it {after} times")
            })?;
        }
        let workers: Vec<_> = seen.values().collect();
        let apart = later_by(workers[0], workers[1]).max(later_by(workers[1], workers[0]));
        eprintln!("one worker was later than the other by {apart:?} at least");
        calm.promise(apart <= A_TICK, || {
            format!("one worker left az-a {apart:?} after the other, a tick is {A_TICK:?} at most")
        })
    })
    .await;
}
