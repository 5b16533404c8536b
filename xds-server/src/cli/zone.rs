//! `zonebreak zone ls | drain | restore | extend`: zones as operators see them, and time-boxed drains. The guards and the
//! transaction are in the topology crate; this says what came of them and waits for the proxies.

use std::time::Duration;

use clap::Subcommand;
use jiff::Timestamp;
use serde::Serialize;
use zonebreak_core::{
    names::{ServiceName, Zone},
    units::{Millis, Percent},
};
use zonebreak_topology::{
    EtcdOptions, ShiftTarget,
    shift::{self, Applied, Drain, Extension},
    strangers::{Stranger, strangers},
};

use super::{
    by_file, confirm,
    connect::{EtcdArgs, ServerArgs},
    failures,
    output::{OutputArgs, warn},
    tables,
};
use crate::{
    client::AdminClient,
    exit::{Exit, Failure, Outcome},
    host,
    model::{self, Convergence, ShiftRow, Status, ZoneRow},
};

/// What can be done with zones.
#[derive(Debug, Clone, Subcommand)]
pub enum ZoneCommand {
    /// Lists the zones: capacity, endpoints, and drains with their reason and end.
    ///
    /// Asks etcd when one is named, else the server.
    #[command(
        after_help = "Examples:\n  zonebreak zone ls\n  zonebreak zone ls --etcd http://127.0.0.1:2379 -o json"
    )]
    Ls(LsArgs),
    /// Moves traffic out of a zone for a time.
    ///
    /// The drain ends by itself when its time is over, with or without a control plane. It is refused, with the reason, for
    /// an unknown zone, for the last zone that can serve, and while another drain is active. Written to etcd; done when
    /// every connected proxy has acknowledged it.
    #[command(after_help = "Examples:
  zonebreak zone drain az-b --for 30m --reason \"switch maintenance\"
  zonebreak zone drain az-b --for 10m --keep 30 --reason \"load test at 30 %\"
  zonebreak zone drain az-b --service order-svc --for 1h --reason \"bad release in az-b\"

Ends with 0 confirmed, 4 written but not confirmed, 5 refused, 6 conflict, 7 etcd unreachable.
After 4, also where no server could be asked, do not run it again: the drain is in etcd.")]
    Drain(DrainArgs),
    /// Ends a drain before its time.
    #[command(after_help = "Example:\n  zonebreak zone restore az-b")]
    Restore(RestoreArgs),
    /// Gives a drain another end.
    #[command(after_help = "Examples:
  zonebreak zone extend az-b --for 1h       ends one hour from now
  zonebreak zone extend az-b --by 15m       ends 15 minutes later than it would")]
    Extend(ExtendArgs),
}

/// `zone ls`.
#[derive(Debug, Clone, clap::Args)]
pub struct LsArgs {
    #[command(flatten)]
    pub(super) output: OutputArgs,
    #[command(flatten)]
    pub(super) etcd: EtcdArgs,
    #[command(flatten)]
    pub(super) server: ServerArgs,
}

/// `zone drain`.
#[derive(Debug, Clone, clap::Args)]
pub struct DrainArgs {
    /// The zone to move traffic out of.
    pub zone: Zone,
    /// How long, such as 30m.
    #[arg(long = "for", value_name = "DURATION")]
    pub duration: Millis,
    /// Why, for those who find the drain later.
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// Percentage of its usual share that the zone keeps, below 100, in steps of 0.1.
    #[arg(long, value_name = "PERCENT", default_value = "0", value_parser = percent)]
    pub keep: Percent,
    /// Drain this service alone.
    #[arg(long, value_name = "SERVICE")]
    pub service: Option<ServiceName>,
    /// Who does it; user@host when absent.
    #[arg(long, value_name = "NAME", env = "ZONEBREAK_ACTOR", hide_env_values = true)]
    pub actor: Option<String>,
    /// Drain even where a guard says no.
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub(super) write: WriteArgs,
}

/// `zone restore`.
#[derive(Debug, Clone, clap::Args)]
pub struct RestoreArgs {
    /// The drained zone.
    pub zone: Zone,
    /// End the drain of this service alone.
    #[arg(long, value_name = "SERVICE")]
    pub service: Option<ServiceName>,
    #[command(flatten)]
    pub(super) write: WriteArgs,
}

/// `zone extend`.
#[derive(Debug, Clone, clap::Args)]
#[command(group = clap::ArgGroup::new("end").required(true).args(["duration", "by"]))]
pub struct ExtendArgs {
    /// The drained zone.
    pub zone: Zone,
    /// End this long from now, such as 1h.
    #[arg(long = "for", value_name = "DURATION")]
    pub duration: Option<Millis>,
    /// End this much later than set, such as 15m.
    #[arg(long, value_name = "DURATION")]
    pub by: Option<Millis>,
    /// Extend the drain of this service alone.
    #[arg(long, value_name = "SERVICE")]
    pub service: Option<ServiceName>,
    #[command(flatten)]
    pub(super) write: WriteArgs,
}

/// What every command that writes takes.
#[derive(Debug, Clone, clap::Args)]
pub struct WriteArgs {
    /// Wait until every connected proxy has acknowledged the change (the default).
    #[arg(long, conflicts_with = "no_wait")]
    wait: bool,
    /// Return as soon as it is written.
    #[arg(long)]
    no_wait: bool,
    /// How long to wait.
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    pub timeout: Millis,
    #[command(flatten)]
    pub(super) output: OutputArgs,
    #[command(flatten)]
    pub(super) etcd: EtcdArgs,
    #[command(flatten)]
    pub(super) server: ServerArgs,
}

/// What `zone ls -o json` prints.
#[derive(Debug, Serialize)]
struct Listed {
    zones: Vec<ZoneRow>,
    /// Every drain in force, those of single services included.
    shifts: Vec<ShiftRow>,
}

/// What `-o json` prints of a command that wrote something.
#[derive(Debug, Serialize)]
struct Written {
    /// The revision of etcd that holds it.
    revision: i64,
    /// The drain; for `restore`, the one that was ended.
    drain: ShiftRow,
    /// How far it has come; absent with `--no-wait`.
    convergence: Option<Convergence>,
}

/// Runs the command.
pub async fn run(command: ZoneCommand) -> Outcome {
    match command {
        ZoneCommand::Ls(args) => ls(&args).await,
        ZoneCommand::Drain(args) => drain(args).await,
        ZoneCommand::Restore(args) => {
            let target = ShiftTarget { zone: args.zone, service: args.service };
            let etcd = args.write.etcd(|| by_file::drained(&key(&target), "take out"))?;
            let applied = shift::restore(&etcd, &target).await.map_err(failures::shift)?;
            eprintln!("the drain of {} is over, at revision {}", applied.target, applied.revision);
            args.write.confirm(applied).await
        }
        ZoneCommand::Extend(args) => {
            let target = ShiftTarget { zone: args.zone, service: args.service };
            let extension = match (args.duration, args.by) {
                (Some(duration), _) => Extension::For(duration),
                (None, by) => Extension::By(by.unwrap_or_default()),
            };
            let etcd = args.write.etcd(|| by_file::drained(&key(&target), "change `expires_at` of"))?;
            let applied = shift::extend(&etcd, &target, extension).await.map_err(failures::shift)?;
            let (until, revision) = (applied.shift.expires_at, applied.revision);
            eprintln!("the drain of {} now ends at {until}, at revision {revision}", applied.target);
            args.write.confirm(applied).await
        }
    }
}

/// The name of a drain in a topology file.
fn key(target: &ShiftTarget) -> String {
    target
        .service
        .as_ref()
        .map_or_else(|| target.zone.to_string(), |service| format!("{}/{service}", target.zone))
}

async fn ls(args: &LsArgs) -> Outcome {
    let now = Timestamp::now();
    let (zones, shifts, strangers): (Vec<ZoneRow>, Vec<ShiftRow>, Vec<Stranger>) = match args
        .etcd
        .load_if_named()?
    {
        Some(config) => {
            let topology =
                config.etcd.options().map_err(Failure::usage)?.topology().await.map_err(failures::etcd)?;
            (model::zones(&topology, now), model::shifts(&topology, now), strangers(&topology))
        }
        None => {
            let status = AdminClient::new(&args.server.server)?.get("/status").await;
            let status: Status = status.map_err(|error| {
                let failure = Failure::from(error);
                match failure.hint.clone() {
                    Some(hint) => failure.hint(format_args!("{hint}; or ask an etcd: --etcd URL")),
                    None => failure,
                }
            })?;
            (status.zones, status.shifts, status.strangers)
        }
    };
    warn(strangers);
    let listed = Listed { zones, shifts };
    args.output.print(&listed, |wide| tables::zones(&listed.zones, &listed.shifts, now, wide))?;
    Ok(Exit::Ok)
}

async fn drain(args: DrainArgs) -> Outcome {
    let drain = Drain {
        zone: args.zone,
        service: args.service,
        keep_percent: args.keep,
        duration: args.duration,
        reason: args.reason,
        actor: args.actor.unwrap_or_else(host::actor),
        force: args.force,
    };
    let etcd = args.write.etcd(|| by_file::drain(&drain, Timestamp::now()))?;
    let applied = shift::drain(&etcd, &drain).await.map_err(failures::shift)?;
    let Applied { revision, target, shift } = &applied;
    eprintln!("{target} keeps {} until {}, at revision {revision}", shift.keep_percent, shift.expires_at);
    let (waits, server) = (!args.write.no_wait, args.write.server.clone());
    let drain = ShiftRow::of(target, shift);
    let (revision, ended) = (*revision, args.write.confirm(applied).await?);
    if waits {
        confirm::in_force(&server, revision, &drain).await?;
    }
    Ok(ended)
}

// === impl WriteArgs ===

impl WriteArgs {
    /// The etcd to write to. Where none is named, `without` is what can be done.
    pub(super) fn etcd(&self, without: impl FnOnce() -> String) -> Result<EtcdOptions, Failure> {
        if !self.no_wait {
            // Whoever will be asked is named well before anything is written.
            AdminClient::new(&self.server.server)?;
        }
        self.etcd.load(without)?.etcd.options().map_err(Failure::usage)
    }

    /// Waits until every proxy has `revision`, unless told not to.
    pub(super) async fn converged(&self, revision: i64) -> Result<Option<Convergence>, Failure> {
        if self.no_wait {
            return Ok(None);
        }
        confirm::confirmed(&self.server, revision, Duration::from_millis(self.timeout.0)).await.map(Some)
    }

    /// Waits for the proxies, unless told not to, and prints what was written. It is printed also when they do not confirm:
    /// it is written all the same.
    async fn confirm(&self, applied: Applied) -> Outcome {
        let revision = applied.revision;
        let confirmed = self.converged(revision).await;
        let drain = ShiftRow::of(&applied.target, &applied.shift);
        let written = Written { revision, drain, convergence: confirmed.as_ref().ok().copied().flatten() };
        self.output.print_for_programs(&written)?;
        confirmed.map(|_| Exit::Ok)
    }
}

fn percent(text: &str) -> Result<Percent, String> {
    let number = text.trim_end_matches('%').trim_end();
    let number: f64 =
        number.parse().map_err(|_| format!("a percentage is a number from 0 to 100, not {text:?}"))?;
    let percent = Percent::new(number).map_err(|error| error.to_string())?;
    // What would be kept is what was said, and no neighbour of it.
    if (number * 10.0 - f64::from(percent.permille())).abs() > 1e-6 {
        return Err(format!("a percentage goes in steps of 0.1, not {text:?}"));
    }
    Ok(percent)
}
