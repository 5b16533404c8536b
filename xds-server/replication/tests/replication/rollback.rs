//! Somebody puts back what was there before: the destination's data, the change log, the source. Each is found out, and nothing
//! between then and now is taken for known.

use std::{fs, path::Path, time::Duration};

use zonebreak_drill::lab::{Etcd, Lab, Link};
use zonebreak_replication::{
    ClusterOptions, ReplicationError, ReplicationOptions,
    overlap::{Overlap, Policy},
    region::{self, RegionError, own},
    revision::Revision,
    spool::{Entry, History, MIN_BYTES},
    verify,
};

use crate::support::{PREFIX, Pair, Running, list, put, until};

/// The revisions in a log, and how many gaps it names.
fn logged(pair: &Pair, spool: &str) -> (Vec<i64>, usize) {
    let log = History::open(pair.spool(spool)).unwrap().unwrap();
    let mut reader = log.reader(log.begins_after);
    let (mut revisions, mut gaps) = (Vec::new(), 0);
    while let Some(entry) = reader.read().unwrap() {
        match entry {
            Entry::Revision(source) => revisions.push(source.revision.0),
            Entry::Gap { .. } => gaps += 1,
        }
    }
    (revisions, gaps)
}

fn copy(from: &Path, to: &Path) {
    let _absent = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), &to).unwrap();
        }
    }
}

/// Runs until the destination has everything.
async fn catch_up(pair: &Pair, options: &ReplicationOptions) {
    let replicator = Running::start(options.clone());
    replicator.streams().await;
    pair.equal().await;
    replicator.stop().await;
}

/// The log keeps 8 MiB, and what the destination went back to is older than that.
#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_went_back_to_before_the_log_begins_is_compared() {
    let mut pair = Pair::start().await;
    let mut options = pair.options();
    options.spool_bytes = MIN_BYTES;
    let mut source = pair.from().await;
    put(&mut source, "/app/a", "1").await;
    catch_up(&pair, &options).await;
    let (data, before) = (pair.lab.path().join("destination.data"), pair.lab.path().join("before"));
    pair.destination.kill();
    copy(&data, &before);
    pair.destination.restart().await.unwrap();
    let replicator = Running::start(options.clone());
    replicator.streams().await;
    put(&mut source, "/app/lost", "1").await;
    source.delete("/app/a", None).await.unwrap();
    let value = "y".repeat(600_000);
    for round in 0..14 {
        put(&mut source, "/app/large", &format!("{round} {value}")).await;
        pair.equal().await;
    }
    replicator.stop().await;
    let log = History::open(pair.spool("spool")).unwrap().unwrap();
    pair.destination.kill();
    copy(&before, &data);
    pair.destination.restart().await.unwrap();
    assert!(log.begins_after > pair.checkpoint().await.unwrap().source_revision, "nothing was dropped");
    let replicator = Running::start(options.clone());
    replicator.streams().await;
    assert_eq!(pair.equal().await.len(), 2);
    assert_eq!(replicator.metrics.resyncs.with_label_values(&["gap"]).get(), 1);
    pair.prove(options).await;
    replicator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_lost_its_end_is_given_it_again_by_the_source() {
    let pair = Pair::start().await;
    let mut source = pair.from().await;
    put(&mut source, "/app/first", "1").await;
    catch_up(&pair, &pair.options()).await;
    let old = pair.lab.path().join("old");
    copy(&pair.spool("spool"), &old);
    let mut all = Vec::new();
    // The last change was delivered, and then its frame was torn: zeros are all that a disk that lost it has.
    let replicator = Running::start(pair.options());
    replicator.streams().await;
    for key in 0..3 {
        all.push(put(&mut source, &format!("/app/{key}"), "1").await);
        pair.equal().await;
    }
    replicator.stop().await;
    assert_eq!(logged(&pair, "spool"), (all.clone(), 1));
    let segment = pair.spool("spool").join("0000000001.seg");
    let mut bytes = fs::read(&segment).unwrap();
    let last = bytes.windows(4).rposition(|word| word == b"ZBRF").unwrap();
    bytes[last..].fill(0);
    fs::write(&segment, &bytes).unwrap();
    assert_eq!(logged(&pair, "spool").0.len(), 2);
    all.push(put(&mut source, "/app/after", "1").await);
    catch_up(&pair, &pair.options()).await;
    assert_eq!(logged(&pair, "spool"), (all.clone(), 1), "a change is missing in the middle");
    // The machine goes back to what it was an hour ago, its log with it.
    source.delete("/app/0", None).await.unwrap();
    all.push(all.last().unwrap() + 1);
    catch_up(&pair, &pair.options()).await;
    copy(&old, &pair.spool("spool"));
    assert_eq!(logged(&pair, "spool"), (Vec::new(), 1));
    all.push(put(&mut source, "/app/later", "1").await);
    catch_up(&pair, &pair.options()).await;
    assert_eq!(logged(&pair, "spool"), (all, 1), "a change is missing in the middle");
}

/// What another holder brought, what a stranger made us compare: none of it is history that the source cannot tell.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_names_a_gap_only_where_the_source_cannot_fill_it() {
    let pair = Pair::start().await;
    let (mut source, mut to) = (pair.from().await, pair.to().await);
    put(&mut source, "/app/first", "1").await;
    catch_up(&pair, &pair.options()).await;
    let mut all = Vec::new();
    let other = Running::start(pair.options_with_spool("other"));
    other.streams().await;
    for key in 0..3 {
        all.push(put(&mut source, &format!("/app/{key}"), "1").await);
    }
    pair.equal().await;
    other.stop().await;
    let replicator = Running::start(pair.options());
    replicator.streams().await;
    put(&mut to, "/app/0", "a stranger's").await;
    pair.equal().await;
    let resyncs = replicator.metrics.resyncs.with_label_values(&["stranger"]);
    until("both sides to be compared", async || resyncs.get() == 1).await;
    replicator.streams().await;
    all.push(put(&mut source, "/app/after", "1").await);
    pair.equal().await;
    replicator.stop().await;
    assert_eq!(logged(&pair, "spool"), (all, 1));
    // Where it cannot, the gap is named.
    put(&mut source, "/app/unheard", "1").await;
    let last = put(&mut source, "/app/compacted", "1").await;
    source.compact(last, None).await.unwrap();
    catch_up(&pair, &pair.options()).await;
    assert_eq!(logged(&pair, "spool").1, 2);
    let log = History::open(pair.spool("spool")).unwrap().unwrap();
    assert!(log.through() >= Revision(last));
    assert_eq!(list(&mut to, "/app/").await.len(), 7);
}

/// Begins the source anew: empty, and with the cluster ID that it had.
async fn rebuild_source(pair: &mut Pair) {
    pair.source.kill();
    fs::remove_dir_all(pair.lab.path().join("source.data")).unwrap();
    pair.source.restart().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_was_rebuilt_is_found_out_though_its_id_and_its_revision_give_nothing_away() {
    let mut pair = Pair::start().await;
    let mut source = pair.from().await;
    let link = Link::open(pair.source.address(), Duration::ZERO).await.unwrap();
    let options = ReplicationOptions { source: ClusterOptions::plain([link.url()]), ..pair.options() };
    let replicator = Running::start(options.clone());
    replicator.streams().await;
    for key in 0..3 {
        put(&mut source, &format!("/app/{key}"), "1").await;
    }
    let before = pair.equal().await;
    let known = pair.checkpoint().await.unwrap();
    link.cut();
    rebuild_source(&mut pair).await;
    // Not yet where it was: to drain it would empty the destination.
    let error = region::promote(pair.options(), "eve", false, false).await.unwrap_err();
    let ReplicationError::Region(error) = error else { panic!("{error}") };
    assert!(matches!(*error, RegionError::SourceWentBack { .. }), "{error}");
    let mut source = pair.from().await;
    put(&mut source, "/app/2", "1").await;
    while put(&mut source, "/app/new", "1").await <= known.source_revision.0 + 5 {}
    assert_eq!(known.source_cluster.0, source.status().await.unwrap().header().unwrap().cluster_id());
    link.mend();
    let error = replicator.gives_up().await.to_string();
    assert!(error.contains("it was rebuilt or restored"), "{error}");
    // Past what was known of it, to drain it would empty the destination all the same.
    let laptop = || pair.options_with_spool("none here");
    for options in [pair.options(), laptop()] {
        let error = region::promote(options, "eve", false, false).await.unwrap_err();
        let ReplicationError::Region(error) = error else { panic!("{error}") };
        assert!(matches!(*error, RegionError::SourceDiffers { .. }), "{error}");
    }
    // Nor at a start, with its history compacted as well.
    let last = put(&mut source, "/app/new", "1").await;
    source.compact(last, None).await.unwrap();
    let error = Running::start(pair.options()).gives_up().await.to_string();
    assert!(error.contains("it was rebuilt or restored"), "{error}");
    let error = region::promote(pair.options(), "eve", false, false).await.unwrap_err().to_string();
    assert!(error.contains("knows nothing of it now"), "{error}");
    let error = region::promote(laptop(), "eve", false, false).await.unwrap_err().to_string();
    assert!(error.contains("is compacted there"), "{error}");
    assert!(list(&mut source, &own::key(PREFIX)).await.is_empty(), "it was fenced first");
    assert_eq!(list(&mut pair.to().await, PREFIX).await, before, "the last that is left of it");
    // It is the truth, says an operator.
    zonebreak_replication::spool::Spool::reset(&pair.spool("spool")).unwrap();
    let replicator = Running::start(ReplicationOptions { overwrite: true, ..pair.options() });
    replicator.streams().await;
    assert_eq!(pair.equal().await.len(), 2);
    replicator.stop().await;
}

/// Writes elsewhere until the source is where it was before it was rebuilt, and compacts all of it.
async fn overtake_and_compact(pair: &Pair, known: Revision) {
    let mut source = pair.from().await;
    let mut last = 0;
    while last <= known.0 + 20 {
        last = put(&mut source, "/elsewhere", "1").await;
    }
    source.compact(last, None).await.unwrap();
}

/// The last change in the log is of a key that the rebuilt source does not have, and that it could have deleted: it has compacted what
/// would tell. To make the destination equal to it would empty that.
#[tokio::test(flavor = "multi_thread")]
async fn a_rebuilt_source_that_has_compacted_what_would_tell_empties_nothing() {
    let mut pair = Pair::start().await;
    let mut source = pair.from().await;
    put(&mut source, "/app/stable", "1").await;
    let link = Link::open(pair.source.address(), Duration::ZERO).await.unwrap();
    let options = ReplicationOptions { source: ClusterOptions::plain([link.url()]), ..pair.options() };
    let replicator = Running::start(options);
    replicator.streams().await;
    for key in 0..3 {
        put(&mut source, &format!("/app/{key}"), "1").await;
    }
    let before = pair.equal().await;
    let known = pair.checkpoint().await.unwrap().source_revision;
    link.cut();
    rebuild_source(&mut pair).await;
    // Its first write is what it was before.
    put(&mut pair.from().await, "/app/stable", "1").await;
    overtake_and_compact(&pair, known).await;
    link.mend();
    let unproven = |error: ReplicationError| {
        let text = error.to_string();
        assert!(matches!(error, ReplicationError::Unproven { .. }), "{text}");
        assert!(text.contains("--overwrite") && text.contains("promote"), "a way out: {text}");
    };
    unproven(replicator.gives_up().await);
    unproven(Running::start(pair.options()).gives_up().await);
    // Nor one without a log of its own: it asks for the digest of the checkpoint, and for what would be lost.
    unproven(Running::start(pair.options_with_spool("none here")).gives_up().await);
    assert_eq!(list(&mut pair.to().await, PREFIX).await, before, "the last that is left of it");
    // It is the truth, says an operator, and what that costs is saved.
    let replicator = Running::start(ReplicationOptions { overwrite: true, ..pair.options() });
    replicator.streams().await;
    assert_eq!(pair.equal().await.len(), 1);
    replicator.stop().await;
    let names = fs::read_dir(pair.spool("spool")).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names.into_iter().any(|name| name.to_string_lossy().starts_with("overwritten-")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuilt_source_is_no_truth_to_a_replicator_without_a_log() {
    let mut pair = Pair::start().await;
    let mut source = pair.from().await;
    put(&mut source, "/app/a", "1").await;
    put(&mut source, "/app/b", "1").await;
    catch_up(&pair, &pair.options()).await;
    let (known, before) =
        (pair.checkpoint().await.unwrap().source_revision, list(&mut pair.to().await, PREFIX).await);
    rebuild_source(&mut pair).await;
    let mut source = pair.from().await;
    put(&mut source, "/app/b", "1").await;
    while put(&mut source, "/app/a", "2").await <= known.0 {}
    let error = Running::start(pair.options_with_spool("none here")).gives_up().await.to_string();
    assert!(error.contains("is not what the destination took"), "{error}");
    let error = Running::start(pair.options()).gives_up().await.to_string();
    assert!(error.contains("it was rebuilt or restored"), "by what it was known by before: {error}");
    assert_eq!(list(&mut pair.to().await, PREFIX).await, before);
}

/// Its replicator knows it again by what it was at the last comparison, though it has deleted the last change in the log and compacted
/// all of it, while the replicator was stopped or cut off.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_deleted_and_compacted_its_last_change_is_known_again() {
    let pair = Pair::start().await;
    let mut source = pair.from().await;
    for key in 0..4 {
        put(&mut source, &format!("/app/{key}"), "1").await;
    }
    let link = Link::open(pair.source.address(), Duration::ZERO).await.unwrap();
    let options = ReplicationOptions { source: ClusterOptions::plain([link.url()]), ..pair.options() };
    let mut replicator = Running::start(options.clone());
    for stopped in [true, false] {
        replicator.streams().await;
        let last = put(&mut source, "/app/last", "1").await;
        pair.equal().await;
        pair.spooled("spool", pair.checkpoint().await.unwrap().source_cluster, last).await;
        link.cut();
        let still = if stopped {
            replicator.kill().await;
            None
        } else {
            Some(replicator)
        };
        source.delete("/app/last", None).await.unwrap();
        // Hot keys: none of them is as it was.
        for key in 0..4 {
            put(&mut source, &format!("/app/{key}"), &format!("stopped: {stopped}")).await;
        }
        let head = put(&mut source, "/elsewhere", "1").await;
        source.compact(head, None).await.unwrap();
        link.mend();
        replicator = still.unwrap_or_else(|| Running::start(options.clone()));
        assert_eq!(pair.equal().await.len(), 4);
    }
    replicator.streams().await;
    replicator.stop().await;
}

/// A source that goes on for itself and compacts, with its replicator stopped: only a change that it still has tells it from another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_compacted_what_was_replicated_is_known_by_what_the_log_has_of_it() {
    let pair = Pair::start().await;
    let mut source = pair.from().await;
    let replicator = Running::start(pair.options());
    replicator.streams().await;
    put(&mut source, "/app/a", "1").await;
    pair.equal().await;
    replicator.stop().await;
    put(&mut source, "/app/b", "1").await;
    let last = put(&mut source, "/elsewhere", "1").await;
    source.compact(last, None).await.unwrap();
    let laptop = pair.options_with_spool("none here");
    let error = region::promote(laptop.clone(), "eve", false, false).await.unwrap_err();
    let ReplicationError::Region(error) = error else { panic!("{error}") };
    assert!(matches!(*error, RegionError::SourceForgot { .. }), "{error}");
    assert!(list(&mut source, &own::key(PREFIX)).await.is_empty(), "it was fenced first");
    let promoted = region::promote(pair.options(), "eve", false, false).await.unwrap();
    assert_eq!((promoted.epoch, promoted.drained_keys), (2, Some(1)));
    assert_eq!(list(&mut pair.to().await, PREFIX).await.len(), 2);
}

/// As two regions are that were made from one chart, or two etcds with every flag at its default.
#[tokio::test(flavor = "multi_thread")]
async fn two_etcds_with_one_id_are_refused_before_anything_is_written() {
    let lab = Lab::new().unwrap();
    let peer = "http://127.0.0.1:2380";
    let args = |name: &str| {
        ["--initial-advertise-peer-urls", peer, "--initial-cluster"]
            .map(str::to_owned)
            .into_iter()
            .chain([format!("{name}={peer}")])
            .collect::<Vec<_>>()
    };
    let start = async |name: &'static str| {
        let args = args(name);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        Etcd::start_with(&lab, name, &args).await.unwrap()
    };
    let (source, destination) = (start("source").await, start("destination").await);
    let pair = Pair { source, destination, lab };
    let (mut source, mut to) = (pair.from().await, pair.to().await);
    put(&mut source, "/app/a", "1").await;
    let error = Running::start(pair.options()).gives_up().await.to_string();
    assert!(error.contains("--initial-cluster-token"), "{error}");
    assert!(list(&mut to, "/").await.is_empty(), "nothing was written");
    let region = |name| Some(region::Region::new(name).unwrap());
    let shared = ReplicationOptions {
        source_region: region("west"),
        destination_region: region("east"),
        overlap: Some(Overlap::new(Policy::LwwHlc)),
        ..pair.options_with_spool("shared")
    };
    let error = Running::start(shared).gives_up().await.to_string();
    assert!(error.contains("--initial-cluster-token"), "two that write: {error}");
    // One that was replicated to nevertheless, by a version that did not ask: no fence of it would hold.
    let (id, of) = (source.status().await.unwrap(), (PREFIX.to_owned(), PREFIX.to_owned()));
    let id = zonebreak_replication::checkpoint::ClusterId(id.header().unwrap().cluster_id());
    let known = zonebreak_replication::checkpoint::Checkpoint {
        source_revision: Revision(2),
        ..zonebreak_replication::checkpoint::Checkpoint::genesis(id, id, of, uuid::Uuid::nil())
    };
    to.put(pair.options().checkpoint_key(), known.encode(), None).await.unwrap();
    let alike = |error: ReplicationError| {
        let ReplicationError::Region(error) = error else { panic!("{error}") };
        assert!(matches!(*error, RegionError::Alike { .. }), "{error}");
    };
    alike(region::assess(pair.options()).await.unwrap_err());
    alike(region::promote(pair.options(), "eve", false, false).await.unwrap_err());
    alike(verify::verify(pair.options(), 1).await.unwrap_err());
    assert!(list(&mut source, &own::key(PREFIX)).await.is_empty(), "a fence that is none");
}
