//! Files as tired people write them (testdata/broken), and what is said of each: the place, the field, what stands there and what
//! may. Runs the real program; nothing needs a server.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// What a command says of each file of a folder, one after the other.
fn said(folder: &str, args: &[&str]) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/broken").join(folder);
    let files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
    let mut files: Vec<PathBuf> = files.map(PathBuf::from).collect();
    files.sort();
    assert!(files.len() > 15, "{} holds {} files", folder.display(), files.len());
    let told = |file: &PathBuf| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zonebreak"));
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ZONEBREAK_"))
        {
            command.env_remove(name);
        }
        let output = command.args(args).arg(file).current_dir(&folder).output().unwrap();
        assert_eq!(
            (output.status.code(), output.stdout.as_slice()),
            (Some(2), &b""[..]),
            "{}",
            file.display()
        );
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        format!("{}---\n{}\n", text, String::from_utf8(output.stderr).unwrap())
    };
    files.iter().map(told).collect()
}

#[test]
fn broken_topologies_are_complained_of_as_reviewed() {
    insta::assert_snapshot!("topology", said("topology", &["topology", "validate"]));
}

#[test]
fn broken_configurations_are_complained_of_as_reviewed() {
    insta::assert_snapshot!("config", said("config", &["config", "validate", "--config"]));
}
