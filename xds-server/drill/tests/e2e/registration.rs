//! Endpoints that register under a lease: gone when told so, gone when dead, back when the lease was lost for no reason.

use std::time::{Duration, Instant};

use serde_json::Value;
use zonebreak_drill::{
    lab::until,
    world::{SERVICE, SOON, World, WorldOptions},
};

use crate::support::{etcd, no_failure, ran, steady, turn};

const RATE: f64 = 200.0;

/// Lease time of the registrations: long beside what a busy machine adds to a deregistration.
const TTL: Duration = Duration::from_secs(8);

/// Waits until the proxy has so many endpoints of the service.
async fn until_members(world: &World, wanted: u64) {
    until(&format!("{wanted} endpoints in the proxy"), SOON, async || {
        let found =
            world.envoy.stat("cluster.order-svc.membership_total").await.map_err(|e| e.to_string())?;
        if found == Some(wanted) { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn lease_loss_and_sigterm_deregister() {
    let _turn = turn().await;
    let options = WorldOptions { ttl: format!("{}s", TTL.as_secs()), ..Default::default() };
    let mut world = World::start(options).await.unwrap();
    let load = world.load(RATE).unwrap();
    steady(&world, &load, RATE).await;
    let began = Instant::now();
    until_members(&world, 6).await;

    // Told to go: at once, long before the lease would have run out.
    let asked = Instant::now();
    let status = world.registrations[5].terminate(SOON).await.unwrap();
    assert!(status.success(), "{status}: {}", world.registrations[5].process().log_tail());
    until_members(&world, 5).await;
    assert!(asked.elapsed() < TTL, "deregistered after {:?}: that was the lease", asked.elapsed());
    let gone = &world.backends.zone("az-c").backends()[1];
    let reached = gone.requests();
    ran(&load, Instant::now(), RATE as usize).await;
    assert_eq!(gone.requests(), reached, "a deregistered endpoint still gets requests");

    // Killed: when the lease runs out and not before.
    let killed = Instant::now();
    world.registrations[4].kill();
    ran(&load, killed, RATE as usize / 2).await;
    assert_eq!(
        world.envoy.stat("cluster.order-svc.membership_total").await.unwrap(),
        Some(5),
        "gone too early"
    );
    until_members(&world, 4).await;
    // etcd looks for leases that ran out every 500 ms, and revokes them through its log.
    assert!(killed.elapsed() < TTL + Duration::from_secs(10), "gone after {:?}", killed.elapsed());

    // A lease that somebody revokes, as a long pause of the process would: the endpoint goes and comes back by itself.
    let mut client = etcd(&world).await;
    let leases = client.leases().await.unwrap().leases().iter().map(|lease| lease.id()).collect::<Vec<_>>();
    assert_eq!(leases.len(), 4, "one lease for each registration");
    client.lease_revoke(leases[0]).await.unwrap();
    until("a new lease", SOON, async || {
        let now: Vec<_> = client.leases().await.unwrap().leases().iter().map(|lease| lease.id()).collect();
        if now.len() == 4 && !now.contains(&leases[0]) { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await
    .unwrap();
    until_members(&world, 4).await;

    // Back after the kill, under the same key.
    world.registrations[4].restart().unwrap();
    world.registrations[5].restart().unwrap();
    until_members(&world, 6).await;
    let topology: Value = world.plane.admin().json("/topology").await.unwrap();
    assert_eq!(topology["endpoints"][SERVICE].as_object().map(serde_json::Map::len), Some(6), "{topology}");
    no_failure(&load, began, "endpoints that come and go");
}
