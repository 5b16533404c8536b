//! What the figures have to be, as ratios to go-control-plane's linear cache in the same run where that is what counts, and
//! whether they are.

use std::fmt::Write as _;

use super::contender::Cache;
use super::measure::Figures;
use super::plan::{Plan, Speaks};

/// One target and what was measured.
struct Target {
    what: String,
    limit: f64,
    /// `None` where what it is compared with was not measured.
    measured: Option<f64>,
    digits: usize,
    /// Whether more is better.
    at_least: bool,
}

/// The targets that these measurements say something about, as a Markdown list; nothing when there are none.
pub fn targets(measured: &[(Plan, Vec<Figures>)]) -> String {
    let mut text = String::new();
    for (plan, figures) in measured {
        for target in of(plan, figures) {
            let Target { what, limit, measured, digits, at_least } = target;
            let (bound, verdict) = match (at_least, measured) {
                (true, Some(value)) => (">=", if value >= limit { "met" } else { "**missed**" }),
                (false, Some(value)) => ("<=", if value <= limit { "met" } else { "**missed**" }),
                (true, None) => (">=", "not measured"),
                (false, None) => ("<=", "not measured"),
            };
            let value = measured.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"));
            // Writing to a string cannot fail.
            let _ = writeln!(text, "| {what} | {bound} {limit} | {value} | {verdict} |");
        }
    }
    if text.is_empty() {
        return text;
    }
    format!("| target | | measured | |\n|---|---|---|---|\n{text}")
}

fn of(plan: &Plan, figures: &[Figures]) -> Vec<Target> {
    let find = |cache| figures.iter().find(|it| it.cache == cache);
    let Some(ours) = find(Cache::Ours).filter(|_| plan.speaks == Speaks::Delta) else { return Vec::new() };
    let ratio = find(Cache::Linear).map(|linear| ours.p99_ms / linear.p99_ms);
    let at_most = |what: &str, limit, measured, digits| Target {
        what: what.to_owned(),
        limit,
        measured,
        digits,
        at_least: false,
    };
    let storm = ours.storm.map(|storm| storm.seconds);
    match (plan.services, plan.streams) {
        (1, 1_000) => vec![
            at_most("1 service, 1,000 proxies: p99, ratio to the linear cache", 0.6, ratio, 2),
            at_most("1 service, 1,000 proxies: KiB an idle proxy", 20.0, Some(ours.idle_kib), 1),
        ],
        (1_000, 1_000) => vec![
            at_most("1,000 services, 1,000 proxies: p99, ratio to the linear cache", 0.1, ratio, 2),
            Target {
                what: "1,000 services, 1,000 proxies: changes a second held, of 25".to_owned(),
                limit: 24.9,
                measured: ours.sustained.map(|it| it.held),
                digits: 1,
                at_least: true,
            },
            at_most(
                "1,000 services, 1,000 proxies: server cores at 25 changes a second",
                0.5,
                // Changes that were merged cost nothing: then it is not told what 25 of them cost.
                ours.sustained.filter(|it| it.responses >= 0.9).map(|it| it.cores),
                2,
            ),
            at_most("1,000 services, 1,000 proxies: KiB an idle proxy", 60.0, Some(ours.idle_kib), 1),
            at_most("1,000 services: seconds until 1,000 proxies are back", 0.3, storm, 2),
        ],
        (1, 10_000) => {
            vec![at_most(
                "1 service, 10,000 proxies on 500 connections: p99, ratio to the linear cache",
                0.7,
                ratio,
                2,
            )]
        }
        _ => Vec::new(),
    }
}
