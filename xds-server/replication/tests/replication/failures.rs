//! Either etcd dies, the spool fills up, a stranger writes: nothing is lost, nothing is doubled, and it is said.

use std::time::Duration;

use zonebreak_replication::{ReplicationOptions, StrangerPolicy, spool::MIN_BYTES, verify};

use crate::support::{Pair, Running, fill, put, until};

/// Numbers under `/app/n/`, put one after the other for as long as the task runs; the answer is how many were acknowledged.
async fn write_numbers(pair: &Pair, count: usize) {
    let mut source = pair.from().await;
    for number in 0..count {
        put(&mut source, &format!("/app/n/{:03}", number % 150), &number.to_string()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_killed_under_load_loses_and_doubles_nothing() {
    let mut pair = Pair::start().await;
    let replicator = Running::start(pair.options());
    replicator.streams().await;
    for _ in 0..3 {
        write_numbers(&pair, 200).await;
        pair.destination.kill();
        write_numbers(&pair, 200).await;
        pair.destination.restart().await.unwrap();
    }
    pair.equal().await;
    pair.prove(pair.options()).await;
    let resyncs: u64 = ["stranger", "digest", "checksum"]
        .iter()
        .map(|r| replicator.metrics.resyncs.with_label_values(&[r]).get())
        .sum();
    assert_eq!(
        (resyncs, replicator.metrics.mismatches.get()),
        (0, 0),
        "an ambiguous commit was not recognised"
    );
    replicator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_killed_and_restarted_is_followed_again_where_it_broke_off() {
    let mut pair = Pair::start_that_forgets_nothing().await;
    let replicator = Running::start(pair.options());
    replicator.streams().await;
    for _ in 0..2 {
        write_numbers(&pair, 200).await;
        pair.source.kill();
        pair.source.restart().await.unwrap();
        write_numbers(&pair, 200).await;
    }
    pair.equal().await;
    pair.prove(pair.options()).await;
    replicator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_s_write_is_found_and_put_back_or_only_told() {
    let pair = Pair::start().await;
    let (mut source, mut to) = (pair.from().await, pair.to().await);
    put(&mut source, "/app/a", "1").await;
    let replicator = Running::start(pair.options());
    replicator.streams().await;
    put(&mut to, "/app/a", "stranger").await;
    put(&mut to, "/app/b", "stranger").await;
    pair.equal().await;
    until("it to be counted", async || replicator.metrics.strangers.get() > 0).await;
    replicator.streams().await;
    replicator.stop().await;

    let mut options = pair.options();
    options.strangers = StrangerPolicy::Report;
    let replicator = Running::start(options.clone());
    replicator.streams().await;
    put(&mut to, "/app/b", "stranger").await;
    until("it to be counted", async || replicator.metrics.strangers.get() == 1).await;
    put(&mut source, "/app/c", "1").await;
    until("the stream to go on", async || !to.get("/app/c", None).await.unwrap().kvs().is_empty()).await;
    let told = async |options: &ReplicationOptions| {
        let proof = verify::verify(options.clone(), 10).await.unwrap();
        assert_eq!((proof.differences, proof.examples[0].key.as_str()), (1, "/app/b"));
        assert_eq!((proof.examples[0].difference, proof.buckets.len()), ("extra", 1));
    };
    told(&options).await;
    replicator.stop().await;
    // A restart compares both sides, and still only tells.
    let replicator = Running::start(options.clone());
    replicator.streams().await;
    assert_eq!((replicator.metrics.strangers.get(), replicator.metrics.repaired.get()), (1, 0));
    put(&mut source, "/app/c", "2").await;
    until("the stream to go on", async || to.get("/app/c", None).await.unwrap().kvs()[0].value() == b"2")
        .await;
    told(&options).await;
    replicator.stop().await;
}

/// A comparison cannot come to an end while what it puts back is written over at once. It is no end of the replicator either.
#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_that_never_pauses_is_told_and_does_not_end_the_replicator() {
    let pair = Pair::start().await;
    let mut source = pair.from().await;
    fill(&mut source, "/app/", 0..2_000).await;
    let replicator = Running::start(pair.options());
    replicator.streams().await;
    pair.equal().await;
    let mut strangers = tokio::task::JoinSet::new();
    for stranger in 0..8 {
        let mut to = pair.to().await;
        strangers.spawn(async move {
            loop {
                put(&mut to, &format!("/app/stranger/{stranger}"), "1").await;
            }
        });
    }
    let contended = replicator.metrics.retries.with_label_values(&["contended"]);
    until("it to be told", async || contended.get() > 0).await;
    // What the source has arrives meanwhile.
    put(&mut source, "/app/meanwhile", "1").await;
    let mut to = pair.to().await;
    until("the change", async || !to.get("/app/meanwhile", None).await.unwrap().kvs().is_empty()).await;
    strangers.shutdown().await;
    pair.equal().await;
    pair.prove(pair.options()).await;
    replicator.stop().await;
}

/// What nobody saw happen, such as damage on a disk, is found by the comparison of real reads. Told here, not mended, so that it
/// is the scrub that must find it.
#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_finds_what_no_watch_told() {
    let pair = Pair::start().await;
    let (mut source, mut to) = (pair.from().await, pair.to().await);
    put(&mut source, "/app/a", "1").await;
    let mut options = pair.options();
    options.strangers = StrangerPolicy::Report;
    options.scrub = Duration::from_secs(2);
    let replicator = Running::start(options);
    replicator.streams().await;
    put(&mut to, "/app/a", "rot").await;
    until("the scrub to find it", async || replicator.metrics.mismatches.get() > 0).await;
    assert_eq!(to.get("/app/a", None).await.unwrap().kvs()[0].value(), b"rot", "left as it is, as asked");
    assert_eq!(replicator.metrics.state().0, "streaming");
    replicator.stop().await;
}

/// The same where it is to be mended. The stranger's write is judged at the next sign of life, which comes long after the scrub.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_scrub_finds_is_put_right_and_nothing_else_is_written() {
    let pair = Pair::start().await;
    let (mut source, mut to) = (pair.from().await, pair.to().await);
    fill(&mut source, "/app/", 0..500).await;
    let mut options = pair.options();
    options.heartbeat = Duration::from_secs(120);
    options.scrub = Duration::from_secs(2);
    let replicator = Running::start(options.clone());
    replicator.streams().await;
    pair.equal().await;
    let before = replicator.metrics.repaired.get();
    put(&mut to, "/app/000007", "rot").await;
    put(&mut to, "/app/extra", "rot").await;
    to.delete("/app/000008", None).await.unwrap();
    let mended = replicator.metrics.resyncs.with_label_values(&["scrub"]);
    until("the scrub's findings to be mended", async || mended.get() > 0).await;
    pair.equal().await;
    replicator.streams().await;
    let metrics = &replicator.metrics;
    assert_eq!((metrics.repaired.get() - before, metrics.strangers.get()), (3, 0));
    // Both sides stay equal: it goes on from there.
    put(&mut source, "/app/goes-on", "1").await;
    pair.equal().await;
    pair.prove(options).await;
    replicator.stop().await;
}

/// The spool holds 8 MiB; the destination is down for more than that.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_lets_go_of_the_source_and_catches_up_by_comparison() {
    let mut pair = Pair::start().await;
    let mut source = pair.from().await;
    let mut options = pair.options();
    options.spool_bytes = MIN_BYTES;
    let replicator = Running::start(options.clone());
    replicator.streams().await;
    put(&mut source, "/app/first", "1").await;
    pair.equal().await;
    pair.destination.kill();
    let value = "y".repeat(1_000_000);
    for round in 0..14 {
        put(&mut source, &format!("/app/large/{}", round % 3), &format!("{round} {value}")).await;
    }
    pair.destination.restart().await.unwrap();
    pair.equal().await;
    until("the comparison", async || {
        replicator.metrics.resyncs.with_label_values(&["spool full"]).get() == 1
    })
    .await;
    put(&mut source, "/app/goes-on", "1").await;
    pair.equal().await;
    pair.prove(options).await;
    replicator.stop().await;
}
