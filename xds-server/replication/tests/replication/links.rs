//! The network between, and the destination's disk: answers are lost, a replicator comes back from the dead, etcd takes no more.

use std::time::Duration;

use etcd_client::{AlarmAction, AlarmOptions, AlarmType, CompactionOptions};
use zonebreak_drill::lab::Link;
use zonebreak_replication::{ClusterOptions, ReplicationOptions};

use crate::support::{Pair, Running, put, until};

/// The destination carries out what it is sent, and nobody hears of it: a partition in one direction.
#[tokio::test(flavor = "multi_thread")]
async fn transactions_whose_answers_are_lost_have_their_effect_once() {
    let pair = Pair::start().await;
    let (mut source, mut to) = (pair.from().await, pair.to().await);
    let link = Link::open(pair.destination.address(), Duration::ZERO).await.unwrap();
    let mut options = pair.options();
    options.destination = ClusterOptions::plain([link.url()]);
    // No sign of life whose answer could be the one that is lost.
    options.heartbeat = Duration::from_secs(60);
    let replicator = Running::start(options.clone());
    replicator.streams().await;
    for round in 0..4 {
        let text = round.to_string();
        let at = put(&mut source, "/app/a", &text).await;
        until("its answer", async || replicator.metrics.revision.get() >= at).await;
        link.mute();
        put(&mut source, "/app/b", &text).await;
        until("the transaction to be carried out", async || {
            to.get("/app/b", None)
                .await
                .unwrap()
                .kvs()
                .first()
                .is_some_and(|kv| kv.value() == text.as_bytes())
        })
        .await;
        link.cut();
        put(&mut source, "/app/c", &text).await;
        link.mend();
        pair.equal().await;
    }
    let unknown = replicator.metrics.retries.with_label_values(&["unknown"]).get();
    assert!(unknown > 0, "no answer was lost");
    for key in ["/app/a", "/app/b", "/app/c"] {
        assert_eq!(
            to.get(key, None).await.unwrap().kvs()[0].version(),
            4,
            "{key} was written more than once"
        );
    }
    pair.prove(options).await;
    assert_eq!((replicator.metrics.mismatches.get(), replicator.metrics.strangers.get()), (0, 0));
    replicator.stop().await;
}

/// A replicator stands still past the takeover of its standby, with a transaction on its way that arrives long after.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_replicator_that_was_given_up_on_still_sends_is_refused() {
    let pair = Pair::start().await;
    let (mut source, mut to) = (pair.from().await, pair.to().await);
    let link = Link::open(pair.destination.address(), Duration::ZERO).await.unwrap();
    // The second takes over after three signs of life, and must not itself be given up on by a machine that is busy for as long.
    let heartbeat = Duration::from_secs(2);
    let options = |spool: &str| ReplicationOptions { heartbeat, ..pair.options_with_spool(spool) };
    let slow = ReplicationOptions { destination: ClusterOptions::plain([link.url()]), ..options("one") };
    let first = Running::start(slow);
    first.streams().await;
    put(&mut source, "/app/a", "1").await;
    pair.equal().await;
    link.swallow();
    put(&mut source, "/app/a", "on its way").await;
    let second = Running::start(options("two"));
    second.streams().await;
    pair.equal().await;
    put(&mut source, "/app/a", "newer").await;
    pair.equal().await;
    let holder = pair.checkpoint().await.unwrap().holder;
    link.mend();
    until("the first to see that it was superseded", async || first.metrics.state().0 == "standby").await;
    assert_eq!(to.get("/app/a", None).await.unwrap().kvs()[0].value(), b"newer");
    assert_eq!(pair.checkpoint().await.unwrap().holder, holder);
    pair.prove(pair.options()).await;
    assert_eq!((second.metrics.strangers.get(), second.metrics.mismatches.get()), (0, 0));
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_out_of_space_is_waited_for() {
    let mut pair = Pair::start().await;
    pair.destination.restart_with(&["--quota-backend-bytes", "12000000"]).await.unwrap();
    let (mut source, mut to) = (pair.from().await, pair.to().await);
    let replicator = Running::start(pair.options());
    replicator.streams().await;
    put(&mut source, "/app/a", "1").await;
    pair.equal().await;
    let value = "f".repeat(1_000_000);
    let mut last = 0;
    while let Ok(answer) = to.put("/elsewhere", value.as_str(), None).await {
        last = answer.header().unwrap().revision();
    }
    let put_off = replicator.metrics.retries.with_label_values(&["put_off"]);
    put(&mut source, "/app/a", "2").await;
    until("it to be put off", async || put_off.get() > 0).await;
    assert_eq!(to.get("/app/a", None).await.unwrap().kvs()[0].value(), b"1");
    // A start, and the comparison that it begins with, say so as the stream does.
    replicator.stop().await;
    let replicator = Running::start(pair.options());
    let put_off = replicator.metrics.retries.with_label_values(&["put_off"]);
    let connected = replicator.metrics.connected.with_label_values(&["destination"]);
    until("it to be put off", async || put_off.get() > 0).await;
    assert_eq!((connected.get(), replicator.metrics.state().0), (0, "starting"));
    // What the error says must be done.
    to.compact(last, Some(CompactionOptions::new().with_physical())).await.unwrap();
    to.defragment().await.unwrap();
    let member = to.status().await.unwrap().header().unwrap().member_id();
    let mut of = AlarmOptions::new();
    of.with_member(member);
    to.alarm(AlarmAction::Deactivate, AlarmType::Nospace, Some(of)).await.unwrap();
    pair.equal().await;
    pair.prove(pair.options()).await;
    assert_eq!((connected.get(), replicator.metrics.mismatches.get()), (1, 0));
    replicator.stop().await;
}

/// Only other prefixes change. Where the source's version keeps its progress honest nothing is behind; before that, nobody can
/// tell, and both sides are compared.
#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_prefix_in_a_busy_source_does_not_fall_behind() {
    let mut pair = Pair::start_that_forgets_nothing().await;
    let mut source = pair.from().await;
    let version = source.status().await.unwrap().version().to_owned();
    let honest = !version.starts_with("3.4.") && version != "3.5.1";
    let mut options = pair.options();
    options.backlog = 50;
    let replicator = Running::start(options.clone());
    replicator.streams().await;
    put(&mut source, "/app/a", "1").await;
    pair.equal().await;
    let mut head = 0;
    for round in 0..120 {
        head = put(&mut source, "/elsewhere", &round.to_string()).await;
    }
    if honest {
        until("the progress to be known", async || {
            pair.checkpoint().await.unwrap().source_revision.0 >= head
        })
        .await;
    }
    pair.source.kill();
    pair.source.restart().await.unwrap();
    put(&mut pair.from().await, "/app/b", "1").await;
    pair.equal().await;
    // By the stream: a comparison is over and counted before that goes on.
    put(&mut pair.from().await, "/app/streamed", "1").await;
    pair.equal().await;
    let compared =
        |replicator: &Running| replicator.metrics.resyncs.with_label_values(&["backlog"]).get() > 0;
    if honest {
        assert!(!compared(&replicator), "etcd {version}");
    } else {
        until("the comparison to be counted", async || compared(&replicator)).await;
    }
    replicator.stop().await;
    // Nor after a restart, whose spool ends where the last change was.
    if honest {
        let mut source = pair.from().await;
        let replicator = Running::start(options.clone());
        replicator.streams().await;
        for round in 0..120 {
            head = put(&mut source, "/elsewhere", &round.to_string()).await;
        }
        until("the progress to be known", async || {
            pair.checkpoint().await.unwrap().source_revision.0 >= head
        })
        .await;
        replicator.stop().await;
        let replicator = Running::start(options);
        replicator.streams().await;
        put(&mut source, "/app/c", "1").await;
        pair.equal().await;
        assert!(!compared(&replicator));
        replicator.stop().await;
    }
}
