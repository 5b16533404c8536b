//! `bench-xds`: what one change costs an xDS server with many clients. Reads arguments, measures, prints; how it is measured is in
//! `zonebreak_drill::fanout`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use zonebreak_drill::fanout::{Cache, Figures, Plan, Servers, Speaks, floor, measure, table, targets};

/// What the script does by itself.
const INSTRUCTIONS: &str = "Instead of all this:
      --instructions
          Count what one stream's hot paths execute, under valgrind";

/// How fast one change reaches a thousand proxies, and what they cost the server: our engine, and go-control-plane with its
/// linear and its snapshot caches in the same run.
///
/// Each server is a process of its own with the same made-up services (30 endpoints each, in three zones; a view of the endpoints
/// for each zone of the clients). The clients are one process on one thread: they subscribe, acknowledge and reconnect as Envoy
/// does and decode nothing, and their own CPU is in the table. Measured are: one endpoint changed, from the order to the moment
/// each client has read it (medians over the changes); a pace of changes, late by when each was due; memory a stream; and all
/// clients coming back at once with what they had. Markdown on standard output, progress on standard error.
#[derive(Debug, Parser)]
#[command(name = "bench-xds", override_usage = "scripts/bench-xds [OPTIONS]", after_help = INSTRUCTIONS)]
struct Args {
    /// Our server: `bench_server`, an example of zonebreak-xds.
    #[arg(long, value_name = "PROGRAM", hide = true)]
    ours: PathBuf,
    /// go-control-plane's server; without it only ours is measured.
    #[arg(long, value_name = "PROGRAM", hide = true)]
    peer: Option<PathBuf>,
    /// Services; may be repeated.
    #[arg(long, value_name = "N", default_values_t = [1, 1_000])]
    services: Vec<usize>,
    /// Proxies, each a stream. Unless said: 1,000, and at last 10,000 over 500 connections, with one service.
    #[arg(long, value_name = "N")]
    streams: Option<usize>,
    /// TCP connections they share; as many as streams unless said.
    #[arg(long, value_name = "N")]
    connections: Option<usize>,
    /// The protocol; may be repeated.
    #[arg(long, value_name = "NAME", value_enum, default_values_t = [Speaks::Delta, Speaks::Sotw])]
    protocol: Vec<Speaks>,
    /// Only these servers; may be repeated.
    #[arg(long, value_name = "NAME", value_enum)]
    only: Vec<Cache>,
    /// Single changes that are timed.
    #[arg(long, value_name = "N", default_value_t = 10)]
    changes: usize,
    /// How many seconds the single changes may take together; a server that needs longer is timed on fewer.
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    patience: u64,
    /// Changes a second that are asked for.
    #[arg(long, value_name = "N", default_value_t = 25)]
    rate: u32,
    /// For how many seconds; 0 leaves it out.
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    sustain: u64,
    /// A short run that shows that everything works and that nothing is sent twice: its times are rough.
    #[arg(long, conflicts_with_all = ["services", "streams", "connections", "changes", "rate", "sustain"])]
    quick: bool,
    /// Write all figures to a file as well.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut args = Args::parse();
    if args.quick {
        (args.services, args.streams, args.changes, args.rate, args.sustain) =
            (vec![1, 20], Some(60), 3, 25, 1);
    }
    anyhow::ensure!(
        args.streams.is_none_or(|streams| streams >= 3)
            && !args.services.contains(&0)
            && args.changes > 0
            && args.rate > 0,
        "there must be at least three streams, one service, one change and one change a second"
    );
    let servers = Servers { ours: args.ours.clone(), peer: args.peer.clone() };
    let caches: Vec<Cache> = Cache::value_variants()
        .iter()
        .copied()
        .filter(|it| args.only.is_empty() || args.only.contains(it))
        .filter(|it| *it == Cache::Ours || servers.peer.is_some())
        .collect();
    let mut measured = Vec::new();
    for plan in plans(&args) {
        let (mut figures, mut failed) = (Vec::new(), String::new());
        for &cache in &caches {
            eprintln!(
                "bench-xds: {} services, {} streams, {}: {}",
                plan.services,
                plan.streams,
                plan.speaks.title(),
                cache.title()
            );
            let local = tokio::task::LocalSet::new();
            let found = local.run_until(measure(&servers, cache, &plan)).await;
            match found.with_context(|| format!("failed to measure {}", cache.title())) {
                Ok(found) => figures.push(found),
                // That a peer cannot keep up is no reason to lose what was measured of the others.
                Err(error) if cache != Cache::Ours => {
                    eprintln!("bench-xds: {error:#}");
                    failed.push_str(&format!("{}: not measured, {:#}\n\n", cache.title(), error));
                }
                Err(error) => return Err(error),
            }
        }
        println!("{}\n{failed}", table(&plan, &figures));
        if !args.quick && plan.speaks == Speaks::Delta && plan.services == 1 {
            let local = tokio::task::LocalSet::new();
            let kib =
                local.run_until(floor(&servers, &plan)).await.context("failed to measure HTTP/2 alone")?;
            println!(
                "Of the KiB a stream, HTTP/2 and tonic take {kib:.1}, which is what they do with no engine between them.\n"
            );
        }
        if args.quick {
            check(&plan, &figures)?;
        }
        measured.push((plan, figures));
    }
    print!("{}", targets(&measured));
    if let Some(file) = &args.json {
        let all: Vec<&Vec<Figures>> = measured.iter().map(|(_, figures)| figures).collect();
        let text = serde_json::to_string_pretty(&all)?;
        std::fs::write(file, text + "\n").with_context(|| format!("failed to write {}", file.display()))?;
    }
    Ok(())
}

fn plans(args: &Args) -> Vec<Plan> {
    let plan = |speaks, services, streams: usize, connections: Option<usize>| Plan {
        speaks,
        services,
        streams,
        connections: connections.unwrap_or(streams).clamp(1, streams),
        triggers: args.changes,
        patience: Duration::from_secs(args.patience),
        rate: args.rate,
        sustain: Duration::from_secs(args.sustain),
    };
    let streams = args.streams.unwrap_or(1_000);
    let mut plans = Vec::new();
    for &services in &args.services {
        plans.extend(args.protocol.iter().map(|&speaks| plan(speaks, services, streams, args.connections)));
    }
    if args.streams.is_none() {
        plans.extend(args.protocol.iter().map(|&speaks| plan(speaks, 1, 10_000, Some(500))));
    }
    plans
}

/// What holds on any machine, however busy: everything arrived (or there would be no figures), and to those who came back nothing
/// was sent but what had changed. In state of the world that is known of clusters and listeners only; endpoints and the one route
/// configuration are asked for by names, and their version does not say which of them a client still has.
fn check(plan: &Plan, figures: &[Figures]) -> anyhow::Result<()> {
    let Some(ours) = figures.iter().find(|it| it.cache == Cache::Ours) else { return Ok(()) };
    let resources = ours.storm.map_or(0.0, |storm| storm.resources);
    let most = match plan.speaks {
        Speaks::Delta => 1.0,
        Speaks::Sotw => plan.services as f64 + 1.0,
    };
    anyhow::ensure!(
        (1.0..=most).contains(&resources),
        "clients that came back were sent {resources} resources each, at most {most} had to be"
    );
    Ok(())
}
