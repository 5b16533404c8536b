//! `zonebreak snapshot ls`: which snapshots there are, and which moments can be made of them and the change log.

use serde::Serialize;
use zonebreak_replication::snapshot::{
    catalog::Listed,
    format::Header,
    moment::{self, Base, time},
};

use super::{PlaceArgs, blocking, catalog, failure, history};
use crate::{
    cli::output::columns,
    exit::{Exit, Outcome},
};

/// The flags of `zonebreak snapshot ls`.
#[derive(Debug, Clone, clap::Args)]
pub struct LsArgs {
    #[command(flatten)]
    place: PlaceArgs,
}

/// A snapshot in a table.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    name: String,
    bytes: u64,
    revision: Option<i64>,
    time: Option<String>,
    keys: Option<u64>,
    prefix: Option<String>,
    cluster: Option<String>,
    digest: Option<String>,
    /// Why it cannot be used.
    error: Option<String>,
}

/// Moments that can be restored, the first and the last.
#[derive(Debug, Clone, Serialize)]
struct Restorable {
    from_revision: i64,
    from_time: String,
    to_revision: i64,
    to_time: String,
}

#[derive(Debug, Serialize)]
struct Answer {
    snapshots: Vec<Row>,
    restorable: Vec<Restorable>,
}

/// Runs the command.
pub async fn run(args: LsArgs) -> Outcome {
    let config = args.place.load(None)?;
    let (catalog, log) = (catalog(&config), history(&config).await?);
    let prefix = config.replicate.prefix.clone();
    let (listed, ranges, foreign) = blocking(move || {
        let listed = catalog.list()?;
        let headers = listed.iter().filter_map(|it| it.content.as_ref().ok()).map(|(header, _)| header);
        let (usable, others): (Vec<&Header>, Vec<&Header>) = headers
            .filter(|it| it.prefix == prefix)
            .partition(|it| log.as_ref().is_none_or(|log| moment::goes_on(log, it)));
        let bases = |of: &[&Header]| -> Vec<Base> {
            of.iter().map(|it| Base { revision: it.revision, at_ms: it.at_ms }).collect()
        };
        let stretches = moment::stretches(log.as_ref())?;
        let unused = log.as_ref().filter(|_| usable.is_empty());
        let foreign = unused.and_then(|log| moment::foreign(log, others.iter().copied()));
        let ranges = moment::restorable(&bases(&usable), &bases(&others), &stretches);
        Ok((listed, ranges, foreign))
    })
    .await?
    .map_err(failure)?;
    let restorable = ranges.iter().map(|range| Restorable {
        from_revision: range.from.revision.0,
        from_time: time(range.from.at_ms),
        to_revision: range.to.revision.0,
        to_time: time(range.to.at_ms),
    });
    let answer = Answer { snapshots: listed.iter().map(Row::of).collect(), restorable: restorable.collect() };
    args.place.output.print(&answer, |wide| table(&answer, wide))?;
    if let Some(why) = foreign {
        eprintln!("{why}");
    }
    Ok(Exit::Ok)
}

fn table(answer: &Answer, wide: bool) -> String {
    if answer.snapshots.is_empty() {
        return "no snapshots\n".to_owned();
    }
    let row = |it: &Restorable| {
        [it.from_revision.to_string(), it.to_revision.to_string(), it.from_time.clone(), it.to_time.clone()]
    };
    let ranges = columns(["FROM REVISION", "TO", "FROM TIME", "TO"], answer.restorable.iter().map(row));
    format!("{}\nCan be restored:\n{ranges}", Row::table(&answer.snapshots, wide))
}

// === impl Row ===

impl Row {
    pub(super) fn of(listed: &Listed) -> Self {
        let content = listed.content.as_ref();
        let header = content.ok().map(|(header, _)| header);
        let footer = content.ok().map(|(_, footer)| footer);
        Self {
            name: listed.name.clone(),
            bytes: listed.bytes,
            revision: header.map(|it| it.revision.0),
            time: header.map(|it| time(it.at_ms)),
            keys: footer.map(|it| it.keys),
            prefix: header.map(|it| it.prefix.clone()),
            cluster: header.map(|it| it.cluster.to_string()),
            digest: footer.map(|it| it.digest.to_string()),
            error: content.err().map(|error| format!("failed to {error}")),
        }
    }

    pub(super) fn table(rows: &[Self], wide: bool) -> String {
        let text = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        let number = |value: Option<i64>| text(value.map(|it| it.to_string()));
        let keys = |row: &Self| text(row.keys.map(|it| it.to_string()));
        let mut out = if wide {
            columns(
                ["NAME", "REVISION", "TIME", "KEYS", "BYTES", "PREFIX", "CLUSTER", "DIGEST"],
                rows.iter().map(|row| {
                    [
                        row.name.clone(),
                        number(row.revision),
                        text(row.time.clone()),
                        keys(row),
                        row.bytes.to_string(),
                        text(row.prefix.clone()),
                        text(row.cluster.clone()),
                        text(row.digest.clone()),
                    ]
                }),
            )
        } else {
            columns(
                ["NAME", "REVISION", "TIME", "KEYS", "BYTES"],
                rows.iter().map(|row| {
                    let (name, bytes) = (row.name.clone(), row.bytes.to_string());
                    [name, number(row.revision), text(row.time.clone()), keys(row), bytes]
                }),
            )
        };
        for error in rows.iter().filter_map(|row| row.error.as_ref()) {
            out += &format!("{error}\n");
        }
        out
    }
}
