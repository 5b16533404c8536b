//! The steady state: what changes at the source changes at the destination, and nothing else does.

use std::time::{Duration, Instant};

use etcd_client::{PutOptions, Txn, TxnOp, WatchOptions};
use zonebreak_replication::{ReplicationOptions, checkpoint::Torn, revision::Revision, rules::Rules};

use crate::support::{PATIENCE, PREFIX, Pair, Running, delete_prefix, fill, list, put, until};

#[tokio::test(flavor = "multi_thread")]
async fn puts_deletes_and_transactions_arrive_and_the_proof_holds() {
    let pair = Pair::start().await;
    let mut source = pair.from().await;
    put(&mut source, "/app/before", "1").await;
    put(&mut source, "/elsewhere/x", "never").await;
    let replicator = Running::start(pair.options());
    replicator.streams().await;
    for round in 0..50 {
        put(&mut source, "/app/hot", &round.to_string()).await;
    }
    let both = [TxnOp::put("/app/a", "1", None), TxnOp::delete("/app/before", None)];
    source.txn(Txn::new().and_then(both)).await.unwrap();
    let state = pair.equal().await;
    assert_eq!(state.len(), 2);
    assert!(list(&mut pair.to().await, "/elsewhere/").await.is_empty());
    let proof = pair.prove(pair.options()).await;
    assert_eq!(proof.keys, 2);
    // What was written came back over the destination's own watch, with the right checksums and digests.
    until("every write to be verified", async || replicator.metrics.verified.get() >= 3).await;
    assert!(replicator.metrics.digests.get() > 0);
    assert_eq!((replicator.metrics.mismatches.get(), replicator.metrics.strangers.get()), (0, 0));
    replicator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_is_renamed_and_patterns_are_kept() {
    let pair = Pair::start().await;
    let mut source = pair.from().await;
    put(&mut source, "/app/kept/1/app/", "1").await;
    put(&mut source, "/app/secret/1", "1").await;
    let mut options = pair.options();
    options.rules = Rules::new(PREFIX, "/copy/", "/zonebreak/v1/replication/")
        .with_patterns(&[], &["/app/secret/**".to_owned()])
        .unwrap();
    let replicator = Running::start(options.clone());
    replicator.streams().await;
    put(&mut source, "/app/kept/2", "2").await;
    put(&mut source, "/app/secret/2", "2").await;
    let mut to = pair.to().await;
    until("the key under its new name", async || list(&mut to, "/copy/").await.len() == 2).await;
    let keys: Vec<String> = list(&mut to, "/copy/").await.into_keys().collect();
    assert_eq!(keys, ["/copy/kept/1/app/", "/copy/kept/2"]);
    pair.prove(options).await;
    replicator.stop().await;
}

/// Whoever reads the destination at any moment sees the source as it was at one revision: all keys of a transaction, or none.
#[tokio::test(flavor = "multi_thread")]
async fn every_revision_of_the_destination_is_a_revision_of_the_source() {
    let pair = Pair::start().await;
    let (mut source, mut to) = (pair.from().await, pair.to().await);
    let replicator = Running::start(pair.options());
    replicator.streams().await;
    let mut watch = to.watch(PREFIX, Some(WatchOptions::new().with_prefix())).await.unwrap();
    let last = 300;
    let writer = tokio::spawn(async move {
        for round in 0..=last {
            let text = round.to_string();
            let puts: Vec<_> =
                (0..20).map(|key| TxnOp::put(format!("/app/{key:02}"), text.as_str(), None)).collect();
            source.txn(Txn::new().and_then(puts)).await.unwrap();
        }
    });
    let (mut seen, mut before) = (0, -1);
    while before < last {
        let response = watch.message().await.unwrap().unwrap();
        let mut rounds: Vec<(i64, i64)> = Vec::new();
        for event in response.events() {
            let kv = event.kv().unwrap();
            rounds.push((kv.mod_revision(), kv.value_str().unwrap().parse().unwrap()));
        }
        for revision in rounds.chunk_by(|a, b| a.0 == b.0) {
            assert_eq!(revision.len(), 20, "a transaction of the source was torn");
            assert!(revision.iter().all(|(_, round)| *round == revision[0].1), "two were mixed");
            assert!(revision[0].1 > before, "it went back");
            before = revision[0].1;
            seen += 1;
        }
    }
    writer.await.unwrap();
    assert!(seen > 1);
    pair.prove(pair.options()).await;
    replicator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_larger_than_a_transaction_is_marked_torn_until_it_is_whole() {
    let pair = Pair::start().await;
    let (mut source, mut to) = (pair.from().await, pair.to().await);
    fill(&mut source, "/app/k/", 0..500).await;
    let replicator = Running::start(pair.options());
    replicator.streams().await;
    let key = format!("{}test", zonebreak_replication::RESERVED);
    let mut watch = to.watch(key, None).await.unwrap();
    // One revision of the source, 500 deletes: make-mirror dies of it.
    assert_eq!(delete_prefix(&mut source, "/app/k/").await, 500);
    pair.equal().await;
    let (mut torn, mut whole) = (0, false);
    while !whole {
        for event in watch.message().await.unwrap().unwrap().events() {
            let checkpoint =
                zonebreak_replication::checkpoint::Checkpoint::decode(event.kv().unwrap().value()).unwrap();
            match checkpoint.torn {
                Some(Torn::Staging { .. }) => torn += 1,
                Some(Torn::Aligning { .. }) => panic!("no comparison was needed"),
                None => whole = torn > 0,
            }
        }
    }
    assert_eq!(torn, 3, "500 operations are four transactions");
    pair.prove(pair.options()).await;
    replicator.stop().await;
}

/// etcd tears large histories into fragments in the middle of a revision, and gRPC refuses messages over 4 MiB by default.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_history_of_large_values_is_read_back_from_its_beginning() {
    let pair = Pair::start().await;
    let mut source = pair.from().await;
    let replicator = Running::start(pair.options());
    replicator.streams().await;
    put(&mut source, "/app/start", "1").await;
    pair.equal().await;
    replicator.stop().await;
    let large = "x".repeat(700_000);
    for round in 0..8 {
        let two = [
            TxnOp::put("/app/left", format!("{round} {large}"), None),
            TxnOp::put(format!("/app/right/{round}"), large.as_str(), None),
        ];
        source.txn(Txn::new().and_then(two)).await.unwrap();
    }
    let replicator = Running::start(pair.options());
    assert_eq!(pair.equal().await.len(), 10);
    assert_eq!(replicator.metrics.resyncs.with_label_values(&["backlog"]).get(), 0, "history was read");
    pair.prove(pair.options()).await;
    replicator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leased_key_has_a_lease_of_its_own_and_goes_when_the_source_s_does() {
    let pair = Pair::start().await;
    let (mut source, mut to) = (pair.from().await, pair.to().await);
    // Nobody renews them, and none of them ends by itself while the test runs.
    let lease = source.lease_grant(600, None).await.unwrap().id();
    let under = |lease| Some(PutOptions::new().with_lease(lease));
    source.put("/app/leased", "1", under(lease)).await.unwrap();
    let replicator = Running::start(pair.options());
    replicator.streams().await;
    let later = source.lease_grant(600, None).await.unwrap().id();
    source.put("/app/later", "1", under(later)).await.unwrap();
    pair.equal().await;
    for (key, lease) in [("/app/leased", lease), ("/app/later", later)] {
        assert_eq!(to.get(key, None).await.unwrap().kvs()[0].lease(), lease, "{key}");
    }
    assert_eq!(to.lease_time_to_live(later, None).await.unwrap().granted_ttl(), 600);
    source.lease_revoke(later).await.unwrap();
    assert_eq!(pair.equal().await.len(), 1);
    pair.prove(pair.options()).await;
    replicator.stop().await;

    // The other policy: no lease, counted, and gone with the source's all the same.
    let mut options = pair.options();
    options.rules = options.rules.with_leases(false);
    let replicator = Running::start(options);
    replicator.streams().await;
    until("the lease to be taken off", async || {
        to.get("/app/leased", None).await.unwrap().kvs()[0].lease() == 0
    })
    .await;
    source.lease_revoke(lease).await.unwrap();
    assert!(pair.equal().await.is_empty());
    replicator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_destination_keeps_showing_signs_of_life_and_is_not_behind() {
    let pair = Pair::start().await;
    let replicator = Running::start(pair.options());
    replicator.streams().await;
    put(&mut pair.from().await, "/app/a", "1").await;
    pair.equal().await;
    let first = pair.checkpoint().await.unwrap();
    until("three signs of life", async || pair.checkpoint().await.unwrap().write >= first.write + 3).await;
    assert!(replicator.metrics.offset.get() <= 3);
    assert_eq!(pair.checkpoint().await.unwrap().epoch, 1);
    assert!(pair.checkpoint().await.unwrap().source_revision > Revision(0));
    replicator.stop().await;
}

/// What may wait is collected; what may not takes along what waited before it, and the order stays.
#[tokio::test(flavor = "multi_thread")]
async fn changes_that_may_wait_are_collected_and_urgent_ones_take_them_along() {
    let pair = Pair::start().await;
    let (mut source, mut to) = (pair.from().await, pair.to().await);
    let debounce = Duration::from_secs(2);
    let mut options = ReplicationOptions { debounce, ..pair.options() };
    options.rules = options.rules.with_realtime(&["/app/now/".into()]);
    let replicator = Running::start(options.clone());
    replicator.streams().await;
    let arrives = async |to: &mut etcd_client::Client, key: &str| {
        until("the key", async || !to.get(key, None).await.unwrap().kvs().is_empty()).await;
    };
    let at = async |to: &mut etcd_client::Client, key: &str| {
        to.get(key, None).await.unwrap().kvs()[0].mod_revision()
    };
    put(&mut source, "/app/now/warm", "1").await;
    arrives(&mut to, "/app/now/warm").await;
    let mut keys: Vec<String> = (0..20).map(|key| format!("/app/later/{key:02}")).collect();
    let begun = Instant::now();
    for key in &keys {
        put(&mut source, key, "1").await;
    }
    arrives(&mut to, &keys[0]).await;
    let waited = begun.elapsed();
    assert!(waited + Duration::from_millis(50) >= debounce, "it was sent after {waited:?}");
    arrives(&mut to, &keys[19]).await;
    let mut revisions = Vec::new();
    for key in &keys {
        revisions.push(at(&mut to, key).await);
    }
    assert!(revisions.is_sorted(), "{revisions:?}");
    revisions.dedup();
    assert!(revisions.len() < 10, "they were not collected: {revisions:?}");
    replicator.stop().await;

    // Behind others that wait, an urgent one is no reason to lose the order, and they are none for it to wait. What waits does so for
    // longer than anything here, so that all that arrives is urgent or was taken along.
    let long = ReplicationOptions { debounce: PATIENCE * 10, heartbeat: PATIENCE * 10, ..options };
    let replicator = Running::start(long);
    replicator.streams().await;
    keys = vec!["/app/later/x".to_owned(), "/app/later/y".to_owned()];
    for key in &keys {
        put(&mut source, key, "1").await;
    }
    put(&mut source, "/app/now/z", "1").await;
    arrives(&mut to, "/app/now/z").await;
    let revisions =
        [at(&mut to, &keys[0]).await, at(&mut to, &keys[1]).await, at(&mut to, "/app/now/z").await];
    assert!(revisions.is_sorted(), "{revisions:?}");
    assert_eq!(revisions[0], revisions[2], "it took along what waited");
    put(&mut source, "/app/now/alone", "1").await;
    arrives(&mut to, "/app/now/alone").await;
    replicator.stop().await;
}

/// A copy that was made by other means, and that must forget what its source forgets.
#[tokio::test(flavor = "multi_thread")]
async fn without_puts_the_destination_only_forgets() {
    let pair = Pair::start().await;
    let (mut source, mut to) = (pair.from().await, pair.to().await);
    for key in ["/app/both", "/app/changed", "/app/goes", "/app/source"] {
        put(&mut source, key, "1").await;
    }
    for key in ["/app/both", "/app/changed", "/app/goes", "/app/other"] {
        put(&mut to, key, "theirs").await;
    }
    let mut options = ReplicationOptions { overwrite: true, ..pair.options() };
    options.rules = options.rules.with_puts(false);
    let replicator = Running::start(options.clone());
    replicator.streams().await;
    let keys = async |to: &mut etcd_client::Client| list(to, PREFIX).await.into_keys().collect::<Vec<_>>();
    assert_eq!(keys(&mut to).await, ["/app/both", "/app/changed", "/app/goes"]);
    put(&mut source, "/app/changed", "2").await;
    put(&mut source, "/app/new", "1").await;
    source.delete("/app/source", None).await.unwrap();
    source.delete("/app/goes", None).await.unwrap();
    until("the delete", async || keys(&mut to).await == ["/app/both", "/app/changed"]).await;
    assert!(list(&mut to, PREFIX).await.values().all(|value| value == "theirs"));
    pair.prove(options.clone()).await;
    replicator.stop().await;
    // Another comparison of both sides finds nothing to do.
    let replicator = Running::start(ReplicationOptions { overwrite: false, ..options });
    replicator.streams().await;
    assert_eq!((replicator.metrics.repaired.get(), replicator.metrics.mismatches.get()), (0, 0));
    replicator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_deletes_the_destination_keeps_what_the_source_forgot() {
    let pair = Pair::start().await;
    let (mut source, mut to) = (pair.from().await, pair.to().await);
    let old = put(&mut source, "/app/old", "1").await;
    put(&mut source, "/app/a", "1").await;
    put(&mut source, "/app/b", "1").await;
    let mut options = pair.options();
    options.rules = options.rules.with_deletes(false).with_from(Revision(old + 1));
    let replicator = Running::start(options.clone());
    replicator.streams().await;
    source.delete("/app/a", None).await.unwrap();
    put(&mut source, "/app/c", "1").await;
    until("the last key", async || !to.get("/app/c", None).await.unwrap().kvs().is_empty()).await;
    let keys: Vec<String> = list(&mut to, PREFIX).await.into_keys().collect();
    assert_eq!(keys, ["/app/a", "/app/b", "/app/c"]);
    replicator.stop().await;
    // What was kept stays through another comparison of both sides.
    let replicator = Running::start(options);
    replicator.streams().await;
    assert_eq!(list(&mut to, PREFIX).await.len(), 3);
    assert_eq!((replicator.metrics.repaired.get(), replicator.metrics.mismatches.get()), (0, 0));
    replicator.stop().await;
}
