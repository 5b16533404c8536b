//! Who may write to a destination, and what is refused rather than guessed at.

use std::time::Duration;

use zonebreak_drill::lab::Etcd;
use zonebreak_replication::{
    ClusterOptions, RESERVED, ReplicationError, ReplicationOptions,
    checkpoint::{Checkpoint, Role},
    revision::Revision,
};

use crate::support::{Pair, Running, put, until};

fn key() -> String {
    format!("{RESERVED}test")
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_replicators_one_stands_by_and_takes_over_when_the_other_is_gone() {
    let pair = Pair::start().await;
    let mut source = pair.from().await;
    // Three signs of life may be missing: 9 s, which a machine may be busy for part of.
    let heartbeat = Duration::from_secs(3);
    let with_spool =
        |spool: &str| Running::start(ReplicationOptions { heartbeat, ..pair.options_with_spool(spool) });
    let first = with_spool("one");
    first.streams().await;
    let second = with_spool("two");
    until("the second to stand by", async || second.metrics.state().0 == "standby").await;
    put(&mut source, "/app/a", "1").await;
    pair.equal().await;
    let Checkpoint { holder, write, .. } = pair.checkpoint().await.unwrap();
    until("more signs of life than may be missing", async || {
        pair.checkpoint().await.unwrap().write > write + 3
    })
    .await;
    assert_eq!(second.metrics.state().0, "standby", "it waits for as long as the other shows signs of life");
    first.stop().await;
    second.streams().await;
    assert_ne!(pair.checkpoint().await.unwrap().holder, holder);
    put(&mut source, "/app/b", "1").await;
    pair.equal().await;
    second.stop().await;
}

/// Both write as fast as they can, and each takes the destination from the other by force: a lost update would show.
#[tokio::test(flavor = "multi_thread")]
async fn two_with_one_identity_cannot_interleave() {
    let pair = Pair::start().await;
    let mut source = pair.from().await;
    let first = Running::start(pair.options_with_spool("one"));
    first.streams().await;
    put(&mut source, "/app/a", "1").await;
    pair.equal().await;
    std::fs::create_dir(pair.spool("copy")).unwrap();
    std::fs::copy(pair.spool("one").join("holder"), pair.spool("copy").join("holder")).unwrap();
    let second = Running::start(pair.options_with_spool("copy"));
    second.streams().await;
    for round in 0..20 {
        put(&mut source, "/app/a", &round.to_string()).await;
    }
    let error = first.gives_up().await;
    assert!(matches!(error, ReplicationError::Twin), "{error}");
    pair.equal().await;
    pair.prove(pair.options()).await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_destination_takes_no_more_changes() {
    let pair = Pair::start().await;
    let (mut source, mut to) = (pair.from().await, pair.to().await);
    let replicator = Running::start(pair.options());
    replicator.streams().await;
    put(&mut source, "/app/a", "1").await;
    pair.equal().await;
    let mut checkpoint = pair.checkpoint().await.unwrap();
    checkpoint.role = Role::Primary;
    checkpoint.epoch += 1;
    to.put(key(), checkpoint.encode(), None).await.unwrap();
    put(&mut source, "/app/a", "too late").await;
    let error = replicator.gives_up().await.to_string();
    assert!(error.contains("promoted (epoch 2)"), "{error}");
    let error = Running::start(pair.options()).gives_up().await.to_string();
    assert!(error.contains("promoted (epoch 2)"), "{error}");
    assert_eq!(to.get("/app/a", None).await.unwrap().kvs()[0].value(), b"1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_checkpoint_fails_closed_and_has_a_way_out() {
    let pair = Pair::start().await;
    let (mut source, mut to) = (pair.from().await, pair.to().await);
    put(&mut source, "/app/a", "1").await;
    let replicator = Running::start(pair.options());
    replicator.streams().await;
    let mut bytes = pair.checkpoint().await.unwrap().encode();
    let digit = bytes.iter().position(|byte| byte.is_ascii_digit()).unwrap() + 60;
    bytes[digit] ^= 1;
    to.put(key(), bytes, None).await.unwrap();
    let error = replicator.gives_up().await.to_string();
    assert!(error.contains("it is damaged") && error.contains("--overwrite"), "{error}");
    let error = Running::start(pair.options()).gives_up().await.to_string();
    assert!(error.contains("it is damaged"), "{error}");
    put(&mut source, "/app/b", "1").await;
    let mut options = pair.options();
    options.overwrite = true;
    let replicator = Running::start(options);
    replicator.streams().await;
    assert_eq!(pair.equal().await.len(), 2);
    replicator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_source_is_refused_until_an_operator_says_that_it_is_meant() {
    let pair = Pair::start().await;
    put(&mut pair.from().await, "/app/a", "1").await;
    let replicator = Running::start(pair.options());
    replicator.streams().await;
    replicator.stop().await;
    let other = Etcd::start_named(&pair.lab, "other").await.unwrap();
    let mut options = pair.options_with_spool("other-spool");
    options.source = ClusterOptions::plain([other.url()]);
    let error = Running::start(options.clone()).gives_up().await.to_string();
    assert!(error.contains("source cluster") && error.contains("--overwrite"), "{error}");
    // The spool knows whose changes it holds, too.
    options.spool = pair.spool("spool");
    let error = Running::start(options.clone()).gives_up().await.to_string();
    assert!(error.contains("holds the changes of cluster"), "{error}");
    options.spool = pair.spool("other-spool");
    options.overwrite = true;
    let replicator = Running::start(options);
    replicator.streams().await;
    until("the other source's state", async || {
        pair.to().await.get("/app/a", None).await.unwrap().kvs().is_empty()
    })
    .await;
    assert!(pair.checkpoint().await.unwrap().source_revision >= Revision(1));
    replicator.stop().await;
}
