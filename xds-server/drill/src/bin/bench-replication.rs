//! `bench-replication`: `etcdctl make-mirror` and ours between real etcds. Reads arguments, measures, prints; how it is measured
//! is in `zonebreak_drill::replication`.

use std::time::Duration;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use zonebreak_drill::replication::{
    Contender, Effort, Scenario, kill_loop, measure, restores, restores_table, table,
};

/// How fast and how faithfully a replicator follows: `etcdctl make-mirror` and `zonebreak replicate run`, each between two etcds
/// of its own, in the same run.
///
/// Lag is from the source's acknowledgement of a write to the destination's watch, seen by one client with one clock. The kill
/// loop kills our replicator under load and compares the destination with that client's own ledger; exit code 1 when anything
/// was lost, doubled, resurrected or torn. Markdown on standard output, progress on standard error.
#[derive(Debug, Parser)]
#[command(name = "bench-replication", version)]
struct Args {
    /// Only these measurements; may be repeated.
    #[arg(long, value_name = "NAME", value_enum)]
    only: Vec<Scenario>,
    /// Only this contender; may be repeated.
    #[arg(long, value_name = "NAME", value_enum)]
    contender: Vec<Contender>,
    /// Seconds of each load.
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    time: u64,
    /// Kills in the kill loop; 0 leaves it out.
    #[arg(long, value_name = "N", default_value_t = 100)]
    kills: u32,
    /// Only the restores: snapshots of ours beside `etcdutl snapshot restore`.
    #[arg(long, conflicts_with = "only")]
    restores: bool,
    /// A short run that shows that everything works: its figures are rough.
    #[arg(long, conflicts_with_all = ["time", "kills"])]
    quick: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let effort = if args.quick {
        Effort {
            time: Duration::from_secs(2),
            keys: 5_000,
            backlog: 25_600,
            patience: Duration::from_secs(20),
        }
    } else {
        let time = Duration::from_secs(args.time);
        Effort { time, keys: 100_000, backlog: 200_000, patience: Duration::from_secs(60) }
    };
    let quick = [Scenario::Baseline, Scenario::Steady500];
    let mut rows = Vec::new();
    for scenario in Scenario::value_variants().iter().copied() {
        let wanted = if args.restores {
            false
        } else if args.only.is_empty() {
            !args.quick || quick.contains(&scenario)
        } else {
            args.only.contains(&scenario)
        };
        let contenders = Contender::value_variants().iter().copied();
        for contender in
            contenders.filter(|it| wanted && (args.contender.is_empty() || args.contender.contains(it)))
        {
            let measured = measure(scenario, contender, effort).await;
            let row = measured.with_context(|| format!("failed to measure {scenario:?} of {contender:?}"))?;
            if let Some(row) = &row {
                eprintln!("bench-replication: {} {}: {}", scenario.title(), contender.title(), row.words);
            }
            rows.extend(row);
        }
    }
    if !rows.is_empty() {
        print!("{}", table(&rows));
    }
    if args.only.is_empty() {
        let restored = restores(effort.keys, |text| eprintln!("bench-replication: {text}")).await?;
        print!("\n{}", restores_table(effort.keys, &restored));
    }
    let kills = if args.restores {
        0
    } else if args.quick {
        3
    } else {
        args.kills
    };
    if kills > 0 && args.only.is_empty() {
        let found = kill_loop(kills, |text| eprintln!("bench-replication: {text}")).await?;
        println!(
            "\nkilled {} times under {} changes: {} lost, {} resurrected, {} gone back, {} torn",
            found.kills, found.changes, found.lost, found.resurrected, found.back, found.torn
        );
        anyhow::ensure!(found.is_clean(), "the kill loop found that replication is not exact");
    }
    Ok(())
}
