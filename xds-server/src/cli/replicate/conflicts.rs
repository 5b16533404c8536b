//! `zonebreak replicate conflicts`: what two regions wrote without knowing of each other, and deciding about it. The work is in
//! `zonebreak_replication::overlap::conflicts`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};
use zonebreak_core::units::Millis;
use zonebreak_replication::overlap::{
    conflicts::{self, Keep, Listed},
    log::{Conflict, Party},
};

use super::{StreamArgs, failure};
use crate::{
    cli::output::{OutputArgs, columns},
    exit::{Exit, Failure, Outcome},
    host,
};

/// Characters of a value in the table.
const SHOWN: usize = 40;

/// The verbs.
#[derive(Debug, clap::Subcommand)]
pub enum ConflictsCommand {
    /// Lists conflicts: those that are open, and the latest of the others.
    ///
    /// LOCAL is what the destination had, REMOTE what came from the source. Exit code 3 while any is open.
    #[command(after_help = "Examples:
  zonebreak replicate conflicts list --config west-to-east.yaml
  zonebreak replicate conflicts list --config west-to-east.yaml --since 1h -o json")]
    List(ListArgs),
    /// Decides about an open conflict, for both regions.
    ///
    /// Exit code 6 when there is no open conflict of the key, or the other region wrote it again since: look at it again.
    #[command(after_help = "Example:
  zonebreak replicate conflicts resolve /zonebreak/v1/services/order-svc --keep remote --config west-to-east.yaml")]
    Resolve(ResolveArgs),
    /// Deletes what the log has of conflicts that are over. Open ones stay.
    #[command(after_help = "Example:
  zonebreak replicate conflicts clear --config west-to-east.yaml --older-than 30d")]
    Clear(ClearArgs),
}

/// The flags of `zonebreak replicate conflicts list`.
#[derive(Debug, Clone, clap::Args)]
pub struct ListArgs {
    #[command(flatten)]
    stream: StreamArgs,
    /// Of those that are over, only what was found so long ago at most.
    #[arg(long, value_name = "DURATION")]
    since: Option<Millis>,
    #[command(flatten)]
    output: OutputArgs,
}

/// The flags of `zonebreak replicate conflicts resolve`.
#[derive(Debug, Clone, clap::Args)]
pub struct ResolveArgs {
    /// The key, as the destination names it; where that is no text, base64:BYTES as `list` shows it.
    #[arg(value_name = "KEY", value_parser = key)]
    key: Key,
    /// Whose write is to be in force.
    #[arg(long, value_enum, value_name = "SIDE")]
    keep: Side,
    /// Who does this [default: user and host].
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    #[command(flatten)]
    stream: StreamArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// The flags of `zonebreak replicate conflicts clear`.
#[derive(Debug, Clone, clap::Args)]
pub struct ClearArgs {
    #[command(flatten)]
    stream: StreamArgs,
    /// Only what was found longer ago.
    #[arg(long, value_name = "DURATION")]
    older_than: Option<Millis>,
}

/// A key as it was written on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key(Vec<u8>);

/// A side of a conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Side {
    /// What the destination has now.
    Local,
    /// What the source has.
    Remote,
}

/// Runs a verb.
pub async fn run(command: ConflictsCommand) -> Outcome {
    match command {
        ConflictsCommand::List(args) => list(args).await,
        ConflictsCommand::Resolve(args) => resolve(args).await,
        ConflictsCommand::Clear(args) => clear(args).await,
    }
}

async fn list(args: ListArgs) -> Outcome {
    let options = args.stream.load(Vec::new())?.replicate.options().map_err(Failure::usage)?;
    let listed = conflicts::list(options, args.since.map(ago)).await.map_err(failure)?;
    args.output.print(&listed, |wide| table(&listed, wide))?;
    let open = listed.iter().any(|listed| listed.open);
    Ok(if open { Exit::CheckFailed } else { Exit::Ok })
}

async fn resolve(args: ResolveArgs) -> Outcome {
    let options = args.stream.load(Vec::new())?.replicate.options().map_err(Failure::usage)?;
    let keep = match args.keep {
        Side::Local => Keep::Local,
        Side::Remote => Keep::Remote,
    };
    let actor = args.actor.unwrap_or_else(host::actor);
    let decided = conflicts::decide(options, &args.key.0, keep, &actor).await.map_err(failure)?;
    args.output.print(&decided, |_| {
        let (kept, lost) = match keep {
            Keep::Local => (&decided.local, &decided.remote),
            Keep::Remote => (&decided.remote, &decided.local),
        };
        format!(
            "{} is what region {} has; what region {} had is in the log. The other region has it as soon as its replicator does\n",
            decided.key, kept.region, lost.region
        )
    })?;
    Ok(Exit::Ok)
}

async fn clear(args: ClearArgs) -> Outcome {
    let options = args.stream.load(Vec::new())?.replicate.options().map_err(Failure::usage)?;
    let cleared = conflicts::clear(options, args.older_than.map(ago)).await.map_err(failure)?;
    eprintln!("conflicts that were over are deleted: {cleared}");
    Ok(Exit::Ok)
}

fn key(text: &str) -> Result<Key, String> {
    match text.strip_prefix("base64:") {
        None => Ok(Key(text.as_bytes().to_vec())),
        Some(bytes) => {
            let read = STANDARD.decode(bytes);
            read.map(Key).map_err(|error| format!("what follows base64: is none ({error})"))
        }
    }
}

/// The moment so long ago; the beginning of time, where that is before it.
fn ago(duration: Millis) -> Timestamp {
    let back = SignedDuration::from_millis(i64::try_from(duration.0).unwrap_or(i64::MAX));
    Timestamp::now().checked_sub(back).unwrap_or(Timestamp::MIN)
}

fn table(listed: &[Listed], wide: bool) -> String {
    if listed.is_empty() {
        return "no conflicts\n".to_owned();
    }
    let winner = |conflict: &Conflict| match conflict.winner {
        None => "NOBODY".to_owned(),
        Some(origin) if origin == conflict.local.origin => conflict.local.region.to_string(),
        Some(_) => conflict.remote.region.to_string(),
    };
    let side = |party: &Party| {
        let Some(value) = &party.value else { return format!("{}: deleted", party.region) };
        let value = value.to_string();
        let most = if wide { usize::MAX } else { SHOWN };
        let shown = value.chars().map(|c| if c.is_control() { ' ' } else { c });
        let mut shown: String = shown.take(most).collect();
        if shown.len() < value.len() {
            shown.push('…');
        }
        format!("{}: {shown}", party.region)
    };
    let row = |listed: &Listed| {
        let conflict = &listed.conflict;
        let by = conflict.decided_by.clone().unwrap_or_else(|| conflict.policy.to_string());
        [
            format!("{:.0}", conflict.at),
            conflict.key.to_string(),
            winner(conflict),
            by,
            side(&conflict.local),
            side(&conflict.remote),
        ]
    };
    columns(["FOUND", "KEY", "WINNER", "BY", "LOCAL", "REMOTE"], listed.iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_written_as_it_is_listed() {
        for bytes in [b"/a/limit".as_slice(), "/a/zürich".as_bytes(), b"/a/\xff\x00"] {
            let listed = zonebreak_replication::overlap::log::Kept::of(bytes).to_string();
            assert_eq!(key(&listed), Ok(Key(bytes.to_vec())), "{listed}");
        }
        assert!(key("base64:?").unwrap_err().contains("base64"));
    }
}
