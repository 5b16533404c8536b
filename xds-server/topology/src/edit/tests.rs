//! What `apply` and `diff` make of a file, without an etcd.

use std::collections::BTreeSet;

use super::*;
use crate::registry::Listed;

fn listed(key: &str, value: &str, mod_revision: i64, lease: i64) -> Listed {
    Listed { key: key.into(), value: value.into(), mod_revision, lease }
}

fn file(text: &str) -> File {
    File::parse("topology.yaml", text).unwrap()
}

fn plan(text: &str, there: &[Listed], prune: bool) -> Vec<String> {
    let planned = diff::plan(&file(text), there, prune);
    planned
        .iter()
        .map(|p| {
            let value = p.value.as_deref().unwrap_or("-");
            format!(
                "{:?} {} {value} at {}{}",
                p.change.change,
                p.change.key,
                p.mod_revision,
                if p.leased { " leased" } else { "" }
            )
        })
        .collect()
}

const FILE: &str = "\
zones:
  az-a:
services:
  s: {mode: eventual}
endpoints:
  s:
    i: {address: 10.0.0.1, port: 80, zone: az-a}
";

#[test]
fn what_is_new_is_written_as_its_author_wrote_it() {
    assert_eq!(
        plan(FILE, &[], false),
        [
            "Added zones/az-a {} at 0",
            r#"Added services/s {"mode":"eventual"} at 0"#,
            r#"Added endpoints/s/i {"address":"10.0.0.1","port":80,"zone":"az-a"} at 0"#,
        ]
    );
}

#[test]
fn what_json_would_read_otherwise_is_written_in_full() {
    let text = "endpoints: {s: {i: {address: 10.0.0.1, port: 80, zone: 7, labels: {v: 1.2}}}}";
    assert_eq!(
        plan(text, &[], false),
        [r#"Added endpoints/s/i {"address":"10.0.0.1","labels":{"v":"1.2"},"port":80,"zone":"7"} at 0"#]
    );
}

#[test]
fn the_same_in_other_words_is_no_change() {
    let there = [
        listed("zones/az-a", r#"{"region": ""}"#, 2, 0),
        listed("services/s", r#"{ "port": 8080, "mode": "eventual" }"#, 3, 0),
        listed("endpoints/s/i", r#"{"Op":0,"Addr":"10.0.0.1:80","Metadata":{"zone":"az-a"}}"#, 4, 77),
        listed("endpoints/s/other", "{}", 5, 0),
    ];
    assert_eq!(
        plan(FILE, &there, false),
        Vec::<String>::new(),
        "and what the file does not name is left alone"
    );
}

#[test]
fn changes_are_guarded_by_what_was_read_and_keep_their_lease() {
    let there = [
        listed("services/s", "not JSON", 3, 0),
        listed("endpoints/s/i", r#"{"address": "10.0.0.9", "port": 80, "zone": "az-a"}"#, 4, 77),
    ];
    let planned = plan(FILE, &there, false);
    assert_eq!(planned[1], r#"Changed services/s {"mode":"eventual"} at 3"#);
    assert!(
        planned[2].starts_with("Changed endpoints/s/i ") && planned[2].ends_with(" at 4 leased"),
        "{planned:?}"
    );
    let change = &diff::plan(&file(FILE), &there, false)[1].change;
    assert_eq!(change.from, Some(serde_json::Value::String("not JSON".into())));
}

#[test]
fn pruning_takes_what_the_file_could_have_named_and_no_lease_holds() {
    let there = [
        listed("zones/az-a", "{}", 2, 0),
        listed("zones/az-z", "{}", 3, 0),
        listed("services/old", "{}", 4, 0),
        listed("endpoints/s/static", "{}", 5, 0),
        listed("endpoints/s/leased", "{}", 6, 77),
        listed("shifts/az-z", "{}", 7, 0),
        listed("replication/x", "{}", 8, 0),
        listed("bogus", "{}", 9, 0),
    ];
    let removed = |text: &str| -> BTreeSet<String> {
        let all = diff::plan(&file(text), &there, true);
        let removed = all.iter().filter(|p| p.change.change == ChangeKind::Removed);
        removed.map(|p| p.change.key.clone()).collect()
    };
    let keys = |keys: &[&str]| keys.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    assert_eq!(removed(FILE), keys(&["endpoints/s/static", "services/old", "zones/az-z"]));
    assert_eq!(removed("services: {}"), keys(&["services/old"]));
    assert_eq!(removed("{}"), keys(&[]));
}

#[test]
fn a_file_with_anything_wrong_in_it_is_refused_with_everything_named() {
    let text = "zones: {az-a: {regoin: x}, az-b: {capacity: 0}}\nservices: {s: {mode: fast}}\nnonsense: {}\n";
    let EditError::Invalid(problems) = File::parse("f", text).unwrap_err() else { panic!() };
    assert_eq!(problems.len(), 4, "{problems:?}");
    let error =
        File::parse("f", "zones: {az-a: {aliases: [x]}, az-b: {aliases: [x]}}").unwrap_err().to_string();
    assert!(error.contains("alias x already stands for zone az-a"), "{error}");
    let error = File::parse("topology.yaml", "zones: [").unwrap_err().to_string();
    assert!(error.contains("nothing of it is written") && error.contains("topology.yaml line"), "{error}");
}

#[test]
fn batches_hold_what_a_transaction_can() {
    let services: String = (0..300).map(|n| format!("  s{n}: {{}}\n")).collect();
    let planned = diff::plan(&file(&format!("services:\n{services}")), &[], false);
    let sizes: Vec<usize> = batches(&planned).iter().map(|batch| batch.len()).collect();
    assert_eq!(sizes, [127, 127, 46]);

    let long = "x".repeat(400_000);
    let zones: String = (0..5).map(|n| format!("  z{n}: {{region: {long}}}\n")).collect();
    let planned = diff::plan(&file(&format!("zones:\n{zones}")), &[], false);
    let sizes: Vec<usize> = batches(&planned).iter().map(|batch| batch.len()).collect();
    assert_eq!(sizes, [2, 2, 1]);
    assert!(batches(&[]).is_empty());
}

#[test]
fn what_is_rendered_reads_the_same() {
    let mut kinds: BTreeMap<Kind, BTreeMap<Key, serde_json::Value>> = BTreeMap::new();
    let mut entries = BTreeMap::new();
    for (key, value) in [
        ("zones/7", r#"{"region": "007", "aliases": ["yes", "null"]}"#),
        ("services/s", r#"{"hosts": ["a.b", "1.2"], "weights": {"7": 80, "az-b": 20}}"#),
        (
            "endpoints/s/10.0.0.1:80",
            r#"{"address": "10.0.0.1", "port": 80, "zone": "7", "labels": {"a": "1", "b": "line\nline: x # y"}}"#,
        ),
        (
            "shifts/7/s",
            r#"{"keep_percent": 0.5, "reason": "a: \"b\" #c", "actor": "- x", "started_at": "2026-01-01T00:00:00Z", "expires_at": "2026-01-02T00:00:00Z"}"#,
        ),
    ] {
        let parsed = Key::parse(key).unwrap().unwrap();
        entries.insert(parsed.clone(), Entry::decode(&parsed, value.as_bytes()).unwrap());
        kinds.entry(parsed.kind()).or_default().insert(parsed, serde_json::from_str(value).unwrap());
    }
    let refused = [Problem::new("services/bad", "no: good")];
    let text = file::render(&kinds, &refused).unwrap();
    assert!(text.starts_with("# refused: services/bad: no: good\n"), "{text}");
    let read: BTreeMap<Key, Entry> = file(&text).entries().map(|(k, e)| (k.clone(), e.clone())).collect();
    assert_eq!(read, entries, "{text}");
    assert_eq!(file::render(&BTreeMap::new(), &[]).unwrap(), "{}\n");
}
