//! Takes a changed configuration or filter module into the running server: on SIGHUP, and when one of the files changes.
//!
//! All or nothing: a file that cannot be used, or a module with the wrong hash, leaves everything as it was and says so. What
//! is only read at the start is named in the log, so that nobody waits for it.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use super::module::Module;
use crate::config::{Config, Effective, KEYS, Key, Layers, LogConfig, Reload, Requirement, Sha256Hex};

/// How long a file must be left alone before it is read: editors and `cp` write in several steps.
const SETTLE: Duration = Duration::from_millis(250);

/// What a reload came to.
#[derive(Debug)]
pub enum Reloaded {
    /// These are in force; `waiting` names changed settings that only the next start takes.
    Taken {
        /// The new configuration.
        effective: Box<Effective>,
        /// The new module.
        module: Option<Arc<Module>>,
        /// Changed settings that are in force now.
        live: Vec<&'static str>,
        /// Changed settings that are not.
        waiting: Vec<&'static str>,
    },
    /// Everything stays as it was.
    Refused(String),
}

/// Reads everything again and says what came of it.
pub fn reload(layers: &Layers, running: &Config) -> Reloaded {
    let mut effective = match layers.load(Requirement::Source) {
        Ok(effective) => effective,
        Err(error) => return Reloaded::Refused(error.to_string()),
    };
    let module = match Module::load(&effective.config.filter) {
        Ok(module) => module.map(Arc::new),
        Err(error) => return Reloaded::Refused(error.to_string()),
    };
    let changed = |reload: Reload| {
        let of_kind = KEYS.iter().filter(move |key| key.reload == reload);
        of_kind
            .filter(|key| key.get(running) != key.get(&effective.config))
            .map(|key: &Key| key.path)
            .collect()
    };
    let (live, waiting) = (changed(Reload::Live), changed(Reload::Restart));
    keep(running, &mut effective.config);
    Reloaded::Taken { effective: Box::new(effective), module, live, waiting }
}

/// Takes what only a start reads from the configuration that the server was started with, so that what is shown is what is.
fn keep(running: &Config, next: &mut Config) {
    let Config {
        etcd,
        topology,
        guard: _,
        waves: _,
        state,
        xds,
        load_reports,
        admin,
        health,
        filter: _,
        listeners: _,
        log,
        replicate,
        snapshots,
    } = running.clone();
    let LogConfig { level: _, format } = log;
    (next.etcd, next.topology, next.state) = (etcd, topology, state);
    (next.xds, next.load_reports, next.admin, next.health) = (xds, load_reports, admin, health);
    next.log.format = format;
    (next.replicate, next.snapshots) = (replicate, snapshots);
}

/// Calls `reload` on SIGHUP, and when the content of one of `files` has changed, until `stop`. `files` is asked again after
/// each reload, since a configuration may name another module.
///
/// # Errors
/// When signals cannot be had from the system. Without file events (a full inotify table) SIGHUP is what is left.
pub async fn watch(
    files: impl Fn() -> Vec<PathBuf>,
    reload: impl FnMut(&str),
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let (touched, events) = mpsc::channel(1);
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Our own reading must not wake us up again. A full channel already holds the news that something happened.
        if !event.is_ok_and(|event| event.kind.is_access() && !is_written(&event.kind)) {
            let _news_is_there = touched.try_send(());
        }
    });
    run((watcher, events), files, reload, stop).await
}

async fn run(
    (watcher, mut events): (notify::Result<RecommendedWatcher>, mpsc::Receiver<()>),
    files: impl Fn() -> Vec<PathBuf>,
    mut reload: impl FnMut(&str),
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut watcher = match watcher {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            tracing::warn!(
                "changes of the configuration are taken on SIGHUP only: failed to watch files: {error}"
            );
            None
        }
    };
    let mut watched = BTreeSet::new();
    let mut now = files();
    let mut seen = fingerprint(&now);
    loop {
        if let Some(watcher) = &mut watcher {
            follow(watcher, &mut watched, &now);
        }
        let cause = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Some(()) = hangup.recv() => "SIGHUP",
            Some(()) = events.recv() => {
                tokio::time::sleep(SETTLE).await;
                "a file changed"
            }
        };
        // Taken before the reload reads, so that what is written meanwhile counts as the next change.
        let found = fingerprint(&now);
        if cause == "SIGHUP" || found != seen {
            seen = found;
            reload(cause);
            let next = files();
            if next != now {
                now = next;
                seen = fingerprint(&now);
            }
        }
    }
}

fn is_written(kind: &EventKind) -> bool {
    matches!(kind, EventKind::Access(AccessKind::Close(AccessMode::Write)))
}

/// Watches the directories rather than the files: a Kubernetes ConfigMap changes by a swapped symlink, an editor by a rename.
fn follow(watcher: &mut RecommendedWatcher, watched: &mut BTreeSet<PathBuf>, files: &[PathBuf]) {
    for file in files {
        let home = match file.parent() {
            Some(home) if home != Path::new("") => home.to_owned(),
            _ => PathBuf::from("."),
        };
        if !watched.contains(&home) {
            match watcher.watch(&home, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    watched.insert(home);
                }
                Err(error) => tracing::warn!(
                    directory = %home.display(), %error,
                    "failed to watch for changes: send SIGHUP after changing a file there"
                ),
            }
        }
    }
}

/// What the files hold; a file that cannot be read counts as a content of its own.
fn fingerprint(files: &[PathBuf]) -> Vec<Option<Sha256Hex>> {
    files.iter().map(|file| std::fs::read(file).ok().map(|bytes| Sha256Hex::of(&bytes))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY_MODULE: &[u8] = b"\0asm\x01\0\0\0";

    fn layers(dir: &Path, text: &str) -> Layers {
        let file = dir.join("zonebreak.yaml");
        std::fs::write(&file, format!("topology: {{file: t.yaml}}\n{text}")).unwrap();
        Layers { file: Some(file), ..Layers::default() }
    }

    #[test]
    fn what_can_change_does_and_what_cannot_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let running = layers(dir.path(), "").load(Requirement::Source).unwrap().config;
        let layers = layers(dir.path(), "log: {level: debug, format: json}\nxds: {listen: '127.0.0.1:1'}\n");
        let Reloaded::Taken { effective, live, waiting, .. } = reload(&layers, &running) else {
            panic!("refused")
        };
        assert_eq!((live, waiting), (vec!["log.level"], vec!["xds.listen", "log.format"]));
        for key in KEYS.iter().filter(|key| key.reload == Reload::Restart) {
            assert_eq!(
                key.get(&effective.config),
                key.get(&running),
                "{} is shown as it is in force",
                key.path
            );
        }
    }

    #[test]
    fn a_bad_file_or_module_leaves_everything_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f.wasm"), EMPTY_MODULE).unwrap();
        let running = Config::default();
        let wrong = Sha256Hex::of(b"another");
        let wrong = layers(dir.path(), &format!("filter: {{file: f.wasm, sha256: {wrong}}}\n"));
        assert!(matches!(reload(&wrong, &running), Reloaded::Refused(why) if why.contains("sha256")));
        let bad = layers(dir.path(), "xsd: {}\n");
        assert!(
            matches!(reload(&bad, &running), Reloaded::Refused(why) if why.contains("zonebreak.yaml:2:1"))
        );
    }

    #[tokio::test]
    async fn without_file_events_sighup_still_reloads() {
        // Somebody listens before the first signal is sent, or it would end this process.
        let _listens = signal(SignalKind::hangup()).unwrap();
        let (told, mut reloads) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let full = notify::Error::new(notify::ErrorKind::MaxFilesWatch);
        let tell = move |cause: &str| told.send(cause.to_owned()).unwrap();
        let watching =
            tokio::spawn(run((Err(full), mpsc::channel(1).1), || vec!["c.yaml".into()], tell, stop.clone()));
        let noticed = async {
            loop {
                let us = std::process::id().to_string();
                assert!(std::process::Command::new("kill").args(["-HUP", &us]).status().unwrap().success());
                if let Ok(cause) = tokio::time::timeout(SETTLE, reloads.recv()).await {
                    return cause;
                }
            }
        };
        let cause = tokio::time::timeout(Duration::from_secs(20), noticed).await.unwrap();
        assert_eq!(cause.as_deref(), Some("SIGHUP"));
        stop.cancel();
        watching.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_rename_over_the_file_is_noticed_and_a_touch_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("zonebreak.yaml");
        std::fs::write(&file, "a").unwrap();
        let (told, mut reloads) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let files = vec![file.clone()];
        // Signals go to the whole process, and another test sends some.
        let tell = move |cause: &str| {
            if cause != "SIGHUP" {
                told.send(()).unwrap();
            }
        };
        let watching = tokio::spawn(watch(move || files.clone(), tell, stop.clone()));
        // The same content again, then another: were the first to count, two reloads would be seen.
        let mut writes = 0;
        let noticed = async {
            loop {
                writes += 1;
                let content = if writes < 3 { "a".to_owned() } else { format!("b{writes}") };
                std::fs::write(dir.path().join("new"), content).unwrap();
                std::fs::rename(dir.path().join("new"), &file).unwrap();
                if tokio::time::timeout(2 * SETTLE, reloads.recv()).await.is_ok() {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), noticed).await.unwrap();
        assert!(writes >= 3, "the same content counted as a change");
        stop.cancel();
        watching.await.unwrap().unwrap();
    }
}
