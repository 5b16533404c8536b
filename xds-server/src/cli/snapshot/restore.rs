//! `zonebreak snapshot restore`: shows what a moment would change, asks, and brings it back.

use std::{
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    sync::Arc,
};

use jiff::Timestamp;
use serde::Serialize;
use zonebreak_replication::{
    batch::Limits,
    revision::Revision,
    snapshot::{
        Progress,
        moment::{self, Moment, Target, time},
        restore::{self, Job, Place, Preview, Report},
    },
};

use super::{Bar, PlaceArgs, blocking, catalog, etcd, failure, history};
use crate::{
    cli::explain::A_TIME,
    cli::output::{Format, OutputArgs, columns},
    config::Config,
    exit::{Exit, Failure, Outcome},
};

/// The flags of `zonebreak snapshot restore`.
#[derive(Debug, Clone, clap::Args)]
#[command(group = clap::ArgGroup::new("moment").required(true).args(["name", "revision", "time"]))]
pub struct RestoreArgs {
    /// The snapshot, as `ls` names it, or a path.
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// The state as of this revision.
    #[arg(long, value_name = "N")]
    revision: Option<i64>,
    /// The state as of this time, such as 2026-11-26T10:14:30Z.
    #[arg(long, value_name = "TIME", value_parser = at)]
    time: Option<Timestamp>,
    /// Restore into this etcd, which must hold nothing under the prefix.
    #[arg(long, value_name = "URL,...", conflicts_with_all = ["etcd", "overwrite"])]
    into: Option<String>,
    /// Restore into an etcd that is not the one the snapshot is of.
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    place: PlaceArgs,
}

/// Whether to ask.
#[derive(Debug, Clone, clap::Args)]
pub struct Consent {
    /// Show what would change, and change nothing.
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// How many changed keys to show.
    #[arg(long, value_name = "N", default_value_t = 20)]
    keys: usize,
}

/// What a dry run prints.
#[derive(Debug, Serialize)]
struct Plan<'a> {
    revision: i64,
    time: String,
    replayed: u64,
    #[serde(flatten)]
    preview: &'a Preview,
}

fn at(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| format!("a moment is {A_TIME}, not {text:?}"))
}

/// Runs the command.
pub async fn run(args: RestoreArgs) -> Outcome {
    let config = args.place.load(args.into.as_ref())?;
    let moment = find(&args, &config).await?;
    let place = match (&args.into, args.overwrite) {
        (Some(_), _) => Place::Empty,
        (None, true) => Place::Anywhere,
        (None, false) => Place::InPlace,
    };
    carry_out(&RESTORE, moment, place, true, &config, &args.consent, &args.place.output).await
}

async fn find(args: &RestoreArgs, config: &Config) -> Result<Moment, Failure> {
    let catalog = catalog(config);
    if let Some(name) = args.name.clone() {
        let found =
            blocking(move || catalog.find(&name).and_then(|listed| moment::of_snapshot(&listed))).await?;
        return found.map_err(failure);
    }
    let target = match (args.revision, args.time) {
        (Some(revision), _) => Target::Revision(Revision(revision)),
        (None, Some(time)) => Target::Time(u64::try_from(time.as_millisecond()).unwrap_or(0)),
        (None, None) => return Err(Failure::usage("failed to find a moment: none was named")),
    };
    let (log, prefix) = (history(config).await?, config.replicate.prefix.clone());
    let found = blocking(move || {
        let mut snapshots = catalog.list()?;
        // Of another prefix it would be another state.
        snapshots.retain(|it| it.content.as_ref().is_ok_and(|(header, _)| header.prefix == prefix));
        moment::find(target, &snapshots, log.as_ref())
    });
    found.await?.map_err(failure)
}

/// What it is called that writes keys.
pub(super) struct Verb {
    /// To do it.
    pub does: &'static str,
    /// While it goes on.
    pub doing: &'static str,
    /// When it is done.
    pub done: &'static str,
}

const RESTORE: Verb = Verb { does: "restore", doing: "restoring", done: "restored" };

/// Shows, asks, and does it.
pub(super) async fn carry_out(
    verb: &Verb,
    moment: Moment,
    place: Place,
    deletes: bool,
    config: &Config,
    consent: &Consent,
    output: &OutputArgs,
) -> Outcome {
    let progress = Arc::new(Progress::default());
    let limits = Limits { operations: config.replicate.max_operations, ..Limits::default() };
    let etcd = etcd(config)?;
    let job = Job { etcd, moment, place, deletes, limits, progress: Arc::clone(&progress) };
    // Whoever neither looks nor is asked need not wait for a look.
    if consent.dry_run || !consent.yes {
        let bar = Bar::new("comparing", &progress);
        let preview = restore::preview(&job, consent.keys).await;
        drop(bar);
        let preview = preview.map_err(failure)?;
        let plan = Plan {
            revision: job.moment.revision.0,
            time: time(job.moment.at_ms),
            replayed: job.moment.replayed,
            preview: &preview,
        };
        if consent.dry_run {
            output.print(&plan, |_| plan.table(&job.moment))?;
            return Ok(Exit::Ok);
        }
        eprint!("{}", plan.table(&job.moment));
        ask(verb)?;
    }
    let bar = Bar::new(verb.doing, &progress);
    let report = restore::restore(&job).await;
    drop(bar);
    let report = report.map_err(failure)?;
    output.print(&report, |_| words(verb, &report))?;
    if !report.overwritten_keys.is_empty() && matches!(output.output, Format::Json | Format::Yaml) {
        eprintln!("{} writes of somebody else came in between and were written over", report.overwritten);
    }
    Ok(Exit::Ok)
}

fn ask(verb: &Verb) -> Result<(), Failure> {
    let refused = |why: &str| Failure::new(Exit::Refused, format_args!("failed to {}: {why}", verb.does));
    if !io::stdin().is_terminal() {
        return Err(refused("nobody is there to be asked").hint("look at it with --dry-run, then say --yes"));
    }
    eprint!("\nGo on and {}? [y/N] ", verb.does);
    let (_, mut line) = (io::stderr().flush(), String::new());
    match io::stdin().lock().read_line(&mut line) {
        Ok(_) if ["y", "yes"].contains(&line.trim()) => Ok(()),
        _ => Err(refused("it was not wanted; nothing was changed")),
    }
}

fn counted(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn words(verb: &Verb, report: &Report) -> String {
    let seconds = report.elapsed_ms as f64 / 1000.0;
    let mut out = format!(
        "{}: {} written in {}, {} equal already; nothing differs as of revision {}. {seconds:.2} s\n",
        verb.done,
        counted(report.written, "key"),
        counted(report.transactions, "transaction"),
        report.equal,
        report.revision
    );
    if report.resumed {
        out += "an earlier restore had not ended; this one finished it\n";
    }
    if report.overwritten > 0 {
        out += &format!(
            "{} writes of somebody else came in between and were written over: {}\n",
            report.overwritten,
            report.overwritten_keys.join(", ")
        );
    }
    out
}

// === impl Plan ===

impl Plan<'_> {
    fn table(&self, moment: &Moment) -> String {
        let preview = self.preview;
        let from = if moment.cluster.is_some() {
            let (revision, at) = (self.revision, &self.time);
            format!("moment   revision {revision}, {at}, {} revisions of the change log\n", self.replayed)
        } else {
            String::new()
        };
        let (added, changed, deleted) = (preview.added, preview.changed, preview.deleted);
        let mut out = format!(
            "{from}changes  {added} added, {changed} changed, {deleted} deleted, {} equal\n",
            preview.equal
        );
        if !preview.steps.is_empty() {
            let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
            let row = |step: &restore::Shown| {
                [step.change.to_owned(), step.key.clone(), value(&step.now), value(&step.then)]
            };
            out += &format!("\n{}", columns(["CHANGE", "KEY", "NOW", "THEN"], preview.steps.iter().map(row)));
            let more = (added + changed + deleted).saturating_sub(preview.steps.len() as u64);
            if more > 0 {
                out += &format!("... and {more} more (--keys N)\n");
            }
        }
        out
    }
}
