//! `zonebreak replicate status`: what the destination says of itself, beside what the source says now.

use std::time::Duration;

use tokio::time::Instant;
use zonebreak_core::units::Millis;
use zonebreak_replication::{
    ReplicationOptions,
    checkpoint::{Role, Torn},
    region::{self, Converged, Ownership, Unfinished},
    verify::{self, Status},
};

use super::{StreamArgs, failure};
use crate::{
    cli::output::OutputArgs,
    exit::{Exit, Failure, Outcome},
};

/// Between two looks.
const POLL: Duration = Duration::from_millis(200);

/// The flags of `zonebreak replicate status`.
#[derive(Debug, Clone, clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    stream: StreamArgs,
    /// Wait until the destination has everything that the source has; exit code 4 when it has not in time.
    #[arg(long)]
    wait: bool,
    /// How long to wait.
    #[arg(long, value_name = "DURATION", default_value_t = Millis::secs(60), requires = "wait")]
    timeout: Millis,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs the command.
pub async fn run(args: StatusArgs) -> Outcome {
    let config = args.stream.load(Vec::new())?;
    let options = config.replicate.options().map_err(Failure::usage)?;
    if args.wait {
        converged(&options, Duration::from_millis(args.timeout.0)).await?;
    }
    let status = verify::status(options).await.map_err(failure)?;
    args.output.print(&status, |_| table(&status))?;
    let whole =
        status.checkpoint.as_ref().is_some_and(zonebreak_replication::checkpoint::Checkpoint::is_whole);
    Ok(if whole && status.unfinished.is_none() { Exit::Ok } else { Exit::CheckFailed })
}

/// Waits; what is missing goes to standard error, each time it is something else.
async fn converged(options: &ReplicationOptions, timeout: Duration) -> Result<(), Failure> {
    let (begun, mut said) = (Instant::now(), String::new());
    loop {
        let why = match region::converge(options.clone()).await.map_err(failure)? {
            Converged::Yes { .. } => return Ok(()),
            Converged::Promoted { epoch } => {
                let why =
                    format!("the destination was promoted (epoch {epoch}): it follows no source any more");
                return Err(Failure::new(Exit::Refused, why));
            }
            Converged::No { why } => why,
        };
        if begun.elapsed() >= timeout {
            let why = format!("the destination has not everything after {} s: {why}", timeout.as_secs());
            return Err(Failure::new(Exit::NotConverged, why)
                .hint("see whether a replicator runs: its /readyz, or the holder that `zonebreak replicate status` shows"));
        }
        if why != said {
            eprintln!("{why}");
            said = why;
        }
        tokio::time::sleep(POLL.min(timeout)).await;
    }
}

/// Who owns the prefix, as each side says. A source that was never fenced has no record.
fn owners(status: &Status) -> String {
    let say = |owner: &Option<Ownership>| match owner {
        Some(Ownership { region, epoch, actor, since, pending, .. }) => {
            let pending = if *pending { ", PENDING" } else { "" };
            format!("region {region}, epoch {epoch}, by {actor} at {since:.0}{pending}")
        }
        None => "no record".to_owned(),
    };
    let (source, destination) = (&status.owner_at_source, &status.owner_at_destination);
    match (source, destination) {
        (None, None) => String::new(),
        _ => {
            format!("owner        {} (by the source)\n", say(source))
                + &format!("             {} (by the destination)\n", say(destination))
        }
    }
}

/// What is to be done about a promotion that did not say that it came to its end.
fn unfinished(promotion: &Unfinished) -> String {
    let Unfinished { region, actor, since, taken, .. } = promotion;
    if *taken {
        return format!(
            "promotion    NOT CONFIRMED: region {region} is the owner, and the source was not told that the promotion of {actor} at {since:.0}\n             \
             came to its end. Run `zonebreak replicate promote` again: it tells the source, and changes nothing else\n"
        );
    }
    format!(
        "promotion    UNDER WAY OR CUT OFF: {actor} fenced the source at {since:.0}, and region {region} was not made the owner: nobody\n             \
         may write. If that command does not run any more, `zonebreak replicate promote` goes on with it, and with --abort gives\n             \
         the source its prefix back\n"
    )
}

fn table(status: &Status) -> String {
    let mut out = format!("stream       {}\n", status.stream);
    match (&status.source_head, &status.source_error) {
        (Some(head), _) => out += &format!("source       revision {head}\n"),
        (None, why) => {
            out += &format!("source       NO ANSWER: failed to {}\n", why.as_deref().unwrap_or("-"))
        }
    }
    out += &owners(status);
    out += &status.unfinished.as_ref().map(unfinished).unwrap_or_default();
    let Some(checkpoint) = &status.checkpoint else {
        return out + "destination  no checkpoint: nothing was ever replicated here\n";
    };
    let state = match (checkpoint.role, checkpoint.torn) {
        (Role::Primary, _) => "promoted: it follows no source".to_owned(),
        (Role::Replica, None) => "whole".to_owned(),
        (Role::Replica, Some(Torn::Staging { revision })) => {
            format!("TORN: revision {revision} is being written")
        }
        (Role::Replica, Some(Torn::Aligning { revision })) => {
            format!("TORN: it is being made equal to revision {revision}")
        }
    };
    out += &format!("destination  revision {} of the source, {state}\n", checkpoint.source_revision);
    if let (Some(behind), Some(age)) = (status.behind, status.age_ms) {
        let seconds = age as f64 / 1000.0;
        out += &format!(
            "behind       at most {behind} revisions; known to be the source's {seconds:.1} s ago\n"
        );
    }
    out += &match checkpoint.overlap {
        Some(policy) => format!("writers      both regions; conflicts are decided by {policy}\n"),
        None => format!(
            "keys         {}, digest {}\nversion      {} revisions taken in, epoch {}\n",
            checkpoint.keys, checkpoint.digest, checkpoint.sync_version, checkpoint.epoch
        ),
    };
    out += &format!("holder       {}\n", checkpoint.holder);
    out
}
