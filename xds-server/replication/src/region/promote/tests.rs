//! Promotions whose world moved, or that were killed, between two of their steps, at real etcds. Never looks at how steps are chosen:
//! those tests are `plan`'s.

use etcd_client::Client;
use tokio_util::sync::CancellationToken;
use zonebreak_drill::lab::{Etcd, Lab};

use super::*;
use crate::{Metrics, options::ClusterOptions};

/// A link that was brought up once and whose replicator has stopped.
async fn replicated(lab: &Lab) -> ([Etcd; 2], ReplicationOptions) {
    let (source, destination) =
        tokio::join!(Etcd::start_named(lab, "source"), Etcd::start_named(lab, "destination"));
    let (source, destination) = (source.unwrap(), destination.unwrap());
    let [from, to] = [&source, &destination].map(|etcd| ClusterOptions::plain([etcd.url()]));
    let options = ReplicationOptions::new("test", "/app/", from, to, lab.path().join("spool"));
    client(&source).await.put("/app/a", "1", None).await.unwrap();
    let (cancel, metrics) = (CancellationToken::new(), Metrics::new(&prometheus::Registry::new()).unwrap());
    let running = tokio::spawn(crate::run(options.clone(), metrics.clone(), cancel.clone()));
    while metrics.state().0 != "streaming" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cancel.cancel();
    running.await.unwrap().unwrap();
    ([source, destination], options)
}

async fn client(etcd: &Etcd) -> Client {
    Client::connect([etcd.url()], None).await.unwrap()
}

/// How often the checkpoint was written.
async fn writes(destination: &Etcd, options: &ReplicationOptions) -> i64 {
    let found = client(destination).await.get(options.checkpoint_key(), None).await.unwrap();
    found.kvs()[0].version()
}

/// A comparison that ends in the middle leaves writes on their way, which rely on the fence. Before anything is compared again,
/// the fence moves, so that none of them arrives later.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_to_a_fence_that_is_compacted_moves_its_own_fence_and_compares_again() {
    let lab = Lab::new().unwrap();
    let ([source, destination], options) = replicated(&lab).await;
    let mut promotion = Promotion::new(options.clone(), "eve", false, false).unwrap();
    let (here, there, seen) = promotion.look().await.unwrap();
    assert!(promotion.fence(2, &there.unwrap(), &here, &seen).await.unwrap());
    let mut it = client(&source).await;
    it.put("/elsewhere", "1", None).await.unwrap();
    let head = it.put("/elsewhere", "2", None).await.unwrap().header().unwrap().revision();
    it.compact(head, None).await.unwrap();
    let (_, there, seen) = promotion.look().await.unwrap();
    let SourceSeen::Answers { own: Some(Held { mod_revision, .. }), .. } = &seen.source else {
        panic!("{seen:?}")
    };
    let (fence, before) = (Revision(*mod_revision), writes(&destination, &options).await);
    assert!(promotion.drain(&there.unwrap(), fence, &seen).await.unwrap());
    assert_eq!(promotion.drained, Some((Revision(head), 2)), "nothing came after the fence");
    // Ours, ours again, and whole at the later revision.
    assert_eq!(writes(&destination, &options).await - before, 3);
    let (checkpoint, at) = promotion.ours.clone().unwrap();
    let now = client(&destination).await.get(options.checkpoint_key(), None).await.unwrap();
    assert_eq!((now.kvs()[0].mod_revision(), now.kvs()[0].value()), (at, &checkpoint.encode()[..]));
}

/// Killed between the two: the same command gives what is left its time, and nothing that was registered with the new owner since.
#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_that_was_killed_before_leased_keys_had_their_time_gives_it_to_them_when_run_again() {
    let lab = Lab::new().unwrap();
    let ([source, destination], options) = replicated(&lab).await;
    let (mut from, mut to) = (client(&source).await, client(&destination).await);
    let lease = from.lease_grant(60, None).await.unwrap().id();
    for key in ["/app/left", "/app/moved"] {
        let leased = etcd_client::PutOptions::new().with_lease(lease);
        from.put(key, "1", Some(leased)).await.unwrap();
    }
    let mut promotion = Promotion::new(options.clone(), "eve", false, false).unwrap();
    let (here, there, seen) = promotion.look().await.unwrap();
    assert!(promotion.fence(2, &there.unwrap(), &here, &seen).await.unwrap());
    let (_, there, seen) = promotion.look().await.unwrap();
    let SourceSeen::Answers { own: Some(Held { mod_revision, .. }), .. } = &seen.source else {
        panic!("{seen:?}")
    };
    assert!(promotion.drain(&there.unwrap(), Revision(*mod_revision), &seen).await.unwrap());
    assert!(promotion.take(2, &here, &seen).await.unwrap());
    to.put("/app/moved", "1", Some(etcd_client::PutOptions::new().with_lease(lease))).await.unwrap();

    let promoted = promote(options, "eve", false, false).await.unwrap();
    assert_eq!((promoted.already, promoted.leased_keys), (true, 1));
    let of = async |to: &mut Client, key: &str| to.get(key, None).await.unwrap().kvs()[0].lease();
    assert_eq!(of(&mut to, "/app/moved").await, lease);
    let left = of(&mut to, "/app/left").await;
    assert!(left != lease && left != 0);
    let ttl = to.lease_time_to_live(left, None).await.unwrap().ttl();
    assert!((200..=300).contains(&ttl), "{ttl}");
}
