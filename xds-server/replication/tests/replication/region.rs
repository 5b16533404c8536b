//! Who owns a prefix: promotion with the source and without it, the return of a former owner, two regions side by side.

use std::{collections::BTreeMap, time::Duration};

use etcd_client::{Client, Compare, CompareOp, GetOptions, Txn, TxnOp};
use tokio::sync::watch;
use zonebreak_drill::lab::Link;
use zonebreak_replication::{
    ClusterOptions, RESERVED, ReplicationError, ReplicationOptions,
    checkpoint::{Role, Torn},
    region::{self, Converged, Ownership, Region, RegionError, own},
    verify,
};

use crate::support::{PREFIX, Pair, Running, State, list, put, until};

/// The record of a prefix in an etcd.
async fn owner(client: &mut Client, prefix: &str) -> Option<Ownership> {
    let found = client.get(own::key(prefix), None).await.unwrap();
    found.kvs().first().map(|kv| Ownership::decode(kv.value()).unwrap())
}

/// A write as our own writers do it: only while the record is what they read, which was none.
async fn write_unfenced(client: &mut Client, key: &str, value: &str) -> bool {
    let unowned = Compare::mod_revision(own::key(PREFIX), CompareOp::Equal, 0);
    let txn = Txn::new().when([unowned]).and_then([TxnOp::put(key, value, None)]);
    client.txn(txn).await.unwrap().succeeded()
}

/// The stream in the other direction, with a spool of its own.
fn reversed(options: &ReplicationOptions, spool: &str) -> ReplicationOptions {
    let mut reversed = options.clone();
    std::mem::swap(&mut reversed.source, &mut reversed.destination);
    std::mem::swap(&mut reversed.source_region, &mut reversed.destination_region);
    reversed.spool.set_file_name(spool);
    reversed
}

fn named(pair: &Pair) -> ReplicationOptions {
    let name = |name| Some(Region::new(name).unwrap());
    ReplicationOptions { source_region: name("west"), destination_region: name("east"), ..pair.options() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planned_promotion_under_load_loses_no_write_that_was_acknowledged() {
    let pair = Pair::start().await;
    let options = named(&pair);
    let replicator = Running::start(options.clone());
    replicator.streams().await;
    let mut source = pair.from().await;
    let (so_far, count) = watch::channel(0);
    let writer = tokio::spawn(async move {
        let mut acknowledged = 0;
        while write_unfenced(&mut source, &format!("/app/{acknowledged:05}"), "v").await {
            acknowledged += 1;
            so_far.send_replace(acknowledged);
        }
        acknowledged
    });
    until("the writer to be at work", async || *count.borrow() > 10).await;
    let promoted = region::promote(options.clone(), "eve", false, false).await.unwrap();
    let acknowledged = writer.await.unwrap();
    assert!(acknowledged > 10 && !promoted.already && promoted.source_fenced, "{acknowledged} {promoted:?}");
    assert_eq!((promoted.region.as_str(), promoted.epoch), ("east", 2));
    let (mut from, mut to) = (pair.from().await, pair.to().await);
    let there = list(&mut to, PREFIX).await;
    assert_eq!(there.len(), acknowledged, "every write before the fence, and none after it");
    let owners = [owner(&mut from, PREFIX).await.unwrap(), owner(&mut to, PREFIX).await.unwrap()];
    for owner in owners {
        assert_eq!((owner.region.as_str(), owner.epoch, owner.actor.as_str()), ("east", 2, "eve"));
    }
    // The replicator that was there is a zombie now: whatever it tries fails.
    put(&mut from, "/app/zombie", "v").await;
    let error = replicator.gives_up().await.to_string();
    assert!(error.contains("promoted (epoch 2)"), "{error}");
    assert_eq!(list(&mut to, PREFIX).await, there);
    let again = region::promote(options, "eve", false, false).await.unwrap();
    assert!(again.already && again.epoch == 2, "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_that_was_cut_off_anywhere_goes_on_when_it_is_run_again() {
    let pair = Pair::start().await;
    let options = pair.options();
    put(&mut pair.from().await, "/app/a", "1").await;
    let replicator = Running::start(options.clone());
    replicator.streams().await;
    put(&mut pair.from().await, "/app/b", "1").await;
    let mut cut = 0;
    let promoted = loop {
        let limit = Duration::from_millis(1 + cut * 2);
        let attempt = region::promote(options.clone(), "eve", false, false);
        match tokio::time::timeout(limit, attempt).await {
            Ok(done) => break done.unwrap(),
            Err(_) => cut += 1,
        }
    };
    assert!(cut > 2, "it was cut off {cut} times");
    assert_eq!(promoted.epoch, 2, "a second try is no second promotion");
    assert_eq!(list(&mut pair.to().await, PREFIX).await.len(), 2);
    let checkpoint = pair.checkpoint().await.unwrap();
    assert_eq!((checkpoint.role, checkpoint.epoch), (Role::Primary, 2));
    assert!(owner(&mut pair.from().await, PREFIX).await.is_some());
    replicator.gives_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_who_promote_at_the_same_moment_one_wins_and_the_other_is_told() {
    let pair = Pair::start().await;
    let options = pair.options();
    let replicator = Running::start(options.clone());
    replicator.streams().await;
    let (one, other) = tokio::join!(
        region::promote(options.clone(), "adam", false, false),
        region::promote(options.clone(), "eve", false, false)
    );
    let mut winners = 0;
    for outcome in [one, other] {
        match outcome {
            Ok(promoted) => winners += u32::from(!promoted.already),
            Err(ReplicationError::Region(error)) => {
                assert!(matches!(*error, RegionError::Lost { .. }), "{error}");
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(winners, 1);
    assert_eq!(pair.checkpoint().await.unwrap().epoch, 2);
    replicator.gives_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_source_the_loss_is_told_first_and_the_spool_is_rolled_forward() {
    let mut pair = Pair::start().await;
    let options = pair.options();
    let replicator = Running::start(options.clone());
    replicator.streams().await;
    let mut source = pair.from().await;
    put(&mut source, "/app/a", "1").await;
    pair.equal().await;
    let safe = pair.checkpoint().await.unwrap().source_revision;
    // What comes now is in the spool alone.
    pair.destination.kill();
    for key in 0..20 {
        put(&mut source, &format!("/app/spooled-{key:02}"), "only in the spool").await;
    }
    until("the spool to hold the last change", async || {
        let mut segments = std::fs::read_dir(pair.spool("spool")).unwrap();
        segments.any(|file| {
            let bytes = std::fs::read(file.unwrap().path()).unwrap_or_default();
            bytes.windows(15).any(|window| window == b"/app/spooled-19")
        })
    })
    .await;
    replicator.stop().await;
    pair.source.kill();
    pair.destination.restart().await.unwrap();

    let assessed = region::assess(options.clone()).await.unwrap();
    assert!(assessed.source_error.is_some() && !assessed.promoted, "{assessed:?}");
    assert_eq!((assessed.estimate.safe_revision, assessed.estimate.spooled), (safe, Some(20)));
    let error = region::promote(options.clone(), "eve", false, false).await.unwrap_err().to_string();
    assert!(error.contains("it does not answer"), "{error}");
    assert_eq!(pair.checkpoint().await.unwrap().role, Role::Replica, "nothing was changed");

    let promoted = region::promote(options, "eve", true, false).await.unwrap();
    assert_eq!((promoted.forwarded, promoted.epoch, promoted.source_fenced), (20, 2, false));
    assert_eq!(list(&mut pair.to().await, PREFIX).await.len(), 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_former_owner_returns_fenced_and_what_only_it_had_is_saved_before_it_is_overwritten() {
    let mut pair = Pair::start_that_forgets_nothing().await;
    let options = named(&pair);
    let mut west = pair.from().await;
    for (key, value) in [("/app/a", "1"), ("/app/b", "1"), ("/app/gone", "1")] {
        put(&mut west, key, value).await;
    }
    let replicator = Running::start(options.clone());
    replicator.streams().await;
    pair.equal().await;
    replicator.stop().await;
    // West takes in what nobody replicated, and dies.
    put(&mut west, "/app/a", "west's").await;
    put(&mut west, "/app/only-west", "1").await;
    west.delete("/app/gone", None).await.unwrap();
    pair.source.kill();
    region::promote(options.clone(), "eve", true, false).await.unwrap();
    put(&mut pair.to().await, "/app/b", "east's").await;

    // It returns: a replicator from east to west fences it, saves its tail and brings it up.
    pair.source.restart().await.unwrap();
    let back = reversed(&options, "back");
    let replicator = Running::start(back.clone());
    replicator.streams().await;
    let (mut west, mut east) = (pair.from().await, pair.to().await);
    let fenced = owner(&mut west, PREFIX).await.unwrap();
    assert_eq!((fenced.region.as_str(), fenced.epoch), ("east", 2));
    assert_eq!(list(&mut west, PREFIX).await, list(&mut east, PREFIX).await);
    let saved: Vec<_> = std::fs::read_dir(&back.spool).unwrap().map(|file| file.unwrap().path()).collect();
    let saved = saved.iter().find(|path| path.extension().is_some_and(|end| end == "jsonl")).expect("a file");
    let text = std::fs::read_to_string(saved).unwrap();
    let tail: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told =
        |key: &str| tail.iter().find(|line| line["key"] == key).unwrap_or_else(|| panic!("no {key}: {text}"));
    assert_eq!(tail.len(), 3, "what is the same, or the owner's alone, is no divergence: {text}");
    assert_eq!((&told("/app/a")["here"], &told("/app/a")["owner"]), (&"west's".into(), &"1".into()));
    assert_eq!(told("/app/only-west")["owner"], serde_json::Value::Null);
    assert_eq!(
        (&told("/app/gone")["here"], &told("/app/gone")["owner"]),
        (&serde_json::Value::Null, &"1".into())
    );

    // And is promoted again, with nothing lost; then the first direction goes on.
    put(&mut east, "/app/c", "east's").await;
    let promoted = region::promote(back, "eve", false, false).await.unwrap();
    assert_eq!((promoted.region.as_str(), promoted.epoch), ("west", 3));
    replicator.gives_up().await;
    assert_eq!(list(&mut west, "/app/c").await.len(), 1);
    let replicator = Running::start(options);
    replicator.streams().await;
    put(&mut west, "/app/d", "west's").await;
    pair.equal().await;
    let checkpoint = pair.checkpoint().await.unwrap();
    assert_eq!((checkpoint.role, checkpoint.epoch), (Role::Replica, 3));
    replicator.stop().await;
}

/// Every key but the checkpoints, with the revision that wrote it last and how often it was written.
async fn moved(client: &mut Client) -> BTreeMap<Vec<u8>, (i64, i64)> {
    let found = client.get("/", Some(GetOptions::new().with_prefix())).await.unwrap();
    let of_links = ["test", "back"].map(|stream| format!("{RESERVED}{stream}").into_bytes());
    let kvs = found.kvs().iter().filter(|kv| !of_links.iter().any(|key| key == kv.key()));
    kvs.map(|kv| (kv.key().to_vec(), (kv.mod_revision(), kv.version()))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_regions_replicate_to_each_other_what_does_not_overlap_and_nothing_else() {
    let pair = Pair::start().await;
    let there = pair.options();
    let first = Running::start(there.clone());
    first.streams().await;
    let link = |prefix: &str, spool: &str| {
        let (from, to) = (pair.destination.url(), pair.source.url());
        let mut options = ReplicationOptions::new(
            "back",
            prefix,
            ClusterOptions::plain([from]),
            ClusterOptions::plain([to]),
            pair.spool(spool),
        );
        options.heartbeat = Duration::from_millis(500);
        options
    };
    for prefix in ["/app/", "/app/part/", "/"] {
        let error = Running::start(link(prefix, "overlap")).gives_up().await;
        let ReplicationError::Region(error) = error else { panic!("{error}") };
        assert!(matches!(*error, RegionError::Overlap { .. }), "{error}");
    }
    let back = Running::start(link("/other/", "back"));
    back.streams().await;
    let (mut west, mut east) = (pair.from().await, pair.to().await);
    put(&mut west, "/app/a", "1").await;
    put(&mut east, "/other/b", "1").await;
    until("both keys on both sides", async || {
        !list(&mut east, "/app/a").await.is_empty() && !list(&mut west, "/other/b").await.is_empty()
    })
    .await;
    // No echo: nothing but the signs of life of each link moves either etcd.
    let settled = [moved(&mut west).await, moved(&mut east).await];
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!([moved(&mut west).await, moved(&mut east).await], settled);
    // A second link into the same destination may not overlap the first, either.
    let mut second = pair.options_with_spool("second");
    second.stream = "second".to_owned();
    second.rules = zonebreak_replication::rules::Rules::new("/app/part/", "/app/part/", RESERVED);
    let error = Running::start(second).gives_up().await.to_string();
    assert!(error.contains("another link already replicates \"/app/\""), "{error}");
    first.stop().await;
    back.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_has_converged_when_nothing_of_the_prefix_is_missing_whatever_else_is_written() {
    let pair = Pair::start().await;
    let (options, mut source) = (pair.options(), pair.from().await);
    put(&mut source, "/app/a", "1").await;
    let converged = async || region::converge(options.clone()).await.unwrap();
    assert!(matches!(converged().await, Converged::No { .. }), "nothing was replicated yet");
    let replicator = Running::start(options.clone());
    replicator.streams().await;
    pair.equal().await;
    until("it to be told", async || matches!(converged().await, Converged::Yes { .. })).await;
    for _ in 0..5 {
        put(&mut source, "/elsewhere", "1").await;
    }
    assert!(matches!(converged().await, Converged::Yes { .. }), "other keys do not count");
    replicator.stop().await;
    for change in ["put", "delete"] {
        match change {
            "put" => drop(put(&mut source, "/app/b", "1").await),
            _ => drop(source.delete("/app/a", None).await.unwrap()),
        }
        assert!(matches!(converged().await, Converged::No { .. }), "{change}");
        let replicator = Running::start(options.clone());
        replicator.streams().await;
        pair.equal().await;
        until("it to have caught up", async || matches!(converged().await, Converged::Yes { .. })).await;
        replicator.stop().await;
    }
}

/// A key that is left out comes, and one that is replicated goes: as many keys as before, and yet something is missing.
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_the_rules_leave_out_hide_no_delete_and_delay_nothing() {
    let pair = Pair::start().await;
    let mut options = pair.options();
    options.rules = options.rules.with_patterns(&[], &["/app/own/**".to_owned()]).unwrap();
    let mut source = pair.from().await;
    for key in ["/app/a", "/app/b", "/app/own/a"] {
        put(&mut source, key, "1").await;
    }
    let replicator = Running::start(options.clone());
    replicator.streams().await;
    let converged = async || region::converge(options.clone()).await.unwrap();
    until("it to have everything", async || matches!(converged().await, Converged::Yes { .. })).await;
    replicator.stop().await;
    // One comes and one goes of those that are left out.
    put(&mut source, "/app/own/b", "1").await;
    source.delete("/app/own/a", None).await.unwrap();
    assert!(matches!(converged().await, Converged::Yes { .. }), "nothing of ours changed");
    source.delete("/app/a", None).await.unwrap();
    assert!(matches!(converged().await, Converged::No { .. }), "a delete is missing");
    let keeps = ReplicationOptions { rules: options.rules.clone().with_deletes(false), ..options.clone() };
    let kept = region::converge(keeps).await.unwrap();
    assert!(matches!(kept, Converged::Yes { .. }), "where deletes are not replicated it is not");
    for key in 0..3 {
        put(&mut source, &format!("/app/own/c{key}"), "1").await;
    }
    assert!(matches!(converged().await, Converged::No { .. }), "however many came beside it");
}

/// West is given up and east promoted; west takes in what nobody else has, and may be rebuilt before.
async fn divided(pair: &mut Pair, rebuilt: bool) -> ReplicationOptions {
    let options = named(pair);
    let mut west = pair.from().await;
    for key in 0..10 {
        put(&mut west, &format!("/app/{key}"), "1").await;
    }
    let replicator = Running::start(options.clone());
    replicator.streams().await;
    pair.equal().await;
    replicator.stop().await;
    pair.source.kill();
    region::promote(options.clone(), "eve", true, false).await.unwrap();
    if rebuilt {
        std::fs::remove_dir_all(pair.lab.path().join("source.data")).unwrap();
    }
    pair.source.restart().await.unwrap();
    put(&mut pair.from().await, "/app/only-west", "1").await;
    options
}

/// The lines of the one file in a spool that begins so.
fn saved(options: &ReplicationOptions, begins: &str) -> Vec<serde_json::Value> {
    let names = std::fs::read_dir(&options.spool).unwrap().map(|file| file.unwrap().path());
    let names: Vec<_> = names
        .filter(|path| path.extension().is_some_and(|end| end == "jsonl"))
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(begins))
        .collect();
    assert_eq!(names.len(), 1, "{names:?}");
    let text = std::fs::read_to_string(&names[0]).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_former_owner_is_known_whatever_the_other_direction_is_called() {
    let mut pair = Pair::start_that_forgets_nothing().await;
    let mut back = reversed(&divided(&mut pair, false).await, "back");
    back.stream = "back".to_owned();
    let replicator = Running::start(back.clone());
    replicator.streams().await;
    let tail = saved(&back, "divergent-back-2-");
    assert_eq!((tail.len(), &tail[0]["key"]), (1, &"/app/only-west".into()), "{tail:?}");
    assert_eq!(list(&mut pair.from().await, PREFIX).await, list(&mut pair.to().await, PREFIX).await);
    replicator.stop().await;
}

/// Its revision is behind the last one that the owner knows of it: whatever it has is its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_former_owner_that_was_rebuilt_returns_and_all_that_it_has_is_saved() {
    let mut pair = Pair::start_that_forgets_nothing().await;
    let back = reversed(&divided(&mut pair, true).await, "back");
    let replicator = Running::start(back.clone());
    replicator.streams().await;
    let tail = saved(&back, "divergent-test-2-");
    assert!(tail.iter().any(|line| line["key"] == "/app/only-west" && line["here"] == "1"), "{tail:?}");
    assert_eq!(tail.len(), 11, "deleted there, or forgotten: nobody can tell");
    assert_eq!(list(&mut pair.from().await, PREFIX).await.len(), 10);
    replicator.stop().await;
}

/// Its ID and its revision are those of the etcd that was followed, and its keys came before the last revision that the owner knows.
#[tokio::test(flavor = "multi_thread")]
async fn a_former_owner_that_was_rebuilt_and_written_to_since_is_saved_whole() {
    for compacted in [false, true] {
        let mut pair = Pair::start_that_forgets_nothing().await;
        let back = reversed(&divided(&mut pair, true).await, "back");
        let (mut west, known) = (pair.from().await, pair.checkpoint().await.unwrap().source_revision.0);
        put(&mut west, "/app/3", "west's").await;
        assert!(put(&mut west, "/app/4", "1").await < known, "what was written comes before");
        let mut last = 0;
        while last <= known + 2 {
            last = put(&mut west, "/elsewhere", "1").await;
        }
        if compacted {
            west.compact(last, None).await.unwrap();
        }
        let replicator = Running::start(back.clone());
        replicator.streams().await;
        let tail = saved(&back, "divergent-test-2-");
        let here = |key: &str| tail.iter().find(|line| line["key"] == key).map(|line| &line["here"]);
        assert_eq!(here("/app/only-west"), Some(&"1".into()), "compacted: {compacted}: {tail:?}");
        assert_eq!(here("/app/3"), Some(&"west's".into()), "{tail:?}");
        assert_eq!((here("/app/4"), tail.len()), (None, 10), "what is the same on both sides is not lost");
        assert_eq!(pair_is_equal(&pair).await.len(), 10);
        replicator.stop().await;
    }
}

/// What both regions hold.
async fn pair_is_equal(pair: &Pair) -> State {
    let (west, east) = (list(&mut pair.from().await, PREFIX).await, list(&mut pair.to().await, PREFIX).await);
    assert_eq!(west, east);
    west
}

/// The replicator runs on, and cannot write what it has: to take the destination would give that up unasked.
#[tokio::test(flavor = "multi_thread")]
async fn a_replicator_that_is_stuck_is_no_reason_to_give_up_what_it_has() {
    let mut pair = Pair::start().await;
    pair.destination.restart_with(&["--max-request-bytes", "100000"]).await.unwrap();
    let (options, mut source) = (pair.options(), pair.from().await);
    let replicator = Running::start(options.clone());
    replicator.streams().await;
    put(&mut source, "/app/before", "1").await;
    pair.equal().await;
    put(&mut source, "/app/large", &"x".repeat(300_000)).await;
    put(&mut source, "/app/after", "1").await;
    let put_off = replicator.metrics.retries.with_label_values(&["put_off"]);
    until("it to be put off", async || put_off.get() > 0).await;
    pair.source.kill();
    let assessed = region::assess(options.clone()).await.unwrap();
    assert_eq!(assessed.estimate.spooled, Some(2), "told although the log is in use");
    let error = region::promote(options.clone(), "eve", true, false).await.unwrap_err().to_string();
    assert!(error.contains("2 revisions that the destination has not"), "{error}");
    assert_eq!(pair.checkpoint().await.unwrap().role, Role::Replica, "nothing was changed");
    // As the message says: it is stopped, here after the destination was given room.
    pair.destination.restart_with(&["--max-request-bytes", "1572864"]).await.unwrap();
    replicator.kill().await;
    region::promote(options, "eve", true, false).await.unwrap();
    assert_eq!(list(&mut pair.to().await, PREFIX).await.len(), 3);
}

/// Promoted from a machine that has no change log, while the replicator beside the destination still brings what it has.
/// The promoter was killed, or the source fell silent, between the last two steps; nobody runs it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_replicator_of_the_other_direction_tells_the_source_what_its_promoter_did_not() {
    let pair = Pair::start().await;
    let options = named(&pair);
    let replicator = Running::start(options.clone());
    replicator.streams().await;
    region::promote(options.clone(), "eve", false, false).await.unwrap();
    replicator.gives_up().await;
    let mut west = pair.from().await;
    let told = owner(&mut west, PREFIX).await.unwrap();
    let fence = Ownership { pending: true, ..told.clone() };
    west.put(own::key(PREFIX), fence.encode(), None).await.unwrap();
    let seen = verify::status(options.clone()).await.unwrap().unfinished.expect("it is named");
    assert!(seen.taken && seen.epoch == 2 && seen.actor == "eve", "{seen:?}");
    let back = Running::start(reversed(&options, "back"));
    back.streams().await;
    assert_eq!(owner(&mut west, PREFIX).await.unwrap(), told);
    back.stop().await;
}

/// A replicator that begins writes the checkpoint: who listened once, and finds that as it was, need not listen again.
#[tokio::test(flavor = "multi_thread")]
async fn a_silence_is_listened_to_once_unless_somebody_wrote_since() {
    let mut pair = Pair::start().await;
    let replicator = Running::start(pair.options());
    replicator.streams().await;
    put(&mut pair.from().await, "/app/a", "1").await;
    pair.equal().await;
    replicator.stop().await;
    pair.source.kill();
    let laptop =
        ReplicationOptions { heartbeat: Duration::from_secs(1), ..pair.options_with_spool("none here") };
    let mut listens = Vec::new();
    let assessed = region::assess_saying(laptop.clone(), |long| listens.push(long)).await.unwrap();
    assert_eq!(listens, [Duration::from_millis(1_500)]);
    assert!(!assessed.estimate.replicator && assessed.silence.is_some(), "{assessed:?}");
    // Somebody wrote: to listen would take longer than this waits.
    let patient = ReplicationOptions { heartbeat: Duration::from_secs(400), ..laptop };
    let known = pair.checkpoint().await.unwrap();
    let mut to = pair.to().await;
    to.put(pair.options().checkpoint_key(), known.encode(), None).await.unwrap();
    let listening = region::promote_assessed(patient.clone(), "eve", &assessed, false);
    assert!(tokio::time::timeout(Duration::from_secs(3), listening).await.is_err(), "it did not listen");
    // Nobody did.
    let short = ReplicationOptions { heartbeat: Duration::from_millis(500), ..patient.clone() };
    let assessed = region::assess(short).await.unwrap();
    let promoting = region::promote_assessed(patient, "eve", &assessed, false);
    let promoted =
        tokio::time::timeout(Duration::from_secs(300), promoting).await.expect("it listens again").unwrap();
    assert_eq!((promoted.epoch, promoted.source_fenced), (2, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replicator_elsewhere_is_waited_for_while_it_writes() {
    let mut pair = Pair::start().await;
    let mut source = pair.from().await;
    // A second and a half for each transaction, and no two of these values in one.
    let link = Link::open(pair.destination.address(), Duration::from_millis(400)).await.unwrap();
    let far = ClusterOptions::plain([link.url()]);
    let replicator = Running::start(ReplicationOptions { destination: far, ..pair.options() });
    replicator.streams().await;
    let value = "x".repeat(700_000);
    let mut last = 0;
    for key in 0..8 {
        last = put(&mut source, &format!("/app/{key}"), &value).await;
    }
    pair.spooled("spool", pair.checkpoint().await.unwrap().source_cluster, last).await;
    pair.source.kill();
    assert!(list(&mut pair.to().await, PREFIX).await.len() < 6, "there is nothing to wait for");
    let elsewhere =
        ReplicationOptions { heartbeat: Duration::from_secs(5), ..pair.options_with_spool("none here") };
    let assessed = region::assess(elsewhere.clone()).await.unwrap();
    assert!(assessed.estimate.replicator && assessed.estimate.spooled.is_none(), "{assessed:?}");
    region::promote(elsewhere.clone(), "eve", true, false).await.unwrap();
    assert_eq!(list(&mut pair.to().await, PREFIX).await.len(), 8, "it was cut off in the middle");
    replicator.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_overwritten_because_an_operator_said_so_is_saved_first() {
    let pair = Pair::start().await;
    let (mut west, mut east) = (pair.from().await, pair.to().await);
    put(&mut west, "/app/same", "1").await;
    put(&mut west, "/app/other", "west's").await;
    put(&mut west, "/app/only-west", "1").await;
    for (key, value) in [("/app/same", "1"), ("/app/other", "east's"), ("/app/only-east", "1")] {
        put(&mut east, key, value).await;
    }
    let options = ReplicationOptions { overwrite: true, ..named(&pair) };
    let replicator = Running::start(options.clone());
    replicator.streams().await;
    pair.equal().await;
    let lost = saved(&options, "overwritten-test-");
    let keys: Vec<_> = lost.iter().map(|line| line["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["/app/only-east", "/app/other"]);
    assert_eq!((&lost[1]["here"], &lost[1]["owner"]), (&"east's".into(), &"west's".into()));
    replicator.stop().await;
    // A second time there is nothing to lose.
    let replicator = Running::start(options.clone());
    replicator.streams().await;
    assert_eq!(saved(&options, "overwritten-test-").len(), 2);
    replicator.stop().await;
}

/// Better a mixture of two revisions than none, said the operator; as an owner it is between nothing any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_torn_destination_that_is_accepted_is_a_whole_owner() {
    let mut pair = Pair::start().await;
    let options = pair.options();
    put(&mut pair.from().await, "/app/a", "1").await;
    let replicator = Running::start(options.clone());
    replicator.streams().await;
    pair.equal().await;
    replicator.stop().await;
    let mut known = pair.checkpoint().await.unwrap();
    known.torn = Some(Torn::Aligning { revision: known.source_revision.next() });
    pair.to().await.put(options.checkpoint_key(), known.encode(), None).await.unwrap();
    pair.source.kill();
    let error = region::promote(options.clone(), "eve", true, false).await.unwrap_err().to_string();
    assert!(error.contains("--accept-torn"), "{error}");
    region::promote(options, "eve", true, true).await.unwrap();
    let known = pair.checkpoint().await.unwrap();
    assert_eq!((known.role, known.torn), (Role::Primary, None));
}
