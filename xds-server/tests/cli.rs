//! The command line as users meet it: help texts, exit codes, and errors that say where, why and what to do. Everything here
//! runs the real program; nothing needs a server.

use std::{path::Path, process::Command};

/// What a run came to.
struct Run {
    code: i32,
    out: String,
    err: String,
}

fn zonebreak_in(dir: &Path, args: &[&str], environment: &[(&str, &str)]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zonebreak"));
    let ours = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ZONEBREAK_"));
    for (name, _) in ours {
        command.env_remove(name);
    }
    let output = command.args(args).envs(environment.iter().copied()).current_dir(dir).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Run { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

fn zonebreak(args: &[&str]) -> Run {
    zonebreak_in(&std::env::temp_dir(), args, &[])
}

/// Every command, by its words.
fn commands() -> Vec<Vec<String>> {
    fn below(command: &clap::Command, path: &[String], all: &mut Vec<Vec<String>>) {
        all.push(path.to_vec());
        for child in command.get_subcommands().filter(|child| child.get_name() != "help") {
            below(child, &[path, &[child.get_name().to_owned()]].concat(), all);
        }
    }
    let mut all = Vec::new();
    below(&zonebreak::cli::root::Cli::definition(), &[], &mut all);
    all
}

#[test]
fn help_texts_are_as_reviewed() {
    for command in commands() {
        let args: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
        let run = zonebreak(&args);
        assert_eq!((run.code, run.err.as_str()), (0, ""), "{args:?}");
        let name = if command.is_empty() { "root".to_owned() } else { command.join("_") };
        insta::assert_snapshot!(format!("help_{name}"), run.out);
    }
}

#[test]
fn help_texts_stand_alone() {
    for command in commands() {
        let run = zonebreak(&command.iter().map(String::as_str).chain(["--help"]).collect::<Vec<_>>());
        let group = run.out.contains("Commands:");
        assert!(group || run.out.contains("Example"), "{command:?} shows no example");
        assert!(run.out.lines().all(|line| line.chars().count() <= 110), "{command:?} is too wide");
        assert!(!run.out.contains("\u{1b}["), "{command:?} is coloured though nobody watches");
    }
    assert!(zonebreak(&["--help"]).out.contains("7  etcd or the server is unreachable"));
}

#[test]
fn a_wrong_flag_is_a_usage_error() {
    for args in [
        &["serve", "--no-such-flag"][..],
        &["zone", "drain", "az-a"],
        &["zone", "drain", "az/a", "--for", "5m", "--reason", "x"],
        &["zone", "drain", "az-a", "--for", "5", "--reason", "x"],
        &["zone", "drain", "az-a", "--for", "5m", "--reason", "x", "--keep", "101"],
        &["zone", "extend", "az-a"],
        &["register", "--service", "s", "--zone", "z"],
        &["serve", "--topology", "t.yaml", "--etcd", "http://a:1"],
        &["completions", "tcsh"],
        &[],
    ] {
        let run = zonebreak(args);
        assert_eq!((run.code, run.out.as_str()), (2, ""), "{args:?}: {}", run.err);
        assert!(!run.err.is_empty(), "{args:?}");
    }
}

#[test]
fn a_command_that_needs_etcd_says_how_to_name_one() {
    for args in [
        &["zone", "drain", "az-a", "--for", "5m", "--reason", "x"][..],
        &["zone", "restore", "az-a"],
        &["topology", "get"],
        &["register", "--service", "s", "--zone", "z", "--address", "127.0.0.1:1"],
    ] {
        let run = zonebreak(args);
        assert_eq!(run.code, 2, "{args:?}: {}", run.err);
        assert!(
            run.err.contains("--etcd URL") && run.err.contains("$ZONEBREAK_ETCD__ENDPOINTS"),
            "{}",
            run.err
        );
        // Who has a topology file has no etcd to name.
        assert!(
            run.err.contains("hint: where `zonebreak serve --topology FILE` reads a file"),
            "{}",
            run.err
        );
    }
    let run = zonebreak(&["serve"]);
    assert_eq!(run.code, 2, "{}", run.err);
    assert!(run.err.contains("--topology FILE"), "{}", run.err);
}

#[test]
fn an_etcd_or_a_server_that_is_not_there_is_unreachable() {
    // Nothing listens on the discard port of loopback.
    for args in [
        &["status", "--server", "http://127.0.0.1:9"][..],
        &["proxies", "--server", "http://127.0.0.1:9"],
        &["zone", "ls", "--server", "http://127.0.0.1:9"],
        &["topology", "get", "--etcd", "http://127.0.0.1:9"],
        &["zone", "drain", "az-a", "--for", "5m", "--reason", "x", "--etcd", "http://127.0.0.1:9"],
    ] {
        let run = zonebreak(args);
        assert_eq!((run.code, run.out.as_str()), (7, ""), "{args:?}: {}", run.err);
        assert!(run.err.contains("127.0.0.1:9"), "{}", run.err);
    }
}

#[test]
fn configuration_errors_name_the_place() {
    let dir = tempfile::tempdir().unwrap();
    let validate = |text: &str, environment: &[(&str, &str)]| {
        std::fs::write(dir.path().join("zonebreak.yaml"), text).unwrap();
        zonebreak_in(dir.path(), &["config", "validate", "--config", "zonebreak.yaml"], environment)
    };
    let run = validate("topology: {file: t.yaml}\nlog:\n  levle: debug\n", &[]);
    assert_eq!(run.code, 2);
    insta::assert_snapshot!("config_unknown_field", run.err);
    let run = validate("topology: {file: t.yaml}\nxds:\n  listen: 18000\n", &[]);
    assert_eq!(run.code, 2);
    insta::assert_snapshot!("config_bad_value", run.err);
    let run = validate("topology: {file: t.yaml}\n", &[("ZONEBREAK_LOG__LEVEL", "chatty")]);
    assert_eq!(run.code, 2);
    insta::assert_snapshot!("config_bad_variable", run.err);
    let run = validate("", &[]);
    assert_eq!(run.code, 2);
    insta::assert_snapshot!("config_no_source", run.err);
    let run = validate("topology: {file: t.yaml}\n", &[]);
    assert_eq!((run.code, run.out.as_str(), run.err.as_str()), (0, "", "the configuration is valid\n"));
}

#[test]
fn verifying_all_of_no_snapshots_is_a_failed_check() {
    let dir = tempfile::tempdir().unwrap();
    for place in [dir.path().join("missing"), dir.path().to_owned()] {
        let place = place.display().to_string();
        let run = zonebreak(&["snapshot", "verify", "--all", "--dir", &place]);
        assert_eq!((run.code, run.out.as_str()), (3, ""), "{}", run.err);
        assert!(run.err.contains(&format!("no snapshots in {place}")), "{}", run.err);
        assert!(run.err.contains("check --dir / snapshots.directory"), "{}", run.err);
    }
}

#[test]
fn what_one_of_several_flags_must_say_is_asked_for_with_all_of_them() {
    for (args, asks) in [
        (&["topology", "why", "s"][..], "<--proxy <NODE>|--zone <ZONE>>"),
        (&["zone", "extend", "az-a"], "<--for <DURATION>|--by <DURATION>>"),
        (&["snapshot", "restore"], "<NAME|--revision <N>|--time <TIME>>"),
        (&["snapshot", "verify"], "<NAME|--all>"),
    ] {
        let run = zonebreak(args);
        assert_eq!(run.code, 2, "{args:?}: {}", run.err);
        assert!(run.err.contains(asks), "{args:?}: {}", run.err);
    }
    for args in [
        &["zone", "restore", "az-a", "--wait", "--no-wait"][..],
        &["snapshot", "restore", "r1", "--revision", "1"],
        &["snapshot", "verify", "r1", "--all"],
        &["zone", "extend", "az-a", "--for", "1h", "--by", "1h"],
        &["topology", "why", "s", "--proxy", "p", "--zone", "z"],
    ] {
        let run = zonebreak(args);
        assert_eq!(run.code, 2, "{args:?}: {}", run.err);
        assert!(run.err.contains("cannot be used with"), "{args:?}: {}", run.err);
    }
}

#[test]
fn a_value_that_is_none_is_told_what_it_must_be() {
    let drain = |keep| ["zone", "drain", "az-a", "--for", "5m", "--reason", "x", "--keep", keep];
    let run = zonebreak(&drain("0.05"));
    assert!(run.code == 2 && run.err.contains("steps of 0.1, not \"0.05\""), "{}", run.err);
    let run = zonebreak(&[&drain("0.7")[..], &["--etcd", "http://127.0.0.1:9"]].concat());
    assert_eq!(run.code, 7, "a good one: {}", run.err);
    let run = zonebreak(&["snapshot", "restore", "--time", "yesterday"]);
    let wanted = "a moment is a time such as 2026-11-25T20:14:03Z, not \"yesterday\"";
    assert!(run.code == 2 && run.err.contains(wanted), "{}", run.err);
    let show = |value| {
        zonebreak_in(&std::env::temp_dir(), &["config", "show"], &[("ZONEBREAK_WAVES__FIRST", value)])
    };
    let run = show("x");
    assert!(run.code == 2 && run.err.contains("must be a whole number, not \"x\""), "{}", run.err);
    let run = show("99999999999999999999999");
    assert!(run.code == 2 && run.err.contains("must be a whole number within bounds"), "{}", run.err);
}

#[test]
fn a_file_for_replication_alone_needs_no_source_of_the_topology() {
    let dir = tempfile::tempdir().unwrap();
    let validate = |text: &str| {
        std::fs::write(dir.path().join("zonebreak.yaml"), text).unwrap();
        zonebreak_in(dir.path(), &["config", "validate", "--config", "zonebreak.yaml"], &[])
    };
    let replicate = "replicate: {source: [\"http://a:1\"], destination: [\"http://b:1\"]}\n";
    let run = validate(&format!("{replicate}health: {{listen: \"127.0.0.1:0\"}}\n"));
    assert_eq!((run.code, run.err.as_str()), (0, "the configuration is valid\n"));
    let run = validate(&format!("{replicate}xds: {{listen: \"127.0.0.1:0\"}}\n"));
    assert!(run.code == 2 && run.err.contains("no source of the topology"), "{}", run.err);
}

#[test]
fn the_wrong_module_is_refused_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("f.wasm"), b"\0asm\x01\0\0\0").unwrap();
    let other = "0".repeat(64);
    let config = format!("topology: {{file: t.yaml}}\nfilter: {{file: f.wasm, sha256: \"{other}\"}}\n");
    std::fs::write(dir.path().join("zonebreak.yaml"), config).unwrap();
    for verb in [&["config", "validate"][..], &["serve"]] {
        let run = zonebreak_in(dir.path(), &[verb, &["--config", "zonebreak.yaml"]].concat(), &[]);
        assert_eq!(run.code, 2, "{}", run.err);
        let found = "93a44bbb96c751218e4c00d479e4c14358122a389acca16205b1e4d0dc5f9476";
        assert!(run.err.contains(found) && run.err.contains(&other), "{}", run.err);
    }
}

#[test]
fn what_is_wrong_with_the_input_is_told_before_an_etcd_is_asked_for() {
    for (args, says) in [
        (&["topology", "apply", "missing.yaml"][..], "failed to read missing.yaml"),
        (&["topology", "diff", "missing.yaml"], "failed to read missing.yaml"),
        (
            &["register", "--service", "s", "--zone", "z", "--address", "1.2.3.4"],
            "address: must be host:port",
        ),
        (
            &["register", "--service", "s", "--zone", "z", "--address", "1.2.3.4:5", "--ttl", "1s"],
            "ttl: must be",
        ),
    ] {
        let run = zonebreak(args);
        assert!(run.code == 2 && run.err.contains(says), "{args:?}: {}", run.err);
    }
    let run = zonebreak(&["zone", "ls", "--server", "http://127.0.0.1:9"]);
    assert!(run.err.contains("or ask an etcd: --etcd URL"), "{}", run.err);
}

#[test]
fn a_topology_is_validated_without_an_etcd() {
    let dir = tempfile::tempdir().unwrap();
    let validate = |text: &str| {
        std::fs::write(dir.path().join("topology.yaml"), text).unwrap();
        zonebreak_in(dir.path(), &["topology", "validate", "topology.yaml"], &[])
    };
    let run = validate("zones: {az-a: {}}\nservices: {s: {weights: {az-x: 1}}}\n");
    assert_eq!((run.code, run.out.as_str()), (0, ""));
    let warning = "warning: zone \"az-x\" named by policy s (weights) has no endpoints and is not declared; did you mean \
                   \"az-a\"?\n";
    assert_eq!(run.err, format!("{warning}the topology is valid\n"));
    let run = validate("zones: {az-a: {regoin: eu}}\n");
    assert_eq!((run.code, run.out.as_str()), (2, ""));
    assert!(run.err.contains("topology.yaml:1:16: zones/az-a: unknown field `regoin`"), "{}", run.err);
    let run = zonebreak_in(dir.path(), &["topology", "validate", "topology.yaml", "-o", "json"], &[]);
    let told: serde_json::Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!(
        (run.code, &told["problems"][0]["key"], &told["problems"][0]["column"]),
        (2, &"zones/az-a".into(), &16.into())
    );
}

#[test]
fn a_topology_file_that_cannot_be_read_ends_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let serve = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--health",
        "127.0.0.1:0",
        "--topology",
    ];
    let run = zonebreak_in(dir.path(), &[&serve[..], &["missing.yaml"]].concat(), &[]);
    assert_eq!(run.code, 2, "{}", run.err);
    assert!(run.err.contains("missing.yaml"), "{}", run.err);
    std::fs::write(dir.path().join("bad.yaml"), "zones: [\n").unwrap();
    let run = zonebreak_in(dir.path(), &[&serve[..], &["bad.yaml"]].concat(), &[]);
    assert_eq!(run.code, 2, "{}", run.err);
    assert!(run.err.contains("bad.yaml"), "{}", run.err);
}

#[test]
fn defaults_are_printed_as_a_file_to_start_from() {
    let run = zonebreak(&["config", "defaults"]);
    assert_eq!((run.code, run.err.as_str()), (0, ""));
    insta::assert_snapshot!("config_defaults", run.out);
    let shown =
        zonebreak_in(&std::env::temp_dir(), &["config", "show"], &[("ZONEBREAK_ETCD__PREFIX", "/other/")]);
    assert!(
        shown.out.contains("\"/other/\"") && shown.out.contains("# $ZONEBREAK_ETCD__PREFIX"),
        "{}",
        shown.out
    );
    let shown = zonebreak_in(
        &std::env::temp_dir(),
        &["config", "show", "-o", "json"],
        &[("ZONEBREAK_ETCD__PREFIX", "/o/")],
    );
    let told: serde_json::Value = serde_json::from_str(&shown.out).unwrap();
    assert_eq!(told["etcd.prefix"], serde_json::json!({"value": "/o/", "from": "$ZONEBREAK_ETCD__PREFIX"}));
    assert_eq!(told["xds.listen"]["from"], "default");
}

#[test]
fn completions_know_the_verbs() {
    for shell in ["bash", "zsh", "fish"] {
        let run = zonebreak(&["completions", shell]);
        assert_eq!((run.code, run.err.as_str()), (0, ""), "{shell}");
        assert!(run.out.contains("drain") && run.out.contains("register"), "{shell}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_zonebreak"))
        .args(["completions", "bash"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}
