//! `zonebreak topology confirm`: an operator lets a held change through. What may pass is the gate's to say, in the server; this
//! asks it what is held, hands on the operator's word and waits for the proxies.

use jiff::Timestamp;
use serde::Serialize;
use zonebreak_topology::{HeldId, confirm};

use super::{failures, zone::WriteArgs};
use crate::{
    client::AdminClient,
    exit::{Exit, Failure, Outcome},
    host,
    model::{ConfirmRequest, Confirmed, Convergence, HeldRow, Status},
};

/// `topology confirm`.
#[derive(Debug, Clone, clap::Args)]
pub struct ConfirmArgs {
    /// What to let through, as `zonebreak status` names it; all that is held when absent.
    #[arg(value_name = "ID")]
    id: Option<String>,
    /// Why, for those who find it later.
    #[arg(long, value_name = "TEXT", default_value = "reviewed and intended")]
    reason: String,
    /// Who does it; user@host when absent.
    #[arg(long, value_name = "NAME", env = "ZONEBREAK_ACTOR", hide_env_values = true)]
    actor: Option<String>,
    #[command(flatten)]
    write: WriteArgs,
}

/// What `-o json` prints.
#[derive(Debug, Serialize)]
struct Written<'a> {
    /// The revision that a server must have come to; absent when nothing was held.
    revision: Option<i64>,
    /// What is let through.
    confirmed: &'a [HeldRow],
    /// How far it has come; absent with `--no-wait`.
    convergence: Option<Convergence>,
}

/// Runs the command.
pub async fn confirm(args: &ConfirmArgs) -> Outcome {
    if args.reason.trim().is_empty() {
        return Err(Failure::usage(
            "a confirmation needs a --reason that says something: whoever finds it at night does too",
        ));
    }
    let client = AdminClient::new(&args.write.server.server)?;
    let status: Status = client.get("/status").await?;
    let chosen = choose(&status.held, args.id.as_deref())?;
    if chosen.is_empty() {
        eprintln!("nothing is held");
        let nothing = Written { revision: None, confirmed: &chosen, convergence: None };
        args.write.output.print_for_programs(&nothing)?;
        return Ok(Exit::Ok);
    }
    let actor = args.actor.clone().unwrap_or_else(host::actor);
    let revision = if status.source.kind == "etcd" {
        let now = Timestamp::now();
        let word = |row: &HeldRow| Ok((id(row)?, confirm::given(row.after, &args.reason, &actor, now)));
        let words = chosen.iter().map(word).collect::<Result<Vec<_>, Failure>>()?;
        confirm::confirm(
            &args.write.etcd(|| format!("the server's etcd is at {}", status.source.location))?,
            &words,
        )
        .await
        .map_err(failures::etcd)?
    } else {
        let mut revision = status.source.revision;
        for row in &chosen {
            let (id, endpoints) = (row.id.clone(), row.after);
            let word = ConfirmRequest { id, endpoints, reason: args.reason.clone(), actor: actor.clone() };
            let taken: Confirmed = client.post("/held/confirm", &word).await?;
            revision = taken.revision;
        }
        revision
    };
    for row in &chosen {
        eprintln!("confirmed {}: {}", row.id, row.reason);
    }
    let converged = args.write.converged(revision).await;
    let convergence = converged.as_ref().ok().copied().flatten();
    let written = Written { revision: Some(revision), confirmed: &chosen, convergence };
    args.write.output.print_for_programs(&written)?;
    converged.map(|_| Exit::Ok)
}

/// The held changes that are meant: all, or the one of that name. A service's own name will do.
fn choose(held: &[HeldRow], id: Option<&str>) -> Result<Vec<HeldRow>, Failure> {
    let Some(id) = id else { return Ok(held.to_vec()) };
    let named = |row: &&HeldRow| row.id == id || row.id.strip_prefix("endpoints/") == Some(id);
    match held.iter().find(named) {
        Some(row) => Ok(vec![row.clone()]),
        None => {
            let all: Vec<&str> = held.iter().map(|row| row.id.as_str()).collect();
            let there = if all.is_empty() { "nothing is".to_owned() } else { all.join(", ") };
            Err(Failure::new(Exit::CheckFailed, format_args!("{id:?} is not held; held now: {there}"))
                .hint("`zonebreak status` shows what is held, and why"))
        }
    }
}

fn id(row: &HeldRow) -> Result<HeldId, Failure> {
    HeldId::parse(&row.id).ok_or_else(|| {
        Failure::new(
            Exit::Unexpected,
            format_args!("the server holds {:?}, which this program does not know", row.id),
        )
        .hint("use the program of the server's version")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_change_is_chosen_by_its_id_or_by_its_service() {
        let row = |id: &str| HeldRow { id: id.to_owned(), ..HeldRow::of_source("lost", 1) };
        let held = [row("source"), row("endpoints/a"), row("endpoints/b")];
        let ids = |id: Option<&str>| {
            choose(&held, id).map(|rows| rows.into_iter().map(|row| row.id).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(ids(None).unwrap(), "source endpoints/a endpoints/b");
        for name in ["endpoints/b", "b"] {
            assert_eq!(ids(Some(name)).unwrap(), "endpoints/b");
        }
        let error = ids(Some("c")).unwrap_err();
        assert_eq!(error.exit, Exit::CheckFailed);
        assert!(error.to_string().contains("held now: source, endpoints/a, endpoints/b"), "{error}");
        assert_eq!(id(&held[0]).unwrap(), HeldId::Source);
        assert!(id(&row("listeners/x")).is_err());
    }
}
