//! `zonebreak replicate status`: what the destination says of itself, beside what the source says now.

use zonebreak_replication::{
    checkpoint::{Role, Torn},
    verify::{self, Status},
};

use super::{StreamArgs, failure};
use crate::{
    cli::output::OutputArgs,
    exit::{Exit, Failure, Outcome},
};

/// The flags of `zonebreak replicate status`.
#[derive(Debug, Clone, clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    stream: StreamArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs the command.
pub async fn run(args: StatusArgs) -> Outcome {
    let config = args.stream.load(Vec::new())?;
    let options = config.replicate.options().map_err(Failure::usage)?;
    let status = verify::status(options).await.map_err(failure)?;
    args.output.print(&status, |_| table(&status))?;
    let whole =
        status.checkpoint.as_ref().is_some_and(zonebreak_replication::checkpoint::Checkpoint::is_whole);
    Ok(if whole { Exit::Ok } else { Exit::CheckFailed })
}

fn table(status: &Status) -> String {
    let mut out = format!("stream       {}\n", status.stream);
    match (&status.source_head, &status.source_error) {
        (Some(head), _) => out += &format!("source       revision {head}\n"),
        (None, why) => out += &format!("source       NO ANSWER: {}\n", why.as_deref().unwrap_or("-")),
    }
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
    out += &format!("keys         {}, digest {}\n", checkpoint.keys, checkpoint.digest);
    out +=
        &format!("version      {} revisions taken in, epoch {}\n", checkpoint.sync_version, checkpoint.epoch);
    out += &format!("holder       {}\n", checkpoint.holder);
    out
}
