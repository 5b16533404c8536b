//! The page "How the breaker decides" says what is so: its table names every field of a policy with its default, and its worked
//! example is what the engine does.
//!
//! Whoever adds a field to the policy adds a row to the table; nothing here needs to change, since fields are asked of serde.

#![cfg(not(target_arch = "wasm32"))]
#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that stumbles fails, as it should"
)]

use std::collections::BTreeMap;

use serde_json::{Value, json};
use zonebreak_core::{
    breaker::Transition,
    config::FilterConfig,
    engine::{Engine, Now},
    policy::ServicePolicy,
    stats,
    window::Totals,
};

const PAGE: &str = include_str!("../../../docs/how-the-breaker-decides.md");

// Fields, as serde knows them: it names them all when it meets one that it does not know.

/// `{"a": {"b": inner}}` for the path `a.b`.
fn nested(path: &[String], inner: Value) -> Value {
    path.iter().rev().fold(inner, |inner, name| json!({ name.as_str(): inner }))
}

fn refusal(value: Value) -> Option<String> {
    serde_json::from_value::<ServicePolicy>(value).err().map(|error| error.to_string())
}

/// The fields below a path; none when it is a plain value.
fn fields(path: &[String]) -> Vec<String> {
    let Some(error) = refusal(nested(path, json!({"?": 0}))) else { return Vec::new() };
    if !error.starts_with("unknown field `?`") && !error.starts_with("unknown variant `?`") {
        return Vec::new();
    }
    let names: Vec<String> = error.split('`').skip(3).step_by(2).map(str::to_owned).collect();
    // A word out of a list, such as `strong`, is a plain value.
    let is_word = |name: &String| {
        let error = refusal(nested(path, json!(name)));
        error.is_none_or(|error| error.starts_with("missing field"))
    };
    if !path.is_empty() && names.iter().any(is_word) { Vec::new() } else { names }
}

fn all_fields() -> Vec<Vec<String>> {
    fn below(path: &[String], all: &mut Vec<Vec<String>>) {
        let fields = fields(path);
        if fields.is_empty() {
            all.push(path.to_vec());
        }
        for field in fields {
            below(&[path, &[field]].concat(), all);
        }
    }
    let mut all = Vec::new();
    below(&[], &mut all);
    all
}

/// What stands in the second column: the default, `none`, or `required`.
fn default_of(path: &[String]) -> String {
    let (section, field) = path.split_at(path.len() - 1);
    // A section that is absent by default has its own defaults once it is there.
    let mut given = json!({});
    let mut required = Vec::new();
    let candidates =
        [json!(1), json!("1s"), json!("az-a"), json!("2027-01-01T00:00:00Z"), json!(true), json!([])];
    while let Some(error) = refusal(nested(section, given.clone())) {
        let Some(name) = error.strip_prefix("missing field `").and_then(|rest| rest.split('`').next()) else {
            return "none".to_owned();
        };
        let fits = |candidate: &&Value| {
            let mut tried = given.clone();
            tried[name] = (*candidate).clone();
            refusal(nested(section, tried)).is_none_or(|error| error.starts_with("missing field"))
        };
        given[name] = candidates.iter().find(fits).unwrap_or_else(|| panic!("no value fits {name}")).clone();
        required.push(name.to_owned());
    }
    if required.contains(&field[0]) {
        return "required".to_owned();
    }
    let policy: ServicePolicy = serde_json::from_value(nested(section, given)).unwrap();
    let written = serde_json::to_value(policy).unwrap();
    match path.iter().try_fold(&written, |value, name| value.get(name)) {
        None | Some(Value::Null) => "none".to_owned(),
        Some(Value::String(text)) => format!("`{text}`"),
        Some(other) => format!("`{other}`"),
    }
}

/// The table: field, and what stands in the three other columns.
fn table() -> BTreeMap<String, Vec<String>> {
    let (_, section) = PAGE.split_once("\n## Every field of a policy\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let cells = |rest: &str| {
        rest.split(" | ").skip(1).map(|cell| cell.trim().trim_end_matches('|').trim().to_owned()).collect()
    };
    rows.map(|(field, rest)| (field.to_owned(), cells(rest))).collect()
}

#[test]
fn the_table_names_every_field_with_its_default() {
    let table = table();
    let fields = all_fields();
    assert!(fields.len() > 20, "serde names its fields otherwise now: {fields:?}");
    let mut wrong = Vec::new();
    for path in &fields {
        let (name, default) = (path.join("."), default_of(path));
        match table.get(&name).map(Vec::as_slice) {
            None => wrong.push(format!("{name} is missing; its default is {default}")),
            Some([said, range, effect]) => {
                if !(*said == default || said.starts_with(&format!("{default} ("))) {
                    wrong.push(format!("{name}: the default is {default}, not {said}"));
                }
                if range.is_empty() || effect.len() < 10 {
                    wrong.push(format!("{name}: say its range and its effect"));
                }
            }
            Some(cells) => wrong.push(format!("{name}: three cells after the name, not {cells:?}")),
        }
    }
    for name in table.keys().filter(|name| !fields.iter().any(|path| path.join(".") == **name)) {
        wrong.push(format!("{name} is no field of a policy"));
    }
    assert!(wrong.is_empty(), "docs/how-the-breaker-decides.md, table of fields:\n{}", wrong.join("\n"));
}

#[test]
fn the_worked_example_is_what_the_engine_does() {
    let config = br#"{"version": 1, "role": "downstream", "zone": "az-a", "services": {"order-svc":
        {"zones": {"az-a": 33, "az-b": 33, "az-c": 33}, "policy": {}}}}"#;
    let mut engine = Engine::default();
    engine.configure(&FilterConfig::parse(config).unwrap(), None, Now(0));
    let service = engine.service("order-svc").unwrap();
    // 210 requests a second for half a minute, then every one to az-a is answered 503.
    let mut totals = [Totals::default(); 3];
    let line = (0..310_u64).find_map(|tick| {
        for (zone, totals) in totals.iter_mut().enumerate() {
            let bad = zone == 0 && tick > 300;
            (totals.ok, totals.fail) =
                (totals.ok + if bad { 0 } else { 7 }, totals.fail + if bad { 7 } else { 0 });
        }
        let proposal = engine.tick(service, Now(1_764_101_640_000 + tick * 100), &totals)?;
        Some(proposal.transitions[0].to_string())
    });
    let line = line.unwrap();
    assert!(PAGE.contains(&line), "the page does not have this line:\n{line}");

    let read: Transition = line.parse().unwrap();
    let evidence = read.evidence.unwrap();
    let (n, peers) = (f64::from(evidence.n), f64::from(evidence.peer_n));
    // What the peers did before counts twice as much again.
    let peers = 3.0 * peers;
    let bound = stats::wilson_upper(0.0, peers, 3.0);
    let score = stats::score(evidence.k, evidence.n, bound);
    assert!(
        (f64::from(evidence.bound) - bound).abs() < 0.001 && (f64::from(evidence.score) - score).abs() < 0.1
    );
    // Where no peer failed both formulas are short enough to write out.
    for step in [
        format!("9 / ({peers} + 9) = {:.1} %", bound * 100.0),
        format!("{n} * ln(1 / {bound:.3}) = {score:.1}"),
        "e^-9 is one in 8,100".to_owned(),
        format!("7 bad ones of 14: against the same bound that scores {:.1}", stats::score(7, 14, bound)),
        format!("open for {:.1}s", read.open_ms as f64 / 1_000.0),
    ] {
        assert!(PAGE.contains(&step), "the page does not say: {step}");
    }
    assert!((9.0_f64.exp() - 8_100.0).abs() < 50.0);
    // The proof of why hosts cannot be compared by deviation: f < 1 / (1 + 1.9^2).
    assert!(PAGE.contains(&format!("{:.1} %", 100.0 / (1.0 + 1.9 * 1.9))));
}
