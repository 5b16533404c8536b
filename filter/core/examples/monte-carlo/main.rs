//! `monte-carlo`: how fast detectors find a bad zone, what they miss, and how often they cry wolf. Reads arguments, runs trials on all
//! cores, prints a table for each split of the load; what is tried is in `trial`, who is tried in `detector`.

#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::expect_used, clippy::panic)]

mod detector;
mod ours;
mod rivals;
mod table;
mod traffic;
mod trial;

use std::{
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use clap::Parser;

use crate::{
    table::{Results, Verdict},
    trial::{SPLITS, Trial},
};

/// How fast detectors find a bad zone, what they miss, and how often they cry wolf.
///
/// The help is `scripts/help/bench-detector.txt`, which `scripts/bench-detector` prints before anything is built.
#[derive(Debug, Parser)]
#[command(name = "monte-carlo", override_help = include_str!("../../../../scripts/help/bench-detector.txt"))]
struct Args {
    /// Runs of each fault.
    #[arg(long, value_name = "N", default_value_t = 400)]
    seeds: u64,
    /// Hours of health at each base rate.
    #[arg(long, value_name = "H", default_value_t = 24)]
    hours: u64,
    /// A short run that shows that nothing trips which should not: its figures are rough.
    #[arg(long, conflicts_with_all = ["seeds", "hours"])]
    quick: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let (seeds, hours) = if args.quick { (40, 2) } else { (args.seeds.max(1), args.hours.max(1)) };
    let began = Instant::now();
    let results = run(&trial::all(seeds, hours));
    for (split, _) in SPLITS.iter().enumerate() {
        println!("{}", table::markdown(split, &results));
    }
    eprintln!("monte-carlo: {:.0} s", began.elapsed().as_secs_f64());
    match Verdict::of(&results) {
        Verdict::Good => ExitCode::SUCCESS,
        Verdict::Bad(why) => {
            eprintln!("monte-carlo: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Runs trials on all cores, each result in its place.
fn run(trials: &[Trial]) -> Results {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Results::default()));
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some(trial) = trials.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = trial.run();
                    let mut results = results.lock().expect("no trial panics while it adds its result");
                    results.add(trial, outcome);
                    let done = results.len();
                    if done.is_multiple_of(trials.len().div_ceil(20)) {
                        eprintln!("monte-carlo: {done} of {} runs", trials.len());
                    }
                }
            });
        }
    });
    results.into_inner().expect("no trial panicked")
}
