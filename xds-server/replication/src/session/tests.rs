//! A session whose source is not what it seems, on real etcds; and the looks at an idle one.

use std::path::PathBuf;

use prometheus::Registry;
use zonebreak_drill::lab::{Etcd, Lab};

use super::*;
use crate::{
    Metrics,
    checkpoint::Checkpoint,
    digest::Ledger,
    options::{ClusterOptions, ReplicationOptions, prefixes},
    spool::SpoolOptions,
};

#[test]
fn what_stays_missing_while_nothing_waits_is_an_alarm() {
    let looks = |looks: &[(i64, u64)]| {
        let mut idle = Idle::default();
        looks.iter().map(|(at, missing)| idle.look(Revision(*at), *missing)).collect::<Vec<_>>()
    };
    assert_eq!(looks(&[(5, 4), (5, 4), (5, 9), (5, 9)]), [false, false, true, true]);
    assert_eq!(looks(&[(5, 4), (6, 4), (7, 4), (8, 4)]), [false; 4], "they come, however late");
    assert_eq!(looks(&[(5, 3); 9]), [false; 9], "a few may arrive at the moment of each look");
    assert_eq!(looks(&[(5, 9), (5, 9), (5, 0), (5, 9), (5, 9)]), [false; 5]);
}

/// A source of which a watch brings nothing, though it lives: one of another prefix, which never says that anything is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn revisions_that_the_source_has_and_its_watch_does_not_bring_are_an_alarm() {
    let lab = Lab::new().unwrap();
    let (west, east) = tokio::join!(Etcd::start_named(&lab, "west"), Etcd::start_named(&lab, "east"));
    let (west, east) = (west.unwrap(), east.unwrap());
    let [from, to] = [&west, &east].map(|etcd| ClusterOptions::plain([etcd.url()]));
    let spool: PathBuf = lab.path().join("spool");
    let options = ReplicationOptions {
        heartbeat: Duration::from_millis(500),
        scrub: Duration::ZERO,
        ..ReplicationOptions::new("test", "/app/", from, to, spool.clone())
    };
    let context = Context::new(options, Metrics::new(&Registry::new()).unwrap());
    let (source, here) =
        (context.source.connect().await.unwrap(), context.destination.member().await.unwrap());
    let spool = Spool::open(SpoolOptions::new(spool, 8 << 20), source.cluster).unwrap().0;
    let of = prefixes(&context.options.rules);
    let genesis = Checkpoint::genesis(source.cluster, here.cluster, of, spool.holder());
    let mut checkpoint = Checkpoint { source_revision: source.head, ..genesis };
    let whole = checkpoint.clone();
    let fence = context.settle(0, &mut checkpoint, whole).await.unwrap();
    let aligned = Aligned {
        checkpoint,
        fence,
        expected: Ledger::default(),
        found: Ledger::default(),
        at: Revision(fence),
        written: 0,
        sample: None,
    };
    let begun = Source { cluster: source.cluster, known: source.head, witness: None, away: false };
    let follow = Follow { prefix: b"/deaf/".to_vec(), ..context.follow(begun) };
    let cancel = CancellationToken::new();
    let streaming = Box::pin(context.stream_from(follow, false, aligned, spool, &cancel));
    let mut client = etcd_client::Client::connect([west.url()], None).await.unwrap();
    let metrics = context.metrics.clone();
    let writing = async {
        for key in 0..IDLE_OFFSET {
            client.put(format!("/app/{key}"), "1", None).await.unwrap();
        }
        client.put("/elsewhere", "1", None).await.unwrap();
        // A few are told, and no alarm.
        while metrics.offset.get() != 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!((metrics.mismatches.get(), metrics.offset.get()), (0, 3));
        client.put("/app/one-too-many", "1", None).await.unwrap();
    };
    let ((ended, ..), ()) = tokio::join!(streaming, writing);
    assert_eq!(
        (ended.unwrap(), metrics.mismatches.get(), metrics.offset.get()),
        (End::Compare("offset"), 1, 4)
    );
}
