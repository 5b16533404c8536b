//! `soak`: whether a proxy with the filter grows over very many requests. Reads arguments, measures, prints and judges; how it is
//! measured is in `zonebreak_drill::overhead`.

use anyhow::Context;
use clap::Parser;
use zonebreak_drill::overhead::growth;

/// Anonymous memory of an Envoy with Zonebreak, after a warm-up and after very many requests more.
///
/// A closed loop over sixteen kept connections, backends in three zones. Progress on standard error, the result on standard output;
/// exit code 3 when the proxy has grown by more than is allowed.
#[derive(Debug, Parser)]
#[command(name = "soak", bin_name = "scripts/soak")]
struct Args {
    /// Requests after the warm-up.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    requests: usize,
    /// Requests before.
    #[arg(long, value_name = "N", default_value_t = 50_000)]
    warmup: usize,
    /// Worker threads of the proxy.
    #[arg(long, value_name = "N", default_value_t = 2)]
    concurrency: u32,
    /// Growth that is allowed, in kB (1,000 bytes).
    #[arg(long, value_name = "KB", default_value_t = 500)]
    allow: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let say = |text| eprintln!("soak: {text}");
    let grown =
        growth(args.concurrency, args.warmup, args.requests, say).await.context("failed to measure")?;
    println!("{} requests in {:.0?}: {grown}", grown.requests, grown.took);
    if grown.grown() > args.allow * 1_000 {
        eprintln!("soak: at most {} kB are allowed", args.allow);
        std::process::exit(3);
    }
    Ok(())
}
