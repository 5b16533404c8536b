//! Keys that live by leases: what becomes of them where nobody can renew those for a while.

use etcd_client::{Client, PutOptions};
use zonebreak_replication::StrangerPolicy;

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
