//! When history cannot be read any more, or should not be: both sides are compared, and only what differs is written.

use crate::support::{Pair, Running, delete_prefix, fill, list, put};

#[tokio::test(flavor = "multi_thread")]
async fn deletes_made_while_down_arrive() {
    let pair = Pair::start().await;
    let mut source = pair.from().await;
    fill(&mut source, "/app/k/", 0..300).await;
    let replicator = Running::start(pair.options());
    assert_eq!(pair.equal().await.len(), 300);
    replicator.streams().await;
    replicator.stop().await;
    delete_prefix(&mut source, "/app/k/0001").await;
    put(&mut source, "/app/k/000000", "changed").await;
    let replicator = Running::start(pair.options());
    assert_eq!(pair.equal().await.len(), 200);
    pair.prove(pair.options()).await;
    replicator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_source_is_compared_and_what_it_forgot_is_deleted() {
    let pair = Pair::start().await;
    let (mut source, mut to) = (pair.from().await, pair.to().await);
    fill(&mut source, "/app/k/", 0..1000).await;
    let replicator = Running::start(pair.options());
    pair.equal().await;
    replicator.streams().await;
    replicator.stop().await;
    delete_prefix(&mut source, "/app/k/0005").await;
    let last = put(&mut source, "/app/new", "1").await;
    source.compact(last, None).await.unwrap();
    let before = to.get("/", None).await.unwrap().header().unwrap().revision();
    let replicator = Running::start(pair.options());
    assert_eq!(pair.equal().await.len(), 901);
    replicator.streams().await;
    assert_eq!(replicator.metrics.resyncs.with_label_values(&["compaction"]).get(), 1);
    // 101 keys differed: nothing else was written again.
    assert_eq!(replicator.metrics.repaired.get(), 101);
    let after = to.get("/", None).await.unwrap().header().unwrap().revision();
    assert!(after - before < 20, "the destination made {} revisions of it", after - before);
    put(&mut source, "/app/goes-on", "1").await;
    pair.equal().await;
    pair.prove(pair.options()).await;
    replicator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_backlog_is_not_read_revision_by_revision() {
    let pair = Pair::start().await;
    let mut source = pair.from().await;
    let mut options = pair.options();
    options.backlog = 200;
    put(&mut source, "/app/a", "1").await;
    let replicator = Running::start(options.clone());
    pair.equal().await;
    replicator.streams().await;
    replicator.stop().await;
    for round in 0..300 {
        put(&mut source, "/app/a", &round.to_string()).await;
    }
    let replicator = Running::start(options.clone());
    pair.equal().await;
    replicator.streams().await;
    assert_eq!(replicator.metrics.resyncs.with_label_values(&["backlog"]).get(), 1);
    assert_eq!(replicator.metrics.repaired.get(), 1);
    pair.prove(options).await;
    replicator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_destination_held_before_is_overwritten_only_when_asked() {
    let pair = Pair::start().await;
    let (mut source, mut to) = (pair.from().await, pair.to().await);
    put(&mut source, "/app/a", "1").await;
    put(&mut to, "/app/old", "mine").await;
    put(&mut to, "/other", "mine").await;
    let error = Running::start(pair.options()).gives_up().await.to_string();
    assert!(error.contains("already holds 1 keys") && error.contains("--overwrite"), "{error}");
    assert_eq!(list(&mut to, "/app/").await.len(), 1);
    let mut options = pair.options();
    options.overwrite = true;
    let replicator = Running::start(options);
    assert_eq!(pair.equal().await.len(), 1);
    assert_eq!(list(&mut to, "/other").await.len(), 1);
    replicator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_baseline_copies_ten_thousand_keys_whole() {
    let pair = Pair::start().await;
    fill(&mut pair.from().await, "/app/k/", 0..10_000).await;
    let replicator = Running::start(pair.options());
    assert_eq!(pair.equal().await.len(), 10_000);
    replicator.streams().await;
    assert_eq!(pair.prove(pair.options()).await.keys, 10_000);
    replicator.stop().await;
}
