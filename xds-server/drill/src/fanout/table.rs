//! The figures as Markdown. Formats; measures nothing.

use std::fmt::Write as _;

use super::contender::Cache;
use super::measure::Figures;
use super::plan::Plan;

/// One table a plan, one row a server; ratios are to go-control-plane's linear cache where it was measured.
pub fn table(plan: &Plan, figures: &[Figures]) -> String {
    let mut text = format!(
        "{} services, {} streams on {} connections, {}\n\n\
         | | one change, ms: p50 | p99 | last | p99 ratio | changes | bytes a stream | server us a stream | \
         KiB a stream | connect s | asked {}/s: held | p99 ms | cores | responses | swarm cores | \
         all back s | server CPU s | swarm CPU s | resources each |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
        plan.services,
        plan.streams,
        plan.connections,
        plan.speaks.title(),
        plan.rate,
    );
    let linear = figures.iter().find(|it| it.cache == Cache::Linear).map(|it| it.p99_ms);
    for f in figures {
        let ratio = linear.map_or_else(|| "-".to_owned(), |linear| format!("{:.2}", f.p99_ms / linear));
        let sustained = f.sustained.map_or_else(
            || "- | - | - | - | -".to_owned(),
            |s| {
                format!(
                    "{:.1} | {:.0} | {:.2} | {:.2} | {:.2}",
                    s.held, s.p99_ms, s.cores, s.responses, s.swarm_cores
                )
            },
        );
        let storm = f.storm.map_or_else(
            || "- | - | - | -".to_owned(),
            |s| format!("{:.2} | {:.2} | {:.2} | {:.2}", s.seconds, s.cpu_s, s.swarm_cpu_s, s.resources),
        );
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {} | {:.1} | {:.1} | {:.1} | {ratio} | {} | {:.0} | {:.1} | {:.1} | {:.2} | {sustained} | {storm} |",
            f.cache.title(),
            f.p50_ms,
            f.p99_ms,
            f.last_ms,
            f.triggers,
            f.bytes,
            f.cpu_us,
            f.idle_kib,
            f.connect_s,
        );
    }
    text
}
