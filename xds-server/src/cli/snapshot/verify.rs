//! `zonebreak snapshot verify`: whether snapshots are what was written, and what the etcd had.

use serde::Serialize;
use zonebreak_replication::snapshot::{SnapshotError, catalog::Listed, format, save};

use super::{PlaceArgs, blocking, catalog, etcd, failure};
use crate::{
    cli::output::columns,
    config::Config,
    exit::{Exit, Failure, Outcome},
};

/// The flags of `zonebreak snapshot verify`.
#[derive(Debug, Clone, clap::Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["names", "all"]))]
pub struct VerifyArgs {
    /// The snapshots, as `ls` names them, or paths.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Every snapshot in the directory.
    #[arg(long)]
    all: bool,
    /// Compare with the etcd as of the snapshot's revision as well.
    #[arg(long)]
    live: bool,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    ok: bool,
    keys: Option<u64>,
    digest: Option<String>,
    /// What the etcd has: `equal`, `differs`, or why it was not compared.
    live: Option<String>,
    error: Option<String>,
}

/// Runs the command.
pub async fn run(args: VerifyArgs) -> Outcome {
    let config = args.place.load(None)?;
    let catalog = catalog(&config);
    let listed = if args.all {
        catalog.list()
    } else {
        args.names.iter().map(|name| catalog.find(name)).collect::<Result<Vec<_>, _>>()
    };
    let listed = listed.map_err(failure)?;
    if listed.is_empty() {
        // Whoever alerts on this must hear of a keeper that writes elsewhere, or not at all.
        let directory = config.snapshots.directory.display();
        let none = Failure::new(Exit::CheckFailed, format_args!("no snapshots in {directory}"));
        return Err(none.hint("check --dir / snapshots.directory, and that something saves them there"));
    }
    let mut rows = Vec::new();
    for listed in listed {
        rows.push(row(listed, args.live.then_some(&config)).await?);
    }
    args.place.output.print(&rows, |_| table(&rows))?;
    Ok(if rows.iter().all(|row| row.ok) { Exit::Ok } else { Exit::CheckFailed })
}

async fn row(listed: Listed, live: Option<&Config>) -> Result<Row, Failure> {
    let path = listed.path;
    let mut row = Row { name: listed.name, ok: false, keys: None, digest: None, live: None, error: None };
    let (header, footer) = match blocking(move || format::verify(&path)).await? {
        Ok(content) => content,
        Err(error @ SnapshotError::Damaged { .. }) => {
            row.error = Some(format!("failed to {error}"));
            return Ok(row);
        }
        Err(error) => return Err(failure(error)),
    };
    (row.ok, row.keys, row.digest) = (true, Some(footer.keys), Some(footer.digest.to_string()));
    if let Some(config) = live {
        let found = save::live(&etcd(config)?, &header).await.map_err(failure)?;
        row.ok = found == (footer.keys, footer.digest);
        row.live = Some(if row.ok {
            "equal".to_owned()
        } else {
            format!("DIFFERS: {} keys, digest {}", found.0, found.1)
        });
    }
    Ok(row)
}

fn table(rows: &[Row]) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    let mut out = columns(
        ["NAME", "VERDICT", "KEYS", "DIGEST", "ETCD"],
        rows.iter().map(|row| {
            let verdict = if row.error.is_some() { "DAMAGED" } else { "whole" };
            let keys = row.keys.map_or_else(|| "-".to_owned(), |keys| keys.to_string());
            [row.name.clone(), verdict.to_owned(), keys, text(&row.digest), text(&row.live)]
        }),
    );
    for error in rows.iter().filter_map(|row| row.error.as_ref()) {
        out += &format!("{error}\n");
    }
    out
}
