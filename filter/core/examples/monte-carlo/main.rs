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
/// Three zones; requests arrive by chance at a fixed mean rate, and are drawn one by one; all detectors see the same ones. Times are
/// from the onset of a fault in the first zone to the tick of 100 ms that found it: median and 95th percentile over the seeds, those
/// that missed it for 60 s included. False trips are those of a healthy service with 0.5 % and 5 % errors, for each 24 h. Global: the
/// share of runs with 60 % failures in all zones alike (a minute at 200 requests a second, 5 minutes at 3, 10 at 0.5) in which any
/// zone tripped. `ours` is the filter's own code, fed with
/// counters as the filter feeds it. Markdown on standard output, progress on standard error. Ends with 1 when ours trips a zone of a
/// healthy service or in a global failure: `normal` and `safe` at all (but for `normal` at 94/3/3, once in 24 h at 5 % errors, once in 400 minutes),
/// `fast` in more than 1 of 100 minutes or more than twice in 24 h.
#[derive(Debug, Parser)]
#[command(name = "monte-carlo")]
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
