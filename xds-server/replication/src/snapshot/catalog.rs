//! The directory of snapshots: which there are, a new one whole or not at all, and which ones may go. Reads no etcd.
//!
//! ```text
//! DIR/r0000001234-20261126T101500Z.snap     revision and time; the time in the header counts, this is for people
//! DIR/r0000001234-20261126T101500Z-2.snap   another one of the same second, such as of another prefix
//! DIR/new.part                              being written, locked; a kill leaves it, and the next snapshot writes over it
//! ```
//!
//! Several streams may share a directory: what is there is never written over, and each prunes its own alone.

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io::BufWriter,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;

use super::{
    Item, SnapshotError,
    format::{Footer, Header, Reader, Writer},
};

/// What the names of snapshots end with.
const SUFFIX: &str = ".snap";

/// A directory of snapshots.
#[derive(Debug, Clone)]
pub struct Catalog {
    directory: PathBuf,
}

/// A snapshot that is there.
#[derive(Debug)]
pub struct Listed {
    /// Its name, without the directory.
    pub name: String,
    /// Where it lies.
    pub path: PathBuf,
    /// Bytes on disk.
    pub bytes: u64,
    /// What it is of and comes to, or why it cannot be used.
    pub content: Result<(Header, Footer), SnapshotError>,
}

/// A snapshot that is being written.
pub struct Draft {
    catalog: Catalog,
    header: Header,
    // Before the writer: it goes while that one has the lock.
    part: Part,
    writer: Writer<BufWriter<File>>,
}

/// The file that is being written: gone when it was not given a name.
struct Part {
    path: PathBuf,
    /// The lock, so that nobody else's is removed.
    _lock: File,
    named: bool,
}

/// Which snapshots stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// The most that are kept; the oldest go first.
    pub keep: usize,
    /// How far back a restore must reach. One snapshot from before that stays, to begin at.
    pub keep_for: Duration,
}

// === impl Catalog ===

impl Catalog {
    /// The snapshots in `directory`, which need not exist yet.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// Where it lies.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Every snapshot, the oldest first. Those that cannot be used are among them, and say why.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self) -> Result<Vec<Listed>, SnapshotError> {
        let read = |error| SnapshotError::io("read", &self.directory)(error);
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(read)?,
        };
        let mut all = Vec::new();
        for entry in entries {
            let path = entry.map_err(read)?.path();
            if let Some(name) = path.file_name().and_then(|name| name.to_str())
                && name.ends_with(SUFFIX)
            {
                all.push(Listed::at(&path, name));
            }
        }
        all.sort_by(|a, b| (a.at_ms(), &a.name).cmp(&(b.at_ms(), &b.name)));
        Ok(all)
    }

    /// The snapshot of this name: as `ls` shows it, or a path.
    ///
    /// # Errors
    /// When there is none, naming those that there are.
    pub fn find(&self, name: &str) -> Result<Listed, SnapshotError> {
        let full = format!("{}{SUFFIX}", name.strip_suffix(SUFFIX).unwrap_or(name));
        for path in [self.directory.join(&full), PathBuf::from(name)] {
            if path.is_file() {
                return Ok(Listed::at(&path, &full));
            }
        }
        let names: Vec<String> = self.list()?.into_iter().rev().map(|listed| listed.name).take(5).collect();
        let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        Err(SnapshotError::Unknown { name: name.to_owned(), directory: self.directory.clone(), there })
    }

    /// Begins a snapshot.
    ///
    /// # Errors
    /// When another one is being written, or the disk fails.
    pub fn draft(&self, header: Header) -> Result<Draft, SnapshotError> {
        fs::create_dir_all(&self.directory).map_err(SnapshotError::io("create", &self.directory))?;
        let part = self.part();
        let write = |error| SnapshotError::io("write", &part)(error);
        let file = File::options().create(true).truncate(false).write(true).open(&part).map_err(write)?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => SnapshotError::Busy(self.directory.clone()),
            TryLockError::Error(error) => write(error),
        })?;
        // Another one may have renamed it between our opening and our locking.
        let ours = fs::metadata(&part).is_ok_and(|there| same(&there, &file));
        if !ours {
            return Err(SnapshotError::Busy(self.directory.clone()));
        }
        let part = Part { path: part.clone(), _lock: file.try_clone().map_err(write)?, named: false };
        file.set_len(0).map_err(write)?;
        let writer = Writer::new(BufWriter::new(file), &header).map_err(write)?;
        Ok(Draft { catalog: self.clone(), header, part, writer })
    }

    /// Every snapshot of exactly this prefix, the oldest first, that can be used.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn of_prefix(&self, prefix: &str) -> Result<Vec<Listed>, SnapshotError> {
        // One that cannot be read is somebody's evidence: it stays, and `ls` shows it.
        let ours = |it: &Listed| it.content.as_ref().is_ok_and(|(header, _)| header.prefix == prefix);
        Ok(self.list()?.into_iter().filter(ours).collect())
    }

    /// Removes the snapshots of a prefix that need not stay, and hands out their names. Those of each cluster are counted by
    /// themselves: what a source was before it was rebuilt cannot be had from it any more.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn prune(
        &self,
        prefix: &str,
        retention: Retention,
        now_ms: u64,
    ) -> Result<Vec<String>, SnapshotError> {
        let mut of_cluster: BTreeMap<Option<u64>, Vec<Listed>> = BTreeMap::new();
        for listed in self.of_prefix(prefix)? {
            let cluster = listed.content.as_ref().ok().map(|(header, _)| header.cluster.0);
            of_cluster.entry(cluster).or_default().push(listed);
        }
        let mut names = Vec::new();
        for group in of_cluster.into_values() {
            let times: Vec<u64> = group.iter().map(Listed::at_ms).collect();
            for listed in group.into_iter().take(expired(&times, retention, now_ms)) {
                fs::remove_file(&listed.path).map_err(SnapshotError::io("remove", &listed.path))?;
                names.push(listed.name);
            }
        }
        Ok(names)
    }

    /// A name that no snapshot has. Whoever asks holds the lock of [`Self::draft`], so that nobody else takes it.
    fn free_name(&self, header: &Header) -> (String, PathBuf) {
        let first = name(header);
        let numbered = (2_u32..).map(|number| format!("{first}-{number}"));
        let at = |name: String| {
            let path = self.directory.join(format!("{name}{SUFFIX}"));
            (name, path)
        };
        let mut names = std::iter::once(first.clone()).chain(numbered).map(at);
        names.find(|(_, path)| !path.exists()).unwrap_or_else(|| at(first))
    }

    fn part(&self) -> PathBuf {
        self.directory.join("new.part")
    }
}

fn same(there: &fs::Metadata, file: &File) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    file.metadata().is_ok_and(|ours| (ours.dev(), ours.ino()) == (there.dev(), there.ino()))
}

/// How many of the oldest snapshots may go; `times` in order.
pub fn expired(times: &[u64], retention: Retention, now_ms: u64) -> usize {
    let keep_ms = u64::try_from(retention.keep_for.as_millis()).unwrap_or(u64::MAX);
    let oldest = now_ms.saturating_sub(keep_ms);
    // The last one from before what must be reached is where a restore begins.
    let old = times.partition_point(|at| *at <= oldest).saturating_sub(1);
    old.max(times.len().saturating_sub(retention.keep.max(1)))
}

// === impl Listed ===

impl Listed {
    fn at(path: &Path, name: &str) -> Self {
        Self {
            name: name.strip_suffix(SUFFIX).unwrap_or(name).to_owned(),
            bytes: fs::metadata(path).map_or(0, |found| found.len()),
            content: Reader::open(path).map(|reader| (reader.header, reader.footer)),
            path: path.to_owned(),
        }
    }

    /// When it was taken; 0 where nobody knows.
    pub fn at_ms(&self) -> u64 {
        self.content.as_ref().map_or(0, |(header, _)| header.at_ms)
    }
}

// === impl Draft ===

impl Draft {
    /// The next entry, in the order of keys.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn push(&mut self, item: &Item) -> Result<(), SnapshotError> {
        self.writer.push(item).map_err(|error| SnapshotError::io("write", self.catalog.part())(error))
    }

    /// Makes it safe, and gives it its name: until then it does not exist.
    ///
    /// # Errors
    /// When the disk fails. Nothing is left behind.
    pub fn finish(self, leases: &BTreeMap<i64, i64>) -> Result<Listed, SnapshotError> {
        let Self { catalog, header, mut part, writer } = self;
        let path = part.path.clone();
        let write = |error| SnapshotError::io("write", &path)(error);
        let (footer, out) = writer.finish(leases).map_err(write)?;
        let file = out.into_inner().map_err(|error| write(error.into_error()))?;
        file.sync_all().map_err(write)?;
        let (name, path) = catalog.free_name(&header);
        fs::rename(&part.path, &path).map_err(write)?;
        part.named = true;
        let synced = File::open(&catalog.directory).and_then(|directory| directory.sync_all());
        synced.map_err(write)?;
        let bytes = file.metadata().map_err(write)?.len();
        Ok(Listed { name, path, bytes, content: Ok((header, footer)) })
    }
}

// === impl Part ===

impl Drop for Part {
    fn drop(&mut self) {
        if !self.named {
            let _gone = fs::remove_file(&self.path);
        }
    }
}

fn name(header: &Header) -> String {
    let at = Timestamp::from_millisecond(i64::try_from(header.at_ms).unwrap_or(0)).unwrap_or_default();
    format!("r{:010}-{}", header.revision.0, at.strftime("%Y%m%dT%H%M%SZ"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{checkpoint::ClusterId, revision::Revision};

    fn header(revision: i64, at_ms: u64) -> Header {
        Header::new(ClusterId(1), Revision(revision), at_ms, "/app/")
    }

    fn make(catalog: &Catalog, revision: i64, at_ms: u64) -> Listed {
        catalog.draft(header(revision, at_ms)).unwrap().finish(&BTreeMap::new()).unwrap()
    }

    #[test]
    fn a_snapshot_is_there_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let catalog = Catalog::new(directory.path().join("made"));
        assert!(catalog.list().unwrap().is_empty());
        let draft = catalog.draft(header(1, 1_000)).unwrap();
        let busy = catalog.draft(header(1, 1_000)).err().unwrap().to_string();
        assert!(busy.contains("another snapshot is being made"), "{busy}");
        assert!(catalog.list().unwrap().is_empty(), "what is being written is no snapshot");
        // One that was given up leaves nothing.
        drop(draft);
        assert_eq!(fs::read_dir(catalog.directory()).unwrap().count(), 0);
        // A kill leaves the part; the next one writes over it.
        fs::write(catalog.part(), b"half of another one").unwrap();
        make(&catalog, 12, 1_000);
        let names: Vec<String> = catalog.list().unwrap().into_iter().map(|listed| listed.name).collect();
        assert_eq!(names, ["r0000000012-19700101T000001Z"]);
        assert_eq!(fs::read_dir(catalog.directory()).unwrap().count(), 1);
        assert!(catalog.find("r0000000012-19700101T000001Z").unwrap().content.is_ok());
        assert!(catalog.find("r0000000012-19700101T000001Z.snap").is_ok());
        let error = catalog.find("r99").unwrap_err().to_string();
        assert!(error.contains("there is r0000000012"), "{error}");
    }

    #[test]
    fn pruning_removes_the_oldest_and_never_what_cannot_be_read() {
        let directory = tempfile::tempdir().unwrap();
        let catalog = Catalog::new(directory.path());
        for at in 1..=5 {
            make(&catalog, at, at as u64 * 1_000);
        }
        fs::write(directory.path().join("strange.snap"), b"?").unwrap();
        let retention = Retention { keep: 2, keep_for: Duration::from_secs(100) };
        assert_eq!(catalog.prune("/app/", retention, 5_000).unwrap().len(), 3);
        let left: Vec<bool> = catalog.list().unwrap().iter().map(|listed| listed.content.is_ok()).collect();
        assert_eq!(left, [false, true, true]);
    }

    #[test]
    fn streams_that_share_a_directory_neither_write_over_nor_prune_each_other_s_snapshots() {
        let directory = tempfile::tempdir().unwrap();
        let catalog = Catalog::new(directory.path());
        let of = |cluster, prefix: &str, at_ms| {
            let header = Header::new(ClusterId(cluster), Revision(7), at_ms, prefix);
            catalog.draft(header).unwrap().finish(&BTreeMap::new()).unwrap().name
        };
        // The same revision in the same second: of two prefixes, and of two clusters.
        let names = [of(1, "/app/", 1_000), of(1, "/other/", 1_001), of(2, "/app/", 1_002)];
        let first = "r0000000007-19700101T000001Z";
        assert_eq!(names, [first, &format!("{first}-2"), &format!("{first}-3")]);
        let found = |name: &str| catalog.find(name).unwrap().content.unwrap().0;
        assert_eq!(found(&names[1]).prefix, "/other/");
        assert_eq!(found(&names[2]).cluster, ClusterId(2));
        let newer = of(1, "/app/", 2_000);
        let retention = Retention { keep: 1, keep_for: Duration::from_secs(100) };
        assert_eq!(catalog.prune("/app/", retention, 5_000).unwrap(), [first]);
        let left: Vec<String> = catalog.list().unwrap().into_iter().map(|listed| listed.name).collect();
        assert_eq!(left, [names[1].clone(), names[2].clone(), newer]);
        assert_eq!(catalog.of_prefix("/other/").unwrap().len(), 1);
    }

    proptest! {
        #[test]
        fn what_stays_reaches_as_far_back_as_it_must(
            mut times in prop::collection::vec(0_u64..100_000, 0..20), keep in 1_usize..10, keep_for in 0_u64..100,
        ) {
            times.sort_unstable();
            let retention = Retention { keep, keep_for: Duration::from_secs(keep_for) };
            let gone = expired(&times, retention, 100_000);
            let left = &times[gone..];
            prop_assert!(left.len() <= keep);
            prop_assert!(times.is_empty() || !left.is_empty(), "the newest stays");
            let reach = 100_000 - keep_for * 1_000;
            let reached = |all: &[u64]| all.iter().any(|at| *at <= reach);
            // Only the bound on their number may cost reach.
            prop_assert!(reached(left) == reached(&times) || left.len() == keep);
        }
    }
}
