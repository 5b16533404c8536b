//! The file source against a real file system: every way in which files are replaced, and what a bad one leaves in force.

mod support;

use std::{fs, path::Path};

use support::{status, topology};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use zonebreak_topology::{FileError, Source, watch_file};

fn services(names: &[&str]) -> String {
    let lines: String = names.iter().map(|name| format!("  {name}: {{}}\n")).collect();
    format!("services:\n{lines}")
}

fn watch(path: &Path) -> Source {
    watch_file(path, CancellationToken::new()).unwrap()
}

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[tokio::test]
async fn a_file_is_there_at_once_and_followed_when_written_in_place() {
    let dir = directory();
    let path = dir.path().join("topology.yaml");
    fs::write(&path, services(&["a"])).unwrap();
    let mut source = watch(&path);
    assert_eq!(source.topology.borrow().as_ref().unwrap().services.len(), 1, "without waiting");
    let begun = source.status.borrow().clone();
    assert!(begun.connected && begun.revision == 1);

    fs::write(&path, services(&["a", "b"])).unwrap();
    topology(&mut source, "the change", |t| t.services.len() == 2 && t.revision == 2).await;
    status(&mut source, "its revision", |s| s.revision == 2).await;

    // Another text that says the same is no new topology, but has been seen.
    let before = source.topology.borrow().clone().unwrap();
    fs::write(&path, format!("# a comment\n{}", services(&["b", "a"]))).unwrap();
    status(&mut source, "the comment", |s| s.revision == 3).await;
    assert!(std::sync::Arc::ptr_eq(&before, source.topology.borrow().as_ref().unwrap()));
}

#[tokio::test]
async fn a_file_is_followed_when_an_editor_renames_another_over_it() {
    let dir = directory();
    let path = dir.path().join("topology.yaml");
    fs::write(&path, services(&["a"])).unwrap();
    let mut source = watch(&path);
    for round in 2..5 {
        let names: Vec<String> = (0..round).map(|n| format!("s{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let new = dir.path().join(".topology.yaml.swp");
        fs::write(&new, services(&names)).unwrap();
        fs::rename(&new, &path).unwrap();
        topology(&mut source, "the new file", |t| t.services.len() == round).await;
    }
}

#[tokio::test]
async fn a_config_map_is_followed_when_its_symlink_is_swapped() {
    // As kubelet does it: topology.yaml -> ..data/topology.yaml, ..data -> ..<timestamp>.
    let dir = directory();
    let at = |name: &str| dir.path().join(name);
    for (version, names) in [("..1", &["a"][..]), ("..2", &["a", "b"][..])] {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("topology.yaml"), services(names)).unwrap();
    }
    std::os::unix::fs::symlink("..1", at("..data")).unwrap();
    std::os::unix::fs::symlink("..data/topology.yaml", at("topology.yaml")).unwrap();
    let mut source = watch(&at("topology.yaml"));
    std::os::unix::fs::symlink("..2", at("..data_tmp")).unwrap();
    fs::rename(at("..data_tmp"), at("..data")).unwrap();
    fs::remove_dir_all(at("..1")).unwrap();
    topology(&mut source, "the new version", |t| t.services.len() == 2).await;
}

#[tokio::test]
async fn a_bad_entry_is_refused_alone_with_its_place() {
    let dir = directory();
    let path = dir.path().join("topology.yaml");
    fs::write(&path, "services:\n  a: {mode: eventual}\n  b: {mode: fast}\n").unwrap();
    let mut source = watch(&path);
    let first = source.topology.borrow().clone().unwrap();
    assert_eq!(first.services.len(), 1);
    let problem = &first.problems["services/b"];
    assert_eq!((problem.line, problem.column, problem.kept), (Some(3), Some(13), false), "{problem}");

    fs::write(&path, "services:\n  a: {mode: sluggish}\n  b: {}\n").unwrap();
    let seen = topology(&mut source, "the second version", |t| t.services.len() == 2).await;
    assert_eq!(seen.services["a"], first.services["a"], "the last good value");
    assert!(seen.problems["services/a"].kept);
    assert_eq!(seen.problems.len(), 1);
}

#[tokio::test]
async fn a_file_that_cannot_be_read_leaves_everything_in_force() {
    let dir = directory();
    let path = dir.path().join("topology.yaml");
    fs::write(&path, services(&["a"])).unwrap();
    let mut source = watch(&path);
    let name = path.display().to_string();

    for (bad, says) in [
        ("services: [", "expected a mapping"),
        ("", "is empty"),
        ("services:\n  a: {}\n  a: {}\n", "duplicate"),
    ] {
        fs::write(&path, bad).unwrap();
        let seen =
            topology(&mut source, says, |t| t.problems.values().any(|p| p.message.contains(says))).await;
        assert!(seen.services.contains_key("a") && seen.problems[&name].kept, "{seen:?}");
        let error =
            status(&mut source, says, |s| s.last_error.as_ref().is_some_and(|e| e.contains(says))).await;
        assert!(error.last_error.unwrap().contains(&name));
    }
    fs::remove_file(&path).unwrap();
    status(&mut source, "its absence", |s| !s.connected).await;
    assert!(source.topology.borrow().as_ref().unwrap().services.contains_key("a"));

    fs::write(&path, services(&["b"])).unwrap();
    let seen =
        topology(&mut source, "its return", |t| t.services.contains_key("b") && t.problems.is_empty()).await;
    assert_eq!(seen.services.len(), 1);
    status(&mut source, "its return", |s| s.connected && s.last_error.is_none()).await;
}

#[tokio::test]
async fn a_file_that_is_bad_from_the_start_is_an_error_with_its_place() {
    let dir = directory();
    let path = dir.path().join("topology.yaml");
    let start = || watch_file(&path, CancellationToken::new()).map(|_| ()).unwrap_err();
    assert!(matches!(start(), FileError::Read { .. }));
    fs::write(&path, "zones:\n- a\n").unwrap();
    let error = start().to_string();
    assert!(error.starts_with(&format!("read the topology: {}:1:1: ", path.display())), "{error}");
    fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(start().to_string().contains("no UTF-8"));
}
