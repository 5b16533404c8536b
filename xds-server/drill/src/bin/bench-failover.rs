//! `bench-failover`: the side-by-side table of what a broken zone costs. Reads arguments, runs trials, prints; what is
//! measured and how is in `zonebreak_drill::failover`.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use clap::{Parser, ValueEnum};
use futures::{StreamExt, TryStreamExt, stream};
use zonebreak_drill::failover::{Contender, Scenario, Timing, Trial, drain_table, drains, run, table};

/// What a broken zone costs: Envoy's own means, Istio's use of them, and Zonebreak, side by side.
///
/// One proxy in az-a, three zones of four hosts, 200 requests a second on schedule (30 in gray-quiet). After a few steady
/// seconds az-a breaks for 30 s and is then mended. Lost: 5xx or no whole response, of the requests due during the fault.
/// Left in: seconds until az-a was sent nothing for half a second (at least the time of 15 of its usual requests). Relapses:
/// half-seconds after that with more than 5 % lost or slow. On return: requests lost after the fault, and what az-a has back
/// of its former share at the end where that is not nearly all. Nobody retries, but for ours-retry. A second table tells how
/// exactly Zonebreak drains a zone. Markdown on standard output, progress on standard error.
#[derive(Debug, Parser)]
#[command(name = "bench-failover", bin_name = "scripts/bench-failover")]
struct Args {
    /// How long the fault lasts.
    #[arg(long, value_name = "N", default_value_t = 30)]
    fault_seconds: u64,
    /// How long the load goes on after the fault.
    #[arg(long, value_name = "N", default_value_t = 45)]
    return_seconds: u64,
    /// Only these contenders or scenarios; may be repeated.
    #[arg(long, value_name = "NAME", value_parser = Only::parse, long_help = Only::help())]
    only: Vec<Only>,
    /// Trials at the same time, each with an Envoy of its own.
    #[arg(long, value_name = "N", default_value_t = 5)]
    jobs: usize,
    /// Write all figures to a file as well.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// A short run that shows that everything works: its figures are rough.
    #[arg(long, conflicts_with_all = ["fault_seconds", "return_seconds"])]
    quick: bool,
}

/// A contender or a scenario, by name.
#[derive(Debug, Clone, Copy)]
enum Only {
    Contender(Contender),
    Scenario(Scenario),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let timing = args.timing();
    let cells = args.cells();
    let total = cells.len();
    let mut done = 0;
    let mut trials: Vec<Trial> = stream::iter(cells)
        .map(|(contender, scenario)| async move {
            let what = format!("failed to run {} under {}", contender.name(), scenario.name());
            run(contender, scenario, timing).await.context(what)
        })
        .buffer_unordered(args.jobs.max(1))
        .inspect_ok(|trial| {
            done += 1;
            report(done, total, trial);
        })
        .try_collect()
        .await?;
    trials.sort_by_key(|trial| (trial.contender, trial.scenario));
    if let Some(file) = &args.json {
        let text = serde_json::to_string_pretty(&trials)?;
        std::fs::write(file, text + "\n").with_context(|| format!("failed to write {}", file.display()))?;
    }
    print!("{}", table(&trials));
    if args.only.is_empty() {
        let requests = if args.quick { 2_000 } else { 50_000 };
        let found = drains(requests, |text| eprintln!("bench-failover: {text}")).await;
        print!("\n{}", drain_table(&found.context("failed to measure drains")?));
    }
    Ok(())
}

fn report(done: usize, total: usize, trial: &Trial) {
    let v = &trial.verdict;
    eprintln!(
        "bench-failover: {done}/{total} {} under {}: {:.2} % lost, {:.1} % slow, left {}, {} relapses, \
         {} lost on return, {:.0} % of its share back, load late by {:.0} ms at most",
        trial.contender.name(),
        trial.scenario.name(),
        v.error_percent,
        v.slow_percent,
        v.left_after.map_or_else(|| "never".to_owned(), |seconds| format!("in {seconds:.2} s")),
        v.relapses,
        v.errors_on_return,
        v.share_back_percent,
        v.load_late_ms,
    );
}

// === impl Args ===

impl Args {
    fn timing(&self) -> Timing {
        let seconds = Duration::from_secs;
        if self.quick {
            return Timing { steady: seconds(2), fault: seconds(6), recovery: seconds(2) };
        }
        let (fault, recovery) = (seconds(self.fault_seconds), seconds(self.return_seconds));
        Timing { steady: seconds(4), fault, recovery }
    }

    fn cells(&self) -> Vec<(Contender, Scenario)> {
        let contenders: Vec<_> = self.only.iter().filter_map(|only| only.contender()).collect();
        let scenarios: Vec<_> = self.only.iter().filter_map(|only| only.scenario()).collect();
        // Wanted, when named, or when none of its kind is and (in a quick run) it is one of the telling ones.
        let contender = |it: &Contender| {
            contenders.contains(it) || contenders.is_empty() && (!self.quick || *it != Contender::SuccessRate)
        };
        let scenario = |it: &Scenario| {
            let telling = matches!(it, Scenario::Hard | Scenario::Gray);
            scenarios.contains(it) || scenarios.is_empty() && (!self.quick || telling)
        };
        let all = |it| Scenario::value_variants().iter().filter(|s| scenario(s)).map(move |&s| (it, s));
        Contender::value_variants().iter().copied().filter(contender).flat_map(all).collect()
    }
}

// === impl Only ===

impl Only {
    fn parse(name: &str) -> Result<Self, String> {
        let contender = Contender::from_str(name, false).map(Self::Contender);
        contender.or_else(|_| Scenario::from_str(name, false).map(Self::Scenario)).map_err(|_| Self::help())
    }

    fn help() -> String {
        let contenders: Vec<_> = Contender::value_variants().iter().map(|it| it.name()).collect();
        let scenarios: Vec<_> = Scenario::value_variants().iter().map(|it| it.name()).collect();
        format!("contenders: {}; scenarios: {}", contenders.join(", "), scenarios.join(", "))
    }

    const fn contender(self) -> Option<Contender> {
        if let Self::Contender(it) = self { Some(it) } else { None }
    }

    const fn scenario(self) -> Option<Scenario> {
        if let Self::Scenario(it) = self { Some(it) } else { None }
    }
}
