//! `zonebreak explain`: why a zone was left, or was not.

mod text;

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Subcommand;
use jiff::Timestamp;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use zonebreak_core::{
    breaker::{InvalidTransition, Transition},
    config::ServiceConfig,
    names::{ServiceName, Zone},
    policy::ServicePolicy,
    units::Millis,
};
use zonebreak_topology::{document::Document, entry::Entry, key::Kind};

use super::output::OutputArgs;
use crate::{
    config,
    exit::{Exit, Failure, Outcome},
    explain::{
        model::{EvidenceRow, PolicySource},
        record::{self, RecordError, RecordOptions, Recorded},
        recording::{InvalidRecording, Recording, Series},
        replay::{self, ReplayError, Setup},
        stats, words,
    },
};

/// Says why a zone was left, or was not.
///
/// FILE is what `explain record` wrote, scrapes of /stats/prometheus with their times, or Envoy's log. Counters go through the
/// filter's own detector and breaker, which say at each transition what they saw; and of each zone that was never left what was
/// missing. Of a log, each transition is put into words.
///
/// The page "How the breaker decides" (docs/how-the-breaker-decides.md) has the rules, a log line read number by number, and
/// how to watch a new policy in shadow mode first.
#[derive(Debug, Clone, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  zonebreak explain record --envoy http://127.0.0.1:9901 --for 60s > series.jsonl
  zonebreak explain series.jsonl
  zonebreak explain series.jsonl --at +12.3s -o wide         every window of every zone, then
  zonebreak explain series.jsonl --policy new-policy.yaml    what if it had been that policy
  kubectl logs deploy/order -c envoy | zonebreak explain -

Ends with 0 explained, 2 for a file that cannot be used, 3 for a log without any transition."
)]
pub struct ExplainArgs {
    #[command(subcommand)]
    command: Option<ExplainCommand>,
    /// A recording, Prometheus scrapes, or a log; - is standard input.
    #[arg(value_name = "FILE", required = true)]
    file: Option<PathBuf>,
    /// The service to explain; needed when there are several.
    #[arg(long, value_name = "SERVICE")]
    service: Option<ServiceName>,
    /// Replay with this policy instead of the recorded one: a policy, or a topology file that has the service.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// The proxy's own zone [default: the recorded one].
    #[arg(long, value_name = "ZONE")]
    zone: Option<Zone>,
    /// Show every zone at this moment too: a time, or seconds from the beginning such as +12.3s; may be given more than once.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    at: Vec<At>,
    #[command(flatten)]
    output: OutputArgs,
}

/// What else `explain` does.
#[derive(Debug, Clone, Subcommand)]
pub enum ExplainCommand {
    /// Records the filter's counters from a running Envoy.
    ///
    /// Asks Envoy's admin port ten times a second, as often as the filter looks at its counters, and writes JSON lines to
    /// standard output: first the filter's configuration, then what changed. SIGTERM or SIGINT end it early and well.
    #[command(after_help = "Examples:
  zonebreak explain record --envoy http://127.0.0.1:9901 --for 60s > series.jsonl
  zonebreak explain record | gzip > night.jsonl.gz           until it is stopped")]
    Record(RecordArgs),
}

/// `explain record`.
#[derive(Debug, Clone, clap::Args)]
pub struct RecordArgs {
    /// Admin URL of the Envoy.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9901")]
    envoy: String,
    /// How long; until it is stopped when absent.
    #[arg(long = "for", value_name = "DURATION")]
    length: Option<Millis>,
    /// Between two samples.
    #[arg(long, value_name = "DURATION", default_value = "100ms")]
    every: Millis,
}

/// A moment of a recording.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum At {
    /// By the clock.
    Time(Timestamp),
    /// In ms from the first sample.
    Offset(u64),
}

/// A transition read from a log, as programs read it.
#[derive(Debug, Serialize)]
struct LogRow {
    line: usize,
    service: ServiceName,
    zone: Zone,
    from: String,
    to: String,
    cause: String,
    evidence: Option<EvidenceRow>,
    open_ms: u64,
    epoch: u64,
    shadow: bool,
    words: Vec<String>,
}

/// What a time looks like.
pub(super) const A_TIME: &str = "a time such as 2026-11-25T20:14:03Z";

fn moment(text: &str) -> Result<At, String> {
    if let Ok(time) = text.parse() {
        return Ok(At::Time(time));
    }
    let plain = text.strip_prefix('+').unwrap_or(text);
    let seconds = plain.strip_suffix('s').and_then(|number| number.parse::<f64>().ok());
    let ms = seconds.filter(|s| (0.0..1e9).contains(s)).map(|s| (s * 1_000.0).round() as u64);
    ms.or_else(|| plain.parse::<Millis>().ok().map(|ms| ms.0)).map(At::Offset).ok_or_else(|| {
        format!("a moment is {A_TIME}, or seconds from the beginning such as +12.3s, not {text:?}")
    })
}

/// Runs the command.
pub async fn run(args: ExplainArgs) -> Outcome {
    if let Some(ExplainCommand::Record(args)) = args.command {
        return record(&args).await;
    }
    let Some(file) = &args.file else { return Err(Failure::usage("no file was named")) };
    let (name, content) = read(file)?;
    let at = |why: &dyn std::fmt::Display| Failure::usage(format_args!("failed to use {name}: {why}"));
    if content.trim().is_empty() {
        return Err(at(&"it is empty"));
    }
    if Recording::is_one(&content) {
        counted(&args, Recording::parse(&content).map_err(|error| at(&error))?, &at)
    } else if stats::is_prometheus(&content) {
        counted(&args, stats::prometheus(&content).map_err(|error| at(&error))?, &at)
    } else if !content.lines().any(is_of_a_log) {
        let foreign = at(&"it is neither a recording, scrapes nor a log");
        Err(foreign.hint("make a recording: zonebreak explain record --envoy URL --for 60s > series.jsonl"))
    } else {
        logged(&args, &name, &content)
    }
}

/// Whether a line is of a log: a transition, or one with a time of day somewhere in it, whatever wraps it.
fn is_of_a_log(line: &str) -> bool {
    let digits = |at: &[u8]| at.iter().all(u8::is_ascii_digit);
    let tells_the_time = line.as_bytes().windows(8).any(|at| match at {
        [h @ .., b':', m1, m2, b':', s1, s2] => digits(h) && digits(&[*m1, *m2, *s1, *s2]),
        _ => false,
    });
    tells_the_time || !matches!(line.parse::<Transition>(), Err(InvalidTransition::None))
}

fn read(file: &Path) -> Result<(String, String), Failure> {
    let (name, bytes) = if file == Path::new("-") {
        let mut bytes = Vec::new();
        ("standard input".to_owned(), io::stdin().read_to_end(&mut bytes).map(|_| bytes))
    } else {
        (file.display().to_string(), fs::read(file))
    };
    let bytes = bytes.map_err(|error| Failure::usage(format_args!("failed to read {name}: {error}")))?;
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let failure = Failure::usage(format_args!("failed to use {name}: it is compressed"));
        return Err(failure.hint("gunzip it: zcat FILE | zonebreak explain -"));
    }
    // A log may hold anything.
    Ok((name, String::from_utf8_lossy(&bytes).into_owned()))
}

/// Explains counters.
fn counted(
    args: &ExplainArgs,
    mut recording: Recording,
    at: &dyn Fn(&dyn std::fmt::Display) -> Failure,
) -> Outcome {
    let series = recording.series(args.service.as_deref()).map_err(|error| match error {
        InvalidRecording::WhichService { .. } => at(&error).hint("--service SERVICE"),
        _ => at(&error),
    })?;
    let header = recording.header.as_ref();
    let recorded = header.and_then(|header| header.services.get(&series.service));
    let own_zone = args.zone.clone().or_else(|| header.and_then(|header| header.zone.clone()));
    if let Some(zone) = &args.zone
        && !series.zones.contains(zone)
    {
        let known: Vec<&str> = series.zones.iter().map(Zone::as_str).collect();
        return Err(at(&format_args!("{} has no zone {zone}; it has {}", series.service, known.join(", "))));
    }
    let given = args.policy.as_ref().map(|file| policy(file, &series.service)).transpose()?;
    let what_if = given.as_ref().zip(recorded).is_some_and(|(given, recorded)| *given != recorded.policy);
    let (source, policy) = match (given, recorded) {
        (Some(policy), _) => (PolicySource::Given, policy),
        (None, Some(config)) => (PolicySource::Recorded, config.policy.clone()),
        (None, None) => (PolicySource::Default, ServicePolicy::default()),
    };
    let config = ServiceConfig {
        zones: recorded.map_or_else(
            || series.zones.iter().map(|zone| (zone.clone(), 1)).collect(),
            |config| config.zones.clone(),
        ),
        policy,
        shifts: recorded.map(|config| config.shifts.clone()).unwrap_or_default(),
    };
    let setup = Setup { config, source, own_zone, follow: !what_if, moments: moments(&args.at, &series) };
    let told = replay::replay(&series, setup, recording.notes).map_err(|error| match error {
        ReplayError::Consecutive => {
            at(&error).hint("give it Envoy's log: each transition is explained from its line")
        }
        _ => at(&error),
    })?;
    args.output.print(&told, |wide| text::explanation(&told, wide))?;
    Ok(Exit::Ok)
}

/// In Unix ms, the earliest first.
fn moments(at: &[At], series: &Series) -> Vec<u64> {
    let begin = series.points.first().map_or(0, |(at, _)| *at);
    let ms = |at: &At| match at {
        At::Time(time) => u64::try_from(time.as_millisecond()).unwrap_or_default(),
        At::Offset(ms) => begin.saturating_add(*ms),
    };
    let mut moments: Vec<u64> = at.iter().map(ms).collect();
    moments.sort_unstable();
    moments
}

/// Reads a policy by itself, or that of a service in a topology file.
fn policy(file: &Path, service: &ServiceName) -> Result<ServicePolicy, Failure> {
    let (name, content) = read(file)?;
    let fail = |why: &dyn std::fmt::Display| Failure::usage(format_args!("failed to use {name}: {why}"));
    let sample = Entry::sample(Kind::Services);
    let fields: serde_json::Value =
        config::parse(Path::new(&name), &content, &sample).map_err(Failure::usage)?;
    let policy = if fields.get("services").is_some() {
        let document = Document::parse(&content).map_err(|error| fail(&error))?;
        if let Some(problem) = document.problems.first() {
            return Err(fail(problem));
        }
        let path = ["services".to_owned(), service.to_string()];
        let found = document.entries.into_iter().find(|(key, _)| key.path() == path);
        match found {
            Some((_, Entry::Service(policy))) => ServicePolicy::clone(&policy),
            _ => return Err(fail(&format_args!("it has no service {service}"))),
        }
    } else {
        config::parse(Path::new(&name), &content, &sample).map_err(Failure::usage)?
    };
    policy.validate().map_err(|error| fail(&error))?;
    Ok(policy)
}

/// Explains the transitions in a log.
fn logged(args: &ExplainArgs, name: &str, content: &str) -> Outcome {
    if args.policy.is_some() || args.zone.is_some() || !args.at.is_empty() {
        let failure = Failure::usage(format_args!(
            "failed to use {name}: it is no recording, and --policy, --zone and --at need one"
        ));
        return Err(failure.hint("make one: zonebreak explain record --envoy URL --for 60s > series.jsonl"));
    }
    let mut rows = Vec::new();
    let mut told = String::new();
    for (line, content) in (1..).zip(content.lines()) {
        let transition = match content.parse::<Transition>() {
            Ok(transition) => transition,
            Err(InvalidTransition::None) => continue,
            Err(error) => {
                eprintln!("{name} line {line}: {error}; left out");
                continue;
            }
        };
        if args.service.as_ref().is_some_and(|service| *service != transition.service) {
            continue;
        }
        told.push_str(&format!("line {line}: {}\n", text::logged(&transition)));
        let words = words::transition(&transition, true);
        let Transition { service, zone, from, to, cause, evidence, epoch, open_ms, shadow } = transition;
        rows.push(LogRow {
            line,
            service,
            zone,
            from: from.to_string(),
            to: to.to_string(),
            cause: cause.to_string(),
            evidence: evidence.map(EvidenceRow::from),
            open_ms,
            epoch,
            shadow,
            words,
        });
    }
    if rows.is_empty() {
        let failure = Failure::new(Exit::CheckFailed, format_args!("there is no transition in {name}"));
        return Err(failure.hint(
            "the filter writes them as warnings, so Envoy must run with --log-level warning or with --component-log-level wasm:warning",
        ));
    }
    args.output.print(&rows, |_| told)?;
    Ok(Exit::Ok)
}

/// Records.
async fn record(args: &RecordArgs) -> Outcome {
    if !args.envoy.starts_with("http://") {
        return Err(Failure::usage(format_args!(
            "an admin port is named as http://host:port, not {:?}",
            args.envoy
        )));
    }
    if args.every.0 < 10 {
        return Err(Failure::usage("--every: must be at least 10ms; the filter itself looks every 100ms"));
    }
    let options = RecordOptions {
        envoy: args.envoy.clone(),
        length: args.length.map(|length| Duration::from_millis(length.0)),
        every: Duration::from_millis(args.every.0),
    };
    let recorded = record::record(&options, stopped(), &mut io::stdout()).await;
    let recorded = recorded.or_else(|error| match error {
        // The reader has had enough (`| head`).
        RecordError::Write(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            Ok(Recorded { configured: true, ..Default::default() })
        }
        error => Err(error),
    });
    let recorded = recorded.map_err(|error| match error {
        RecordError::Unreachable { .. } => Failure::new(Exit::Unreachable, error)
            .hint("name Envoy's admin port with --envoy URL; in a pod: kubectl port-forward POD PORT"),
        RecordError::NoFilter { .. } => Failure::new(Exit::CheckFailed, error),
        RecordError::Write(_) => Failure::new(Exit::Unexpected, error),
    })?;
    if !recorded.configured {
        eprintln!(
            "the filter's configuration was not found in Envoy's /config_dump: `explain` will take the default policy, or that of --policy"
        );
    }
    if recorded.missed > 0 {
        eprintln!("{} samples were missed", recorded.missed);
    }
    eprintln!("{} samples recorded", recorded.samples);
    Ok(Exit::Ok)
}

async fn stopped() {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut terminate), Ok(mut interrupt)) = signals else { return std::future::pending().await };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
