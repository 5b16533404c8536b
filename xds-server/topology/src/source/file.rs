//! The task that follows a topology file. Reads it whole whenever its content changed; never writes it.
//!
//! The *directory* is watched, not the file: editors put a new file in the place of the old one, and a Kubernetes ConfigMap is
//! a symlink that is swapped, after which a watch on the old file hears nothing. Network file systems say nothing at all, and
//! a full inotify table takes no watch, so the content is also compared every [`POLL`].

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use notify::{RecursiveMode, Watcher};
use tokio::{sync::Notify, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{Publisher, Source, SourceStatus};
use crate::{
    document::{Document, Unreadable},
    model::Problem,
    registry::Registry,
};

/// Between two looks at the content when nothing is heard.
const POLL: Duration = Duration::from_secs(2);

/// A file is read when nothing happened to it for this long: an editor that writes in place truncates it first, and half a
/// file may well be a valid topology.
const SETTLE: Duration = Duration::from_millis(30);

/// A file that is written to all the time is read after this long anyway.
const SETTLE_AT_MOST: Duration = Duration::from_millis(500);

/// Why a topology file cannot be followed. Each finishes the sentence "failed to ...".
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("read the topology file {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// It is no topology.
    #[error("read the topology: {}:{error}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Where, and what is wrong.
        error: Unreadable,
    },
}

struct Follow {
    path: PathBuf,
    content: Vec<u8>,
    registry: Registry,
    publisher: Publisher,
    status: SourceStatus,
}

/// Reads the file and follows its changes until `cancel`. An entry that cannot be used is refused alone; a file that cannot be
/// read at all is an error here, and later leaves the last good topology in force. Must be called within a tokio runtime.
pub fn watch_file(path: &Path, cancel: CancellationToken) -> Result<Source, FileError> {
    follow(path, cancel, watch)
}

/// Follows the file, told of changes by what `watch` starts; without it, by looking alone.
fn follow<W: Send + 'static>(
    path: &Path,
    cancel: CancellationToken,
    watch: impl FnOnce(&Path, Arc<Notify>) -> notify::Result<W>,
) -> Result<Source, FileError> {
    let path = path.to_path_buf();
    let content = read(&path)?;
    let document = parse(&path, &content)?;
    let heard = Arc::new(Notify::new());
    let watcher = watch(&path, Arc::clone(&heard)).inspect_err(|error| {
        let (file, seconds) = (path.display(), POLL.as_secs());
        tracing::warn!(
            %file,
            "changes of the topology file are looked for every {seconds} s only: failed to watch its directory: {error}"
        );
    });

    let now = Timestamp::now();
    let (publisher, source) = Publisher::new(now);
    let status = SourceStatus { connected: true, since: now, ..source.status.borrow().clone() };
    let mut task = Follow { path, content, registry: Registry::default(), publisher, status };
    task.take(document);
    tokio::spawn(async move {
        // Held here because it stops hearing when it is dropped.
        let _watcher = watcher;
        cancel.run_until_cancelled(task.run(&heard)).await;
    });
    Ok(source)
}

fn watch(path: &Path, heard: Arc<Notify>) -> notify::Result<notify::RecommendedWatcher> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading the file is an event of its own, and must not lead to reading it again.
        if event.map_or(true, |event| !event.kind.is_access()) {
            heard.notify_one();
        }
    })?;
    watcher.watch(directory, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    std::fs::read(path).map_err(|error| FileError::Read { path: path.to_path_buf(), error })
}

/// Reads the content of the file at `path`.
fn parse(path: &Path, content: &[u8]) -> Result<Document, FileError> {
    let invalid = |error| FileError::Invalid { path: path.to_path_buf(), error };
    let text = std::str::from_utf8(content).map_err(|e| {
        let message = format!("byte {} is no UTF-8 text", e.valid_up_to());
        invalid(Unreadable { position: None, message })
    })?;
    Document::parse(text).map_err(invalid)
}

// === impl Follow ===

impl Follow {
    async fn run(mut self, heard: &Notify) {
        loop {
            if timeout(POLL, heard.notified()).await.is_ok() {
                let quiet = async { while timeout(SETTLE, heard.notified()).await.is_ok() {} };
                _ = timeout(SETTLE_AT_MOST, quiet).await;
            }
            match tokio::fs::read(&self.path).await {
                Ok(content) if content == self.content && self.status.connected => {}
                Ok(content) => {
                    let parsed = parse(&self.path, &content);
                    self.content = content;
                    self.status.revision = self.status.revision.saturating_add(1);
                    match parsed {
                        Ok(document) => self.take(document),
                        Err(error) => self.refuse(&error),
                    }
                }
                Err(error) => self.lose(FileError::Read { path: self.path.clone(), error }),
            }
        }
    }

    fn take(&mut self, document: Document) {
        self.status.revision = self.status.revision.max(1);
        let changed = self.registry.reset_to(document.entries, document.problems, self.status.revision);
        if changed || self.publisher.topology.borrow().is_none() {
            self.publisher.topology(self.registry.topology());
        }
        self.status.last_error = None;
        self.connected(true);
    }

    /// The file is there and is no topology: the last good one stays, and a problem says so.
    fn refuse(&mut self, error: &FileError) {
        let FileError::Invalid { error: unreadable, .. } = error else { return };
        let problem = Problem {
            revision: self.status.revision,
            ..Problem::new(self.path.display().to_string(), &unreadable.message).at(unreadable.position)
        };
        if self.registry.report(problem) {
            self.publisher.topology(self.registry.topology());
        }
        self.status.last_error = Some(error.to_string());
        self.connected(true);
    }

    /// The file is gone, which between two versions of it is normal for a moment.
    fn lose(&mut self, error: FileError) {
        self.status.last_error = Some(error.to_string());
        self.connected(false);
    }

    fn connected(&mut self, connected: bool) {
        if self.status.connected != connected {
            (self.status.connected, self.status.since) = (connected, Timestamp::now());
        }
        self.publisher.status(self.status.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_inotify_table_leaves_the_looking() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("topology.yaml");
        std::fs::write(&path, "zones: {az-a: {}}\n").unwrap();
        let full = |_: &Path, _| Err::<(), _>(notify::Error::new(notify::ErrorKind::MaxFilesWatch));
        let cancel = CancellationToken::new();
        let mut source = follow(&path, cancel.clone(), full).unwrap();
        std::fs::write(&path, "zones: {az-a: {}, az-b: {}}\n").unwrap();
        let both =
            source.topology.wait_for(|now| now.as_ref().is_some_and(|topology| topology.zones.len() == 2));
        timeout(10 * POLL, both).await.unwrap().unwrap();
        cancel.cancel();
    }
}
