//! Registers one endpoint under a lease and keeps it registered until told to stop. Runs beside the service it registers;
//! never probes it.
//!
//! # What moves a registration
//!
//! | happens | then |
//! |---|---|
//! | start, or etcd was away | a new lease, and the key under it; whatever stood there is overwritten |
//! | every third of the TTL | the lease is renewed; two renewals may be lost before it ends |
//! | no renewal answered for a whole TTL, or the lease is gone | as at the start, with another member of the cluster |
//! | somebody deletes the key | it is put again, under the same lease |
//! | another registration overwrites the key | this one stands back and watches; it puts the key again when it is deleted |
//! | stop | the lease is revoked, which deletes the key if it is still ours |
//!
//! Standing back is for the restart of a service: the new process takes the name over while the old one is still shutting
//! down, and the old one must neither take it back nor delete it. A key that was overwritten is no longer attached to the old
//! lease, so that revoking that leaves it alone.

mod options;
mod session;

use std::{fmt, time::Duration};

use tokio_util::sync::CancellationToken;

pub use options::{RegisterError, RegisterOptions};

use crate::{
    backoff::{self, Backoff},
    entry::Entry,
    etcd::{EtcdError, EtcdOptions, within},
    key::{Key, Kind},
    registry::Registry,
    strangers::Stranger,
};
use session::{Registration, Session};

/// For the last word to etcd, before a process that was told to stop ends.
const FAREWELL: Duration = Duration::from_secs(2);

/// What happens to a registration, for logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegisterEvent {
    /// The key is in etcd.
    Registered {
        /// The key, with its prefix.
        key: String,
        /// The revision that wrote it.
        revision: i64,
        /// The lease that it lives by.
        lease: i64,
        /// How long that lasts without a renewal.
        ttl: Duration,
    },
    /// It may be gone from etcd; the next try comes after `retry`.
    Lost {
        /// What went wrong; finishes "failed to ...".
        why: String,
        /// Until the next try.
        retry: Duration,
    },
    /// Somebody deleted the key; it is put again.
    Deleted,
    /// Another registration has the key now; this one stands back.
    Superseded {
        /// The lease of the other, 0 for none.
        by: i64,
    },
    /// The registration has ended and the key, if it was ours, is deleted.
    Deregistered,
    /// The registration has ended and etcd could not be told; the key goes when its lease ends.
    Abandoned {
        /// What went wrong; finishes "failed to ...".
        why: String,
    },
}

/// Registers and stays so until `cancel`; then deregisters. `on` hears of every change.
///
/// # Errors
///
/// Only options that make no sense, a user that etcd refuses, and a region that does not own the prefix; everything else is tried again for as long as it takes.
pub async fn run(
    options: &RegisterOptions,
    etcd: &EtcdOptions,
    cancel: CancellationToken,
    on: impl Fn(RegisterEvent),
) -> Result<(), RegisterError> {
    etcd.validate()?;
    let mut registration = Registration::new(options, etcd)?;
    // Waiting longer than the time between two renewals would lose more than the outage did.
    let mut backoff = Backoff::new(registration.renewal().min(Duration::from_secs(5)));
    let (mut member, mut ever) = (0, false);
    loop {
        let lived = async {
            let mut session = Session::open(&mut registration, etcd, member, &on).await?;
            backoff.succeed();
            ever = true;
            session.live(&on).await
        };
        let ended = cancel.run_until_cancelled(lived).await;
        let error = match ended {
            None => break,
            Some(Ok(never)) => match never {},
            Some(Err(error @ (EtcdError::Options(_) | EtcdError::Denied(_)))) => return Err(error.into()),
            // One that was registered before its region lost the prefix waits for it to come back, and one whose certificates are
            // being renewed for the new ones.
            Some(Err(error @ (EtcdError::NotOwner { .. } | EtcdError::Certificates { .. }))) if !ever => {
                return Err(error.into());
            }
            Some(Err(error)) => error,
        };
        member += 1;
        let retry = backoff.fail(backoff::coin());
        on(RegisterEvent::Lost { why: error.to_string(), retry });
        if cancel.run_until_cancelled(tokio::time::sleep(retry)).await.is_none() {
            break;
        }
    }
    on(farewell(registration.leases(), etcd, member).await);
    Ok(())
}

/// What makes the zone of this registration look like a typing error: zones are declared, and it is none of them.
///
/// # Errors
/// When etcd does not say which are.
pub async fn strangers(options: &RegisterOptions, etcd: &EtcdOptions) -> Result<Vec<Stranger>, EtcdError> {
    let Ok((instance, endpoint)) = options.endpoint() else { return Ok(Vec::new()) };
    let key = Key::Endpoint(options.service.clone(), instance);
    // The zones alone: a fleet that starts must not have each of its instances read all the others.
    let zones = format!("{}/", Kind::Zones.name());
    let declared = etcd.list(&etcd.connect().await?, &zones).await?;
    let mut registry = Registry::default();
    registry.reset(declared.entries, declared.revision);
    let entries = registry.entries().chain(Some((key, Entry::Endpoint(endpoint)))).collect();
    registry.reset_to(entries, Vec::new(), declared.revision);
    Ok(crate::strangers::strangers(&registry.topology()))
}

/// Revokes what leases may still live.
async fn farewell(leases: &[i64], etcd: &EtcdOptions, member: usize) -> RegisterEvent {
    let revoking = async {
        let mut client = etcd.connect_from(member).await?;
        for lease in leases {
            match within(FAREWELL, client.lease_revoke(*lease)).await {
                Err(error) if !session::is_gone(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    };
    let limited = tokio::time::timeout(FAREWELL, revoking).await;
    match limited.unwrap_or_else(|_| Err(EtcdError::Failed("no answer in time".to_owned()))) {
        Ok(()) => RegisterEvent::Deregistered,
        Err(error) => RegisterEvent::Abandoned { why: error.to_string() },
    }
}

// === impl RegisterEvent ===

impl fmt::Display for RegisterEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registered { key, revision, lease, ttl } => {
                write!(
                    f,
                    "registered {key} at revision {revision} under lease {lease:x} of {} s",
                    ttl.as_secs()
                )
            }
            Self::Lost { why, retry } => {
                write!(
                    f,
                    "the registration may be lost, trying again in {} ms: failed to {why}",
                    retry.as_millis()
                )
            }
            Self::Deleted => f.write_str("somebody deleted the registration; registering again"),
            Self::Superseded { by } => {
                write!(f, "another registration (lease {by:x}) has this instance name now; standing back")
            }
            Self::Deregistered => f.write_str("deregistered"),
            Self::Abandoned { why } => {
                write!(f, "the registration stays until its lease ends: failed to {why}")
            }
        }
    }
}
