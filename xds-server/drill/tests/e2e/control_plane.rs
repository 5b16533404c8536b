//! The control plane and its store go away and come back. Requests do not notice.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use zonebreak_drill::{
    lab::{Fault, until},
    world::{SERVICE, SOON, World, WorldOptions},
};

use crate::support::{Calm, Watched, cli, in_sync, judged, left_after, no_failure, ran, steady, turn};

const RATE: f64 = 200.0;

/// Endpoints of the service in the default world.
const ENDPOINTS: u64 = 6;

/// What must never shrink, not for a moment: endpoints, clusters, listeners.
struct Standing {
    watched: Vec<(&'static str, Watched)>,
}

// === impl Standing ===

impl Standing {
    fn watch(world: &World) -> Self {
        let stats = [
            "cluster.order-svc.membership_total",
            "cluster.order-svc.membership_healthy",
            "cluster_manager.active_clusters",
            "listener_manager.total_listeners_active",
        ];
        Self { watched: stats.map(|stat| (stat, Watched::stat(world.envoy.admin(), stat))).into() }
    }

    async fn never_shrank(self) {
        for (stat, watched) in self.watched {
            let seen: Vec<u64> = watched.stop().await.into_iter().filter_map(|(_, value)| value).collect();
            assert!(seen.len() > 20, "{stat} was hardly read: {seen:?}");
            assert!(seen.iter().all(|value| *value == seen[0] && *value > 0), "{stat} moved: {seen:?}");
        }
    }
}

async fn endpoints(world: &World) -> u64 {
    let topology: Value = world.plane.admin().json("/topology").await.unwrap();
    topology["endpoints"][SERVICE].as_object().map_or(0, |endpoints| endpoints.len() as u64)
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_restart() {
    let _turn = turn().await;
    let mut world = World::start(WorldOptions::default()).await.unwrap();
    let load = world.load(RATE).unwrap();
    steady(&world, &load, RATE).await;
    let began = Instant::now();
    let standing = Standing::watch(&world);

    world.etcd.kill();
    let health = zonebreak_drill::lab::Http::new(world.plane.health_url()).unwrap();
    let told = until("the loss told", SOON, async || {
        let (status, text) = health.get("/readyz?verbose").await.map_err(|e| e.to_string())?;
        // Ready all the same: it serves what it knows.
        if status == 200 && text.contains("[~]etcd") { Ok(text) } else { Err(format!("{status} {text}")) }
    });
    told.await.unwrap();
    ran(&load, Instant::now(), RATE as usize * 2).await;
    assert_eq!(endpoints(&world).await, ENDPOINTS, "the last good topology stays");
    let metrics = health.get("/metrics").await.unwrap().1;
    assert!(metrics.contains("zonebreak_etcd_connected 0"), "{metrics}");
    world.etcd.restart().await.unwrap();

    // What changes from now on arrives.
    world.change_policy(json!({"weights": {"az-a": 1, "az-b": 1, "az-c": 1}})).await.unwrap();
    until("even shares", SOON, async || {
        let share = load.recent(Duration::from_secs(1)).share_percent("az-a");
        if (23.0..43.0).contains(&share) { Ok(()) } else { Err(format!("{share:.0} %")) }
    })
    .await
    .unwrap();
    // Leases outlive the restart or are taken out anew: past their 10 s, all endpoints are still there.
    ran(&load, Instant::now(), RATE as usize * 11).await;
    assert_eq!(endpoints(&world).await, ENDPOINTS, "a lease was lost");
    for registration in &mut world.registrations {
        assert!(
            registration.process().exited().is_none(),
            "a registration ended: {}",
            registration.process().log_tail()
        );
    }
    standing.never_shrank().await;
    no_failure(&load, began, "a restart of etcd");
}

#[tokio::test(flavor = "multi_thread")]
async fn control_plane_killed_and_restarted() {
    judged(async || {
        let policy = json!({"mode": "eventual", "breaker": {"open": "2s", "ramp": "2s"}});
        let mut world = World::start(WorldOptions { policy, ..Default::default() }).await.unwrap();
        let load = world.load(RATE).unwrap();
        steady(&world, &load, RATE).await;
        let standing = Standing::watch(&world);
        let killed = Instant::now();
        world.plane.kill();

        // Nobody is there to ask, and az-a breaks: the filter leaves it, and comes back.
        ran(&load, killed, RATE as usize).await;
        let calm = Calm::begin(&mut world);
        let onset = Instant::now();
        world.backends.zone("az-a").set_fault(Fault::HARD);
        let left = left_after(&world, "az-a", onset, SOON).await;
        calm.left_within(Duration::from_millis(500), left)?;
        let lost = load.summary(killed, Instant::now()).total.failed;
        calm.lost_at_most(3, lost)?;
        world.backends.zone("az-a").set_fault(Fault::None);
        let well = Instant::now();
        world.until_zone("az-a", 2 * SOON, |zone| zone.state == 0 && zone.keep == 1_000).await.unwrap();

        // Back: same content, same versions, so that there is nothing to send. (Subscriptions to everything are answered all
        // the same, with nothing in the answer.)
        let changes = "^(listener_manager\\.listener|cluster_manager\\.cluster)_(added|modified|removed|updated)$|\
                       ^cluster\\.order-svc\\.update_(success|rejected)$|\
                       ^http\\..*\\.rds\\..*\\.(update_success|config_reload)$|extension_config_discovery.*config_reload$";
        let before = world.envoy.stats(changes).await.unwrap();
        assert!(before.len() >= 10, "these stats are not what they used to be: {before:?}");
        world.plane.restart().await.unwrap();
        in_sync(&world.plane, 1).await;
        ran(&load, Instant::now(), RATE as usize * 2).await;
        assert_eq!(world.envoy.stats(changes).await.unwrap(), before, "something was sent again");
        let metrics = zonebreak_drill::lab::Http::new(world.plane.health_url()).unwrap().get("/metrics").await.unwrap().1;
        let sent = |name: &str| -> f64 {
            let of_name = metrics.lines().filter(|line| line.starts_with(name));
            of_name.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
        };
        assert!(sent("zonebreak_xds_requests_total") >= 5.0, "nobody asked: {metrics}");
        assert_eq!(sent("zonebreak_xds_resources_total"), 0.0, "resources were sent again: {metrics}");
        standing.never_shrank().await;
        no_failure(&load, well, "the return of the control plane");

        // And it is heard again.
        cli(&world.plane, &["zone", "drain", "az-b", "--for", "5m", "--reason", "e2e"]).await;
        world.until_zone("az-b", SOON, |zone| zone.state == 4).await.unwrap();
        Ok(())
    })
    .await;
}
