//! Keys that live by leases: what becomes of them where nobody can renew those for a while, and when the owner changes.

use std::time::Duration;

use etcd_client::{Client, PutOptions};
use zonebreak_replication::{StrangerPolicy, region};

use crate::support::{Pair, Running, put, until};

async fn put_leased(client: &mut Client, key: &str, ttl: i64) -> i64 {
    let lease = client.lease_grant(ttl, None).await.unwrap().id();
    client.put(key, "1", Some(PutOptions::new().with_lease(lease))).await.unwrap();
    lease
}

/// The lease of a key and what it has left, in seconds.
async fn lease_of(client: &mut Client, key: &str) -> Option<(i64, i64)> {
    let lease = client.get(key, None).await.unwrap().kvs().first()?.lease();
    Some((lease, client.lease_time_to_live(lease, None).await.unwrap().ttl()))
}

/// From then on nobody renews for the new owner what the replicator renewed.
#[tokio::test(flavor = "multi_thread")]
async fn leased_keys_outlive_a_promotion_for_long_enough_to_be_registered_with_the_new_owner() {
    let pair = Pair::start().await;
    let (mut west, mut east) = (pair.from().await, pair.to().await);
    let mut options = pair.options();
    options.lease_grace = Duration::from_secs(300);
    let mut short = Vec::new();
    for key in 0..200 {
        // Nobody renews them here: long enough to live until the promotion on any machine, and shorter than the grace.
        short.push(put_leased(&mut west, &format!("/app/short/{key:03}"), 150).await);
    }
    let long = put_leased(&mut west, "/app/long", 3_600).await;
    put(&mut west, "/app/plain", "1").await;
    let replicator = Running::start(options.clone());
    replicator.streams().await;
    pair.equal().await;
    assert_eq!(region::assess(options.clone()).await.unwrap().leased_keys, 201);
    let promoted = region::promote(options.clone(), "eve", false, false).await.unwrap();
    assert_eq!((promoted.leased_keys, promoted.lease_grace_ms), (201, 300_000));
    replicator.gives_up().await;
    for (key, before) in short.iter().enumerate() {
        let (lease, left) = lease_of(&mut east, &format!("/app/short/{key:03}")).await.unwrap();
        assert!(lease != 0 && lease != *before && (200..=300).contains(&left), "{lease:x} {left}");
    }
    assert_eq!(lease_of(&mut east, "/app/long").await.unwrap().0, long, "it had more than that left");
    assert_eq!(lease_of(&mut east, "/app/plain").await.unwrap().0, 0);
    let value = east.get("/app/short/007", None).await.unwrap().kvs()[0].value().to_vec();
    assert_eq!(value, b"1");

    // Whoever registered here is left alone when the command is run again.
    let ours = put_leased(&mut east, "/app/short/007", 30).await;
    let again = region::promote(options, "eve", false, false).await.unwrap();
    assert_eq!((again.already, again.leased_keys), (true, 1), "the long one alone is as it was");
    assert_eq!(lease_of(&mut east, "/app/short/007").await.unwrap().0, ours);
}

/// Nobody could renew it for longer than it lives: the destination is told to leave what strangers do, but this was none.
#[tokio::test(flavor = "multi_thread")]
async fn a_leased_key_that_ran_out_at_the_destination_alone_comes_back_though_strangers_are_left_alone() {
    let pair = Pair::start().await;
    let (mut west, mut east) = (pair.from().await, pair.to().await);
    let mut options = pair.options();
    options.strangers = StrangerPolicy::Report;
    let lease = put_leased(&mut west, "/app/leased", 600).await;
    put(&mut west, "/app/deleted", "1").await;
    let replicator = Running::start(options.clone());
    replicator.streams().await;
    pair.equal().await;
    replicator.stop().await;
    // What etcd does when it has run out, without the wait; and what a stranger does.
    east.lease_revoke(lease).await.unwrap();
    east.delete("/app/deleted", None).await.unwrap();
    put(&mut east, "/app/strange", "1").await;
    let left_alone = async |east: &mut Client| {
        assert_eq!(lease_of(east, "/app/deleted").await, None);
        assert_eq!(lease_of(east, "/app/strange").await.unwrap().0, 0);
    };

    let replicator = Running::start(options);
    replicator.streams().await;
    assert_eq!(lease_of(&mut east, "/app/leased").await.unwrap().0, lease);
    left_alone(&mut east).await;
    // The same while it runs, as after a time in which neither side could be asked.
    east.lease_revoke(lease).await.unwrap();
    until("the key to be back", async || lease_of(&mut east, "/app/leased").await.is_some()).await;
    replicator.streams().await;
    left_alone(&mut east).await;
    // And when the source's ends it goes.
    west.lease_revoke(lease).await.unwrap();
    until("the key to go", async || lease_of(&mut east, "/app/leased").await.is_none()).await;
    replicator.stop().await;
}
