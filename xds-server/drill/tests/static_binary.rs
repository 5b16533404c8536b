//! The release build is one static file: it runs on any Linux of its architecture, whatever that has or lacks.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use zonebreak_drill::lab::Programs;

/// The file that `scripts/build` makes.
fn binary() -> PathBuf {
    let target = format!("target/{}-unknown-linux-musl/release/zonebreak", std::env::consts::ARCH);
    let file = Programs::find().unwrap().workspace().join(target);
    assert!(file.is_file(), "there is no {}: run scripts/build", file.display());
    file
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[test]
fn ldd_finds_nothing_to_load() {
    let output = Command::new("ldd").arg(binary()).env("LC_ALL", "C").output().expect("run ldd");
    let said = said(&output);
    // The second is how glibc's ldd calls a static executable that can be loaded anywhere (static-pie).
    assert!(said.contains("not a dynamic executable") || said.contains("statically linked"), "{said}");
}

/// Beyond what ldd says: the file names no loader, without which the kernel starts it alone (elf(5), `PT_INTERP`).
#[test]
fn the_file_asks_for_no_loader() {
    const PT_INTERP: u32 = 3;
    let bytes = fs::read(binary()).unwrap();
    assert_eq!(&bytes[..6], b"\x7fELF\x02\x01", "a 64-bit little-endian ELF file");
    let number = |at: usize, len: usize| {
        bytes[at..at + len].iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte)) as usize
    };
    let (table, size, count) = (number(0x20, 8), number(0x36, 2), number(0x38, 2));
    let kinds: Vec<_> = (0..count).map(|n| number(table + n * size, 4) as u32).collect();
    assert!(kinds.len() > 2 && !kinds.contains(&PT_INTERP), "{kinds:?}");
}

#[test]
fn it_runs_with_nothing_around_it() {
    let empty = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let output =
            Command::new(binary()).args(args).env_clear().current_dir(empty.path()).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", said(&output));
        said(&output)
    };
    assert!(run(&["--version"]).starts_with("zonebreak "), "{}", run(&["--version"]));
    assert!(run(&["--help"]).contains("serve"));
    assert!(run(&["config", "defaults"]).contains("listen"));
}
