//! Waits until every connected proxy has acknowledged a revision, and says how far it is. Only reads: what was written stays
//! written, whatever comes of the waiting.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::connect::ServerArgs;
use crate::{
    client::{AdminClient, AdminError},
    exit::{Exit, Failure},
    model::{Convergence, ShiftRow, Status},
};

/// Between two questions: a change reaches a thousand proxies in less, so it is rarely asked twice.
const POLL: Duration = Duration::from_millis(100);

/// How long a server that never answered is given. Shorter than any patience with proxies: a server that is not there at
/// all will not come within the timeout either, and the operator should know now.
const FIRST_CONTACT: Duration = Duration::from_secs(3);

/// What one answer means for the waiting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Go on.
    Waiting(String),
    /// Every connected proxy has it.
    Confirmed(String),
    /// Some refused it, and the rest have it: no waiting will change that.
    Rejected(String),
}

// === impl Progress ===

impl Progress {
    /// Reads one answer.
    pub fn of(c: &Convergence) -> Self {
        let proxies = |n: usize| if n == 1 { "1 proxy".to_owned() } else { format!("{n} proxies") };
        if c.applied_revision < c.revision {
            return Self::Waiting(format!(
                "the server is on revision {}, not yet on {}",
                c.applied_revision, c.revision
            ));
        }
        let so_far = format!("{} of {} on revision {}", c.acked, proxies(c.proxies), c.revision);
        match (c.proxies, c.pending, c.nacked) {
            (0, _, _) => Self::Confirmed(format!("revision {} is served; no proxy is connected", c.revision)),
            (_, 0, 0) => Self::Confirmed(so_far),
            (_, 0, nacked) => Self::Rejected(format!("{so_far}; {} rejected it", proxies(nacked))),
            (_, _, 0) => Self::Waiting(so_far),
            (_, _, nacked) => Self::Waiting(format!("{so_far}; {} rejected it", proxies(nacked))),
        }
    }
}

/// Waits for `revision` on every proxy that is connected to the server, at most `timeout`; progress goes to standard error.
///
/// # Errors
/// [`Exit::NotConverged`] when time is up, a proxy rejected it or no server can be asked: it is written all the same, and whoever tries
/// again would find it there.
pub async fn confirmed(
    server: &ServerArgs,
    revision: i64,
    timeout: Duration,
) -> Result<Convergence, Failure> {
    let client = AdminClient::new(&server.server)?;
    let started = Instant::now();
    let (mut said, mut contact) = (String::new(), false);
    loop {
        let answer = client.get::<Convergence>(&format!("/convergence?revision={revision}")).await;
        let now = match answer {
            Ok(convergence) => {
                contact = true;
                match Progress::of(&convergence) {
                    Progress::Confirmed(text) => {
                        eprintln!("{text}");
                        return Ok(convergence);
                    }
                    Progress::Rejected(text) => return Err(not_converged(&text)),
                    Progress::Waiting(text) => text,
                }
            }
            Err(error @ AdminError::Unreachable { .. }) => {
                let patience = if contact { timeout } else { timeout.min(FIRST_CONTACT) };
                if started.elapsed() >= patience {
                    return Err(unasked(revision, &error));
                }
                format!("waiting for the server at {} to answer", client.base())
            }
            Err(other) => return Err(unasked(revision, &other)),
        };
        if started.elapsed() >= timeout {
            return Err(not_converged(&format!("{now} after {} s", timeout.as_secs())));
        }
        if now != said {
            eprintln!("{now}");
            said = now;
        }
        tokio::time::sleep(POLL.min(timeout)).await;
    }
}

/// Asks the server whether it holds the drain that it took over at `revision` to be in force. It goes by its own clock, and a
/// drain that is over by that clock changes nothing, however many proxies have acknowledged the revision.
///
/// # Errors
/// [`Exit::NotConverged`] when it does not, or gives no answer.
pub async fn in_force(server: &ServerArgs, revision: i64, drain: &ShiftRow) -> Result<(), Failure> {
    let status = AdminClient::new(&server.server)?.get("/status").await;
    let status: Status = status.map_err(|error| unasked(revision, &error))?;
    match missing(&status.shifts, status.source.applied_revision, revision, drain, Timestamp::now()) {
        None => Ok(()),
        Some(why) => Err(Failure::new(Exit::NotConverged, why)
            .hint("compare the clocks of this machine and of the server; `zonebreak zone ls` shows what is in force")),
    }
}

/// Why the drain is not in force, when it is not among `shifts`, which are those of the server at revision `applied`.
fn missing(
    shifts: &[ShiftRow],
    applied: Option<i64>,
    revision: i64,
    drain: &ShiftRow,
    now: Timestamp,
) -> Option<String> {
    // Somebody may have extended it meanwhile, and the zone may have been named by an alias.
    let same = |row: &ShiftRow| {
        row.service == drain.service && (row.zone == drain.zone || row.started_at == drain.started_at)
    };
    let over = drain.expires_at <= now;
    if over || shifts.iter().any(same) {
        return None;
    }
    let zone = &drain.zone;
    let later = match applied {
        Some(applied) if applied > revision => {
            format!(", or somebody ended it by revision {applied}")
        }
        _ => String::new(),
    };
    Some(format!(
        "written at revision {revision}, but the drain of {zone} is not in force: the server shows no active drain of it; its \
         clock and this machine's may differ (here it is {now:.0}, the drain ends at {}){later}",
        drain.expires_at
    ))
}

/// What was written, though no server could be asked about it.
fn unasked(revision: i64, error: &AdminError) -> Failure {
    let message = format!("written at revision {revision}, not confirmed: {error}");
    Failure::new(Exit::NotConverged, message)
        .hint("the change is in etcd and takes effect; name a server with --server URL to see it confirmed")
}

fn not_converged(text: &str) -> Failure {
    Failure::new(Exit::NotConverged, format_args!("written, not confirmed by all: {text}"))
        .hint("`zonebreak proxies` shows which, and why")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(applied_revision: i64, acked: usize, pending: usize, nacked: usize) -> Progress {
        let proxies = acked + pending + nacked;
        Progress::of(&Convergence { revision: 42, applied_revision, proxies, acked, pending, nacked })
    }

    #[test]
    fn a_drain_that_the_server_does_not_show_is_not_in_force() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let row = |zone: &str| ShiftRow {
            zone: zonebreak_core::names::Zone::new(zone).unwrap(),
            service: None,
            keep_percent: zonebreak_core::units::Percent::ZERO,
            reason: "test".to_owned(),
            actor: "eve".to_owned(),
            started_at: now,
            expires_at: now + jiff::SignedDuration::from_mins(5),
        };
        let drain = row("az-a");
        let elsewhere = ShiftRow { started_at: now - jiff::SignedDuration::from_mins(5), ..row("az-b") };
        assert_eq!(missing(&[elsewhere.clone(), drain.clone()], Some(42), 42, &drain, now), None);
        assert_eq!(missing(&[row("canonical")], Some(42), 42, &drain, now), None, "named by an alias");
        assert_eq!(missing(&[], Some(42), 42, &drain, drain.expires_at), None, "it is over here too");
        let why = missing(&[elsewhere], Some(42), 42, &drain, now).unwrap();
        assert!(why.contains("drain of az-a is not in force") && why.contains("clock"), "{why}");
        assert!(!why.contains("somebody"), "{why}");
        let why = missing(&[], Some(43), 42, &drain, now).unwrap();
        assert!(why.contains("or somebody ended it by revision 43"), "{why}");
    }

    #[test]
    fn each_answer_is_read_as_it_is_meant() {
        let waiting = |text: &str| Progress::Waiting(text.to_owned());
        assert_eq!(at(41, 3, 0, 0), waiting("the server is on revision 41, not yet on 42"));
        assert_eq!(at(42, 2, 1, 0), waiting("2 of 3 proxies on revision 42"));
        assert_eq!(at(43, 1, 1, 1), waiting("1 of 3 proxies on revision 42; 1 proxy rejected it"));
        assert_eq!(at(42, 1, 0, 0), Progress::Confirmed("1 of 1 proxy on revision 42".to_owned()));
        assert!(
            matches!(at(42, 0, 0, 0), Progress::Confirmed(text) if text.contains("no proxy is connected"))
        );
        assert!(matches!(at(42, 2, 0, 1), Progress::Rejected(text) if text.contains("1 proxy rejected")));
    }
}
