//! Snapshots of real etcds, and moments restored into them: what is said to be restorable is, exactly, through crashes and beside
//! other writers.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use etcd_client::{Client, LeaseGrantOptions, PutOptions, Txn, TxnOp};
use prometheus::Registry;
use tokio_util::sync::CancellationToken;
use zonebreak_drill::lab::{Etcd, Lab};
use zonebreak_replication::{
    ClusterOptions,
    batch::Limits,
    revision::Revision,
    snapshot::{
        SnapshotError,
        catalog::{Catalog, Listed, Retention},
        format,
        keeper::{self, KeeperMetrics, Policy},
        moment::{self, Moment, Target},
        restore::{Job, MARK, Place, Report, preview, restore},
        save::save,
    },
    spool::History,
};

use crate::support::{PREFIX, Pair, Running, State, delete_prefix, fill, list, put, until};

/// Numbers that look random and are the same in every run.
struct Dice(u64);

// === impl Dice ===

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        // Knuth's MMIX generator; the high bits are the good ones.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}

fn job(etcd: &Etcd, moment: Moment, place: Place) -> Job {
    Job {
        etcd: ClusterOptions::plain([etcd.url()]),
        moment,
        place,
        deletes: true,
        limits: Limits::default(),
        progress: Arc::default(),
    }
}

async fn client(etcd: &Etcd) -> Client {
    Client::connect([etcd.url()], None).await.unwrap()
}

async fn snapshot(etcd: &Etcd, catalog: &Catalog) -> Listed {
    save(&ClusterOptions::plain([etcd.url()]), PREFIX, catalog, Arc::default()).await.unwrap()
}

async fn restored(job: &Job) -> Report {
    restore(job).await.unwrap()
}

fn header(listed: &Listed) -> &format::Header {
    &listed.content.as_ref().unwrap().0
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_keys_are_saved_verified_and_restored_in_place_and_into_an_empty_etcd() {
    let (lab, other_lab) = (Lab::new().unwrap(), Lab::new().unwrap());
    let (etcd, other) = (Etcd::start(&lab).await.unwrap(), Etcd::start(&other_lab).await.unwrap());
    let mut it = client(&etcd).await;
    fill(&mut it, PREFIX, 0..10_000).await;
    put(&mut it, "/elsewhere", "1").await;
    let wanted = list(&mut it, PREFIX).await;
    let catalog = Catalog::new(lab.path().join("snapshots"));
    let taken = snapshot(&etcd, &catalog).await;
    assert_eq!(format::verify(&taken.path).unwrap().1.keys, 10_000);
    // Damage of every kind.
    delete_prefix(&mut it, "/app/0001").await;
    fill(&mut it, "/app/strange", 0..300).await;
    for at in 0..50 {
        put(&mut it, &format!("/app/{:06}", at * 97), "changed").await;
    }
    let here = job(&etcd, moment::of_snapshot(&taken).unwrap(), Place::InPlace);
    let seen = preview(&here, 5).await.unwrap();
    // Keys 100 to 199 went; one of them, and 49 others, have another value.
    assert_eq!((seen.added, seen.deleted, seen.steps.len()), (99, 300, 5), "{seen:?}");
    assert!(seen.changed == 50 && seen.equal + seen.added + seen.changed == 10_000, "{seen:?}");
    assert_ne!(list(&mut it, PREFIX).await, wanted, "a preview changes nothing");
    let report = restored(&here).await;
    assert_eq!((report.written, report.overwritten, report.resumed), (449, 0, false), "{report:?}");
    assert_eq!(list(&mut it, PREFIX).await, wanted);
    assert_eq!(list(&mut it, "/elsewhere").await.len(), 1, "other prefixes are left alone");
    assert!(it.get(MARK, None).await.unwrap().kvs().is_empty());
    assert_eq!(restored(&here).await.written, 0, "what is equal is not written");

    let there = Job { etcd: ClusterOptions::plain([other.url()]), ..here.clone() };
    let error = restore(&there).await.unwrap_err();
    assert!(matches!(error, SnapshotError::Stranger { .. }), "{error}");
    let there = Job { place: Place::Empty, ..there };
    assert_eq!(restored(&there).await.written, 10_000);
    assert_eq!(list(&mut client(&other).await, PREFIX).await, wanted);
    let error = restore(&there).await.unwrap_err();
    assert!(matches!(error, SnapshotError::NotEmpty { keys: 10_000, .. }), "{error}");
}

/// A seeded history of puts, deletes and transactions while a replicator writes the log and a keeper takes snapshots; then twenty
/// random revisions and times, each restored and compared with what a client's own book says.
#[tokio::test(flavor = "multi_thread")]
async fn any_revision_and_any_time_is_restored_as_it_was() {
    let pair = Pair::start().await;
    let mut source = pair.from().await;
    let mut book: BTreeMap<i64, State> = BTreeMap::new();
    let mut model = State::new();
    fill(&mut source, PREFIX, 0..200).await;
    model.extend(list(&mut source, PREFIX).await);
    let (options, catalog) = (pair.options(), Catalog::new(pair.lab.path().join("snapshots")));
    let replicator = Running::start(options.clone());
    replicator.streams().await;
    let (stop, metrics) = (CancellationToken::new(), KeeperMetrics::new(&Registry::new()).unwrap());
    let policy = Policy {
        directory: catalog.directory().to_owned(),
        every: Duration::from_millis(150),
        retention: Retention { keep: 1_000, keep_for: Duration::from_secs(3600) },
    };
    let keeper =
        keeper::keep(policy, options.clone(), replicator.metrics.clone(), metrics.clone(), stop.clone());
    let keeper = tokio::spawn(keeper);
    until("the first snapshot", async || metrics.taken.with_label_values(&["source"]).get() == 1).await;
    let mut dice = Dice(20_261_126);
    let mut times = Vec::new();
    for round in 0..400 {
        let key = |dice: &mut Dice| format!("{PREFIX}{:06}", dice.below(60));
        let value = format!("round {round}");
        let revision = match dice.below(10) {
            0..6 => {
                let key = key(&mut dice);
                model.insert(key.clone(), value.clone());
                put(&mut source, &key, &value).await
            }
            6..8 => {
                let key = key(&mut dice);
                model.remove(&key);
                source.delete(key, None).await.unwrap().header().unwrap().revision()
            }
            8 => {
                let (a, b) = (format!("{PREFIX}a{}", dice.below(9)), format!("{PREFIX}b{}", dice.below(9)));
                model.insert(a.clone(), value.clone());
                model.remove(&b);
                let both = [TxnOp::put(a, value, None), TxnOp::delete(b, None)];
                source.txn(Txn::new().and_then(both)).await.unwrap().header().unwrap().revision()
            }
            _ => put(&mut source, "/elsewhere", &value).await,
        };
        book.insert(revision, model.clone());
        if round % 40 == 20 {
            // A moment at which nothing happens, after everything before it is in the log.
            let value = round.to_string();
            let revision = put(&mut source, "/app/tick", &value).await;
            model.insert("/app/tick".to_owned(), value);
            book.insert(revision, model.clone());
            until("the log to have it", async || {
                History::open(&options.spool).unwrap().unwrap().through() >= Revision(revision)
            })
            .await;
            tokio::time::sleep(Duration::from_millis(5)).await;
            times.push((jiff::Timestamp::now().as_millisecond() as u64, model.clone()));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    pair.equal().await;
    until("snapshots out of the log", async || metrics.taken.with_label_values(&["log"]).get() >= 3).await;
    stop.cancel();
    keeper.await.unwrap();
    // The log has the last change of ours.
    put(&mut source, &format!("{PREFIX}end"), "").await;
    pair.equal().await;
    replicator.stop().await;
    assert_eq!(metrics.failures.get(), 0);

    let snapshots = catalog.list().unwrap();
    let log = History::open(&options.spool).unwrap().unwrap();
    let first = header(&snapshots[0]).revision.0;
    let revisions: Vec<i64> = book.keys().copied().filter(|at| *at >= first).collect();
    let mut wanted: Vec<(Target, State)> = (0..10)
        .map(|_| revisions[dice.below(revisions.len() as u64) as usize])
        .map(|at| (Target::Revision(Revision(at)), book[&at].clone()))
        .collect();
    wanted.extend(times.into_iter().map(|(ms, state)| (Target::Time(ms), state)));
    assert_eq!(wanted.len(), 20);
    let mut replayed = 0;
    for (target, state) in wanted {
        let moment = moment::find(target, &snapshots, Some(&log)).unwrap();
        replayed += moment.replayed;
        restored(&job(&pair.source, moment, Place::InPlace)).await;
        assert_eq!(list(&mut source, PREFIX).await, state, "{target}");
    }
    assert!(replayed > 20, "the log was not needed: {replayed}");
}

/// Looks so often, and keeps three.
fn three_of(catalog: &Catalog, every: Duration) -> Policy {
    let retention = Retention { keep: 3, keep_for: Duration::from_secs(3600) };
    Policy { directory: catalog.directory().to_owned(), every, retention }
}

#[tokio::test(flavor = "multi_thread")]
async fn old_snapshots_go_and_a_gap_in_the_log_makes_the_keeper_read_the_source_again() {
    let pair = Pair::start().await;
    let mut source = pair.from().await;
    fill(&mut source, PREFIX, 0..50).await;
    let (options, catalog) = (pair.options(), Catalog::new(pair.lab.path().join("snapshots")));
    let policy = three_of(&catalog, Duration::from_millis(50));
    let metrics = KeeperMetrics::new(&Registry::new()).unwrap();
    let from = |from: &str| metrics.taken.with_label_values(&[from]).get();
    for start in 1..=2 {
        let replicator = Running::start(options.clone());
        let stop = CancellationToken::new();
        let (copy, running) = (metrics.clone(), replicator.metrics.clone());
        let keeper = tokio::spawn(keeper::keep(policy.clone(), options.clone(), running, copy, stop.clone()));
        until("a snapshot of the source", async || from("source") == start).await;
        let before = from("log");
        let mut at = 0;
        until("more of them than may stay", async || {
            at += 1;
            put(&mut source, "/app/hot", &at.to_string()).await;
            from("log") > before + 6
        })
        .await;
        stop.cancel();
        keeper.await.unwrap();
        replicator.stop().await;
        // The replicator was away, and the source forgot what happened meanwhile.
        let head = put(&mut source, "/app/unseen", "1").await;
        put(&mut source, "/app/unseen", "2").await;
        source.compact(head + 1, None).await.unwrap();
    }
    let left = catalog.list().unwrap();
    assert_eq!(left.len(), 3);
    assert!(left.iter().all(|it| format::verify(&it.path).is_ok()));
    assert_eq!(metrics.failures.get(), 0);
}

/// Copies of one state, pushed in by restarts or by time, would push out what can be gone back to.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_source_has_one_snapshot_however_often_the_keeper_looks_and_starts() {
    let pair = Pair::start().await;
    let mut source = pair.from().await;
    fill(&mut source, PREFIX, 0..50).await;
    let (options, catalog) = (pair.options(), Catalog::new(pair.lab.path().join("snapshots")));
    let policy = three_of(&catalog, Duration::from_millis(20));
    let metrics = KeeperMetrics::new(&Registry::new()).unwrap();
    let replicator = Running::start(options.clone());
    replicator.streams().await;
    for change in 1..=2 {
        for _start in 0..3 {
            let stop = CancellationToken::new();
            let (copy, running) = (metrics.clone(), replicator.metrics.clone());
            let keeper =
                tokio::spawn(keeper::keep(policy.clone(), options.clone(), running, copy, stop.clone()));
            // Each look is a success, whether it found anything or not.
            let (mut looks, mut last) = (0, metrics.last.get());
            until("the keeper to look a few times", async || {
                looks += u32::from(metrics.last.get() > last);
                last = metrics.last.get();
                looks > 5 && catalog.list().unwrap().len() == change
            })
            .await;
            stop.cancel();
            keeper.await.unwrap();
        }
        assert_eq!(catalog.list().unwrap().len(), change, "one for each state that there was");
        let revision = put(&mut source, "/app/changed", &change.to_string()).await;
        until("the log to have it", async || {
            History::open(&options.spool).unwrap().unwrap().through() >= Revision(revision)
        })
        .await;
    }
    assert_eq!(metrics.failures.get(), 0);
    replicator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_another_writer_a_restore_ends_with_the_moment_or_says_that_it_cannot() {
    let lab = Lab::new().unwrap();
    let etcd = Etcd::start(&lab).await.unwrap();
    let mut it = client(&etcd).await;
    fill(&mut it, PREFIX, 0..3_000).await;
    let wanted = list(&mut it, PREFIX).await;
    let catalog = Catalog::new(lab.path().join("snapshots"));
    let taken = snapshot(&etcd, &catalog).await;
    delete_prefix(&mut it, PREFIX).await;
    let here = job(&etcd, moment::of_snapshot(&taken).unwrap(), Place::InPlace);
    // It writes for as long as the first restore runs.
    let stop = CancellationToken::new();
    let writer = tokio::spawn({
        let (mut it, stop) = (it.clone(), stop.clone());
        async move {
            let mut round = 0;
            while !stop.is_cancelled() {
                round += 1;
                put(&mut it, &format!("/app/{:06}", round % 3_000), &format!("theirs {round}")).await;
            }
        }
    });
    let beside = restore(&here).await;
    stop.cancel();
    writer.await.unwrap();
    match beside {
        Ok(report) => assert!(report.written >= 2_900, "{report:?}"),
        Err(error) => assert!(error.to_string().contains("somebody else keeps writing"), "{error}"),
    }
    restored(&here).await;
    assert_eq!(list(&mut it, PREFIX).await, wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leased_key_comes_back_under_its_lease_or_not_for_ever() {
    let lab = Lab::new().unwrap();
    let etcd = Etcd::start(&lab).await.unwrap();
    let mut it = client(&etcd).await;
    for lease in [71, 72, 73] {
        it.lease_grant(1_000 + lease, Some(LeaseGrantOptions::new().with_id(lease))).await.unwrap();
        let options = PutOptions::new().with_lease(lease);
        it.put(format!("/app/{lease}"), "up", Some(options)).await.unwrap();
    }
    let catalog = Catalog::new(lab.path().join("snapshots"));
    let taken = snapshot(&etcd, &catalog).await;
    // One lease ends, the key of another goes, and the third's owner registered again.
    it.lease_revoke(71).await.unwrap();
    it.delete("/app/72", None).await.unwrap();
    it.lease_grant(500, Some(LeaseGrantOptions::new().with_id(99))).await.unwrap();
    it.put("/app/73", "up", Some(PutOptions::new().with_lease(99))).await.unwrap();
    let report = restored(&job(&etcd, moment::of_snapshot(&taken).unwrap(), Place::InPlace)).await;
    assert_eq!(report.written, 2, "{report:?}");
    for (key, lease) in [("/app/71", 71), ("/app/72", 72), ("/app/73", 99)] {
        assert_eq!(it.get(key, None).await.unwrap().kvs()[0].lease(), lease, "{key}");
    }
    assert_eq!(it.lease_time_to_live(71, None).await.unwrap().granted_ttl(), 1_071);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_not_restored_behind_its_replicator_s_back() {
    let pair = Pair::start().await;
    put(&mut pair.from().await, "/app/a", "1").await;
    let replicator = Running::start(pair.options());
    pair.equal().await;
    let catalog = Catalog::new(pair.lab.path().join("snapshots"));
    let moment = moment::of_snapshot(&snapshot(&pair.source, &catalog).await).unwrap();
    let error = restore(&job(&pair.destination, moment, Place::Anywhere)).await.unwrap_err();
    assert!(matches!(&error, SnapshotError::Replica { stream } if stream == "test"), "{error}");
    replicator.stop().await;
}

/// The first member is a hole: a connection to it is given up after 3 s, in which the source goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_s_time_is_when_its_revision_was_asked_for_and_not_when_a_dead_member_was() {
    let lab = Lab::new().unwrap();
    let etcd = Etcd::start(&lab).await.unwrap();
    let hole = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let members = ClusterOptions::plain([format!("http://{}", hole.local_addr().unwrap()), etcd.url()]);
    let catalog = Catalog::new(lab.path().join("snapshots"));
    let saving = tokio::spawn(async move { save(&members, PREFIX, &catalog, Arc::default()).await.unwrap() });
    let mut it = client(&etcd).await;
    while !saving.is_finished() {
        let now = jiff::Timestamp::now().as_millisecond();
        put(&mut it, "/app/time", &now.to_string()).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let taken = saving.await.unwrap();
    let mut state = moment::of_snapshot(&taken).unwrap().state().unwrap();
    let last: u64 = String::from_utf8(state.read().unwrap().unwrap().value).unwrap().parse().unwrap();
    let at = header(&taken).at_ms;
    assert!(at + 1_500 > last, "it holds what was put {} ms after its time", last.saturating_sub(at));
}
