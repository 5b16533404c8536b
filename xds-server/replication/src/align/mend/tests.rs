//! Mending only the keys in doubt, between real etcds: what is read, what is written, and when everything is compared in its place.
//! Never runs a replicator: those tests are in `tests/replication`.

use etcd_client::{Client, GetOptions};
use uuid::Uuid;
use zonebreak_drill::lab::{Etcd, Lab};

use super::*;
use crate::{
    checkpoint::ClusterId,
    options::{ClusterOptions, ReplicationOptions, prefixes},
    verify,
};

/// Two etcds that were made equal, and what a stream would know of them.
struct Sides {
    context: Context,
    aligned: Aligned,
    from: Client,
    to: Client,
    _lab: Lab,
    _etcds: [Etcd; 2],
}

impl Sides {
    async fn equal() -> Self {
        let lab = Lab::new().unwrap();
        let (source, destination) =
            tokio::join!(Etcd::start_named(&lab, "source"), Etcd::start_named(&lab, "destination"));
        let etcds = [source.unwrap(), destination.unwrap()];
        let [from, to] = [&etcds[0], &etcds[1]].map(|etcd| ClusterOptions::plain([etcd.url()]));
        let mut options = ReplicationOptions::new("test", "/app/", from, to, lab.path().join("spool"));
        options.rules = crate::rules::Rules::new("/app/", "/copy/", crate::RESERVED);
        let context = verify::context(options).unwrap();
        let mut from = Client::connect([etcds[0].url()], None).await.unwrap();
        let mut to = Client::connect([etcds[1].url()], None).await.unwrap();
        for key in 0..200 {
            from.put(format!("/app/{key:03}"), "right", None).await.unwrap();
        }
        let of = prefixes(&context.options.rules);
        let genesis = Checkpoint::genesis(ClusterId(1), ClusterId(2), of, Uuid::nil());
        let put = to.put(context.options.checkpoint_key(), genesis.encode(), None).await.unwrap();
        let fence = put.header().unwrap().revision();
        let source = context.source.connect().await.unwrap();
        let aligned = context.align(&source, genesis, fence, source.head).await.unwrap();
        assert_eq!(aligned.written, 200);
        Self { context, aligned, from, to, _lab: lab, _etcds: etcds }
    }

    /// What a stream knows that was told everything so far.
    fn known(&self) -> Known {
        let Aligned { checkpoint, expected, found, at, .. } = &self.aligned;
        let (expected, found) = (expected.clone(), found.clone());
        Known { expected, at: checkpoint.source_revision, found, seen: *at, suspects: BTreeSet::new() }
    }

    async fn mend(&mut self, known: Known) -> Mended {
        let source = self.context.source.connect().await.unwrap();
        let (checkpoint, fence) = (self.aligned.checkpoint.clone(), self.aligned.fence);
        self.context.mend(&source, checkpoint, fence, known).await.unwrap()
    }

    /// Puts at the destination; its revision then.
    async fn put(&mut self, key: &str, value: &str) -> Revision {
        Revision(self.to.put(key, value, None).await.unwrap().header().unwrap().revision())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_doubt_is_found_and_nothing_else_is_written() {
    let mut sides = Sides::equal().await;
    let mut known = sides.known();
    // Written, and deleted, with nobody told. The name of the one that is gone is known to the source alone.
    sides.put("/copy/001", "rot").await;
    sides.to.delete("/copy/002", None).await.unwrap();
    sides.put("/copy/extra", "rot").await;
    let seen = sides.put("/copy/003", "rot").await;
    // What a watch told of: the digests differ.
    known.found.put(b"/copy/001", b"rot");
    known.found.delete(b"/copy/002");
    known.found.put(b"/copy/extra", b"rot");
    // What a scrub found, and no watch told of.
    known.suspects.insert(b"/copy/003".into());
    known.seen = seen;
    // And since then, untold of.
    sides.put("/copy/004", "rot").await;
    sides.put("/copy/new", "rot").await;
    sides.to.delete("/copy/005", None).await.unwrap();
    let Mended::Whole(mended) = sides.mend(known).await else { panic!("not mended") };
    assert_eq!(mended.written, 7);
    assert_eq!(mended.found.digest(), mended.expected.digest());
    assert_eq!(mended.checkpoint.digest, sides.aligned.checkpoint.digest);
    assert!(mended.checkpoint.is_whole());
    let all = sides.to.get("/copy/", Some(GetOptions::new().with_prefix())).await.unwrap();
    assert!(all.kvs().len() == 200 && all.kvs().iter().all(|kv| kv.value() == b"right"));
    let rewritten = all.kvs().iter().filter(|kv| kv.mod_revision() > sides.aligned.at.0).count();
    assert_eq!(rewritten, 5, "what was right was left alone");
    // Nothing is in doubt any more.
    sides.aligned = *mended;
    let Mended::Whole(again) = sides.mend(sides.known()).await else { panic!("not mended") };
    assert_eq!(again.written, 0);
}

/// The stream read on while its last transaction was on its way, and that one never arrived.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_stream_had_on_its_way_when_it_ended_arrives_as_well() {
    let mut sides = Sides::equal().await;
    let mut known = sides.known();
    known.at =
        Revision(sides.from.put("/app/007", "later", None).await.unwrap().header().unwrap().revision());
    known.expected.put(b"/copy/007", b"later");
    let Mended::Whole(mended) = sides.mend(known).await else { panic!("not mended") };
    assert_eq!(
        (mended.written, mended.checkpoint.source_revision > sides.aligned.checkpoint.source_revision),
        (1, true)
    );
    assert_eq!(sides.to.get("/copy/007", None).await.unwrap().kvs()[0].value(), b"later");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_or_was_torn_is_left_to_a_comparison_of_everything() {
    let mut sides = Sides::equal().await;
    let mut known = sides.known();
    known.suspects.extend((0..=MOST).map(|key| format!("/copy/{key}").into_bytes()));
    let fence = sides.aligned.fence;
    assert!(matches!(sides.mend(known).await, Mended::Not(_, at) if at == fence), "too many");
    let known = sides.known();
    sides.aligned.checkpoint.torn = Some(Torn::Aligning { revision: Revision(1) });
    assert!(matches!(sides.mend(known).await, Mended::Not(..)), "torn");
}

/// An etcd before 3.4.20 and 3.5.5 dies of a transaction of reads whose client goes away (etcd issue 14110).
#[tokio::test(flavor = "multi_thread")]
async fn readers_that_are_stopped_at_any_moment_leave_the_etcd_alive() {
    let mut sides = Sides::equal().await;
    let (cluster, at) = (Arc::clone(&sides.context.destination.cluster), sides.aligned.at);
    let member = cluster.connect().await.unwrap();
    let keys: Vec<Vec<u8>> = (0..READ).map(|key| format!("/copy/{key:03}").into_bytes()).collect();
    for round in 0..400_u64 {
        let (cluster, member, keys) = (Arc::clone(&cluster), member.clone(), keys.clone());
        let reader = tokio::spawn(async move { while read(&cluster, &member, &keys, at).await.is_ok() {} });
        tokio::time::sleep(std::time::Duration::from_micros(1_000 + round * 137 % 5_000)).await;
        reader.abort();
    }
    sides.put("/copy/000", "the etcd lives").await;
}
