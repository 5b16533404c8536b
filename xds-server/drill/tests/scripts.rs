//! The scripts as newcomers meet them: `--help` and a mistyped option are answered at once, with nothing set up or built. Runs the
//! real scripts and the real programs behind them.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// Every script that people run; `env` is read by the others.
const SCRIPTS: [&str; 12] = [
    "bench-detector",
    "bench-failover",
    "bench-overhead",
    "bench-replication",
    "bench-xds",
    "build",
    "demo",
    "etcd",
    "fuzz",
    "setup",
    "soak",
    "test",
];

/// Programs whose help the scripts print without building them.
const PROGRAMS: [(&str, &str); 6] = [
    ("bench-failover", env!("CARGO_BIN_EXE_bench-failover")),
    ("bench-overhead", env!("CARGO_BIN_EXE_bench-overhead")),
    ("bench-replication", env!("CARGO_BIN_EXE_bench-replication")),
    ("bench-xds", env!("CARGO_BIN_EXE_bench-xds")),
    ("demo", env!("CARGO_BIN_EXE_demo")),
    ("soak", env!("CARGO_BIN_EXE_soak")),
];

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A shell's view of the world in which whatever builds or fetches leaves a trace instead.
struct Tripwire(tempfile::TempDir);

// === impl Tripwire ===

impl Tripwire {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for program in ["cargo", "rustup", "go", "pip", "apt-get"] {
            let wire = dir.path().join(program);
            // What cargo would say to arguments is asked of it, and builds nothing.
            let cargo = env!("CARGO");
            let asked = format!("case \" $* \" in *\" -h \"*) exec {cargo} \"$@\" ;; esac\n");
            let asked = if program == "cargo" { asked } else { String::new() };
            let trace = dir.path().join("tripped");
            let script = format!("#!/bin/sh\n{asked}echo {program} \"$@\" >>{}\nexit 99\n", trace.display());
            fs::write(&wire, script).unwrap();
            fs::set_permissions(&wire, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self(dir)
    }

    fn run(&self, script: &str, args: &[&str]) -> Output {
        let path = format!("{}:{}", self.0.path().display(), std::env::var("PATH").unwrap());
        Command::new(scripts().join(script)).args(args).env("PATH", path).output().unwrap()
    }

    fn tripped(&self) -> String {
        fs::read_to_string(self.0.path().join("tripped")).unwrap_or_default()
    }
}

#[test]
fn no_script_is_forgotten_here() {
    let here = fs::read_dir(scripts()).unwrap().map(|entry| entry.unwrap());
    let runs = here.filter(|entry| {
        let metadata = entry.metadata().unwrap();
        metadata.is_file() && metadata.permissions().mode() & 0o111 != 0
    });
    let mut runs: Vec<String> = runs.map(|entry| entry.file_name().into_string().unwrap()).collect();
    runs.sort();
    assert_eq!(runs, SCRIPTS);
}

#[test]
fn help_is_printed_before_anything_is_set_up() {
    let wire = Tripwire::new();
    for script in SCRIPTS {
        let help = fs::read_to_string(scripts().join(format!("help/{script}.txt"))).unwrap();
        assert!(help.contains(&format!("Usage: scripts/{script}")), "{help}");
        assert!(help.lines().all(|line| line.chars().count() <= 120), "{script}'s help is too wide");
        for flag in ["--help", "-h"] {
            let output = wire.run(script, &[flag]);
            assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()), "{script}");
            assert_eq!(text(&output.stdout), help, "{script}");
        }
    }
    assert_eq!(wire.tripped(), "");
}

#[test]
fn what_a_script_does_not_take_ends_it_before_anything_is_set_up() {
    let wire = Tripwire::new();
    let bogus = SCRIPTS.map(|script| (script, &["--no-such-option"][..]));
    let more: [(&str, &[&str]); 6] = [
        ("build", &["fast"]),
        ("bench-xds", &["--rate"]),
        ("demo", &["--json", "out.json", "--kep"]),
        ("etcd", &["3.9"]),
        ("fuzz", &["10", "polcy"]),
        ("test", &["--etcd", "3.9"]),
    ];
    for (script, args) in bogus.into_iter().chain(more) {
        let output = wire.run(script, args);
        let said = text(&output.stderr);
        assert_eq!(
            (output.status.code(), text(&output.stdout)),
            (Some(2), String::new()),
            "{script}: {said}"
        );
        assert!(said.contains("--help"), "{script} {args:?} says only: {said}");
    }
    assert_eq!(wire.tripped(), "");
}

#[test]
fn the_scripts_print_what_the_programs_would() {
    for (script, program) in PROGRAMS {
        let output = Command::new(program).arg("--help").output().unwrap();
        let says: String =
            text(&output.stdout).lines().map(|line| format!("{}\n", line.trim_end())).collect();
        let help = scripts().join(format!("help/{script}.txt"));
        assert_eq!(fs::read_to_string(&help).unwrap(), says, "update scripts/help/{script}.txt");
    }
}
