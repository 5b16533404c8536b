//! The source is dead or cannot be asked: what is safe in the spool must reach the destination, and leases neither hold it back
//! nor are forgotten.

use std::time::Duration;

use etcd_client::{Client, PutOptions};
use zonebreak_replication::region;

use crate::support::{PREFIX, Pair, Running, list, put, until};

async fn put_leased(client: &mut Client, key: &str, ttl: i64) -> i64 {
    let lease = client.lease_grant(ttl, None).await.unwrap().id();
    client.put(key, "1", Some(PutOptions::new().with_lease(lease))).await.unwrap();
    lease
}

async fn lease_of(client: &mut Client, key: &str) -> Option<i64> {
    client.get(key, None).await.unwrap().kvs().first().map(etcd_client::KeyValue::lease)
}

/// The point of it all: what the source acknowledged before its region died is in the spool, and must not stay there.
#[tokio::test(flavor = "multi_thread")]
async fn with_the_source_dead_what_is_in_the_spool_still_reaches_the_destination() {
    let mut pair = Pair::start_that_forgets_nothing().await;
    put(&mut pair.from().await, "/app/a", "1").await;
    let replicator = Running::start(pair.options());
    replicator.streams().await;
    pair.equal().await;
    let cluster = pair.checkpoint().await.unwrap().source_cluster;

    // While it runs: leases that nobody was asked about yet.
    pair.destination.kill();
    let mut source = pair.from().await;
    let lease = put_leased(&mut source, "/app/leased", 600).await;
    let last = put(&mut source, "/app/last", "1").await;
    pair.spooled("spool", cluster, last).await;
    pair.source.kill();
    pair.destination.restart().await.unwrap();
    let mut to = pair.to().await;
    until("the last change", async || lease_of(&mut to, "/app/last").await.is_some()).await;
    assert_eq!(lease_of(&mut to, "/app/leased").await, Some(lease));

    // A start without it.
    pair.source.restart().await.unwrap();
    until("the source to be followed again", async || {
        replicator.metrics.connected.with_label_values(&["source"]).get() == 1
    })
    .await;
    pair.destination.kill();
    let mut source = pair.from().await;
    let lease = put_leased(&mut source, "/app/leased-later", 600).await;
    source.delete("/app/a", None).await.unwrap();
    let last = put(&mut source, "/app/last", "2").await;
    pair.spooled("spool", cluster, last).await;
    replicator.stop().await;
    pair.source.kill();
    pair.destination.restart().await.unwrap();
    let replicator = Running::start(pair.options());
    let mut to = pair.to().await;
    until("the last change", async || {
        to.get("/app/last", None).await.unwrap().kvs().first().is_some_and(|kv| kv.value() == b"2")
    })
    .await;
    assert_eq!(lease_of(&mut to, "/app/leased-later").await, Some(lease));
    assert_eq!(lease_of(&mut to, "/app/a").await, None, "deletes too");
    assert!(pair.checkpoint().await.unwrap().is_whole());

    // And it goes on with the source when that is back.
    pair.source.restart().await.unwrap();
    put(&mut pair.from().await, "/app/goes-on", "1").await;
    pair.equal().await;
    replicator.streams().await;
    pair.prove(pair.options()).await;
    assert_eq!((replicator.metrics.mismatches.get(), replicator.metrics.strangers.get()), (0, 0));
    replicator.stop().await;
}

/// A replicator that starts when the other region is away already: what the source says until it dies is not only the source's.
#[tokio::test(flavor = "multi_thread")]
async fn with_the_destination_dead_at_the_start_the_source_is_followed_and_a_promotion_loses_nothing() {
    let mut pair = Pair::start().await;
    let mut source = pair.from().await;
    put(&mut source, "/app/a", "1").await;
    put(&mut source, "/app/gone", "1").await;
    let replicator = Running::start(pair.options());
    replicator.streams().await;
    pair.equal().await;
    let cluster = pair.checkpoint().await.unwrap().source_cluster;
    put(&mut source, "/app/a", "2").await;
    pair.equal().await;
    replicator.stop().await;
    pair.destination.kill();
    let replicator = Running::start(pair.options());
    source.delete("/app/gone", None).await.unwrap();
    for round in 0..50 {
        put(&mut source, &format!("/app/b/{round}"), "1").await;
    }
    let last = put(&mut source, "/app/a", "3").await;
    pair.spooled("spool", cluster, last).await;
    let wanted = list(&mut source, PREFIX).await;
    let told = |side| replicator.metrics.connected.with_label_values(&[side]).get();
    assert_eq!((told("source"), told("destination")), (1, 0));
    // It is told that it is to stop, which it does though the destination is away.
    replicator.stop().await;
    pair.source.kill();
    pair.destination.restart().await.unwrap();
    let promoted = region::promote(pair.options(), "eve", true, false).await.unwrap();
    assert!(!promoted.already && !promoted.source_fenced, "{promoted:?}");
    assert_eq!(list(&mut pair.to().await, PREFIX).await, wanted);
}

/// After a restart nothing is written, and yet the leases at the destination must not run out.
#[tokio::test(flavor = "multi_thread")]
async fn leases_that_are_there_already_are_renewed_after_a_restart() {
    let pair = Pair::start().await;
    let (mut source, mut to) = (pair.from().await, pair.to().await);
    // Nobody renews the source's own, so that the time to live is all the time there is.
    let lease = put_leased(&mut source, "/app/leased", 300).await;
    for key in 0..40 {
        put_leased(&mut source, &format!("/app/many/{key}"), 300).await;
    }
    let replicator = Running::start(pair.options());
    pair.equal().await;
    replicator.streams().await;
    replicator.stop().await;
    let left = async |to: &mut Client| to.lease_time_to_live(lease, None).await.unwrap().ttl();
    until("the lease to run down", async || left(&mut to).await <= 296).await;
    let replicator = Running::start(pair.options());
    // Until then it only runs down.
    until("the lease to be renewed", async || left(&mut to).await > 296).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(replicator.metrics.strangers.get(), 0);
    assert_eq!(replicator.metrics.leased.get(), 41);
    replicator.stop().await;
}
