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

#[test]
fn every_rule_has_tests_by_its_number_and_the_page_names_them_all() {
    let page = include_str!("../../../../../docs/xds.md");
    let functions = SOURCES.iter().flat_map(|source| source.split("fn ").skip(1));
    let names: Vec<&str> = functions.filter_map(|rest| rest.split('(').next()).collect();
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
