//! A zone comes back, and nobody notices that either.

use std::time::Instant;

use serde_json::json;
use zonebreak_drill::{
    lab::{Fault, until},
    world::{SOON, World, WorldOptions},
};

use crate::support::{Calm, Watched, judged, no_failure, ran, steady};

const RATE: f64 = 200.0;

/// Trial requests that may fail before a zone that is still broken is left again.
const PROBE_ERRORS: u64 = 2;

/// While the zone is broken, trying it costs at most two errors a round. Once it is well it is tried, its share grows step by
/// step, and not one request fails.
#[tokio::test(flavor = "multi_thread")]
async fn recovery_without_an_error_spike() {
    judged(async || {
        // Shorter than the defaults of 5 s and 20 s, which makes it harder: more rounds and a steeper ramp.
        let policy = json!({"mode": "eventual", "breaker": {"open": "2s", "ramp": "8s"}});
        let mut world = World::start(WorldOptions { policy, ..Default::default() }).await.unwrap();
        let load = world.load(RATE).unwrap();
        Calm::untouched(steady(&world, &load, RATE).await)?;

        let calm = Calm::begin(&mut world);
        world.backends.zone("az-a").set_fault(Fault::HARD);
        world.until_zone("az-a", SOON, |zone| zone.state == 1).await.unwrap();
        // What was under way when the zone was left belongs to the trip.
        let left = Instant::now();
        ran(&load, left, RATE as usize / 2).await;
        let tried = Instant::now();
        until("two rounds of trials that failed", 3 * SOON, async || {
            match world.transitions("open").await.map_err(|e| e.to_string())? {
                3.. => Ok(()),
                n => Err(format!("opened {n} times")),
            }
        })
        .await
        .unwrap();
        ran(&load, Instant::now(), RATE as usize / 4).await;
        let rounds = world.transitions("half_open").await.unwrap();
        let lost = load.summary(tried, Instant::now()).total.failed;
        eprintln!("{lost} requests lost in {rounds} rounds of trials");
        calm.promise(lost <= rounds * PROBE_ERRORS, || {
            format!("{lost} requests lost in {rounds} rounds of trials")
        })?;

        let well = Instant::now();
        world.backends.zone("az-a").set_fault(Fault::None);
        let keep = Watched::stat(
            world.envoy.admin(),
            "wasmcustom.zonebreak_zone_keep_permille;service=order-svc;zone=az-a",
        );
        world.until_zone("az-a", 2 * SOON, |zone| zone.state == 3).await.unwrap();
        let ramp = Instant::now();
        let early = ran(&load, ramp, RATE as usize).await;
        world.until_zone("az-a", 2 * SOON, |zone| zone.state == 0 && zone.keep == 1_000).await.unwrap();
        let took = ramp.elapsed();
        let full = ran(&load, Instant::now(), RATE as usize * 2).await;
        no_failure(&load, well, "from the recovery of the zone to its full share");

        let share = |samples: &[zonebreak_drill::lab::Sample]| {
            let in_zone = samples.iter().filter(|s| s.zone.as_deref() == Some("az-a")).count();
            in_zone as f64 / samples.len() as f64
        };
        let (early, full) = (share(&early), share(&full));
        calm.promise(early < 0.25, || {
            format!("{early:.2} of the requests went to the zone in the first second of its ramp")
        })?;
        calm.promise(full > 0.7, || format!("{full:.2} of the requests went to the zone after its ramp"))?;
        calm.promise((7.0..10.0).contains(&took.as_secs_f64()), || format!("a ramp of 8 s took {took:?}"))?;
        let mut keep: Vec<u64> = keep.stop().await.into_iter().filter_map(|(_, value)| value).collect();
        keep.dedup();
        // Each worker shows the gauge in its turn, so it may be a step of the ramp behind what another has shown.
        let mut highest = 0;
        let back = keep.iter().find(|keep| {
            highest = highest.max(**keep);
            **keep * 10 < highest * 7
        });
        assert_eq!(back, None, "the share went back on its way up: {keep:?}");
        calm.promise(keep.iter().filter(|k| (50..1_000).contains(*k)).count() > 20, || {
            format!("a jump, not a ramp: {keep:?}")
        })?;
        Ok(())
    })
    .await;
}
