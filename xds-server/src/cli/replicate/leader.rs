//! `zonebreak replicate leader-guard`: where the leader of an etcd that spans regions is, and which region may be lost. The
//! decisions are in `zonebreak_replication::leader`.

use std::{net::SocketAddr, time::Duration};

use prometheus::Registry;
use tokio_util::sync::CancellationToken;
use zonebreak_core::units::Millis;
use zonebreak_replication::{
    leader::{self, GuardMetrics, Limits, Placement, Report},
    region::Region,
};

use super::{failure, health};
use crate::{
    cli::{
        connect::{SourceArgs, source},
        output::{OutputArgs, columns},
        signal,
    },
    exit::{Exit, Failure, Outcome},
    telemetry::log,
};

/// The flags of `zonebreak replicate leader-guard`.
#[derive(Debug, Clone, clap::Args)]
pub struct LeaderArgs {
    /// Which member is in which region, by its name or a peer URL; once for each.
    #[arg(long = "place", value_name = "MEMBER=REGION", required = true)]
    places: Vec<String>,
    /// Where the leader may be; may be given more than once.
    #[arg(long = "allow", value_name = "REGION", required = true)]
    allowed: Vec<Region>,
    /// How long the leader must have strayed before it is moved.
    #[arg(long, value_name = "DURATION", default_value_t = Millis::secs(10))]
    patience: Millis,
    /// How long to rest after a move; twice as long each time it strays again.
    #[arg(long, value_name = "DURATION", default_value_t = Millis::secs(60))]
    rest: Millis,
    /// Between two looks.
    #[arg(long, value_name = "DURATION", default_value_t = Millis::secs(2))]
    every: Millis,
    /// Show how it is and move nothing.
    #[arg(long)]
    once: bool,
    /// Health checks and metrics [default: none].
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "once")]
    health: Option<SocketAddr>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    etcd: SourceArgs,
}

/// Runs the command.
pub async fn run(args: LeaderArgs) -> Outcome {
    let config = args.etcd.load(Vec::new())?;
    let options = source(&config)?;
    let placement = Placement::parse(args.places.iter().map(String::as_str)).map_err(|error| {
        Failure::usage(format_args!("failed to {error}")).hint("write --place MEMBER=REGION")
    })?;
    let limits = Limits {
        allowed: args.allowed.iter().cloned().collect(),
        patience_ms: args.patience.0,
        rest_ms: args.rest.0,
    };
    if args.once {
        let report =
            leader::report(&options, &placement, &limits).await.map_err(|error| failure(error.into()))?;
        args.output.print(&report, |_| table(&report))?;
        let safe = report.in_place && report.regions.iter().all(|row| row.survives);
        return Ok(if safe { Exit::Ok } else { Exit::CheckFailed });
    }
    log::start(&config.log);
    let (stop, registry) = (CancellationToken::new(), Registry::new());
    let metrics = GuardMetrics::new(&registry).map_err(anyhow::Error::from)?;
    if let Some(listen) = args.health {
        let told = metrics.clone();
        health::serve(listen, &registry, stop.clone(), move || {
            match (told.answers.get(), told.in_place.get()) {
                (1, 1) => (true, "in place".to_owned()),
                (1, _) => (false, "the leader strays".to_owned()),
                _ => (false, "etcd does not answer".to_owned()),
            }
        })?;
    }
    tokio::spawn(signal::stop(stop.clone()));
    leader::keep(options, placement, limits, Duration::from_millis(args.every.0), metrics, stop).await;
    Ok(Exit::Ok)
}

fn table(report: &Report) -> String {
    let region = |region: &Option<Region>| region.as_ref().map_or("-".to_owned(), ToString::to_string);
    let member = |member: &leader::Member| {
        let role = match (Some(member.id) == report.leader, member.learner) {
            (true, _) if report.in_place => "leader",
            (true, _) => "LEADER, ASTRAY",
            (_, true) => "learner",
            _ => "voter",
        };
        let answers = member.raft_index.map_or("NO ANSWER".to_owned(), |index| index.to_string());
        [member.name.clone(), region(&member.region), role.to_owned(), answers]
    };
    let row = |row: &leader::RegionRow| {
        let left = format!("{} of {} needed", row.left, row.quorum);
        let lost = if row.survives { "goes on" } else { "STOPS" };
        [region(&row.region), row.voters.to_string(), row.learners.to_string(), left, lost.to_owned()]
    };
    let members = columns(["MEMBER", "REGION", "ROLE", "LOG INDEX"], report.members.iter().map(member));
    let regions = columns(
        ["LOST REGION", "VOTERS", "LEARNERS", "VOTERS LEFT", "THE REST"],
        report.regions.iter().map(row),
    );
    format!("{members}\n{regions}")
}
