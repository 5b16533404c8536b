//! The rules of the protocol, one test each, named by their number in the list that this crate was built to.

mod answers;
mod client;
mod errors;
mod follower;
mod model;
mod model_names;
mod model_subscriptions;
mod names;
mod order;
mod refusals;
mod resume;
mod room;
mod subscriptions;
mod ttl;

use std::collections::BTreeSet;

use crate::types::Protocol;

/// The rules there are.
const RULES: std::ops::RangeInclusive<u32> = 1..=33;

/// Every source of tests that carry a rule's number.
const SOURCES: [&str; 11] = [
    include_str!("answers.rs"),
    include_str!("errors.rs"),
    include_str!("names.rs"),
    include_str!("order.rs"),
    include_str!("refusals.rs"),
    include_str!("resume.rs"),
    include_str!("room.rs"),
    include_str!("subscriptions.rs"),
    include_str!("ttl.rs"),
    include_str!("../../../tests/wire.rs"),
    include_str!("../../../tests/envoy.rs"),
];

/// How many cases a model runs: so many, some seconds' worth, or as many as `PROPTEST_CASES` asks for.
fn cases(usual: u32) -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(usual)
}

const PAGE: &str = include_str!("../../../../../docs/xds.md");

/// Every function of these sources: its name, and what follows that until the next one.
fn functions() -> impl Iterator<Item = (&'static str, &'static str)> {
    SOURCES.iter().flat_map(|source| source.split("fn ").skip(1)).filter_map(|rest| rest.split_once('('))
}

#[test]
fn every_rule_has_tests_by_its_number_and_the_page_names_them_all() {
    let page = PAGE;
    let names: Vec<&str> = functions().map(|(name, _)| name).collect();
    for rule in RULES {
        let tests: Vec<&&str> =
            names.iter().filter(|name| name.starts_with(&format!("r{rule:02}_"))).collect();
        assert!(!tests.is_empty(), "R{rule} has no test");
        let row = page.lines().find(|line| line.starts_with(&format!("| R{rule} |")));
        let row = row.unwrap_or_else(|| panic!("docs/xds.md has no row for R{rule}"));
        for test in tests {
            assert!(row.contains(&format!("`{test}`")), "docs/xds.md, R{rule}: {test} is missing");
        }
    }
    let numbered =
        |word: &str| word.starts_with('r') && word.chars().nth(1).is_some_and(|c| c.is_ascii_digit());
    let known = |word: &str| !numbered(word) || names.contains(&word);
    let quoted = page
        .lines()
        .filter(|line| line.starts_with("| R"))
        .flat_map(|line| line.split('`').skip(1).step_by(2));
    let unknown: Vec<&str> = quoted.filter(|word| !known(word)).collect();
    assert!(unknown.is_empty(), "docs/xds.md names tests there are not: {unknown:?}");
}

/// A kind of stream: its protocol, and whether it is the aggregated service's.
type Kind = (Protocol, bool);

fn kinds(protocols: &[Protocol], aggregated: &[bool]) -> BTreeSet<Kind> {
    protocols.iter().flat_map(|protocol| aggregated.iter().map(|it| (*protocol, *it))).collect()
}

/// The streams that a test runs on, by the helpers with which it makes its clients.
fn runs_on(body: &str) -> BTreeSet<Kind> {
    const BOTH: [bool; 2] = [true, false];
    if body.contains("everywhere(") || body.contains("STREAMS") {
        return kinds(&client::PROTOCOLS, &BOTH);
    }
    let mut runs = BTreeSet::new();
    for (said, protocols) in [
        ("(protocol", &client::PROTOCOLS[..]),
        ("(Protocol::Sotw", &[Protocol::Sotw]),
        ("(Protocol::Delta", &[Protocol::Delta]),
    ] {
        for (at, _) in body.match_indices(said) {
            // These go through the services as well.
            let services = ["both", "narrow"].iter().any(|helper| body[..at].ends_with(helper));
            runs.extend(kinds(protocols, if services { &BOTH } else { &[true] }));
        }
    }
    runs
}

#[test]
fn every_rule_is_tested_on_the_streams_that_the_page_says_it_applies_to() {
    let (both, either) = (&client::PROTOCOLS, &[true, false]);
    for rule in RULES {
        let row = PAGE.lines().find(|line| line.starts_with(&format!("| R{rule} |")));
        let applies = row.and_then(|row| row.split(" | ").nth(2)).unwrap();
        let wanted = match applies {
            "all" => kinds(both, either),
            "ADS" => kinds(both, &[true]),
            "SotW" => kinds(&[Protocol::Sotw], either),
            "incr." => kinds(&[Protocol::Delta], either),
            "incr., ADS" => kinds(&[Protocol::Delta], &[true]),
            other => panic!("R{rule} applies to {other:?}"),
        };
        let number = format!("r{rule:02}_");
        let tests = functions().filter(|(name, _)| name.starts_with(&number));
        let runs: BTreeSet<Kind> = tests.flat_map(|(_, body)| runs_on(body)).collect();
        assert_eq!(runs, wanted, "R{rule} applies to {applies}");
    }
    let made =
        |clients: Vec<client::Client>| clients.iter().map(client::Client::kind).collect::<BTreeSet<_>>();
    assert_eq!(made(client::everywhere(&client::EDS)), kinds(both, either));
    assert_eq!(made(client::both(Protocol::Delta, &client::EDS)), kinds(&[Protocol::Delta], either));
}
