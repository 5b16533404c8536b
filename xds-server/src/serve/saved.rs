//! The last good state on disk, and what is in quarantine: read once at the start, written after changes. Decides nothing about
//! what is good; see `zonebreak_topology::saved` for the text and `zonebreak_topology::gate` for what is believed.
//!
//! A file is replaced whole: written beside, forced to the disk, renamed over, the directory forced as well. So a crash at any
//! moment leaves the old one or the new one. A damaged one is said to be, kept beside for whoever wants to look, and not used.
//! The directory is locked while the server runs: two that wrote there would undo each other's work.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use zonebreak_topology::saved::{InvalidSaved, Saved};

use super::quarantine::Quarantine;
use crate::model::DiskRow;

/// The file in the directory.
const NAME: &str = "topology.state";

/// The one beside it, as long as anything is in quarantine.
const QUARANTINE: &str = "quarantine.state";

/// How long a change may wait to be written: what a crash of server and etcd together may cost.
const DELAY: Duration = Duration::from_secs(1);

/// Writing may take one part in so many of the time, so that a large topology in constant change costs 2 % of a core.
const SPARE: u32 = 50;

/// What is kept.
#[derive(Debug, Clone)]
pub struct Kept {
    /// What everybody has.
    pub saved: Saved,
    /// What is withheld from everybody, as text; empty when nothing is.
    pub withheld: Arc<str>,
}

/// The file, and how it is doing.
#[derive(Debug)]
pub struct Disk {
    directory: PathBuf,
    /// Locked until it is closed, which the system does however the process ends.
    _lock: File,
    row: Mutex<DiskRow>,
}

// === impl Disk ===

impl Disk {
    /// The directory, made if it is not there.
    ///
    /// # Errors
    /// When it cannot be made or written to: an operator who asked for it should know at the start, not in the disaster.
    pub fn open(directory: &Path) -> io::Result<Arc<Self>> {
        let say = |error: io::Error| {
            let what = directory.display();
            io::Error::new(
                error.kind(),
                format!("failed to use {what} for the last good state (state.dir): {error}"),
            )
        };
        fs::create_dir_all(directory).map_err(say)?;
        tempfile_in(directory).and_then(fs::remove_file).map_err(say)?;
        let lock = File::create(directory.join(format!("{NAME}.lock"))).map_err(say)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => say(io::Error::other("another server keeps its state there")),
            TryLockError::Error(error) => say(error),
        })?;
        let file = directory.join(NAME).display().to_string();
        let row = DiskRow { file, saved_at: None, error: None };
        Ok(Arc::new(Self { directory: directory.to_owned(), _lock: lock, row: Mutex::new(row) }))
    }

    /// What an earlier run left for this `prefix`. A file that is there and cannot be used is put aside and said to be.
    pub fn read(&self, prefix: &str) -> Option<Saved> {
        let saved = self.read_file(NAME, Saved::from_text)?;
        if saved.prefix != prefix {
            self.failed(format!(
                "not used: it is of etcd.prefix {:?}, and this server's is {prefix:?}",
                saved.prefix
            ));
            return None;
        }
        self.note(|row| row.saved_at = Some(saved.saved_at));
        tracing::info!(
            file = self.row().file, saved_at = %saved.saved_at, revision = saved.revision,
            services = saved.topology.known_services().len(), "the last good state is at hand, should etcd not answer"
        );
        Some(saved)
    }

    /// What an earlier run had in quarantine.
    pub fn read_quarantine(&self) -> Quarantine {
        self.read_file(QUARANTINE, Quarantine::from_text).unwrap_or_default()
    }

    /// What is in a file, if it is there. One that cannot be used is put aside and said to be.
    fn read_file<T>(&self, name: &str, read: impl Fn(&[u8]) -> Result<T, InvalidSaved>) -> Option<T> {
        let file = self.directory.join(name);
        let text = match fs::read(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                self.failed(format!("failed to read {name}: {error}"));
                return None;
            }
        };
        match read(&text) {
            Ok(read) => Some(read),
            Err(error) => {
                let aside = file.with_extension("state.bad");
                let kept = match fs::rename(&file, &aside) {
                    Ok(()) => format!("it is kept as {}", aside.display()),
                    Err(error) => format!("it could not be put aside: {error}"),
                };
                self.failed(format!("{name}: failed to {error}; it is not used, {kept}"));
                None
            }
        }
    }

    /// How it is doing.
    pub fn row(&self) -> DiskRow {
        self.row.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes what comes, the newest of it, until `stop`; and once more then, for which it waits a moment until nobody can say
    /// anything newer.
    ///
    /// # Errors
    /// Never: a full disk is said and tried again, and proxies are served meanwhile.
    pub async fn keep(
        self: Arc<Self>,
        mut news: watch::Receiver<Option<Kept>>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                changed = news.changed() => if changed.is_err() { break },
                () = stop.cancelled() => break,
            }
            _ = tokio::time::timeout(DELAY, stop.cancelled()).await;
            let took = self.write_newest(&mut news).await;
            _ = tokio::time::timeout(took * SPARE, stop.cancelled()).await;
        }
        stop.cancelled().await;
        let mut last = news.clone();
        _ = tokio::time::timeout(DELAY, async { while last.changed().await.is_ok() {} }).await;
        self.write_newest(&mut news).await;
        Ok(())
    }

    async fn write_newest(self: &Arc<Self>, news: &mut watch::Receiver<Option<Kept>>) -> Duration {
        let Some(kept) = news.borrow_and_update().clone() else { return Duration::ZERO };
        let (started, disk) = (Instant::now(), self.clone());
        let written = tokio::task::spawn_blocking(move || disk.write(&kept)).await;
        if let Err(panic) = written {
            self.failed(format!("failed to write it: {panic}"));
        }
        started.elapsed()
    }

    fn write(&self, Kept { saved, withheld }: &Kept) {
        // What is withheld first: a topology that brings it must never be found without it.
        let written = self.write_quarantine(withheld).and_then(|()| {
            let text = saved.to_text().map_err(io::Error::other)?;
            self.replace(NAME, text.as_bytes())
        });
        match written {
            Ok(()) => self.note(|row| (row.saved_at, row.error) = (Some(saved.saved_at), None)),
            Err(error) => self
                .failed(format!("failed to write it: {error}; the one before stays, until the next change")),
        }
    }

    fn write_quarantine(&self, text: &str) -> io::Result<()> {
        let file = self.directory.join(QUARANTINE);
        match fs::read(&file) {
            Ok(there) if there == text.as_bytes() => Ok(()),
            Err(error) if text.is_empty() && error.kind() == io::ErrorKind::NotFound => Ok(()),
            _ if text.is_empty() => fs::remove_file(&file),
            _ => self.replace(QUARANTINE, text.as_bytes()),
        }
    }

    fn replace(&self, name: &str, text: &[u8]) -> io::Result<()> {
        let beside = tempfile_in(&self.directory)?;
        let written = File::create(&beside).and_then(|mut file| {
            file.write_all(text)?;
            file.sync_all()?;
            fs::rename(&beside, self.directory.join(name))
        });
        if written.is_err() {
            // Whatever is left of it is of no use to anybody.
            _ = fs::remove_file(&beside);
        }
        written?;
        File::open(&self.directory)?.sync_all()
    }

    fn failed(&self, error: String) {
        let file = self.row().file;
        tracing::error!(file, "the last good state on disk: {error}");
        self.note(|row| row.error = Some(error));
    }

    fn note(&self, change: impl FnOnce(&mut DiskRow)) {
        change(&mut self.row.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// An empty file beside the real one. One name, because one server writes here: what a crash left is written over.
fn tempfile_in(directory: &Path) -> io::Result<PathBuf> {
    let path = directory.join(format!("{NAME}.new"));
    File::create(&path)?;
    Ok(path)
}

/// What is to be kept of a state that is served.
pub fn worth_keeping(
    topology: &Arc<zonebreak_topology::Topology>,
    prefix: &str,
    cluster: u64,
    now: Timestamp,
) -> Saved {
    let (prefix, revision) = (prefix.to_owned(), topology.revision);
    Saved { saved_at: now, prefix, cluster, revision, topology: topology.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(revision: i64) -> Saved {
        let mut registry = zonebreak_topology::registry::Registry::default();
        let (key, value) = ("zones/az-a".to_owned(), b"{}".to_vec());
        registry.apply(zonebreak_topology::registry::Event::Put { key, value, mod_revision: revision });
        worth_keeping(&registry.topology(), "/p/", 7, Timestamp::UNIX_EPOCH)
    }

    fn kept(revision: i64) -> Kept {
        Kept { saved: saved(revision), withheld: Arc::from("") }
    }

    #[test]
    fn what_is_written_is_read_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(&dir.path().join("new/deep")).unwrap();
        assert_eq!(disk.read("/p/"), None);
        disk.write(&kept(1));
        disk.write(&kept(2));
        assert_eq!(disk.read("/p/"), Some(saved(2)));
        assert_eq!(fs::read_dir(&disk.directory).unwrap().count(), 2, "itself and the lock");
        assert_eq!(disk.read("/other/"), None);
        assert!(disk.row().error.unwrap().contains("etcd.prefix \"/p/\""));
    }

    #[test]
    fn a_damaged_file_is_named_put_aside_and_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(dir.path()).unwrap();
        disk.write(&kept(1));
        let file = dir.path().join(NAME);
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("az-a", "az-b")).unwrap();
        assert_eq!(disk.read("/p/"), None);
        let error = disk.row().error.unwrap();
        assert!(error.contains("damaged") && error.contains("topology.state.bad"), "{error}");
        assert!(!file.exists());
        disk.write(&kept(1));
        assert_eq!(disk.row().error, None, "the next one is good");
    }

    #[tokio::test]
    async fn a_burst_is_written_once_and_the_last_of_it_before_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(dir.path()).unwrap();
        let (news, heard) = watch::channel(None);
        let stop = CancellationToken::new();
        let keeping = tokio::spawn(disk.clone().keep(heard, stop.clone()));
        for revision in 1..=5 {
            news.send_replace(Some(kept(revision)));
            tokio::task::yield_now().await;
        }
        assert_eq!(disk.row().saved_at, None, "not at once");
        stop.cancel();
        keeping.await.unwrap().unwrap();
        assert_eq!(disk.read("/p/").unwrap().revision, 5);
    }

    #[test]
    fn what_is_withheld_stands_beside_as_long_as_there_is_any() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(dir.path()).unwrap();
        let file = dir.path().join(QUARANTINE);
        let sealed = zonebreak_topology::saved::seal("[]");
        disk.write(&Kept { withheld: Arc::from(&*sealed), ..kept(1) });
        assert_eq!(fs::read_to_string(&file).unwrap(), sealed);
        assert_eq!((disk.read_quarantine().all().count(), disk.row().error), (0, None));
        disk.write(&kept(2));
        assert!(!file.exists());
        fs::write(&file, sealed.replace("[]", "{}")).unwrap();
        disk.read_quarantine();
        let error = disk.row().error.unwrap();
        assert!(error.contains("quarantine.state: failed to make sense of it"), "{error}");
        assert!(!file.exists() && dir.path().join("quarantine.state.bad").exists());
        assert_eq!(disk.read("/p/").unwrap().revision, 2, "the other is as it was");
    }

    #[tokio::test]
    async fn what_is_said_while_the_server_stops_is_written_as_well() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(dir.path()).unwrap();
        let (news, heard) = watch::channel(Some(kept(1)));
        let stop = CancellationToken::new();
        let keeping = tokio::spawn(disk.clone().keep(heard, stop.clone()));
        stop.cancel();
        tokio::task::yield_now().await;
        news.send_replace(Some(kept(2)));
        drop(news);
        keeping.await.unwrap().unwrap();
        assert_eq!(disk.read("/p/").unwrap().revision, 2);
    }

    #[test]
    fn a_directory_that_cannot_be_used_is_said_at_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Disk::open(&file).unwrap_err().to_string();
        assert!(error.contains("state.dir") && error.contains("file"), "{error}");
        let first = Disk::open(dir.path()).unwrap();
        let error = Disk::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("another server keeps its state there"), "{error}");
        drop(first);
        Disk::open(dir.path()).unwrap();
    }
}
