//! `zonebreak explain` as users meet it, over recordings of a real Envoy that stand in testdata/explain.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

struct Run {
    code: i32,
    out: String,
    err: String,
}

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/explain")
}

/// Runs `zonebreak explain ARGS` in a folder, with this on standard input.
fn explain_in(dir: &Path, args: &[&str], input: &str) -> Run {
    let mut child = Command::new(env!("CARGO_BIN_EXE_zonebreak"))
        .arg("explain")
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that reads no input may have ended already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Run { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

fn explain(args: &[&str]) -> Run {
    explain_in(&testdata(), args, "")
}

fn told(args: &[&str]) -> String {
    let run = explain(args);
    assert_eq!((run.code, run.err.as_str()), (0, ""), "{args:?}");
    run.out
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&told(&[args, &["-o", "json"]].concat())).unwrap()
}

#[test]
fn recordings_are_explained_as_reviewed() {
    for name in ["hard", "everywhere", "strong"] {
        insta::assert_snapshot!(name, told(&[&format!("{name}.jsonl")]));
    }
}

#[test]
fn the_page_shows_what_explain_says() {
    let page = include_str!("../../docs/how-the-breaker-decides.md");
    let said = told(&["hard.jsonl"]);
    assert!(page.contains(&said), "docs/how-the-breaker-decides.md does not show this:\n{said}");
    assert!(explain(&["--help"]).out.contains("docs/how-the-breaker-decides.md"));
}

#[test]
fn every_window_of_a_moment_is_shown() {
    insta::assert_snapshot!("everywhere_at", told(&["everywhere.jsonl", "--at", "+4.0s"]));
    let wide = told(&["everywhere.jsonl", "--at", "4s", "-o", "wide"]);
    // Three zones, five windows, three signals.
    assert_eq!(wide.lines().filter(|line| line.contains("closed")).count(), 45, "{wide}");
    let moment = &json(&["everywhere.jsonl", "--at", "4s"])["moments"][0];
    assert_eq!(
        (&moment["offset_ms"].as_u64().unwrap() / 100, &moment["zones"][0]["state"]),
        (40, &"closed".into())
    );
}

#[test]
fn the_log_and_the_recording_say_the_same() {
    let (series, log) = (json(&["hard.jsonl"]), json(&["hard.log"]));
    let moves = |rows: &Value| -> Vec<Value> {
        let rows = rows.as_array().unwrap().iter();
        rows.map(|row| serde_json::json!([row["zone"], row["from"], row["to"], row["cause"]])).collect()
    };
    assert_eq!(moves(&series["transitions"]), moves(&log));
    insta::assert_snapshot!("hard_log", told(&["hard.log"]));
}

#[test]
fn a_what_if_says_that_it_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let series = testdata().join("hard.jsonl");
    let (series, policy) = (series.to_str().unwrap(), dir.path().join("policy.yaml"));
    let with = |text: &str| {
        std::fs::write(&policy, text).unwrap();
        explain_in(dir.path(), &[series, "--policy", "policy.yaml", "-o", "json"], "")
    };
    let what_if = |text: &str| -> Value { serde_json::from_str(&with(text).out).unwrap() };
    let disabled = what_if("breaker: {enforcement: disabled}\n");
    assert_eq!(
        (&disabled["policy"]["source"], disabled["transitions"].as_array().unwrap().len()),
        (&"given".into(), 0)
    );
    assert_eq!(disabled["zones"][0]["words"], "never left; it was not judged");
    let safe = what_if("services: {order-svc: {breaker: {sensitivity: safe}}}\n");
    assert_eq!(safe["transitions"][0]["evidence"]["needed"], 12.0);
    assert!(safe["notes"][0].as_str().unwrap().starts_with("what if:"), "{safe}");

    for (text, says) in [
        (
            "breaker: {sensitivity: lots}\n",
            "error: policy.yaml:1:24: breaker.sensitivity: unknown variant `lots`",
        ),
        ("retry: {attempts: 9}\n", "retry.attempts: must be 0 to 3"),
        ("services: {}\n", "it has no service order-svc"),
        ("services: {order-svc: {mode: fast}}\n", "unknown variant `fast`"),
        ("breaker: {detector: consecutive}\n", "order of results"),
    ] {
        let run = with(text);
        assert_eq!((run.code, run.out.as_str()), (2, ""), "{text}: {}", run.err);
        assert!(run.err.contains(says), "{text}: {}", run.err);
    }
}

#[test]
fn what_cannot_be_used_is_refused_with_the_reason() {
    for (args, code, says) in [
        (&["missing.jsonl"][..], 2, "failed to read missing.jsonl"),
        (&["hard.jsonl", "--service", "cart"], 2, "no service \"cart\" in it; it has order-svc"),
        (&["hard.jsonl", "--zone", "az-z"], 2, "has no zone az-z; it has az-a, az-b, az-c"),
        (&["hard.jsonl", "--at", "soon"], 2, "a moment is a time such as"),
        (&["hard.jsonl", "--at", "+1h"], 2, "is not in the recording, which goes from"),
        (&["hard.log", "--at", "+1s"], 2, "it is no recording"),
        (&["record", "--envoy", "http://127.0.0.1:9"], 7, "the Envoy at http://127.0.0.1:9: "),
        (&["record", "--envoy", "127.0.0.1:9"], 2, "http://host:port"),
        (&["record", "--every", "1ms"], 2, "at least 10ms"),
        (&["hard.jsonl", "record"], 2, "cannot be used with"),
        (&[], 2, "FILE"),
    ] {
        let run = explain(args);
        assert_eq!((run.code, run.out.as_str()), (code, ""), "{args:?}: {}", run.err);
        assert!(run.err.contains(says), "{args:?}: {}", run.err);
    }
    for (input, code, says) in [
        ("[20:14:03][info] nothing happened\n", 3, "there is no transition in standard input"),
        ("nothing happened\n", 2, "it is neither a recording, scrapes nor a log"),
        (" \n", 2, "it is empty"),
        ("zones:\n  az-a: {}\n", 2, "it is neither a recording, scrapes nor a log"),
        (
            "{\"zonebreak_recording\":9,\"every_ms\":100}\n",
            2,
            "standard input: line 1: version 9 of the format",
        ),
        ("{\"zonebreak_recording\":1,\"every_ms\":100}\n", 2, "0 samples: at least two are needed"),
        ("zonebreak_attempts_total{zone=\"a\"} 1\n", 2, "line 1: when was this scraped?"),
    ] {
        let run = explain_in(&testdata(), &["-"], input);
        assert_eq!((run.code, run.out.as_str()), (code, ""), "{input}: {}", run.err);
        assert!(run.err.contains(says), "{input}: {}", run.err);
    }
}

/// The scrapes say what the recording says, for what is longer than the time between them.
#[test]
fn prometheus_scrapes_are_explained_too() {
    let mut text = String::new();
    for second in 0..60_u32 {
        text.push_str(&format!(
            "# at 2026-11-25T20:14:{second:02}Z\n# TYPE zonebreak_attempts_total counter\n"
        ));
        for (zone, dies) in [("az-a", true), ("az-b", false), ("az-c", false)] {
            let bad = if dies { second.saturating_sub(50) * 70 } else { 0 };
            for (result, count) in [("ok", second * 70 - bad), ("fail", bad)] {
                text.push_str(&format!(
                    "zonebreak_attempts_total{{result=\"{result}\",service=\"order-svc\",zone=\"{zone}\"}} {count}\n"
                ));
            }
        }
    }
    let run = explain_in(&testdata(), &["-", "-o", "json"], &text);
    let told: Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!((&told["policy"]["source"], &told["samples"]), (&"default".into(), &60.into()));
    let first = &told["transitions"][0];
    assert_eq!(
        (&first["zone"], &first["to"], &first["cause"]),
        (&"az-a".into(), &"open".into(), &"failures".into())
    );
    assert_eq!(first["offset_ms"].as_u64().unwrap() / 1_000, 50, "{first}");
}
