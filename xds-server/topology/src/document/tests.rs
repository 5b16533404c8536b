//! Topology files: what is read, and where a mistake is said to be.

use super::*;

const GOOD: &str = "\
zones:
  az-a: {region: eu, aliases: [use1-az1]}
  az-b:
services:
  order-svc:
    mode: eventual
    weights: {az-a: 80, az-b: 20}
endpoints:
  order-svc:
    10.0.0.1:8080: {address: 10.0.0.1, port: 8080, zone: az-a}
    b: {address: 10.0.0.2, port: 8080, zone: az-b, weight: 3}
shifts:
  az-b/order-svc:
    keep_percent: 30
    reason: demo
    actor: alice
    started_at: 2026-01-01T00:00:00Z
    expires_at: 2026-01-01T01:00:00Z
health:
forced: {}
";

fn keys(document: &Document) -> Vec<String> {
    document.entries.keys().map(ToString::to_string).collect()
}

#[test]
fn a_good_document_is_read_whole() {
    let document = Document::parse(GOOD).unwrap();
    assert_eq!(document.problems, []);
    assert_eq!(
        keys(&document),
        [
            "zones/az-a",
            "zones/az-b",
            "services/order-svc",
            "endpoints/order-svc/10.0.0.1:8080",
            "endpoints/order-svc/b",
            "shifts/az-b/order-svc",
        ]
    );
    assert_eq!(document.kinds.len(), 6);
}

/// The page's example is a topology, and shows every kind of key and every field that it lists.
#[test]
fn the_page_shows_every_kind_of_key() {
    let page = include_str!("../../../../docs/topology.md");
    let example = page.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let document = Document::parse(example).unwrap();
    assert_eq!(document.problems, []);
    for kind in Kind::ALL {
        assert!(document.kinds.contains(&kind), "{} is not in the example", kind.name());
    }
    for (what, json) in [
        ("health", r#"{"state": "x", "since": "2026-01-05T10:00:00Z"}"#),
        ("zones", r#"{"x": 1}"#),
        ("endpoints", r#"{"x": 1}"#),
        ("shifts", r#"{"x": 1}"#),
    ] {
        // Serde names what it would have taken.
        let error = match what {
            "health" => serde_json::from_str::<crate::model::Health>(json).unwrap_err(),
            "zones" => serde_json::from_str::<ZoneSpec>(json).unwrap_err(),
            "endpoints" => serde_json::from_str::<crate::model::Endpoint>(json).unwrap_err(),
            _ => serde_json::from_str::<crate::model::Shift>(json).unwrap_err(),
        }
        .to_string();
        let (_, expected) = error.split_once("expected one of ").unwrap();
        for name in expected.split('`').skip(1).step_by(2) {
            assert!(page.contains(&format!("`{name}`")), "{what}: {name} is not on the page");
        }
    }
}

#[test]
fn an_empty_document_is_an_empty_topology() {
    for text in ["{}", "zones:\n", "# nothing yet\n"] {
        assert!(Document::parse(text).unwrap().entries.is_empty());
    }
}

#[test]
fn bad_entries_are_refused_alone_and_say_where() {
    let text = "\
zones:
  az-a: {regoin: eu}
  az b: {region: eu}
  az-c: {region: eu}
services:
  fine: {}
  slow:
    mode: strong
    breaker:
      open: soon
  eager:
    retry:
      attempts: 9
  twice: {port: 1, port: 2}
servces: {}
shifts:
  az-a/x/y: {}
";
    let document = Document::parse(text).unwrap();
    assert_eq!(keys(&document), ["zones/az-c", "services/fine"]);
    let said: Vec<String> = document.problems.iter().map(ToString::to_string).collect();
    for (at, says) in [
        ("zones/az-a line 2 column 10: ", "unknown field `regoin`"),
        ("zones/az b line 3 column 3: ", "a zone name holds"),
        ("services/slow line 10 column 13: ", "a duration is a whole number"),
        ("services/eager line 13 column 17: ", "retry.attempts: must be 0 to 3"),
        ("services/twice line 14 column 20: ", "port"),
        ("servces line 15 column 1: ", "there is no such section"),
        ("shifts/az-a/x/y line 17 column 3: ", "shifts/<zone>/<service>"),
    ] {
        assert!(said.iter().any(|s| s.starts_with(at) && s.contains(says)), "{at}{says}\nnot in {said:#?}");
    }
    assert_eq!(said.len(), 7, "{said:#?}");
}

#[test]
fn what_spoils_the_whole_says_where() {
    for (text, line, says) in [
        ("zones: [1, 2]\n", 1, "a mapping for zones/<zone>"),
        ("zones:\n  az-a: {}\n  az-a: {}\n", 3, "duplicate"),
        ("zones: {}\nzones: {}\n", 2, "duplicate"),
        ("services:\n  a: {hosts: [x\n", 0, ""),
        ("- a\n", 1, "a topology"),
        ("services:\n  a: {}\n b: {}\n", 0, ""),
    ] {
        let error = Document::parse(text).unwrap_err();
        if line > 0 {
            assert_eq!(error.position.unwrap().0, line, "{text:?}: {error}");
        }
        assert!(error.to_string().contains(says), "{text:?}: {error}");
    }
}

#[test]
fn an_empty_file_is_no_topology() {
    assert!(Document::parse("").unwrap_err().to_string().contains("write {}"));
    assert!(Document::parse(" \n").is_err());
}

#[test]
fn anchors_work_across_entries() {
    let text = "services:\n  a: &x {mode: eventual}\n  bad: {mode: fast}\n  b: *x\n";
    let document = Document::parse(text).unwrap();
    assert_eq!(keys(&document), ["services/a", "services/b"]);
    assert_eq!(document.problems.len(), 1);
    let of = |name: &str| document.entries.get(&Key::parse(name).unwrap().unwrap()).cloned();
    assert_eq!(of("services/a"), of("services/b"));
}
