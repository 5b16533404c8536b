//! The spool on real files: what is written is read, and what was cut or damaged is never taken for whole.

use std::{fs, os::unix::fs::FileExt as _};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::revision::{Change, Op, SourceRevision};

const CLUSTER: ClusterId = ClusterId(7);

fn revision(at: i64, size: usize) -> Entry {
    let changes = vec![
        Change {
            key: format!("/k/{at}").into_bytes(),
            op: Op::Put { value: vec![at as u8; size], lease: at },
        },
        Change { key: b"/gone".to_vec(), op: Op::Delete },
    ];
    Entry::Revision(SourceRevision { revision: Revision(at), seen_ms: at as u64, changes })
}

fn options(directory: &TempDir, segments: u64) -> SpoolOptions {
    SpoolOptions {
        directory: directory.path().to_owned(),
        max_bytes: segments * 4096,
        segment_bytes: 4096,
        keep_for: std::time::Duration::ZERO,
    }
}

fn open(directory: &TempDir) -> (Spool, Recovery) {
    Spool::open(options(directory, 1000), CLUSTER).unwrap()
}

fn read_after(spool: &Spool, after: i64) -> Vec<Entry> {
    let mut reader = spool.reader(Revision(after));
    std::iter::from_fn(|| reader.read().unwrap()).collect()
}

fn path(directory: &TempDir, number: u64) -> PathBuf {
    segment::name(directory.path(), number)
}

fn flip(path: &std::path::Path, offset: u64, bit: u8) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ (1 << bit)], offset).unwrap();
}

#[test]
fn what_was_appended_is_read_back_over_segments_and_restarts() {
    let directory = TempDir::new().unwrap();
    let all: Vec<Entry> = (1..=60).map(|at| revision(at * 2, 300)).collect();
    for group in all.chunks(7) {
        let (mut spool, recovery) = open(&directory);
        assert_eq!(recovery.cut, 0);
        spool.append(group).unwrap();
    }
    let (spool, recovery) = open(&directory);
    assert!(recovery.segments > 3);
    assert_eq!(spool.tail().revision, Revision(120));
    assert_eq!(read_after(&spool, 0), all);
    assert_eq!(read_after(&spool, 51), all[25..]);
    assert!(read_after(&spool, 120).is_empty());
    assert_eq!(Spool::check(directory.path(), CLUSTER).unwrap(), Some(Revision(120)));
}

/// Runs this test once more, by its whole name, as a user who may mount, in a namespace of its own; says loudly where that is not
/// to be had.
fn again_where_one_may_mount(test: &str) {
    let status = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .env("ZONEBREAK_TEST_MAY_MOUNT", "1")
        .stdout(std::process::Stdio::null())
        .status();
    // What the harness says of a test that failed; `unshare` itself says 1.
    assert_ne!(status.as_ref().ok().and_then(std::process::ExitStatus::code), Some(101), "it failed there");
    if !status.is_ok_and(|status| status.success()) {
        // Past the harness, which keeps what a test prints to itself.
        let words = format!("\nLEFT OUT: this user may not mount a small disk: {test}\n");
        let _ = std::io::Write::write_all(&mut std::io::stderr(), words.as_bytes());
    }
}

/// A small file system of its own, for as long as it lives; `None` where this user may not mount one.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn of(kibibytes: u32) -> Option<Self> {
        let disk = Self(TempDir::new().unwrap());
        let size = format!("size={kibibytes}k");
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(disk.0.path())
            .stderr(std::process::Stdio::null())
            .status();
        mount.is_ok_and(|status| status.success()).then_some(disk)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let quiet = std::process::Stdio::null();
        let _ended = std::process::Command::new("umount").arg("-l").arg(self.0.path()).stderr(quiet).status();
    }
}

#[test]
fn a_full_disk_is_a_full_spool_and_what_was_delivered_makes_room() {
    let Some(disk) = SmallDisk::of(64) else {
        assert!(std::env::var_os("ZONEBREAK_TEST_MAY_MOUNT").is_none(), "a namespace that mounts nothing");
        return again_where_one_may_mount(
            "spool::tests::a_full_disk_is_a_full_spool_and_what_was_delivered_makes_room",
        );
    };
    let (mut spool, _) = open(&disk.0);
    let mut last = 0;
    let full = loop {
        match spool.append(&[revision(last + 1, 1000)]) {
            Ok(()) => last += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, SpoolError::Full { .. }), "{full}");
    assert!(last > 20, "{last} revisions fitted");
    assert_eq!(read_after(&spool, 0).len() as i64, last, "what is there is whole");
    spool.release(Revision(last / 2));
    for _ in 0..last / 3 {
        spool.append(&[revision(last + 1, 1000)]).unwrap();
        last += 1;
    }
    drop(spool);
    let (spool, recovery) = open(&disk.0);
    assert_eq!((recovery.cut, spool.tail().revision), (0, Revision(last)));
}

/// Where the file system allocates nothing in advance, it is the write itself that finds no room. The log is as it was then, and
/// goes on where it was once there is some.
#[test]
fn a_disk_that_fills_up_within_a_segment_is_a_full_spool_and_the_log_goes_on_where_it_was() {
    let Some(disk) = SmallDisk::of(256) else {
        eprintln!("LEFT OUT: this user may not mount a small disk");
        return;
    };
    let sized = SpoolOptions { segment_bytes: 64 << 10, ..options(&disk.0, 1000) };
    let (mut spool, _) = Spool::open(sized.clone(), CLUSTER).unwrap();
    spool.append(&[revision(1, 1000)]).unwrap();
    // As a file system without it leaves the file: of its size, and without its blocks.
    let segment = fs::File::options().write(true).open(path(&disk.0, 1)).unwrap();
    segment.set_len(spool.tail().offset).unwrap();
    segment.set_len(64 << 10).unwrap();
    let filler = disk.0.path().join("filler");
    let _full = fs::write(&filler, vec![1; 1 << 20]);
    let more: Vec<Entry> = (2..=20).map(|at| revision(at, 1000)).collect();
    for _ in 0..2 {
        let full = spool.append(&more).unwrap_err();
        assert!(matches!(full, SpoolError::Full { .. }), "{full}");
        assert_eq!((spool.tail().revision, read_after(&spool, 0)), (Revision(1), vec![revision(1, 1000)]));
    }
    fs::remove_file(filler).unwrap();
    // Less than what did not fit: nothing of that may be left behind it.
    spool.append(&[revision(3, 10)]).unwrap();
    drop(spool);
    let (mut spool, recovery) = Spool::open(sized, CLUSTER).unwrap();
    assert_eq!((recovery.cut, spool.tail().revision), (0, Revision(3)));
    spool.append(&more[2..]).unwrap();
    assert_eq!(read_after(&spool, 0).len(), 2 + more.len() - 2);
    assert_eq!(Spool::check(disk.0.path(), CLUSTER).unwrap(), Some(Revision(20)));
}

/// Each is whole by itself; only together they are not the log that was written.
#[test]
fn a_segment_of_another_log_is_not_read_on_into() {
    let (ours, theirs) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut spools = Vec::new();
    for (directory, size) in [(&ours, 300), (&theirs, 301)] {
        let (mut spool, _) = open(directory);
        for at in 1..=40 {
            spool.append(&[revision(at, size)]).unwrap();
        }
        spools.push(spool);
    }
    fs::copy(path(&theirs, 2), path(&ours, 2)).unwrap();
    let mut reader = spools[0].reader(Revision(0));
    let error = std::iter::repeat_with(|| reader.read()).take(40).find_map(Result::err).unwrap();
    assert!(error.to_string().contains("is not the one it was written after"), "{error}");
}

#[test]
fn a_reader_goes_on_where_the_log_grows() {
    let directory = TempDir::new().unwrap();
    let (mut spool, _) = open(&directory);
    let mut reader = spool.reader(Revision(0));
    assert_eq!(reader.read().unwrap(), None);
    for at in 1..200 {
        spool.append(&[revision(at, 90)]).unwrap();
        assert_eq!(reader.read().unwrap(), Some(revision(at, 90)));
        assert_eq!(reader.read().unwrap(), None);
    }
}

#[test]
fn a_revision_larger_than_a_segment_gets_one_of_its_own() {
    let directory = TempDir::new().unwrap();
    let (mut spool, _) = open(&directory);
    let all = [revision(1, 10), revision(2, 100_000), revision(3, 10)];
    spool.append(&all).unwrap();
    assert_eq!(read_after(&spool, 0), all);
    drop(spool);
    assert_eq!(read_after(&open(&directory).0, 0), all);
}

#[test]
fn a_full_spool_takes_nothing_more_until_the_destination_has_what_is_in_it() {
    let directory = TempDir::new().unwrap();
    let (mut spool, _) = Spool::open(options(&directory, 3), CLUSTER).unwrap();
    let mut taken = 0;
    let error = loop {
        match spool.append(&[revision(taken + 1, 300)]) {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, SpoolError::Full { bytes: 12_288 }), "{error}");
    assert_eq!(read_after(&spool, 0).len(), taken as usize);
    spool.release(Revision(taken));
    // There is a gap where nothing could be taken in, and the log says so.
    let gap = Entry::Gap { through: Revision(taken + 50), seen_ms: 1 };
    spool.append(&[gap.clone(), revision(taken + 51, 300)]).unwrap();
    assert!(spool.bytes() <= 3 * 4096);
    assert_eq!(read_after(&spool, taken), [gap, revision(taken + 51, 300)]);
    assert!(spool.begins_after() > Revision(0));
}

/// What was dropped is not passed over: neither by a reader that begins there, nor by one that was overtaken.
#[test]
fn a_reader_of_what_was_dropped_is_told_so() {
    let directory = TempDir::new().unwrap();
    let (mut spool, _) = Spool::open(options(&directory, 3), CLUSTER).unwrap();
    let mut early = spool.reader(Revision(0));
    for at in 1..=60 {
        spool.release(Revision(at - 1));
        spool.append(&[revision(at, 300)]).unwrap();
    }
    let begins = spool.begins_after();
    assert!(begins > Revision(0));
    for reader in [&mut early, &mut spool.reader(Revision(begins.0 - 1))] {
        let error = reader.read().unwrap_err();
        assert!(matches!(error, SpoolError::Forgotten { begins: at, .. } if at == begins), "{error}");
    }
    let rest = read_after(&spool, begins.0);
    assert_eq!(rest.first().map(Entry::revision), Some(begins.next()));
}

#[test]
fn two_replicators_never_share_a_spool() {
    let directory = TempDir::new().unwrap();
    let (spool, _) = open(&directory);
    let error = Spool::open(options(&directory, 9), CLUSTER).unwrap_err();
    assert!(matches!(error, SpoolError::Locked(_)), "{error}");
    let holder = spool.holder();
    drop(spool);
    assert_eq!(open(&directory).0.holder(), holder, "who we are outlives the process");
}

#[test]
fn the_log_of_another_source_is_refused_with_both_names() {
    let directory = TempDir::new().unwrap();
    open(&directory).0.append(&[revision(1, 1)]).unwrap();
    let error = Spool::open(options(&directory, 9), ClusterId(8)).unwrap_err().to_string();
    assert!(error.contains("cluster 7") && error.contains("cluster 8"), "{error}");
}

#[test]
fn a_segment_that_is_gone_is_missed() {
    let directory = TempDir::new().unwrap();
    open(&directory).0.append(&(1..100).map(|at| revision(at, 300)).collect::<Vec<_>>()).unwrap();
    fs::remove_file(path(&directory, 3)).unwrap();
    let error = Spool::open(options(&directory, 999), CLUSTER).unwrap_err().to_string();
    assert!(error.contains("segment 3 is missing") && error.contains("--reset-spool"), "{error}");
}

#[test]
fn a_reset_puts_the_segments_aside_and_begins_anew() {
    let directory = TempDir::new().unwrap();
    let holder = {
        let mut spool = open(&directory).0;
        spool.append(&[revision(1, 1)]).unwrap();
        spool.holder()
    };
    Spool::reset(directory.path()).unwrap();
    let (spool, recovery) = open(&directory);
    assert_eq!((recovery.segments, spool.tail().revision, spool.holder()), (0, Revision(0), holder));
    let aside = fs::read_dir(directory.path()).unwrap().flatten().find(|e| e.path().is_dir()).unwrap();
    assert!(segment::name(&aside.path(), 1).exists());
}

#[test]
fn damage_before_what_was_synchronised_later_fails_closed_and_names_the_place() {
    let directory = TempDir::new().unwrap();
    let (mut spool, _) = open(&directory);
    spool.append(&[revision(1, 50)]).unwrap();
    let damaged_at = spool.tail().offset;
    spool.append(&[revision(2, 50)]).unwrap();
    spool.append(&[revision(3, 50)]).unwrap();
    drop(spool);
    flip(&path(&directory, 1), damaged_at + 30, 3);
    let error = Spool::open(options(&directory, 9), CLUSTER).unwrap_err();
    assert!(matches!(&error, SpoolError::Damaged { offset, .. } if *offset == damaged_at), "{error}");
    assert!(error.to_string().contains("--reset-spool"), "{error}");
}

#[test]
fn a_check_reads_every_segment_and_their_chain() {
    let directory = TempDir::new().unwrap();
    open(&directory).0.append(&(1..100).map(|at| revision(at, 300)).collect::<Vec<_>>()).unwrap();
    flip(&path(&directory, 2), 200, 0);
    // Opening reads the last segment alone; a reader and a check come upon it.
    let (spool, _) = open(&directory);
    let mut reader = spool.reader(Revision(0));
    assert!(std::iter::from_fn(|| reader.read().transpose()).any(|entry| entry.is_err()));
    assert!(matches!(Spool::check(directory.path(), CLUSTER), Err(SpoolError::Damaged { .. })));
    // A segment replaced by one that is whole in itself shows in the chain.
    let other = TempDir::new().unwrap();
    open(&other).0.append(&(1..100).map(|at| revision(at, 299)).collect::<Vec<_>>()).unwrap();
    fs::copy(path(&other, 2), path(&directory, 2)).unwrap();
    let error = Spool::check(directory.path(), CLUSTER).unwrap_err().to_string();
    assert!(error.contains("not the one it was written after"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// A crash may leave any part of what was not yet synchronised: the log keeps all that was, and loses whole revisions only.
    #[test]
    fn a_tail_cut_or_torn_anywhere_loses_nothing_that_was_synchronised(
        sizes in prop::collection::vec(0_usize..120, 1..8), cut: prop::sample::Index, noise: bool,
    ) {
        let directory = TempDir::new().unwrap();
        let (mut spool, _) = open(&directory);
        let safe: Vec<Entry> = (1..5).map(|at| revision(at, 40)).collect();
        spool.append(&safe).unwrap();
        let safe_end = spool.tail().offset;
        let group: Vec<Entry> = sizes.iter().enumerate().map(|(at, size)| revision(10 + at as i64, *size)).collect();
        spool.append(&group).unwrap();
        let end = spool.tail().offset;
        drop(spool);
        // As if the last group had not been synchronised when the machine died.
        let from = safe_end + cut.index((end - safe_end) as usize) as u64;
        let file = fs::File::options().write(true).open(path(&directory, 1)).unwrap();
        file.write_all_at(&vec![if noise { 0x5a } else { 0 }; (end - from) as usize], from).unwrap();
        let (mut spool, _) = open(&directory);
        let left = read_after(&spool, 0);
        prop_assert!(left.len() >= safe.len());
        prop_assert_eq!(&left[..], &[safe, group].concat()[..left.len()]);
        // And it goes on.
        spool.append(&[revision(99, 5)]).unwrap();
        drop(spool);
        prop_assert_eq!(read_after(&open(&directory).0, 0).len(), left.len() + 1);
    }

    /// One bit flipped anywhere in a log: it is either said, or what is read is a prefix of what was written.
    #[test]
    fn a_flipped_bit_is_never_read_as_data(at: prop::sample::Index, bit in 0_u8..8) {
        let directory = TempDir::new().unwrap();
        let (mut spool, _) = open(&directory);
        let all: Vec<Entry> = (1..20).map(|at| revision(at, 60)).collect();
        for entry in &all { spool.append(std::slice::from_ref(entry)).unwrap(); }
        let end = spool.tail().offset;
        let last_begins = { let mut before = Vec::new(); all[18].encode(0, 0, &mut before); end - before.len() as u64 };
        drop(spool);
        let at = at.index(end as usize) as u64;
        flip(&path(&directory, 1), at, bit);
        match Spool::open(options(&directory, 9), CLUSTER) {
            Err(SpoolError::Damaged { .. }) => prop_assert!(at < last_begins),
            Err(other) => prop_assert!(false, "{}", other),
            Ok((spool, _)) => {
                let left = read_after(&spool, 0);
                // Padding between frames holds nothing; a flip there changes nothing. In the last frame it is a torn tail.
                prop_assert!(left.len() == all.len() || (at >= last_begins && left.len() == all.len() - 1));
                prop_assert_eq!(&left[..], &all[..left.len()]);
            }
        }
    }

    #[test]
    fn no_bytes_make_a_frame_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _any = frame::decode(&bytes, 0);
        let _any = segment::Header::decode(&bytes);
    }
}

/// A thousand bytes every second, in segments of eight or so.
#[test]
fn what_was_delivered_goes_when_it_is_old_enough_and_nothing_else_does() {
    let directory = tempfile::tempdir().unwrap();
    let options = SpoolOptions {
        directory: directory.path().to_owned(),
        max_bytes: 1 << 20,
        segment_bytes: 8 << 10,
        keep_for: std::time::Duration::from_secs(30),
    };
    let at = |second: i64| {
        let Entry::Revision(source) = revision(second, 1000) else { unreachable!() };
        Entry::Revision(SourceRevision { seen_ms: second as u64 * 1_000, ..source })
    };
    let (mut spool, _) = Spool::open(options.clone(), CLUSTER).unwrap();
    for second in 1..=60 {
        spool.append(&[at(second)]).unwrap();
    }
    assert_eq!(spool.begins_after(), Revision(0), "nothing of it was delivered");
    // A restart reads from the disk how old everything is.
    drop(spool);
    let (mut spool, _) = Spool::open(options, CLUSTER).unwrap();
    spool.release(Revision(45));
    for second in 61..=100 {
        spool.append(&[at(second)]).unwrap();
    }
    let begins = spool.begins_after().0;
    assert!((35..=45).contains(&begins), "{begins}: what is needed stays, however old");
    assert!(spool.oldest_ms() > begins as u64 * 1_000);
    spool.release(Revision(100));
    for second in 101..=120 {
        spool.append(&[at(second)]).unwrap();
    }
    let begins = spool.begins_after().0;
    assert!((70..=90).contains(&begins), "{begins}: the last 30 seconds stay, and the rest of their segment");
    assert_eq!(read_after(&spool, 90).len(), 30);
}
