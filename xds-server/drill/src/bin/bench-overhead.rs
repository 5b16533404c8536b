//! `bench-overhead`: what a filter costs a proxy in CPU and memory. Reads arguments, measures, prints; how it is measured is in
//! `zonebreak_drill::overhead`.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use zonebreak_drill::overhead::{Effort, Setup, measure, sidecars, table};

/// What a filter costs a proxy: CPU a request and memory of Envoy with no filter, an empty wasm filter, the same logic in
/// Lua, and Zonebreak.
///
/// Each setup has an Envoy of its own in front of the same twelve backends. They take turns, round by round; a round is a
/// closed loop over eight kept connections. CPU is the process's user and system time by /proc, the median of the rounds.
/// Memory is RssAnon at the start, after 10,000 requests (warm), and at the end. A second table gives the memory of a sidecar
/// by its number of clusters, and what loading the module adds to its start. Figures are good relative to each other, on
/// the same machine and in the same run. Markdown on standard output, progress on standard error.
#[derive(Debug, Parser)]
#[command(name = "bench-overhead", bin_name = "scripts/bench-overhead")]
struct Args {
    /// Rounds; the median counts.
    #[arg(long, value_name = "N", default_value_t = 7)]
    rounds: usize,
    /// Requests in a round, to each setup.
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    requests: usize,
    /// Worker threads of the proxies; may be repeated.
    #[arg(long, value_name = "N", default_values_t = [1, 2])]
    concurrency: Vec<u32>,
    /// Only these setups; may be repeated.
    #[arg(long, value_name = "NAME", value_enum)]
    only: Vec<Setup>,
    /// Write all figures to a file as well.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// A short run that shows that everything works: its figures are rough.
    #[arg(long, conflicts_with_all = ["rounds", "requests"])]
    quick: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let effort = if args.quick {
        Effort { warmup: 2_000, rounds: 2, requests: 2_000 }
    } else {
        Effort { warmup: 10_000, rounds: args.rounds.max(1), requests: args.requests.max(1) }
    };
    let setups: Vec<_> = Setup::value_variants()
        .iter()
        .copied()
        .filter(|it| args.only.is_empty() || args.only.contains(it))
        .collect();
    let mut figures = Vec::new();
    for &concurrency in &args.concurrency {
        let say = |text| eprintln!("bench-overhead: {text}");
        let measured = measure(&setups, concurrency, effort, say).await;
        figures.extend(measured.with_context(|| format!("failed to measure at concurrency {concurrency}"))?);
    }
    if let Some(file) = &args.json {
        let text = serde_json::to_string_pretty(&figures)?;
        std::fs::write(file, text + "\n").with_context(|| format!("failed to write {}", file.display()))?;
    }
    print!("{}", table(&figures));
    if args.only.is_empty() {
        let (clusters, trials): (&[usize], _) = if args.quick { (&[3], 1) } else { (&[1, 15, 45, 80], 9) };
        let found = sidecars(clusters, trials, |text| eprintln!("bench-overhead: {text}")).await;
        print!("\n{}", found.context("failed to measure sidecars")?.table());
    }
    Ok(())
}
