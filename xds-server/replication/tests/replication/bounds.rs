//! What takes long, is too large, or was delivered long ago: a slow comparison keeps its hold, a value that the destination does
//! not take is said and waited for, and room that is free is known to be.

use std::time::Duration;

use zonebreak_drill::lab::Link;
use zonebreak_replication::{
    ClusterOptions, RESERVED, checkpoint::Checkpoint, revision::Revision, spool::MIN_BYTES, verify,
};

use crate::support::{Pair, Running, list, put, until};

fn now_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64
}

/// The source is 1.2 s away and its keys come in six pages; a standby takes over after 3 s of silence.
#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_longer_than_a_takeover_keeps_its_hold_on_the_destination() {
    let pair = Pair::start().await;
    let mut source = pair.from().await;
    let value = "z".repeat(250_000);
    for key in 0..80 {
        put(&mut source, &format!("/app/{key:02}"), &value).await;
    }
    let mut watch = pair.to().await.watch(format!("{RESERVED}test"), None).await.unwrap();
    let link = Link::open(pair.source.address(), Duration::from_millis(600)).await.unwrap();
    let mut far = pair.options_with_spool("one");
    far.source = ClusterOptions::plain([link.url()]);
    far.heartbeat = Duration::from_secs(1);
    let first = Running::start(far);
    until("the comparison", async || first.metrics.state().0 == "aligning").await;
    let (written, later) = (now_ms(), put(&mut source, "/app/meanwhile", "1").await);
    let mut near = pair.options_with_spool("two");
    near.heartbeat = Duration::from_secs(1);
    let second = Running::start(near);
    let holder = pair.checkpoint().await.unwrap().holder;
    until("the first to be done", async || {
        assert_ne!(second.metrics.state().0, "aligning", "the standby took over in the middle");
        first.metrics.state().0 == "streaming"
    })
    .await;
    assert_eq!(pair.checkpoint().await.unwrap().holder, holder);
    // What it then says of the time: the source was known to be at this revision before the comparison, not after it.
    let whole = 'found: loop {
        for event in watch.message().await.unwrap().unwrap().events() {
            let known = Checkpoint::decode(event.kv().unwrap().value()).unwrap();
            if known.is_whole() {
                break 'found known;
            }
        }
    };
    assert!(whole.source_revision < Revision(later));
    assert!(whole.source_ms <= written, "{} ms too late", whole.source_ms - written);
    second.stop().await;
    first.stop().await;
}

/// The source allows larger requests than the destination.
#[tokio::test(flavor = "multi_thread")]
async fn a_value_too_large_for_the_destination_is_waited_for_until_an_operator_allows_it() {
    let mut pair = Pair::start().await;
    pair.destination.restart_with(&["--max-request-bytes", "100000"]).await.unwrap();
    let mut source = pair.from().await;
    let replicator = Running::start(pair.options());
    replicator.streams().await;
    put(&mut source, "/app/before", "1").await;
    put(&mut source, "/app/large", &"x".repeat(300_000)).await;
    put(&mut source, "/app/after", "1").await;
    let put_off = replicator.metrics.retries.with_label_values(&["put_off"]);
    until("it to be put off", async || put_off.get() > 0).await;
    let state = list(&mut pair.to().await, "/app/").await;
    assert_eq!(
        state.into_keys().collect::<Vec<_>>(),
        ["/app/before"],
        "the last good state, and no gap in it"
    );
    assert!(pair.checkpoint().await.unwrap().is_whole());
    pair.destination.restart_with(&["--max-request-bytes", "1572864"]).await.unwrap();
    pair.equal().await;
    pair.prove(pair.options()).await;
    replicator.stop().await;
}

/// Everything in the spool was delivered before the restart, so that none of it is in the way.
#[tokio::test(flavor = "multi_thread")]
async fn a_spool_full_of_what_was_delivered_is_not_full_after_a_restart() {
    let pair = Pair::start().await;
    let mut source = pair.from().await;
    let mut options = pair.options();
    options.spool_bytes = MIN_BYTES;
    let replicator = Running::start(options.clone());
    replicator.streams().await;
    let value = "y".repeat(600_000);
    for round in 0..14 {
        put(&mut source, "/app/large", &format!("{round} {value}")).await;
        pair.equal().await;
    }
    replicator.stop().await;
    // No sign of life that would tell it before the next change.
    options.heartbeat = Duration::from_secs(60);
    let replicator = Running::start(options);
    replicator.streams().await;
    for round in 0..3 {
        put(&mut source, "/app/large", &format!("{round} again {value}")).await;
    }
    pair.equal().await;
    assert_eq!(replicator.metrics.resyncs.with_label_values(&["spool full"]).get(), 0);
    replicator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn raising_the_first_revision_leaves_older_keys_where_they_are() {
    let pair = Pair::start().await;
    let (mut source, mut to) = (pair.from().await, pair.to().await);
    put(&mut source, "/app/old", "1").await;
    put(&mut source, "/app/older", "1").await;
    let from = put(&mut source, "/app/new", "1").await;
    let replicator = Running::start(pair.options());
    pair.equal().await;
    replicator.streams().await;
    replicator.stop().await;
    let mut options = pair.options();
    options.rules = options.rules.with_from(Revision(from));
    let replicator = Running::start(options.clone());
    replicator.streams().await;
    assert_eq!(list(&mut to, "/app/").await.len(), 3);
    assert_eq!(verify::verify(options, 9).await.unwrap().differences, 0);
    // They are replicated again from when they are written again.
    put(&mut source, "/app/old", "2").await;
    source.delete("/app/older", None).await.unwrap();
    assert_eq!(pair.equal().await.len(), 2);
    assert_eq!(replicator.metrics.mismatches.get(), 0);
    replicator.stop().await;
}
