//! What a promotion does about a spool, in use or not, at a real etcd: when it waits, refuses, or takes it. Never runs a replicator: the
//! test moves the checkpoint in its place.

use uuid::Uuid;
use zonebreak_drill::lab::{Etcd, Lab};

use super::*;
use crate::{
    checkpoint::ClusterId,
    options::{ClusterOptions, prefixes},
    revision::SourceRevision,
    verify,
};

#[test]
fn a_rate_is_that_of_the_last_minute_or_unknown() {
    assert_eq!(rate(&[]), None);
    assert_eq!(rate(&[5, 6, 7]), None, "too short to say");
    let old_and_new: Vec<u64> = (0..100).chain((0..=60).map(|second| 1_000_000 + second * 1_000)).collect();
    assert_eq!(rate(&old_and_new), Some(61));
    let busy: Vec<u64> = (0..=10_000).map(|each| each * 2).collect();
    assert_eq!(rate(&busy), Some(30_003));
}

/// A destination whose replicator has the spool, and holds this checkpoint.
struct Held {
    lab: Lab,
    context: Context,
    checkpoint: Checkpoint,
    spool: Option<Spool>,
    _etcd: Etcd,
}

impl Held {
    async fn start() -> Self {
        let lab = Lab::new().unwrap();
        let etcd = Etcd::start(&lab).await.unwrap();
        let plain = ClusterOptions::plain([etcd.url()]);
        let spool = lab.path().join("spool");
        let options = ReplicationOptions::new("test", "/app/", plain.clone(), plain, spool.clone());
        let options = ReplicationOptions { heartbeat: Duration::from_secs(1), ..options };
        let context = verify::context(options).unwrap();
        let of = prefixes(&context.options.rules);
        let genesis = Checkpoint::genesis(ClusterId(7), ClusterId(8), of, Uuid::nil());
        let checkpoint = Checkpoint { source_revision: Revision(5), ..genesis };
        let mut spool = Spool::open(SpoolOptions::new(spool, 8 << 20), ClusterId(7)).unwrap().0;
        spool.append(&[Entry::Gap { through: Revision(5), seen_ms: 1 }]).unwrap();
        let held = Self { lab, context, checkpoint, spool: Some(spool), _etcd: etcd };
        held.holds(&held.checkpoint).await;
        held
    }

    /// The destination holds this now.
    async fn holds(&self, checkpoint: &Checkpoint) {
        let mut member = self.context.destination.member().await.unwrap();
        member.client.put(self.context.options.checkpoint_key(), checkpoint.encode(), None).await.unwrap();
    }

    async fn wait(&self, still: u64, patience: u64) -> Result<Option<Spool>, ReplicationError> {
        let waits = Waits { still: Duration::from_millis(still), patience: Duration::from_millis(patience) };
        self.context.spool_to_forward(&self.checkpoint, waits, None).await
    }

    /// A replicator goes on writing, a revision each tenth of a second: whoever waits does so until its last, or else `otherwise`.
    async fn waits_while_it_writes(&self, otherwise: &str) {
        let last = Revision(12);
        let writes = async {
            for revision in 6..=last.0 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                let moved = Checkpoint { source_revision: Revision(revision), ..self.checkpoint.clone() };
                self.holds(&moved).await;
            }
        };
        let waits = async {
            assert!(self.wait(3_000, LONG).await.unwrap().is_none());
            let (found, _) = self.context.destination.read().await.unwrap();
            let (then, _) = records::decode(found).unwrap().unwrap();
            assert_eq!(then.source_revision, last, "{otherwise}");
        };
        tokio::join!(writes, waits);
    }
}

fn change(revision: i64, key: &str) -> Entry {
    let changes = vec![Change { key: key.into(), op: Op::Delete }];
    Entry::Revision(SourceRevision { revision: Revision(revision), seen_ms: 1, changes })
}

/// Longer than any test.
const LONG: u64 = 600_000;

#[tokio::test]
async fn a_replicator_that_has_the_spool_is_waited_for_until_the_destination_stands_still() {
    let held = Held::start().await;
    assert!(held.wait(200, LONG).await.unwrap().is_none(), "it has written all it has");
    // It is still writing: for as long as that goes on, nobody takes the destination from it.
    held.waits_while_it_writes("it was given up on while it wrote").await;
}

#[tokio::test]
async fn a_replicator_that_does_not_come_to_an_end_is_told_and_its_spool_is_taken_once_it_is_gone() {
    let mut held = Held::start().await;
    // In the middle of a revision it cannot be left, however still it stands.
    let torn = Some(Torn::Staging { revision: Revision(6) });
    held.checkpoint = Checkpoint { torn, ..held.checkpoint.clone() };
    held.holds(&held.checkpoint).await;
    let error = held.wait(0, 500).await.unwrap_err();
    assert!(matches!(error, ReplicationError::Spool(SpoolError::Locked(_))), "{error}");
    assert!(error.to_string().contains("another replicator runs on it"), "{error}");
    held.spool = None;
    assert!(held.wait(LONG, LONG).await.unwrap().is_some(), "nobody has it any more");
    std::fs::remove_dir_all(held.lab.path().join("spool")).unwrap();
    assert!(held.wait(LONG, LONG).await.unwrap().is_none(), "and none is made");
}

#[tokio::test]
async fn what_a_replicator_has_and_does_not_write_is_not_given_up() {
    let mut held = Held::start().await;
    held.spool.as_mut().unwrap().append(&[change(6, "/elsewhere")]).unwrap();
    assert!(held.wait(200, LONG).await.unwrap().is_none(), "nothing of it is for the destination");
    held.spool.as_mut().unwrap().append(&[change(7, "/app/a"), change(8, "/app/b")]).unwrap();
    let found = survey(&held.context.options, &held.checkpoint);
    assert_eq!((found.spooled, found.in_use), (Some(2), true), "told although the log is in use");
    let at_its_end = Checkpoint { source_revision: Revision(8), ..held.checkpoint.clone() };
    assert_eq!(
        survey(&held.context.options, &at_its_end).spooled,
        Some(0),
        "there, and nothing in it is new"
    );
    let error = held.wait(200, LONG).await.unwrap_err().to_string();
    assert!(error.contains("2 revisions that the destination has not"), "{error}");
    // What comes behind a gap is nothing that could be written.
    let spool = held.spool.as_mut().unwrap();
    spool.append(&[Entry::Gap { through: Revision(9), seen_ms: 1 }, change(10, "/app/c")]).unwrap();
    held.checkpoint = Checkpoint { source_revision: Revision(8), ..held.checkpoint.clone() };
    held.holds(&held.checkpoint).await;
    assert!(held.wait(200, LONG).await.unwrap().is_none());
}

#[tokio::test]
async fn where_no_log_is_a_replicator_is_listened_for_and_waited_for_while_it_writes() {
    let mut held = Held::start().await;
    held.spool = None;
    std::fs::remove_dir_all(held.lab.path().join("spool")).unwrap();
    assert!(held.context.hear_out(None, |_| {}).await.unwrap().is_some());
    held.waits_while_it_writes("it was cut off while it wrote").await;
    // One that does not come to an end is not cut off, either.
    let writes = async {
        for write in 0..20 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            held.holds(&Checkpoint { write, ..held.checkpoint.clone() }).await;
        }
    };
    let (error, ()) = tokio::join!(held.wait(LONG, 500), writes);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("a replicator elsewhere still writes"), "{error}");
}
