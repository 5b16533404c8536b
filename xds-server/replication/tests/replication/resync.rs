//! When history cannot be read any more, or should not be: both sides are compared, and only what differs is written.

use std::time::Duration;

use etcd_client::{Txn, TxnOp};
use zonebreak_drill::lab::{Etcd, Http};
use zonebreak_replication::{
    RESERVED,
    checkpoint::{Checkpoint, Torn},
    snapshot::moment,
    spool::History,
};

use crate::support::{Pair, Running, delete_prefix, fill, list, put, until};

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

/// What it still has to delete stands nowhere but in the comparison, which the next one makes again: the marker says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_that_was_killed_is_made_again_and_deletes_what_the_source_forgot() {
    let mut pair = Pair::start().await;
    let (mut source, mut to) = (pair.from().await, pair.to().await);
    fill(&mut source, "/app/k/", 0..6_000).await;
    put(&mut source, "/app/stale", "1").await;
    let replicator = Running::start(pair.options());
    pair.equal().await;
    replicator.streams().await;
    replicator.stop().await;
    fill(&mut source, "/app/changed/", 0..6_000).await;
    let head = source.delete("/app/stale", None).await.unwrap().header().unwrap().revision();
    source.compact(head, None).await.unwrap();
    // It cannot come to its end while a value that is too large is in the way, and what it has to delete goes with that one.
    put(&mut source, "/app/stalf", &"x".repeat(300_000)).await;
    pair.destination.restart_with(&["--max-request-bytes", "100000"]).await.unwrap();
    let replicator = Running::start(pair.options());
    until("it to be in the middle", async || {
        let marked = matches!(pair.checkpoint().await.unwrap().torn, Some(Torn::Aligning { .. }));
        marked && !list(&mut to, "/app/changed/").await.is_empty()
    })
    .await;
    replicator.kill().await;
    let killed = pair.checkpoint().await.unwrap();
    assert!(matches!(killed.torn, Some(Torn::Aligning { .. })), "it was over before the kill: {killed:?}");
    assert!(!to.get("/app/stale", None).await.unwrap().kvs().is_empty(), "it was deleted before the kill");
    pair.destination.restart_with(&["--max-request-bytes", "1572864"]).await.unwrap();
    let replicator = Running::start(pair.options());
    assert_eq!(pair.equal().await.len(), 12_001);
    replicator.streams().await;
    assert!(to.get("/app/stale", None).await.unwrap().kvs().is_empty());
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

/// Killed in the middle of the comparison, after the first write: whoever reads the log must not take it for complete.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_has_the_gap_before_the_destination_has_anything_of_what_is_in_it() {
    let mut pair = Pair::start().await;
    let mut source = pair.from().await;
    put(&mut source, "/app/a", "1").await;
    let replicator = Running::start(pair.options());
    pair.equal().await;
    replicator.streams().await;
    replicator.stop().await;
    let (value, mut last) = ("g".repeat(250_000), 0);
    for key in 0..64 {
        last = put(&mut source, &format!("/app/{key:03}"), &value).await;
    }
    source.compact(last, None).await.unwrap();
    // Which the destination takes none of, so that the comparison stays where it is.
    pair.destination.restart_with(&["--max-request-bytes", "100000"]).await.unwrap();
    let replicator = Running::start(pair.options());
    until("the destination to be between two revisions", async || {
        pair.checkpoint().await.is_some_and(|it| matches!(it.torn, Some(Torn::Aligning { .. })))
    })
    .await;
    replicator.stop().await;
    let log = History::open(pair.spool("spool")).unwrap().unwrap();
    let stretches = moment::stretches(Some(&log)).unwrap();
    assert!(stretches.last().is_some_and(|known| known.after.0 >= last), "{stretches:?}");
    pair.destination.restart_with(&["--max-request-bytes", "1572864"]).await.unwrap();
    let replicator = Running::start(pair.options());
    replicator.streams().await;
    assert_eq!(pair.equal().await.len(), 65);
    replicator.stop().await;
}

/// Writes of the comparison that was given up may still be on their way: they rely on the fence, and it moves before the next.
#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_that_begins_anew_has_a_fence_of_its_own() {
    let pair = Pair::start().await;
    let (mut source, key) = (pair.from().await, format!("{RESERVED}test"));
    // No sign of life among what is counted.
    let options =
        zonebreak_replication::ReplicationOptions { heartbeat: Duration::from_secs(60), ..pair.options() };
    put(&mut source, "/app/a", "1").await;
    let replicator = Running::start(options.clone());
    pair.equal().await;
    replicator.streams().await;
    replicator.stop().await;
    let last = put(&mut source, "/app/a", "2").await;
    source.compact(last, None).await.unwrap();
    let known = pair.checkpoint().await.unwrap();
    let mut written = pair.to().await.watch(key, None).await.unwrap();
    let replicator = Running::start(options);
    replicator.streams().await;
    assert_eq!(replicator.metrics.resyncs.with_label_values(&["compaction"]).get(), 1);
    let (mut same, mut torn) = (0, false);
    while !torn {
        for event in written.message().await.unwrap().unwrap().events() {
            let checkpoint = Checkpoint::decode(event.kv().unwrap().value()).unwrap();
            torn |= checkpoint.torn.is_some();
            same += u32::from(!torn && checkpoint.source_revision == known.source_revision);
        }
    }
    assert_eq!(same, 2, "once for taking the destination over, and once before it was compared again");
    pair.equal().await;
    replicator.stop().await;
}

/// Bytes that an etcd has sent to its clients.
async fn sent(etcd: &Etcd) -> u64 {
    let (_, text) = Http::new(etcd.url()).unwrap().get("/metrics").await.unwrap();
    let line = text.lines().find(|line| line.starts_with("etcd_network_client_grpc_sent_bytes_total"));
    line.and_then(|line| line.rsplit(' ').next()).unwrap().parse::<f64>().unwrap() as u64
}

/// 8 MB of values, and one that is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn to_mend_one_key_of_many_no_other_value_is_read() {
    let pair = Pair::start().await;
    let (mut source, mut to) = (pair.from().await, pair.to().await);
    let value = "v".repeat(2_000);
    for chunk in 0..40 {
        let put = |key: usize| TxnOp::put(format!("/app/{chunk:02}/{key:03}"), value.as_str(), None);
        source.txn(Txn::new().and_then((0..100).map(put).collect::<Vec<_>>())).await.unwrap();
    }
    let replicator = Running::start(pair.options());
    replicator.streams().await;
    let repaired = replicator.metrics.repaired.get();
    // What it wrote itself comes back over the destination's watch first, and in its order.
    let verified = replicator.metrics.verified.get();
    put(&mut source, "/app/00/000", &value).await;
    until("the watch to have told of it", async || replicator.metrics.verified.get() > verified).await;
    let before = [sent(&pair.source).await, sent(&pair.destination).await];
    put(&mut to, "/app/07/007", "stranger").await;
    until("it to be mended", async || replicator.metrics.repaired.get() == repaired + 1).await;
    replicator.streams().await;
    let after = [sent(&pair.source).await, sent(&pair.destination).await];
    let read = [after[0] - before[0], after[1] - before[1]];
    assert!(read[0] < 500_000 && read[1] < 1_500_000, "{read:?} bytes were read of 8,000,000");
    assert_eq!(replicator.metrics.resyncs.with_label_values(&["stranger"]).get(), 1);
    assert_eq!(pair.equal().await.len(), 4_000);
    // And the stream goes on from there, with a proof at every revision.
    put(&mut source, "/app/07/007", "2").await;
    source.delete("/app/07/008", None).await.unwrap();
    assert_eq!(pair.equal().await.len(), 3_999);
    pair.prove(pair.options()).await;
    assert_eq!((replicator.metrics.mismatches.get(), replicator.metrics.strangers.get()), (0, 1));
    replicator.stop().await;
}
