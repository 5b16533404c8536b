//! Several judges, one judgement: the workers of a proxy, and proxies that speak different protocols.

use std::time::{Duration, Instant};

use zonebreak_drill::{
    lab::{Envoy, Fault, Load},
    world::{Protocol, SOON, World, WorldOptions, zone_gauges},
};

use crate::support::{Calm, in_sync, judged, left_after, no_failure, ran};

/// Requests a second of one load.
const RATE: f64 = 50.0;

/// Loads at least, and at most. The kernel deals connections out by a hash, so a few more may be needed to reach everybody.
const LOADS: std::ops::Range<usize> = 8..40;

/// Starts loads, each with connections of its own, until `reached` says that everybody has some.
async fn spread(world: &World, reached: impl AsyncFn() -> bool) -> Vec<Load> {
    let mut loads = Vec::new();
    for n in 0..LOADS.end {
        let load = world.load(RATE).unwrap();
        ran(&load, Instant::now(), 2).await;
        loads.push(load);
        if n + 1 >= LOADS.start && reached().await {
            return loads;
        }
    }
    panic!("{} connections, and somebody has none of them", loads.len());
}

fn lost(loads: &[Load], from: Instant) -> u64 {
    loads.iter().map(|load| load.summary(from, Instant::now()).total.failed).sum()
}

async fn run_for(loads: &[Load], seconds: usize) {
    let from = Instant::now();
    for load in loads {
        ran(load, from, RATE as usize * seconds).await;
    }
}

/// Connections that are open at a worker.
async fn connections(world: &World, worker: u32) -> u64 {
    let stat = format!("listener.127.0.0.1_{}.worker_{worker}.downstream_cx_active", world.listener.port());
    world.envoy.stat(&stat).await.unwrap().unwrap_or_default()
}

/// Two workers, no shared memory: both stop, together, and the transition is one.
#[tokio::test(flavor = "multi_thread")]
async fn both_workers_trip() {
    judged(async || {
        let mut world = World::start(WorldOptions { concurrency: 2, ..Default::default() }).await.unwrap();
        let loads =
            spread(&world, async || connections(&world, 0).await >= 2 && connections(&world, 1).await >= 2)
                .await;
        run_for(&loads, 3).await;
        let calm = Calm::begin(&mut world);
        let onset = Instant::now();
        world.backends.zone("az-a").set_fault(Fault::HARD);
        let left = left_after(&world, "az-a", onset, SOON).await;
        // One worker alone would leave half of the requests where they were, and the zone would never be quiet.
        calm.left_within(Duration::from_millis(500), left)?;
        run_for(&loads, 2).await;
        let lost = lost(&loads, onset);
        calm.lost_at_most(3, lost)?;
        let opened = world
            .envoy
            .stat("wasmcustom.zonebreak_transitions_total;service=order-svc;zone=az-a;to=open")
            .await;
        assert_eq!(opened.unwrap(), Some(1), "counted by both");
        assert_eq!(world.transitions("open").await.unwrap(), 1);
        let log = world.envoy.process().log();
        assert_eq!(log.matches("az-a closed -> open").count(), 1, "told by both: {log}");
        assert!(connections(&world, 0).await >= 1 && connections(&world, 1).await >= 1);
        Ok(())
    })
    .await;
}

/// One proxy speaks incremental xDS, one the state of the world; both have the same, and do the same.
#[tokio::test(flavor = "multi_thread")]
async fn sotw_envoy_beside_an_incremental_one() {
    judged(async || {
        let mut world = World::start(WorldOptions::default()).await.unwrap();
        let sotw = world.another_envoy("sotw", "az-a", Protocol::Sotw).await.unwrap();
        let proxies = in_sync(&world.plane, 2).await;
        let field = |name: &str| {
            let mut values: Vec<_> = proxies.iter().map(|p| p[name].as_str().unwrap().to_owned()).collect();
            values.sort();
            values
        };
        assert_eq!(field("protocol"), ["delta", "sotw"]);
        assert_eq!(field("id"), ["envoy-az-a", "sotw-az-a"]);
        for short in ["CDS", "EDS", "LDS", "RDS", "ECDS"] {
            assert_eq!(
                proxies[0]["types"][short]["acked"], proxies[1]["types"][short]["acked"],
                "{short}: {proxies:#?}"
            );
        }
        for counter in ["listener_manager.lds", "cluster_manager.cds", "cluster.order-svc"] {
            for envoy in [&world.envoy, &sotw] {
                let rejected = envoy.stat(&format!("{counter}.update_rejected")).await.unwrap();
                assert_eq!(rejected, Some(0), "{counter}");
            }
        }

        let open = format!("http.zonebreak_{}.downstream_cx_active", world.listener.port());
        let busy = async |envoy: &Envoy| envoy.stat(&open).await.unwrap().unwrap_or_default() >= 3;
        let loads = spread(&world, async || busy(&world.envoy).await && busy(&sotw).await).await;
        let well = Instant::now();
        run_for(&loads, 3).await;
        for load in &loads {
            no_failure(load, well, "both well");
        }

        let calm = Calm::begin(&mut world);
        let onset = Instant::now();
        world.backends.zone("az-a").set_fault(Fault::HARD);
        let left = left_after(&world, "az-a", onset, SOON).await;
        calm.left_within(Duration::from_millis(500), left)?;
        for envoy in [&world.envoy, &sotw] {
            assert_eq!(zone_gauges(envoy, "az-a").await.unwrap().state, 1);
        }
        let lost = lost(&loads, onset);
        calm.lost_at_most(3, lost)?;
        Ok(())
    })
    .await;
}
