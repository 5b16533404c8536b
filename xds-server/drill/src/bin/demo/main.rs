//! The demo: a zone dies, and the service goes on. Builds the world, plays the phases, holds what was measured against the
//! promises, and takes everything down again, however it ends. Decides nothing about the product.

mod figures;
mod look;
mod phases;
mod promises;
mod report;
mod screen;
mod stage;
mod table;
mod text;

use std::{
    fs::File,
    io,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use zonebreak_drill::{
    lab::Load,
    world::{World, WorldOptions},
};

use figures::{Requests, Window};
use promises::{Promise, TOO_LATE, Verdict};
use report::Report;
use screen::{Ability, Screen};
use stage::{Stage, failed_to};
use table::{Layout, Row};
use text::{Line, Tone};

/// Requests a second: what the promises are given for.
const RATE: f64 = 200.0;

/// See `scripts/help/demo.txt`, which `scripts/demo` prints as well.
#[derive(Debug, Parser)]
#[command(name = "demo", override_help = include_str!("../../../../../scripts/help/demo.txt"))]
struct Args {
    /// Leave everything running at the end.
    #[arg(long)]
    keep: bool,
    /// Where to write the summary.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// How the demo ends; the numbers stand in `scripts/help/demo.txt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum End {
    Kept = 0,
    Missed = 1,
    Failed = 2,
    Unsure = 3,
    Stopped = 130,
}

fn main() -> ExitCode {
    // Prints help to standard output and ends with 0, complaints to standard error and ends with 2.
    let args = Args::parse();
    let end = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime.block_on(run(args)),
        Err(error) => {
            eprintln!("demo: failed to start the runtime: {error}");
            End::Failed
        }
    };
    ExitCode::from(end as u8)
}

/// Shows everything, or is stopped: either way all that it started is gone when this returns.
async fn run(args: Args) -> End {
    let stop = match stopped() {
        Ok(stop) => stop,
        Err(error) => {
            eprintln!("demo: failed to listen for Ctrl-C: {error}");
            return End::Failed;
        }
    };
    tokio::pin!(stop);
    let outcome = tokio::select! {
        outcome = show(&args) => Some(outcome),
        () = &mut stop => None,
    };
    let end = match outcome {
        None => End::Stopped,
        Some(Err(error)) => {
            eprintln!("demo: {error:#}");
            return End::Failed;
        }
        Some(Ok((end, Some(world)))) => {
            stop.await;
            drop(world);
            end
        }
        Some(Ok((end, None))) => end,
    };
    eprintln!("demo: everything is stopped and removed");
    end
}

/// The whole demo. What is to go on running comes back.
async fn show(args: &Args) -> Result<(End, Option<(Load, World)>)> {
    let file = match &args.json {
        Some(path) => Some(
            File::create(path)
                .with_context(|| format!("failed to write the summary to {}", path.display()))?,
        ),
        None => None,
    };
    let mut screen = Screen::new(io::stdout(), Ability::of_stdout());
    let print = |screen: &mut Screen<_>, lines: &[Line]| screen.print(lines).context("failed to print");
    print(&mut screen, &introduction())?;

    eprintln!("demo: starting etcd, the control plane, six backends and Envoy");
    let began = Instant::now();
    let options = WorldOptions { policy: phases::policy(), ..WorldOptions::default() };
    let mut world = World::start(options).await.map_err(failed_to)?;
    eprintln!("demo: all of it runs after {:.1} s\n", began.elapsed().as_secs_f64());

    let began = Instant::now();
    let load = world.load(RATE).map_err(failed_to)?;
    let layout = Layout { width: screen::width(), unicode: screen.ability().unicode };
    print(&mut screen, &[table::header(layout), Line::default()])?;
    let mut stage = Stage::new(&mut world, &load, &mut screen).await?;
    let story = phases::play(&mut stage).await?;
    let rows = stage.into_rows();

    // Only now have all requests come to an end.
    let all = Window::since(began);
    let requests = Requests::new(load.stop().await);
    let promises = promises::judge(&story, &requests);
    let late = requests.late(all);
    let end = verdict(&promises);
    print(&mut screen, &table::summary(&promises))?;
    print(&mut screen, &conclusion(&promises, end, late))?;
    if let Some(mut file) = file {
        write_report(&mut file, &rows, &promises, all, late)?;
    }
    if !args.keep {
        return Ok((end, None));
    }
    let load = world.load(RATE).map_err(failed_to)?;
    print(&mut screen, &report::addresses(&world)?)?;
    Ok((end, Some((load, world))))
}

fn introduction() -> Vec<Line> {
    let title = "An availability zone dies and its service goes on: a real Envoy, a real etcd.";
    let text = [
        "",
        "The service has two backends in each of the zones az-a, az-b and az-c. One",
        "Envoy in az-a, with the Zonebreak filter, takes 200 requests a second and",
        "prefers its own zone (80 %). Seven phases in about 65 seconds. So that they fit,",
        "a zone that broke is tried again after 3 s (usually 5 s), with 10 trial requests",
        "(usually 20), and its share grows back in 6 s (usually 20 s).",
        "",
    ];
    let mut lines = vec![Line::new(Tone::Strong, title)];
    lines.extend(text.map(|text| Line::new(Tone::Plain, text)));
    lines.extend(table::legend());
    lines.push(Line::default());
    lines
}

fn conclusion(promises: &[Promise], end: End, late: Duration) -> Vec<Line> {
    let count = |verdict| promises.iter().filter(|promise| promise.verdict == verdict).count();
    let (all, missed, unsure) = (promises.len(), count(Verdict::Missed), count(Verdict::Unsure));
    let mut lines = vec![Line::default()];
    lines.push(match end {
        End::Kept => Line::new(Tone::Good, format!("all {all} promises were kept")),
        End::Unsure => Line::new(Tone::Notice, format!("{unsure} of {all} promises could not be judged")),
        _ => Line::new(Tone::Bad, format!("{missed} of {all} promises were MISSED")),
    });
    if late > TOO_LATE && (end == End::Kept || unsure > 0) {
        let late =
            format!("this machine was busy: the load itself was up to {:.2} s late", late.as_secs_f64());
        lines.push(Line::new(Tone::Notice, late));
    }
    if unsure > 0 {
        let advice = "that says little of the product: run the demo again when nothing else runs";
        lines.push(Line::new(Tone::Notice, advice));
    }
    lines.push(Line::default());
    lines
}

fn verdict(promises: &[Promise]) -> End {
    let any = |verdict| promises.iter().any(|promise| promise.verdict == verdict);
    match (any(Verdict::Missed), any(Verdict::Unsure)) {
        (true, _) => End::Missed,
        (false, true) => End::Unsure,
        (false, false) => End::Kept,
    }
}

fn write_report(
    file: &mut File,
    rows: &[Row],
    promises: &[Promise],
    all: Window,
    late: Duration,
) -> Result<()> {
    let report = Report {
        kept: verdict(promises) == End::Kept,
        seconds: (all.to - all.from).as_secs_f64(),
        load_late: late.as_secs_f64(),
        phases: rows,
        promises,
    };
    report.write(file)
}

/// Ctrl-C, a polite kill, or a terminal that was closed.
fn stopped() -> io::Result<impl Future<Output = ()>> {
    let mut signals =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    Ok(async move {
        tokio::select! {
            _ = signals.0.recv() => (),
            _ = signals.1.recv() => (),
            _ = signals.2.recv() => (),
        }
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use promises::Unit;

    use super::*;

    #[test]
    fn the_help_text_names_every_option_and_every_exit_code() {
        let help = include_str!("../../../../../scripts/help/demo.txt");
        let command = Args::command();
        let flags = command.get_arguments().filter_map(|argument| argument.get_long());
        let missing: Vec<_> = flags.filter(|flag| !help.contains(&format!("--{flag}"))).collect();
        assert!(missing.is_empty(), "not in scripts/help/demo.txt: {missing:?}");
        for end in [End::Kept, End::Missed, End::Failed, End::Unsure, End::Stopped] {
            let line = format!("\n  {:<5}", end as u8);
            assert!(help.contains(&line), "{end:?} is not in it");
        }
    }

    #[test]
    fn one_missed_promise_outweighs_doubt() {
        let promise = |verdict| Promise {
            what: "a thing".to_owned(),
            unit: Unit::Count,
            at_most: 0.0,
            measured: Some(1.0),
            verdict,
        };
        let end = |verdicts: &[Verdict]| verdict(&verdicts.iter().copied().map(promise).collect::<Vec<_>>());
        assert_eq!(end(&[Verdict::Kept]), End::Kept);
        assert_eq!(end(&[Verdict::Kept, Verdict::Unsure]), End::Unsure);
        assert_eq!(end(&[Verdict::Unsure, Verdict::Missed]), End::Missed);
    }
}
