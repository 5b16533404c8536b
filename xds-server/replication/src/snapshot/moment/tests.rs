//! Moments against a model of the history: any revision that is said to be restorable is what the model had, and nothing else is
//! handed out.

use std::fs;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::{
    revision::{Change, Op, SourceRevision},
    snapshot::catalog::Catalog,
    spool::{Spool, SpoolOptions},
};

const CLUSTER: ClusterId = ClusterId(7);

type Model = BTreeMap<Vec<u8>, (Vec<u8>, i64)>;

/// What happens at one revision of a made-up history.
#[derive(Debug, Clone)]
enum Happens {
    /// Keys get these values, or go.
    Changes(BTreeMap<u8, Option<u8>>),
    /// Nothing of ours.
    Elsewhere,
    /// The log loses track.
    Gap,
    /// A snapshot is taken from the etcd.
    Snapshot,
}

fn history() -> impl Strategy<Value = Vec<Happens>> {
    let changes = prop::collection::btree_map(0_u8..12, prop::option::of(any::<u8>()), 1..4);
    let happens = prop_oneof![
        12 => changes.prop_map(Happens::Changes),
        2 => Just(Happens::Elsewhere),
        1 => Just(Happens::Gap),
        2 => Just(Happens::Snapshot),
    ];
    prop::collection::vec(happens, 1..60)
}

fn key(at: u8) -> Vec<u8> {
    format!("/app/{at}").into_bytes()
}

fn save(catalog: &Catalog, model: &Model, revision: i64, at_ms: u64) {
    let header = Header::new(CLUSTER, Revision(revision), at_ms, "/app/");
    let mut draft = catalog.draft(header).unwrap();
    for (key, (value, modified)) in model {
        let (key, value) = (key.clone(), value.clone());
        draft.push(&Item { key, value, modified: Revision(*modified), lease: 0 }).unwrap();
    }
    draft.finish(&BTreeMap::new()).unwrap();
}

fn read(moment: &Moment) -> Model {
    let mut state = moment.state().unwrap();
    std::iter::from_fn(|| state.read().unwrap())
        .map(|item| (item.key, (item.value, item.modified.0)))
        .collect()
}

/// Lives through a history: revision `n` happens at `n * 1000` ms. Hands out the state after every revision.
fn live(directory: &TempDir, history: &[Happens]) -> (Catalog, History, Vec<Model>) {
    let catalog = Catalog::new(directory.path().join("snapshots"));
    let options = SpoolOptions {
        directory: directory.path().join("spool"),
        max_bytes: 1 << 20,
        segment_bytes: 512,
        keep_for: std::time::Duration::ZERO,
    };
    let (mut spool, _) = Spool::open(options, CLUSTER).unwrap();
    let (mut model, mut all) = (Model::new(), vec![Model::new()]);
    save(&catalog, &model, 0, 0);
    spool.append(&[Entry::Gap { through: Revision(1), seen_ms: 1 }]).unwrap();
    all.push(model.clone());
    for (at, happens) in history.iter().enumerate() {
        let revision = at as i64 + 2;
        let seen_ms = revision as u64 * 1_000;
        match happens {
            Happens::Changes(changes) => {
                let mut told = Vec::new();
                for (at, value) in changes {
                    let op = match value {
                        Some(value) => Op::Put { value: vec![*value], lease: 0 },
                        None => Op::Delete,
                    };
                    match value {
                        Some(value) => model.insert(key(*at), (vec![*value], revision)),
                        None => model.remove(&key(*at)),
                    };
                    told.push(Change { key: key(*at), op });
                }
                // Replication's own keys are in the log, and in no state.
                let key = b"/zonebreak/v1/replication/x".to_vec();
                told.push(Change { key, op: Op::Put { value: b"c".to_vec(), lease: 0 } });
                let revision = SourceRevision { revision: Revision(revision), seen_ms, changes: told };
                spool.append(&[Entry::Revision(revision)]).unwrap();
            }
            Happens::Elsewhere => {}
            Happens::Gap => spool.append(&[Entry::Gap { through: Revision(revision), seen_ms }]).unwrap(),
            Happens::Snapshot => save(&catalog, &model, revision, seen_ms),
        }
        all.push(model.clone());
    }
    let history = History::open(directory.path().join("spool")).unwrap().unwrap();
    (catalog, history, all)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn every_moment_that_is_handed_out_is_what_was_and_every_one_inside_the_ranges_is(history in history()) {
        let directory = TempDir::new().unwrap();
        let (catalog, log, all) = live(&directory, &history);
        let snapshots = catalog.list().unwrap();
        let bases: Vec<Base> = snapshots
            .iter()
            .map(|it| it.content.as_ref().unwrap())
            .map(|(header, _)| Base { revision: header.revision, at_ms: header.at_ms })
            .collect();
        let ranges = ranges(&bases, &stretches(Some(&log)).unwrap());
        for (revision, wanted) in all.iter().enumerate() {
            let ms = revision as u64 * 1_000;
            let inside = ranges.iter().any(|it| (it.from.revision.0..=it.to.revision.0).contains(&(revision as i64)));
            match find(Target::Revision(Revision(revision as i64)), &snapshots, Some(&log)) {
                Ok(moment) => prop_assert_eq!(&read(&moment), wanted, "revision {}", revision),
                Err(SnapshotError::NoMoment { .. }) => prop_assert!(!inside, "revision {revision} is in {ranges:?}"),
                Err(error) => prop_assert!(false, "{}", error),
            }
            let inside = ranges.iter().any(|it| (it.from.at_ms..=it.to.at_ms).contains(&ms));
            match find(Target::Time(ms), &snapshots, Some(&log)) {
                Ok(moment) => prop_assert_eq!(&read(&moment), wanted, "time {}", ms),
                Err(SnapshotError::NoMoment { .. }) => prop_assert!(!inside, "time {ms} is in {ranges:?}"),
                Err(error) => prop_assert!(false, "{}", error),
            }
        }
    }
}

#[test]
fn what_nobody_knows_is_refused_with_what_can_be_had() {
    let directory = TempDir::new().unwrap();
    let changes = || Happens::Changes(BTreeMap::from([(1, Some(1))]));
    let history =
        [changes(), Happens::Snapshot, changes(), Happens::Gap, changes(), Happens::Snapshot, changes()];
    let (catalog, log, _) = live(&directory, &history);
    let snapshots = catalog.list().unwrap();
    let refused = |target| find(target, &snapshots, Some(&log)).unwrap_err().to_string();
    let error = refused(Target::Revision(Revision(6)));
    assert!(error.contains("without a gap ends at revision 4"), "{error}");
    assert!(error.contains("revisions 3 to 4 (1970-01-01T00:00:03Z to"), "{error}");
    assert!(error.contains("revisions 7 to 8"), "{error}");
    let error = refused(Target::Revision(Revision(9)));
    assert!(error.contains("ends at revision 8"), "{error}");
    // Nobody knows what came after the log's end, and an idle source cannot be told from a dead replicator.
    let error = refused(Target::Time(60_000));
    assert!(error.contains("1970-01-01T00:01:00Z") && error.contains("ends at revision 8"), "{error}");
    // Without a log, the snapshots themselves.
    let moment = find(Target::Revision(Revision(7)), &snapshots, None).unwrap();
    assert_eq!((moment.revision, moment.replayed), (Revision(7), 0));
    let error = find(Target::Revision(Revision(8)), &snapshots, None).unwrap_err().to_string();
    assert!(error.contains("does not go on from the snapshot before it"), "{error}");
    let error = find(Target::Time(5), &[], None).unwrap_err().to_string();
    assert!(error.contains("there is no snapshot") && error.contains("can be restored: nothing"), "{error}");
}

#[test]
fn a_log_of_another_cluster_is_not_mixed_in() {
    let directory = TempDir::new().unwrap();
    let (catalog, _, _) = live(&directory, &[Happens::Snapshot]);
    let other = directory.path().join("other");
    let options = SpoolOptions {
        directory: other.clone(),
        max_bytes: 1 << 20,
        segment_bytes: 512,
        keep_for: std::time::Duration::ZERO,
    };
    let (mut spool, _) = Spool::open(options, ClusterId(8)).unwrap();
    spool.append(&[Entry::Gap { through: Revision(1), seen_ms: 1 }]).unwrap();
    let log = History::open(&other).unwrap().unwrap();
    let found = find(Target::Revision(Revision(2)), &catalog.list().unwrap(), Some(&log));
    assert_eq!(found.unwrap().replayed, 0, "a snapshot is its own moment");
    let found = find(Target::Revision(Revision(3)), &catalog.list().unwrap(), Some(&log));
    let error = found.unwrap_err().to_string();
    let (of, spool) = (CLUSTER.to_string(), other.display().to_string());
    assert!(
        error.contains(&format!("the change log in {spool} is; the snapshots are of cluster {of}")),
        "{error}"
    );
    assert!(
        error.contains("another --spool") && error.contains("; revision 2 (1970-01-01T00:00:02Z)"),
        "{error}"
    );
}

#[test]
fn a_snapshot_of_another_cluster_is_listed_alone_unless_the_log_s_own_history_has_that_revision_or_time() {
    let base = |revision, at_ms| Base { revision: Revision(revision), at_ms };
    let stretch = Stretch { after: Revision(5), through: Revision(9), through_ms: 900 };
    let known = Range { from: base(5, 500), to: base(9, 900) };
    let alone = |at| Range { from: at, to: at };
    let all =
        restorable(&[base(5, 500)], &[base(3, 100), base(7, 200), base(12, 600), base(12, 950)], &[stretch]);
    assert_eq!(all, [alone(base(3, 100)), known, alone(base(12, 950))]);
}

#[test]
fn a_log_is_read_while_it_is_written_and_when_it_is_torn() {
    let directory = TempDir::new().unwrap();
    let changes = || Happens::Changes(BTreeMap::from([(1, Some(1))]));
    let (_, log, _) = live(&directory, &[changes(), changes(), changes()]);
    assert_eq!(log.through(), Revision(4));
    // The last frame, cut in the middle: as a crash leaves it, or a writer that is not done.
    let spool = directory.path().join("spool");
    let last = fs::read_dir(&spool)
        .unwrap()
        .flatten()
        .map(|it| it.path())
        .filter(|it| it.extension().is_some())
        .max();
    let bytes = fs::read(last.as_ref().unwrap()).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    let torn = [&bytes[..used - 9], &vec![0; bytes.len() - used + 9][..]].concat();
    fs::write(last.unwrap(), torn).unwrap();
    assert_eq!(History::open(&spool).unwrap().unwrap().through(), Revision(3));
    assert!(History::open(directory.path().join("none")).unwrap().is_none());
}

/// However long the log is, its values stay in it until they are asked for, and are what they were: also when the writer has
/// dropped the segment meanwhile, and never when the disk has changed them.
#[test]
fn values_stay_in_the_log_until_they_are_asked_for_and_are_what_they_were() {
    use std::os::unix::fs::FileExt as _;
    let directory = tempfile::tempdir().unwrap();
    let catalog = Catalog::new(directory.path().join("snapshots"));
    save(&catalog, &Model::from([(key(0), (b"base".to_vec(), 1))]), 1, 1_000);
    let log = directory.path().join("spool");
    let options = SpoolOptions {
        directory: log.clone(),
        max_bytes: 1 << 24,
        segment_bytes: 1 << 20,
        keep_for: std::time::Duration::ZERO,
    };
    let (mut spool, _) = Spool::open(options, CLUSTER).unwrap();
    spool.append(&[Entry::Gap { through: Revision(1), seen_ms: 1 }]).unwrap();
    let value = |at: u8| vec![at; 200_000];
    for at in 1..=9 {
        let put = |at, value| Change { key: key(at), op: Op::Put { value, lease: 0 } };
        let changes = vec![put(at, value(at)), put(10 + at, Vec::new())];
        let source = SourceRevision { revision: Revision(1 + i64::from(at)), seen_ms: 2_000, changes };
        spool.append(&[Entry::Revision(source)]).unwrap();
    }
    let history = History::open(&log).unwrap().unwrap();
    let find = || {
        super::find(Target::Revision(history.through()), &catalog.list().unwrap(), Some(&history)).unwrap()
    };
    let (moment, damaged) = (find(), find());
    let first = log.join("0000000001.seg");
    // Its bytes are another's now, with the frame's own checksum never looked at again.
    let file = fs::File::options().write(true).read(true).open(&first).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 100_000).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 100_000).unwrap();
    let mut state = damaged.state().unwrap();
    let error = loop {
        match state.read() {
            Ok(item) => assert!(item.is_some(), "damage was handed out"),
            Err(error) => break error.to_string(),
        }
    };
    assert!(error.contains("0000000001.seg") && error.contains("not what it was"), "{error}");
    file.write_all_at(&byte, 100_000).unwrap();
    fs::remove_dir_all(&log).unwrap();
    let all = read(&moment);
    assert_eq!(all.len(), 19);
    assert!((1..=9).all(|at| all[&key(at)] == (value(at), 1 + i64::from(at))));
}
