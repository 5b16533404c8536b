//! `bench-replication`: `etcdctl make-mirror` and ours between real etcds. Reads arguments, runs the sections, prints; how it is
//! measured is in `zonebreak_drill::replication`.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use clap::{Parser, ValueEnum as _};
use zonebreak_drill::replication::{Effort, Section, Server, cores, free, put_into};

/// How fast and how faithfully a replicator follows: `etcdctl make-mirror` and `zonebreak replicate run`, each between two etcds
/// of its own, in the same run; on the pinned etcd, and on 3.6 where `scripts/etcd 3.6` has built it.
///
/// Lag is from the source's acknowledgement of a write to the destination's watch, seen by one client with one clock. The kill
/// loop kills our replicator under load and compares the destination with that client's own ledger; exit code 1 when anything
/// was lost, doubled, resurrected or torn. Markdown on standard output, progress on standard error.
#[derive(Debug, Parser)]
#[command(name = "bench-replication", bin_name = "scripts/bench-replication")]
struct Args {
    /// Only these sections; may be repeated.
    #[arg(long, value_name = "SECTION", value_enum)]
    only: Vec<Section>,
    /// Seconds of each load.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    time: u64,
    /// Kills in the kill loop.
    #[arg(long, value_name = "N", default_value_t = 100)]
    kills: u32,
    /// Only the pinned etcd, even where there is a newer one.
    #[arg(long)]
    pinned_only: bool,
    /// Put the tables into this page, in place of those that it has. All sections must have been measured.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["only", "quick"])]
    page: Option<PathBuf>,
    /// A short run on the pinned etcd that shows that everything works: its figures are rough.
    #[arg(long, conflicts_with_all = ["time", "kills"])]
    quick: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let begun = Instant::now();
    let say = |text: String| {
        let seconds = begun.elapsed().as_secs();
        eprintln!("bench-replication {:02}:{:02}  {text}", seconds / 60, seconds % 60);
    };
    let effort = if args.quick {
        Effort::quick()
    } else {
        // An unoptimised client would measure itself.
        ensure!(
            !cfg!(debug_assertions),
            "this is a debug build: run scripts/bench-replication, or use --quick"
        );
        Effort::full(Duration::from_secs(args.time.max(1)), args.kills.max(1))
    };
    let mut servers = vec![Server::pinned()?];
    if !args.quick && !args.pinned_only {
        match Server::newer()? {
            Some(newer) => servers.push(newer),
            None => say("no etcd 3.6 here (scripts/etcd 3.6 builds it): only the pinned one".to_owned()),
        }
    }
    let wanted = |section: &Section| args.only.is_empty() || args.only.contains(section);
    let sections = Section::value_variants().iter().copied().filter(wanted);
    let (mut page, mut failed) = (String::new(), Vec::new());
    for section in sections {
        let before = free()? * 100.0;
        match section.run(&servers, &effort, &say).await {
            Ok((table, exact)) => {
                let (title, cores, after) = (section.title(), cores(), free()? * 100.0);
                let text = format!(
                    "\n### {title}\n\n{table}\nOf {cores} cores {before:.0} % were free before these measurements and {after:.0} % after.\n"
                );
                print!("{text}");
                page += &text;
                failed.extend((!exact).then(|| format!("{section:?}: replication is not exact")));
            }
            // What the others measured is not lost for it.
            Err(error) => {
                say(format!("failed to measure {section:?}: {error:#}"));
                failed.push(format!("{section:?}: {error:#}"));
            }
        }
    }
    say(format!("done{}", if failed.is_empty() { "" } else { ", with failures" }));
    ensure!(failed.is_empty(), "failed to measure everything: {}", failed.join("; "));
    if let Some(path) = &args.page {
        let name = path.display();
        let old = fs::read_to_string(path).with_context(|| format!("failed to read {name}"))?;
        fs::write(path, put_into(&old, &page)?).with_context(|| format!("failed to write {name}"))?;
    }
    Ok(())
}
