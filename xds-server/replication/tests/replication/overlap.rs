//! Two regions that both write the same keys: two real etcds, a replicator in each direction, and applications that know nothing
//! of either.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use etcd_client::{Client, GetOptions, Txn, TxnOp};
use tokio::time::Instant;
use zonebreak_drill::lab::Link;
use zonebreak_replication::{
    ClusterOptions, RESERVED, ReplicationError, ReplicationOptions,
    batch::Limits,
    overlap::{Overlap, OverlapError, Policy, conflicts, hlc, tag},
    region::{self, Region},
    snapshot::{
        catalog::Catalog,
        moment,
        restore::{Job, Place, restore},
        save::save,
    },
    verify,
};

use crate::support::{PATIENCE, PREFIX, Pair, Running, State, fill, list, put, until};

/// The links of both directions, and the network between the two regions.
struct Both {
    pair: Pair,
    east: ReplicationOptions,
    west: ReplicationOptions,
    /// What each replicator reaches the other region through.
    network: [Link; 2],
}

// === impl Both ===

impl Both {
    /// *West* is the pair's source and *east* its destination; `policy` is that of the link to east.
    async fn start(policy: Policy) -> Self {
        let pair = Pair::start().await;
        let name = |name| Some(Region::new(name).unwrap());
        let network = [
            Link::open(pair.source.address(), Duration::ZERO).await.unwrap(),
            Link::open(pair.destination.address(), Duration::ZERO).await.unwrap(),
        ];
        let east = ReplicationOptions {
            source: ClusterOptions::plain([network[0].url()]),
            source_region: name("west"),
            destination_region: name("east"),
            overlap: Some(Overlap::new(policy)),
            ..pair.options_with_spool("to-east")
        };
        let west = ReplicationOptions {
            source: ClusterOptions::plain([network[1].url()]),
            destination: ClusterOptions::plain([pair.source.url()]),
            source_region: name("east"),
            destination_region: name("west"),
            overlap: Some(Overlap::new(policy.reversed())),
            ..pair.options_with_spool("to-west")
        };
        Self { pair, east, west, network }
    }

    /// The same links by another policy; `policy` is that of the link to east.
    fn by(&self, policy: Policy) -> [ReplicationOptions; 2] {
        let of = |options: &ReplicationOptions, policy| ReplicationOptions {
            overlap: Some(Overlap::new(policy)),
            ..options.clone()
        };
        [of(&self.east, policy), of(&self.west, policy.reversed())]
    }

    async fn run(&self) -> [Running; 2] {
        let both = [Running::start(self.east.clone()), Running::start(self.west.clone())];
        both[0].streams().await;
        both[1].streams().await;
        both
    }

    /// West's client, and east's.
    async fn clients(&self) -> [Client; 2] {
        [self.pair.from().await, self.pair.to().await]
    }

    /// Waits until both regions hold the same.
    async fn equal(&self) -> State {
        let [mut west, mut east] = self.clients().await;
        let (mut first, mut second) = (State::new(), State::new());
        until("both regions to be equal", async || {
            (first, second) = (list(&mut west, PREFIX).await, list(&mut east, PREFIX).await);
            first == second
        })
        .await;
        first
    }

    fn cut(&self) {
        self.network.iter().for_each(Link::cut);
    }

    fn mend(&self) {
        self.network.iter().for_each(Link::mend);
    }
}

/// Every key under the prefix and every tag, with the revision that wrote it last.
async fn written(client: &mut Client) -> BTreeMap<Vec<u8>, i64> {
    let mut all = BTreeMap::new();
    for prefix in [PREFIX.to_owned(), tag::root("test"), format!("{RESERVED}conflicts/")] {
        let found = client.get(prefix, Some(GetOptions::new().with_prefix())).await.unwrap();
        all.extend(found.kvs().iter().map(|kv| (kv.key().to_vec(), kv.mod_revision())));
    }
    all
}

/// Waits until every key has a tag that speaks of it, so that its time is that of now.
async fn said(client: &mut Client, rest: &str) {
    let mut client = client.clone();
    until("a write to be given its time", async || {
        let key = client.get(format!("{PREFIX}{rest}"), None).await.unwrap();
        let tag = client.get(format!("{}{rest}", tag::root("test")), None).await.unwrap();
        let Some(tag) = tag.kvs().first() else { return false };
        let deleted = String::from_utf8_lossy(tag.value()).contains("\"deleted\":true");
        match key.kvs().first() {
            Some(key) => !deleted && key.mod_revision() <= tag.mod_revision(),
            None => deleted,
        }
    })
    .await;
}

fn state(entries: &[(&str, &str)]) -> State {
    entries.iter().map(|(key, value)| (format!("{PREFIX}{key}"), (*value).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_regions_that_write_the_same_keys_end_equal_and_tell_what_lost() {
    let both = Both::start(Policy::LwwHlc).await;
    let [mut west, mut east] = both.clients().await;
    // Each has something of its own before they ever meet, and one key alike.
    fill(&mut west, "/app/w", 0..700).await;
    fill(&mut east, "/app/e", 0..300).await;
    for client in [&mut west, &mut east] {
        put(client, "/app/same", "same").await;
    }
    let running = both.run().await;
    let met = both.equal().await;
    assert_eq!(met.len(), 1_001, "nothing of either is lost, and nothing pruned");
    for options in [&both.east, &both.west] {
        assert!(conflicts::list(options.clone(), None).await.unwrap().is_empty());
    }

    // A write goes over, and what is written over it comes back.
    put(&mut west, "/app/a", "1").await;
    both.equal().await;
    put(&mut east, "/app/a", "2").await;
    until("east's write in west", async || list(&mut west.clone(), "/app/a").await == state(&[("a", "2")]))
        .await;

    // The regions are cut off from each other, and both write.
    both.cut();
    put(&mut west, "/app/a", "west, first").await;
    put(&mut west, "/app/only-west", "w").await;
    west.delete("/app/w000000", None).await.unwrap();
    for rest in ["a", "only-west", "w000000"] {
        said(&mut west, rest).await;
    }
    put(&mut east, "/app/a", "east, later").await;
    put(&mut east, "/app/w000000", "east, later than the delete").await;
    east.delete("/app/e000000", None).await.unwrap();
    for rest in ["a", "w000000", "e000000"] {
        said(&mut east, rest).await;
    }
    both.mend();
    let healed = both.equal().await;
    assert_eq!(healed.get("/app/a").map(String::as_str), Some("east, later"));
    assert_eq!(healed.get("/app/w000000").map(String::as_str), Some("east, later than the delete"));
    assert_eq!(healed.get("/app/only-west").map(String::as_str), Some("w"));
    assert_eq!(healed.get("/app/e000000"), None);
    until("both to be found equal", async || {
        verify::verify(both.east.clone(), 5).await.unwrap().differences == 0
    })
    .await;
    let mut told = conflicts::list(both.east.clone(), None).await.unwrap();
    told.extend(conflicts::list(both.west.clone(), None).await.unwrap());
    for (key, lost, won) in [
        ("/app/a", Some("west, first"), "east, later"),
        ("/app/w000000", None, "east, later than the delete"),
    ] {
        let both_values = told.iter().any(|listed| {
            let conflict = &listed.conflict;
            let of = |name: &str| {
                let party = [&conflict.local, &conflict.remote]
                    .into_iter()
                    .find(|party| party.region.as_str() == name);
                party.and_then(|party| party.value.clone()?.text)
            };
            let winner = [&conflict.local, &conflict.remote]
                .into_iter()
                .find(|party| Some(party.origin) == conflict.winner);
            conflict.key.text.as_deref() == Some(key)
                && of("west").as_deref() == lost
                && of("east").as_deref() == Some(won)
                && winner.is_some_and(|winner| winner.region.as_str() == "east")
        });
        assert!(both_values, "{key}: {told:#?}");
    }
    let counted: u64 =
        running.iter().map(|one| one.metrics.conflicts.with_label_values(&["lww-hlc"]).get()).sum();
    assert_eq!(counted, told.len() as u64);

    // When nobody writes, nobody writes: three signs of life later every key, tag and conflict is as it was.
    let before = [written(&mut west).await, written(&mut east).await];
    let signs = running[0].metrics.transactions.get();
    let beat = async |client: &mut Client| {
        client.get(format!("{RESERVED}test"), None).await.unwrap().kvs()[0].version()
    };
    let first = beat(&mut east).await;
    until("three signs of life", async || beat(&mut east.clone()).await >= first + 3).await;
    assert_eq!([written(&mut west).await, written(&mut east).await], before);
    assert_eq!(running[0].metrics.transactions.get(), signs);

    // Killed in the middle of writes in both regions, and deletes while down.
    let [one, other] = running;
    for at in 0..40 {
        put(&mut west, &format!("/app/k{}", at % 7), &format!("west {at}")).await;
        put(&mut east, &format!("/app/k{}", at % 5), &format!("east {at}")).await;
        if at == 20 {
            one.kill().await;
            break;
        }
    }
    other.kill().await;
    east.delete("/app/e000001", None).await.unwrap();
    west.delete("/app/only-west", None).await.unwrap();
    put(&mut west, "/app/k0", "the last of all").await;
    let running = both.run().await;
    let last = both.equal().await;
    assert!(
        !last.contains_key("/app/e000001") && !last.contains_key("/app/only-west"),
        "deletes made while down"
    );
    assert_eq!(last.len(), 1_001 - 2 + 1 + 7);
    assert_eq!(verify::verify(both.west.clone(), 5).await.unwrap().differences, 0);
    for one in running {
        one.stop().await;
    }
    let kept = conflicts::list(both.east.clone(), None).await.unwrap().len() as i64;
    assert_eq!(conflicts::clear(both.east.clone(), None).await.unwrap(), kept);
    assert!(conflicts::list(both.east.clone(), None).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rejected_stays_on_both_sides_and_is_an_alarm_until_somebody_decides() {
    let both = Both::start(Policy::RejectAndAlert).await;
    let [mut west, mut east] = both.clients().await;
    for (key, value) in [("a", "west"), ("b", "west"), ("c", "west")] {
        put(&mut west, &format!("/app/{key}"), value).await;
    }
    for (key, value) in [("a", "east"), ("b", "east")] {
        put(&mut east, &format!("/app/{key}"), value).await;
    }
    let running = both.run().await;
    let open = async |of: &ReplicationOptions| conflicts::list(of.clone(), None).await.unwrap().len();
    until("both sides to tell of both conflicts", async || {
        open(&both.east).await == 2 && open(&both.west).await == 2
    })
    .await;
    until("what nobody disputes", async || list(&mut east.clone(), "/app/c").await.len() == 1).await;
    assert_eq!(list(&mut west, PREFIX).await, state(&[("a", "west"), ("b", "west"), ("c", "west")]));
    assert_eq!(list(&mut east, PREFIX).await, state(&[("a", "east"), ("b", "east"), ("c", "west")]));
    for one in &running {
        until("the alarm", async || one.metrics.open_conflicts.get() == 2).await;
    }
    let proof = verify::verify(both.east.clone(), 5).await.unwrap();
    assert_eq!((proof.differences, proof.conflicts), (0, 2), "in conflict, and no mismatch: {proof:#?}");

    // Decided in east, once each way; it holds in west as well.
    let error =
        conflicts::decide(both.east.clone(), b"/app/c", conflicts::Keep::Local, "eve").await.unwrap_err();
    assert!(error.to_string().contains("no open conflict"), "{error}");
    let kept = conflicts::decide(both.east.clone(), b"/app/a", conflicts::Keep::Remote, "eve").await.unwrap();
    assert_eq!((kept.decided_by.as_deref(), kept.winner), (Some("eve"), Some(kept.remote.origin)));
    conflicts::decide(both.east.clone(), b"/app/b", conflicts::Keep::Local, "eve").await.unwrap();
    let decided = both.equal().await;
    assert_eq!(decided, state(&[("a", "west"), ("b", "east"), ("c", "west")]));
    for one in &running {
        until("the end of the alarm", async || one.metrics.open_conflicts.get() == 0).await;
    }
    assert!(conflicts::list(both.west.clone(), None).await.unwrap().is_empty());
    let log = conflicts::list(both.east.clone(), None).await.unwrap();
    assert!(log.len() == 2 && log.iter().all(|listed| !listed.open), "{log:#?}");
    // And later writes go over as ever.
    put(&mut east, "/app/a", "later").await;
    until("it in west", async || list(&mut west.clone(), "/app/a").await == state(&[("a", "later")])).await;
    for one in running {
        one.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_region_wins_where_both_directions_say_so_and_directions_that_contradict_are_refused() {
    let both = Both::start(Policy::SourceWins).await;
    let [mut west, mut east] = both.clients().await;
    put(&mut west, "/app/a", "west").await;
    put(&mut east, "/app/a", "east").await;
    let running = both.run().await;
    assert_eq!(both.equal().await, state(&[("a", "west")]));
    both.cut();
    put(&mut west, "/app/a", "west, first").await;
    said(&mut west, "a").await;
    put(&mut east, "/app/a", "east, later").await;
    said(&mut east, "a").await;
    both.mend();
    until("west's in east", async || list(&mut east.clone(), PREFIX).await == state(&[("a", "west, first")]))
        .await;
    assert_eq!(both.equal().await, state(&[("a", "west, first")]));
    let error = region::promote(both.east.clone(), "eve", false, false).await.unwrap_err();
    assert!(
        matches!(&error, ReplicationError::Overlap(error) if matches!(**error, OverlapError::Shared { .. })),
        "{error}"
    );
    let [to_east, to_west] = running;
    to_east.stop().await;
    let contrary = ReplicationOptions { overlap: Some(Overlap::new(Policy::DestWins)), ..both.east.clone() };
    let error = Running::start(contrary).gives_up().await.to_string();
    assert!(error.contains("Set replicate.overlap to source-wins here"), "{error}");
    // A link of one owner keeps away from what both write, and from the checkpoint of such a link.
    for stream in ["test", "other"] {
        let one_way = ReplicationOptions {
            overlap: None,
            stream: stream.to_owned(),
            spool: both.pair.spool(stream),
            ..both.east.clone()
        };
        let error = Running::start(one_way).gives_up().await.to_string();
        assert!(error.contains("two regions that both write"), "{error}");
    }
    to_west.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_that_has_an_owner_is_shared_only_when_told_so_and_nothing_is_lost_by_it() {
    let both = Both::start(Policy::LwwHlc).await;
    let [mut west, mut east] = both.clients().await;
    put(&mut west, "/app/a", "1").await;
    let one_way = ReplicationOptions { overlap: None, ..both.east.clone() };
    let running = Running::start(one_way.clone());
    both.equal().await;
    running.stop().await;
    let error = Running::start(both.east.clone()).gives_up().await.to_string();
    assert!(
        error.contains("one region that writes and one that follows") && error.contains("--overwrite"),
        "{error}"
    );
    let told = ReplicationOptions { overwrite: true, ..both.east.clone() };
    let running = [Running::start(told), Running::start(both.west.clone())];
    running[0].streams().await;
    put(&mut east, "/app/b", "2").await;
    until("east's write in west", async || list(&mut west.clone(), PREFIX).await.len() == 2).await;
    assert_eq!(both.equal().await, state(&[("a", "1"), ("b", "2")]));
    for one in running {
        one.stop().await;
    }
}

/// Applications in both regions that write and delete the same few keys, replicators that are killed, and a network that is cut.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_dies_and_whenever_both_regions_end_equal() {
    let both = Both::start(Policy::LwwHlc).await;
    let writers = both.clients().await.into_iter().zip(["west", "east"]).map(|(mut client, name)| {
        tokio::spawn(async move {
            for at in 0_usize.. {
                let key = format!("/app/{}", (at * 7 + name.len() * at) % 11);
                if at % 5 == 4 {
                    client.delete(key, None).await.unwrap();
                } else {
                    put(&mut client, &key, &format!("{name} {at}")).await;
                }
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    let mut running = both.run().await;
    for round in 0..8 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        let [one, other] = running;
        running = match round % 4 {
            0 => {
                one.kill().await;
                [Running::start(both.east.clone()), other]
            }
            1 => {
                both.cut();
                tokio::time::sleep(Duration::from_millis(200)).await;
                both.mend();
                [one, other]
            }
            2 => {
                other.kill().await;
                [one, Running::start(both.west.clone())]
            }
            // Begun without the other region: what is written here has its time all the same.
            _ => {
                both.cut();
                one.kill().await;
                let one = Running::start(both.east.clone());
                one.streams().await;
                both.mend();
                [one, other]
            }
        };
    }
    for writer in writers {
        writer.abort();
        let _aborted = writer.await;
    }
    let [mut west, _] = both.clients().await;
    put(&mut west, "/app/last", "of all").await;
    until("both to be found equal", async || {
        list(&mut both.pair.to().await, "/app/last").await.len() == 1
            && verify::verify(both.east.clone(), 5).await.unwrap().differences == 0
    })
    .await;
    both.equal().await;
    for one in running {
        one.stop().await;
    }
}

/// An etcd before 3.4.20 and 3.5.5 dies of a transaction of reads whose client goes away (etcd issue 14110).
#[tokio::test(flavor = "multi_thread")]
async fn links_that_are_stopped_at_any_moment_leave_both_etcds_alive() {
    let both = Both::start(Policy::LwwHlc).await;
    let [mut west, mut east] = both.clients().await;
    fill(&mut west, "/app/w", 0..1_500).await;
    fill(&mut east, "/app/e", 0..1_500).await;
    for round in 0..20 {
        let running = both.run().await;
        tokio::time::sleep(Duration::from_millis(round * 17 % 200)).await;
        for one in running {
            one.kill().await;
        }
    }
    let running = both.run().await;
    assert_eq!(both.equal().await.len(), 3_000);
    for one in running {
        one.stop().await;
    }
}

/// To its region a restore is a write like any other, of which the other one hears.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_restored_in_either_region_and_the_other_one_follows() {
    let both = Both::start(Policy::LwwHlc).await;
    let [mut west, mut east] = both.clients().await;
    put(&mut west, "/app/a", "1").await;
    put(&mut east, "/app/b", "1").await;
    let running = both.run().await;
    let wanted = both.equal().await;
    for etcd in [&both.pair.source, &both.pair.destination] {
        let catalog = Catalog::new(both.pair.lab.path().join(format!("snapshots-{}", etcd.address().port())));
        let at = ClusterOptions::plain([etcd.url()]);
        let taken = save(&at, PREFIX, &catalog, Arc::default()).await.unwrap();
        put(&mut west, "/app/a", "2").await;
        put(&mut east, "/app/c", "2").await;
        both.equal().await;
        east.delete("/app/b", None).await.unwrap();
        assert_eq!(both.equal().await, state(&[("a", "2"), ("c", "2")]));
        let job = Job {
            etcd: at,
            moment: moment::of_snapshot(&taken).unwrap(),
            place: Place::InPlace,
            deletes: true,
            limits: Limits::default(),
            progress: Arc::default(),
        };
        assert_eq!(restore(&job).await.unwrap().written, 3);
        assert_eq!(both.equal().await, wanted, "it was undone, or not heard of");
    }
    for one in running {
        one.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_changed_by_restarting_both_sides_and_what_was_open_is_decided_by_it() {
    let both = Both::start(Policy::RejectAndAlert).await;
    let [mut west, mut east] = both.clients().await;
    put(&mut west, "/app/a", "west").await;
    put(&mut east, "/app/a", "east").await;
    let running = both.run().await;
    let open = async |of: &ReplicationOptions| {
        conflicts::list(of.clone(), None).await.unwrap().iter().filter(|listed| listed.open).count()
    };
    until("both sides to tell of the conflict", async || {
        open(&both.east).await == 1 && open(&both.west).await == 1
    })
    .await;
    let [to_east, to_west] = running;
    to_east.stop().await;
    let [east_by, west_by] = both.by(Policy::SourceWins);
    // While the other one is at work, it has the say.
    let error = Running::start(east_by.clone()).gives_up().await.to_string();
    assert!(error.contains("stop both replicators"), "{error}");
    to_west.stop().await;
    // The first one waits for the other, and takes in nothing meanwhile; whoever would go on as before is told.
    let to_east = Running::start(east_by);
    until("the first one to wait for the other", async || {
        let tags = east.get(format!("{RESERVED}overlap/test"), None).await.unwrap();
        to_east.metrics.state().0 == "standby"
            && String::from_utf8_lossy(tags.kvs()[0].value()).contains("source-wins")
    })
    .await;
    let error = Running::start(both.west.clone()).gives_up().await.to_string();
    assert!(error.contains("Set replicate.overlap to dest-wins here"), "{error}");
    assert_eq!(list(&mut east, PREFIX).await, state(&[("a", "east")]));
    let to_west = Running::start(west_by);
    for one in [&to_east, &to_west] {
        one.streams().await;
    }
    assert_eq!(both.equal().await, state(&[("a", "west")]));
    until("no conflict to be open", async || open(&both.east).await + open(&both.west).await == 0).await;
    for one in [to_east, to_west] {
        until("the end of the alarm", async || one.metrics.open_conflicts.get() == 0).await;
        one.stop().await;
    }
    let log = conflicts::list(both.east.clone(), None).await.unwrap();
    assert!(log.iter().any(|listed| listed.conflict.policy == Policy::SourceWins), "{log:#?}");
}

/// However long nobody decides, and for however short a time deletes are remembered.
#[tokio::test(flavor = "multi_thread")]
async fn a_delete_that_was_rejected_is_not_undone_by_waiting() {
    let both = Both::start(Policy::RejectAndAlert).await;
    let [mut west, mut east] = both.clients().await;
    let running = both.run().await;
    both.cut();
    put(&mut west, "/app/a", "west").await;
    said(&mut west, "a").await;
    west.delete("/app/a", None).await.unwrap();
    said(&mut west, "a").await;
    put(&mut east, "/app/a", "east").await;
    said(&mut east, "a").await;
    both.mend();
    let open = async |of: &ReplicationOptions| conflicts::list(of.clone(), None).await.unwrap().len();
    until("both sides to tell of the conflict", async || {
        open(&both.east).await == 1 && open(&both.west).await == 1
    })
    .await;
    for one in running {
        one.stop().await;
    }
    // Two minutes go by.
    let key = format!("{}a", tag::root("test"));
    let found = west.get(key.as_str(), None).await.unwrap();
    let mut tag = tag::Tag::decode(found.kvs()[0].value()).unwrap();
    let before = hlc::Hlc::new(tag.version.hlc.ms() - 120_000, 0);
    tag.version = tag::Version::following(None, tag.version.origin, before);
    west.put(key.as_str(), tag.encode(), None).await.unwrap();
    let short = |options: &ReplicationOptions| {
        let remember = Duration::from_secs(60);
        let overlap = Overlap { remember, ..Overlap::new(Policy::RejectAndAlert) };
        Running::start(ReplicationOptions { overlap: Some(overlap), ..options.clone() })
    };
    let running = [short(&both.east), short(&both.west)];
    for (client, other, key) in [(&west, &east, "/app/of-west"), (&east, &west, "/app/of-east")] {
        put(&mut client.clone(), key, "1").await;
        until("what was written later", async || list(&mut other.clone(), key).await.len() == 1).await;
    }
    assert_eq!(list(&mut west, "/app/a").await, State::new(), "the delete was undone");
    assert_eq!(list(&mut east, "/app/a").await, state(&[("a", "east")]));
    let tags = west.get(key.as_str(), None).await.unwrap();
    assert_eq!(tags.kvs().len(), 1, "the delete is forgotten");
    assert_eq!((open(&both.east).await, open(&both.west).await), (1, 1));
    for one in running {
        one.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_flaps_is_scrubbed_all_the_same() {
    let mut both = Both::start(Policy::LwwHlc).await;
    both.east.scrub = Duration::from_secs(3);
    let [mut west, mut east] = both.clients().await;
    put(&mut west, "/app/a", "1").await;
    let running = both.run().await;
    both.equal().await;
    let key = format!("{}a", tag::root("test"));
    let old = east.get(key.as_str(), None).await.unwrap().kvs()[0].value().to_vec();
    put(&mut west, "/app/a", "2").await;
    until("the write in east", async || list(&mut east.clone(), PREFIX).await == state(&[("a", "2")])).await;
    // As an etcd that was put back, key and tag, which no watch tells apart from a transaction of ours.
    let back = [TxnOp::put("/app/a", "1", None), TxnOp::put(key.as_str(), old, None)];
    east.txn(Txn::new().and_then(back)).await.unwrap();
    let connected = |yes: bool| {
        let gauge = running[0].metrics.connected.with_label_values(&["source"]);
        async move { until("the link to flap", async || (gauge.get() == 1) == yes).await }
    };
    // A machine that needs longer than this to make its comparison is given longer, and less than the time between two scrubs.
    let (deadline, mut pause) = (Instant::now() + PATIENCE, Duration::from_millis(300));
    while list(&mut east, PREFIX).await != state(&[("a", "2")]) {
        assert!(Instant::now() < deadline, "no scrub came to its end");
        both.cut();
        connected(false).await;
        both.mend();
        connected(true).await;
        tokio::time::sleep(pause).await;
        pause = (pause * 11 / 10).min(Duration::from_secs(2));
    }
    for one in running {
        one.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn safe_time_is_before_what_is_still_on_its_way() {
    let mut both = Both::start(Policy::LwwHlc).await;
    both.pair.source.restart_with(&["--max-request-bytes", "4000000"]).await.unwrap();
    let [mut west, _] = both.clients().await;
    put(&mut west, "/app/a", "1").await;
    let running = both.run().await;
    both.equal().await;
    both.cut();
    let safe = &running[0].metrics.safe_time;
    until("the source to be known as gone", async || {
        running[0].metrics.connected.with_label_values(&["source"]).get() == 0
    })
    .await;
    let before = jiff::Timestamp::now().as_millisecond() as f64 / 1000.0;
    // East's etcd takes none as large.
    put(&mut west, "/app/large", &"l".repeat(2_500_000)).await;
    said(&mut west, "large").await;
    both.mend();
    until("what it lacks to be tried", async || {
        running[0].metrics.retries.with_label_values(&["put_off"]).get() >= 2
    })
    .await;
    let mut east = both.pair.to().await;
    let beat = async |client: &mut Client| {
        client.get(format!("{RESERVED}test"), None).await.unwrap().kvs()[0].version()
    };
    let first = beat(&mut east).await;
    until("two signs of life", async || beat(&mut east.clone()).await >= first + 2).await;
    assert!(safe.get() <= before, "{} is after {before}, when east had all", safe.get());
    for one in running {
        one.stop().await;
    }
}

/// Nobody gives west's writes their times, without which they do not come: to have heard all that west says is not to have all of it.
#[tokio::test(flavor = "multi_thread")]
async fn safe_time_stands_still_while_the_source_s_own_replicator_is_down() {
    let both = Both::start(Policy::LwwHlc).await;
    let [mut west, mut east] = both.clients().await;
    put(&mut west, "/app/a", "1").await;
    let [to_east, to_west] = both.run().await;
    both.equal().await;
    let safe = to_east.metrics.safe_time.clone();
    until("a safe time", async || safe.get() > 0.0).await;
    to_west.stop().await;
    let down = jiff::Timestamp::now().as_millisecond() as f64 / 1000.0;
    put(&mut west, "/app/unsaid", "1").await;
    // One that begins anew compares everything that was said, and what was said last is no news to one that goes on.
    let beat = async || {
        let found = both.pair.to().await.get(format!("{RESERVED}test"), None).await.unwrap();
        found.kvs()[0].version()
    };
    let mut to_east = Some(to_east);
    for anew in [false, true] {
        if anew {
            to_east.take().unwrap().stop().await;
            to_east = Some(Running::start(both.east.clone()));
            to_east.as_ref().unwrap().streams().await;
        } else {
            both.cut();
            both.mend();
        }
        let first = beat().await;
        until("signs of life", async || beat().await >= first + 4).await;
        let safe = to_east.as_ref().unwrap().metrics.safe_time.get();
        assert!(safe <= down, "anew: {anew}: {safe} is after {down}, and east lacks what was written then");
        assert!(east.get("/app/unsaid", None).await.unwrap().kvs().is_empty());
    }
    let to_east = to_east.unwrap();
    let to_west = Running::start(both.west.clone());
    both.equal().await;
    until("safe time to go on", async || to_east.metrics.safe_time.get() > down).await;
    to_east.stop().await;
    to_west.stop().await;
}
