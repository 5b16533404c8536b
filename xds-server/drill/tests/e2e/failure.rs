//! A zone goes bad in each of the ways in which zones do. The figures are those of the promises: a zone is left within 0.5 s
//! (everything fails), 1.5 s (30 % fails), 1 s (+300 ms), and of 30 s at 200 requests a second at most 0.05 % are lost with
//! one retry.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use serde_json::json;
use zonebreak_drill::{
    lab::{Fault, Load},
    world::{World, WorldOptions},
};

use crate::support::{Busy, Calm, Watched, judged, left_after, no_failure, ran, steady};

/// Requests a second.
const RATE: f64 = 200.0;

/// How long a fault lasts in the promise about lost requests.
const FAULT: Duration = Duration::from_secs(30);

/// Requests lost of those, at most: 0.05 % of 6,000.
const LOST: u64 = 3;

/// How long a zone is watched for being left, however late.
const WATCH: Duration = Duration::from_secs(10);

/// A world under load, its own zone about to break.
struct Scene {
    world: World,
    load: Load,
}

// === impl Scene ===

impl Scene {
    async fn set(options: WorldOptions) -> Result<Self, Busy> {
        let world = World::start(options).await.unwrap();
        let load = world.load(RATE).unwrap();
        Calm::untouched(steady(&world, &load, RATE).await)?;
        Ok(Self { world, load })
    }

    /// Breaks az-a, the proxy's own zone.
    fn fail(&mut self, fault: Fault) -> (Calm, Instant) {
        let calm = Calm::begin(&mut self.world);
        let onset = Instant::now();
        self.world.backends.zone("az-a").set_fault(fault);
        (calm, onset)
    }

    /// Holds the other zones to have stayed in use: one transition, and that of az-a.
    async fn only_az_a_was_left(&mut self) {
        for zone in ["az-b", "az-c"] {
            assert_eq!(self.world.zone(zone).await.unwrap().state, 0, "{zone} was healthy");
        }
        let log = self.world.envoy.process().log();
        assert!(log.contains("order-svc az-a closed -> open"), "the log does not tell of the trip: {log}");
        assert!(!log.contains("az-b closed ->") && !log.contains("az-c closed ->"), "{log}");
        assert!(
            self.world.backends.leaked_headers().is_empty(),
            "{:?}",
            self.world.backends.leaked_headers()
        );
    }

    /// Requests lost since the onset.
    fn lost(&self, onset: Instant) -> u64 {
        self.load.summary(onset, Instant::now()).total.failed
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hard_failure_of_the_own_zone() {
    judged(async || {
        let mut scene = Scene::set(WorldOptions::default()).await?;
        let (calm, onset) = scene.fail(Fault::HARD);
        let left = left_after(&scene.world, "az-a", onset, WATCH).await;
        calm.left_within(Duration::from_millis(500), left)?;
        // The zone stays broken, so this includes what its trial requests cost.
        ran(&scene.load, onset, (RATE * FAULT.as_secs_f64()) as usize).await;
        calm.lost_at_most(LOST, scene.lost(onset))?;
        scene.only_az_a_was_left().await;
        Ok(())
    })
    .await;
}

/// The same without the retry that hides most of it: what is lost then is what the filter's speed is worth.
#[tokio::test(flavor = "multi_thread")]
async fn hard_failure_without_a_retry() {
    let even = json!({"az-a": 1, "az-b": 1, "az-c": 1});
    let local = json!({"az-a": 80, "az-b": 10, "az-c": 10});
    // 0.35 % and 0.9 % of 6,000.
    for (weights, limit) in [(even, 21), (local, 54)] {
        judged(async || {
            let policy = json!({"mode": "eventual", "weights": weights, "retry": {"attempts": 0}});
            let mut scene = Scene::set(WorldOptions { policy, ..Default::default() }).await?;
            let (calm, onset) = scene.fail(Fault::HARD);
            let left = left_after(&scene.world, "az-a", onset, WATCH).await;
            calm.left_within(Duration::from_millis(500), left)?;
            ran(&scene.load, onset, RATE as usize * 4).await;
            calm.lost_at_most(limit, scene.lost(onset))
        })
        .await;
    }
}

/// Slower backends have more requests under way when their zone dies, and each of those needs its retry at once.
#[tokio::test(flavor = "multi_thread")]
async fn hard_failure_where_answers_take_100_ms() {
    judged(async || {
        let mut scene = Scene::set(WorldOptions::default()).await?;
        scene.world.backends.set_fault(Fault::Delay(Duration::from_millis(100)));
        // Until nobody expects faster answers any more.
        ran(&scene.load, Instant::now(), RATE as usize * 5).await;
        steady(&scene.world, &scene.load, RATE).await;
        let (calm, onset) = scene.fail(Fault::HARD);
        let left = left_after(&scene.world, "az-a", onset, WATCH).await;
        calm.left_within(Duration::from_millis(500), left)?;
        ran(&scene.load, onset, RATE as usize * 4).await;
        calm.lost_at_most(LOST, scene.lost(onset))?;
        scene.only_az_a_was_left().await;
        Ok(())
    })
    .await;
}

/// How soon 30 % are told from chance is itself a matter of chance, and the promise one for 95 of 100 times. Three times are
/// measured, each in a world of its own; two of them must keep it, and the third may not be far off.
#[tokio::test(flavor = "multi_thread")]
async fn gray_failure_of_30_percent() {
    let limit = Duration::from_millis(1_500);
    let late = AtomicU32::new(0);
    for _ in 0..3 {
        judged(async || {
            let mut scene = Scene::set(WorldOptions::default()).await?;
            let (calm, onset) = scene.fail(Fault::gray(0.3));
            let left = left_after(&scene.world, "az-a", onset, WATCH).await;
            let again = late.load(Ordering::Relaxed) > 0;
            calm.left_within(if again { limit } else { 2 * limit }, left)?;
            ran(&scene.load, onset, RATE as usize * 4).await;
            calm.lost_at_most(LOST, scene.lost(onset))?;
            scene.only_az_a_was_left().await;
            late.fetch_add(u32::from(left.is_some_and(|left| left > limit)), Ordering::Relaxed);
            Ok(())
        })
        .await;
    }
}

/// Refused connections reach no backend, so Envoy's own counter of them is read instead.
#[tokio::test(flavor = "multi_thread")]
async fn connect_failures() {
    judged(async || {
        let mut scene = Scene::set(WorldOptions::default()).await?;
        let watched = Watched::stat(scene.world.envoy.admin(), "cluster.order-svc.upstream_cx_connect_fail");
        let (calm, onset) = scene.fail(Fault::Refuse);
        ran(&scene.load, onset, RATE as usize * 3).await;
        let seen = watched.stop().await;
        let last = seen.last().and_then(|(_, value)| *value).unwrap_or_default();
        assert!(last > 0, "no connection was refused: {seen:?}");
        // The first look that finds all of them: they had come by then.
        let by = seen.iter().find(|(_, value)| *value == Some(last)).map(|(at, _)| *at);
        let left = by.map(|by| by.saturating_duration_since(onset));
        calm.left_within(Duration::from_millis(500), left)?;
        calm.lost_at_most(LOST, scene.lost(onset))?;
        scene.only_az_a_was_left().await;
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_zone() {
    judged(async || {
        let mut scene = Scene::set(WorldOptions::default()).await?;
        let (calm, onset) = scene.fail(Fault::Delay(Duration::from_millis(300)));
        let left = left_after(&scene.world, "az-a", onset, WATCH).await;
        calm.left_within(Duration::from_secs(1), left)?;
        // Who comes after that does not feel it.
        let after = Instant::now();
        ran(&scene.load, after, RATE as usize * 2).await;
        let median = scene.load.summary(after, Instant::now()).p50;
        calm.promise(median < Duration::from_millis(100), || {
            format!("half of the requests still take {median:?}")
        })?;
        no_failure(&scene.load, onset, "a slow zone");
        scene.only_az_a_was_left().await;
        Ok(())
    })
    .await;
}

/// Nothing is gained by moving when all zones are alike, whatever is wrong with them: not when it begins, not while it lasts, not
/// when it becomes something else, and not when it is over.
#[tokio::test(flavor = "multi_thread")]
async fn all_zones_failing_alike_trip_nothing() {
    judged(async || {
        let mut scene = Scene::set(WorldOptions::default()).await?;
        let slow = Fault::Delay(Duration::from_millis(300));
        let faults = [
            (Fault::gray(0.6), 4),
            (slow, 3),
            (Fault::HARD, 4),
            (slow, 2),
            (Fault::Refuse, 3),
            (Fault::HARD, 2),
            (Fault::None, 2),
            (Fault::HARD, 3),
            (Fault::None, 2),
        ];
        for (fault, seconds) in faults {
            scene.world.backends.set_fault(fault);
            ran(&scene.load, Instant::now(), RATE as usize * seconds).await;
            let log = scene.world.envoy.process().log();
            assert_eq!(
                scene.world.transitions("open").await.unwrap(),
                0,
                "{fault:?} in all zones tripped one: {log}"
            );
            for zone in ["az-a", "az-b", "az-c"] {
                let gauges = scene.world.zone(zone).await.unwrap();
                assert_eq!((gauges.state, gauges.keep), (0, 1_000), "{zone} under {fault:?}");
            }
        }
        Ok(())
    })
    .await;
}
