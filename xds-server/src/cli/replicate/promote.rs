//! `zonebreak replicate promote` and `demote`: who owns the prefix from now on. Tells what would be lost and asks before it gives a
//! source up; the work is in `zonebreak_replication::region`.

use std::{
    io::{BufRead as _, IsTerminal as _, Write as _},
    path::Path,
    time::Duration,
};

use zonebreak_replication::region::{self, Aborted, Assessment, Estimate, Promoted, Unfinished};

use super::{StreamArgs, failure};
use crate::{
    cli::{bar::Bar, output::OutputArgs},
    config::Override,
    exit::{Exit, Failure, Outcome},
    host,
};

/// The flags of `zonebreak replicate promote`.
#[derive(Debug, Clone, clap::Args)]
pub struct PromoteArgs {
    #[command(flatten)]
    stream: StreamArgs,
    #[command(flatten)]
    who: WhoArgs,
    /// Directory of the change log: what it has more than the destination is written there first, when the source is gone.
    #[arg(long, value_name = "DIR")]
    spool: Option<String>,
    /// Give up a source that does not answer, without asking; with --abort, a destination that takes no writes.
    #[arg(long)]
    yes: bool,
    /// Take back a promotion that fenced the source and did not come to its end: the source is the owner again.
    #[arg(long, conflicts_with_all = ["spool", "accept_torn", "lease_grace"])]
    abort: bool,
    /// Promote a destination between two revisions, which the spool cannot complete.
    #[arg(long)]
    accept_torn: bool,
    /// How long leased keys live at least from then on, for their registrars to move [default: 5m].
    #[arg(long, value_name = "TIME")]
    lease_grace: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

/// The flags of `zonebreak replicate demote`.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoteArgs {
    #[command(flatten)]
    stream: StreamArgs,
    #[command(flatten)]
    who: WhoArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Who does it.
#[derive(Debug, Clone, clap::Args)]
struct WhoArgs {
    /// Who does this [default: user and host].
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
}

/// Promotes the destination.
pub async fn promote(args: PromoteArgs) -> Outcome {
    let more = [
        ("--spool", "replicate.spool_dir", &args.spool),
        ("--lease-grace", "replicate.lease_grace", &args.lease_grace),
    ];
    let more = more
        .into_iter()
        .filter_map(|(flag, path, value)| Some(Override { flag, path, value: value.clone()? }));
    let config = args.stream.load(more.collect())?;
    let options = config.replicate.options().map_err(Failure::usage)?;
    if args.abort {
        let aborted = region::abort(options, &args.who.actor(), args.yes).await.map_err(failure)?;
        args.output.print(&aborted, |_| taken_back(&aborted))?;
        return Ok(Exit::Ok);
    }
    let mut bar = None;
    let assessed = region::assess_saying(options.clone(), |long| {
        bar = Some(Bar::wait("listening for a replicator elsewhere, whose log may have more", long));
    });
    let assessed = assessed.await.map_err(failure)?;
    drop(bar);
    if let Some(promotion) = &assessed.unfinished {
        eprint!("{}", goes_on(promotion));
    }
    if !assessed.promoted {
        eprint!("{}", leased(assessed.leased_keys, options.lease_grace));
    }
    if let Some(why) = assessed.source_error.as_ref().filter(|_| !assessed.promoted) {
        eprint!("{}", warning(&assessed, why, &options.spool));
        if !args.yes {
            agree(&assessed)?;
        }
    }
    let actor = args.who.actor();
    let promoted = region::promote_assessed(options, &actor, &assessed, args.accept_torn);
    let promoted = promoted.await.map_err(failure)?;
    args.output.print(&promoted, |_| table(&promoted, true))?;
    if !promoted.source_fenced {
        eprintln!(
            "the source was not told: start a replicator in the other direction now, which fences it as soon as it answers, or \
             run `zonebreak replicate demote` then"
        );
    }
    Ok(Exit::Ok)
}

/// Fences the source of a promoted destination.
pub async fn demote(args: DemoteArgs) -> Outcome {
    let config = args.stream.load(Vec::new())?;
    let options = config.replicate.options().map_err(Failure::usage)?;
    let demoted = region::demote(options, &args.who.actor()).await.map_err(failure)?;
    args.output.print(&demoted, |_| table(&demoted, false))?;
    eprintln!(
        "the source is fenced; a replicator in the other direction brings it up and saves what only it has"
    );
    Ok(Exit::Ok)
}

/// Which promotion this goes on with.
fn goes_on(promotion: &Unfinished) -> String {
    let Unfinished { actor, since, taken, .. } = promotion;
    let from = if *taken {
        "the destination was taken, and only the source was not told"
    } else {
        "the source is fenced, and nobody may write until the destination is taken"
    };
    format!("goes on   with the promotion of {actor} at {since:.0}: {from}\n")
}

/// What becomes of keys that live by leases, said before and after.
fn leased(keys: u64, grace: Duration) -> String {
    let until = match grace.as_secs() {
        _ if keys == 0 => return String::new(),
        0 => "they go when that ends".to_owned(),
        seconds => format!("each lives for {seconds} s more at least"),
    };
    format!(
        "leased    {keys} keys, whose leases nobody renews for the new owner: {until}. Register them there\n"
    )
}

/// What an operator must know before giving a source up.
fn warning(assessed: &Assessment, why: &str, spool: &Path) -> String {
    let Estimate {
        safe_revision,
        safe_time,
        age_ms,
        torn,
        spooled,
        unreadable,
        in_use,
        replicator,
        lost_revisions,
    } = &assessed.estimate;
    let seconds = *age_ms as f64 / 1000.0;
    let mut out = format!("the source does not answer: failed to {why}\n\n");
    out += &format!("safe revision   {safe_revision}: the destination has everything up to it\n");
    out += &format!(
        "safe time       {safe_time:.0}, {seconds:.1} s ago; what the source took in since then may be lost\n"
    );
    let log = format!("change log      {}: ", spool.display());
    out += &match (spooled, unreadable) {
        (Some(0), _) => format!("{log}0 more revisions\n"),
        (Some(1), _) => format!("{log}1 more revision, which is written first\n"),
        (Some(more), _) => format!("{log}{more} more revisions, which are written first\n"),
        (None, Some(why)) => format!("{log}failed to {why}\n"),
        (None, None) if *in_use => format!("{log}nothing in it yet\n"),
        (None, None) if *replicator => format!(
            "{log}not there; a replicator elsewhere gives signs of life, and is waited for while it writes\n                what it \
             has\n"
        ),
        (None, None) => format!(
            "{log}not there, and no replicator gives a sign of life: what one that is stuck or cut off\n                has in its log \
             is given up. Run this where that log is (--spool), and it is written first\n"
        ),
    };
    if *in_use {
        out += "                in use by a replicator, which is waited for while it writes what it has\n";
    }
    out += &match lost_revisions {
        Some(lost) => format!(
            "estimated loss  {} revisions, at the rate of the last minute of the change log\n",
            lost.saturating_sub(spooled.unwrap_or(0))
        ),
        None => "estimated loss  unknown: the change log says nothing about the rate\n".to_owned(),
    };
    if torn.is_some() {
        out += "torn            the destination is between two revisions; the change log must complete it\n";
    }
    out + "\n"
}

fn agree(assessed: &Assessment) -> Result<(), Failure> {
    let refused = |why: &str| {
        Failure::new(
            Exit::Refused,
            format_args!("failed to promote without the source: {why}; nothing was changed"),
        )
        .hint("pass --yes to give the source up")
    };
    if !std::io::stdin().is_terminal() {
        return Err(refused("nobody is there to be asked"));
    }
    eprint!(
        "Give the source up and make region {} the owner of {:?}? Type yes: ",
        assessed.region, assessed.prefix
    );
    let mut answer = String::new();
    let read = std::io::stderr().flush().and_then(|()| std::io::stdin().lock().read_line(&mut answer));
    match read {
        Ok(_) if answer.trim() == "yes" => Ok(()),
        _ => Err(refused("the answer was not yes")),
    }
}

fn taken_back(aborted: &Aborted) -> String {
    let Aborted { prefix, region, epoch, already, destination_told } = aborted;
    let mut out = format!(
        "owner        region {region} of {prefix:?}, epoch {epoch}{}\n",
        if *already { ", as before" } else { "" }
    );
    if !already {
        let told = if *destination_told { "knows of it" } else { "NOT TOLD: it takes no writes" };
        out += &format!("destination  {told}\n");
    }
    out
}

/// What came of it. Of a loss only who promoted was told before: a demotion loses nothing.
fn table(promoted: &Promoted, tells_loss: bool) -> String {
    let Promoted {
        prefix,
        region,
        epoch,
        already,
        source_fenced,
        source_told,
        through,
        drained_keys,
        forwarded,
        digest,
        leased_keys,
        lease_grace_ms,
        elapsed_ms,
    } = promoted;
    let mut out = format!(
        "owner     region {region} of {prefix:?}, epoch {epoch}{}\n",
        if *already { ", as before" } else { "" }
    );
    out += &format!("revision  {through} of the former source\n");
    out += &match (already, drained_keys, digest) {
        _ if *already || !tells_loss => String::new(),
        (_, Some(keys), Some(digest)) => {
            format!(
                "loss      none: both sides are equal at the fence (digest {digest}); {keys} keys were still on their way\n"
            )
        }
        _ => format!("loss      see above; {forwarded} revisions were written from the change log\n"),
    };
    out += &leased(*leased_keys, Duration::from_millis(*lease_grace_ms));
    out += match (source_fenced, *already && *source_told) {
        (true, false) => "source    fenced\n",
        (true, true) => "source    fenced; it was told now that the promotion came to its end\n",
        (false, _) => "source    NOT FENCED: it does not answer\n",
    };
    if !already {
        out += &format!("took      {:.2} s\n", *elapsed_ms as f64 / 1000.0);
    }
    out
}

// === impl WhoArgs ===

impl WhoArgs {
    fn actor(&self) -> String {
        self.actor.clone().unwrap_or_else(host::actor)
    }
}

#[cfg(test)]
mod tests {
    use zonebreak_replication::{region::Region, revision::Revision};

    use super::*;

    fn told(change: impl FnOnce(&mut Estimate)) -> String {
        let mut estimate = Estimate {
            safe_revision: Revision(7),
            safe_time: jiff::Timestamp::UNIX_EPOCH,
            age_ms: 1_000,
            torn: None,
            spooled: None,
            unreadable: None,
            in_use: false,
            replicator: false,
            lost_revisions: None,
        };
        change(&mut estimate);
        let assessed = Assessment {
            prefix: "/app/".to_owned(),
            region: Region::new("east").unwrap(),
            promoted: false,
            epoch: 1,
            source_error: Some("reach it".to_owned()),
            unfinished: None,
            silence: None,
            leased_keys: 0,
            estimate,
        };
        warning(&assessed, "reach it", Path::new("e2w"))
    }

    #[test]
    fn a_change_log_that_has_no_more_is_told_from_one_that_is_not_there_or_in_use() {
        let read = told(|it| it.spooled = Some(0));
        assert!(read.contains("e2w: 0 more revisions\n") && !read.contains("in use"), "{read}");
        let used = told(|it| (it.spooled, it.in_use) = (Some(0), true));
        assert!(
            used.contains("e2w: 0 more revisions\n") && used.contains("in use by a replicator"),
            "{used}"
        );
        let missing = told(|_| {});
        assert!(missing.contains("e2w: not there") && missing.contains("--spool"), "{missing}");
        let elsewhere = told(|it| it.replicator = true);
        assert!(elsewhere.contains("e2w: not there; a replicator elsewhere"), "{elsewhere}");
        let damaged = told(|it| it.unreadable = Some("read the spool e2w: it is damaged".to_owned()));
        assert!(damaged.contains("failed to read the spool") && !damaged.contains("not there"), "{damaged}");
    }

    #[test]
    fn a_demotion_tells_of_no_loss() {
        let promoted = Promoted {
            prefix: "/app/".to_owned(),
            region: Region::new("east").unwrap(),
            epoch: 2,
            already: false,
            source_fenced: true,
            source_told: false,
            through: Revision(7),
            drained_keys: None,
            forwarded: 0,
            digest: None,
            leased_keys: 0,
            lease_grace_ms: 0,
            elapsed_ms: 5,
        };
        assert!(table(&promoted, true).contains("loss      see above"));
        let demoted = table(&promoted, false);
        assert!(!demoted.contains("loss") && demoted.contains("source    fenced"), "{demoted}");
    }
}
