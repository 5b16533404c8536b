//! Leased keys: at the destination they live by a lease of the same number and time to live, which is renewed for as long as
//! the source's lives. When the source's ends, or the source is gone for longer than that, so do its keys; they never become
//! immortal. Keeps leases; decides nothing about keys.
//!
//! The source is never waited for long: with it dead, what is in the spool must still reach the destination, and a lease whose
//! time to live nobody can tell any more gets [`ORPHAN`] of it. One question tells which of the source's leases live, however
//! many there are; renewals are sent [`AT_ONCE`] at a time, and no lock is held across a request.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use etcd_client::LeaseGrantOptions;
use tokio::{
    sync::Mutex,
    task::JoinSet,
    time::{Instant, interval},
};
use tokio_util::sync::CancellationToken;

use crate::{
    client::{Cluster, EtcdError, Member},
    destination::Destination,
    revision::{Change, Op},
};

/// Time to live, in seconds, of a lease whose source is gone before we could ask: long enough for the delete to arrive.
const ORPHAN: i64 = 60;

/// Between two looks at which leases are due.
const TICK: Duration = Duration::from_secs(1);

/// For the source to answer a question about leases; afterwards it is not asked again for as long.
const PATIENCE: Duration = Duration::from_secs(2);

/// Requests on their way at once.
const AT_ONCE: usize = 64;

/// Leases known at the destination.
#[derive(Clone)]
pub(crate) struct Leases {
    source: Arc<Cluster>,
    destination: Arc<Destination>,
    /// When each is to be renewed.
    known: Arc<Mutex<BTreeMap<i64, Instant>>>,
    asked: Arc<Mutex<Asked>>,
}

/// The source's member that is asked, or until when none is.
#[derive(Default)]
struct Asked {
    member: Option<Member>,
    silent_until: Option<Instant>,
}

// === impl Leases ===

impl Leases {
    pub(crate) fn new(source: Arc<Cluster>, destination: Arc<Destination>) -> Self {
        Self { source, destination, known: Arc::default(), asked: Arc::default() }
    }

    /// Makes sure that every lease that these changes name exists at the destination.
    pub(crate) async fn ensure(&self, changes: &[Change]) -> Result<(), EtcdError> {
        let mut wanted: BTreeSet<i64> = changes.iter().filter_map(lease_of).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        {
            let known = self.known.lock().await;
            wanted.retain(|lease| !known.contains_key(lease));
        }
        let mut granting = JoinSet::new();
        for lease in wanted {
            if granting.len() >= AT_ONCE {
                joined(granting.join_next().await)?;
            }
            let ours = self.clone();
            granting.spawn(async move {
                let ttl = ours.source_ttl(lease).await.ok().flatten().unwrap_or(ORPHAN);
                ours.grant(lease, ttl).await?;
                ours.known.lock().await.insert(lease, Instant::now() + third(ttl));
                Ok(())
            });
        }
        while let Some(ended) = granting.join_next().await {
            joined(Some(ended))?;
        }
        Ok(())
    }

    /// These are there already, by the keys that were found at the destination; they are renewed like those granted here.
    pub(crate) async fn adopt(&self, leases: &BTreeSet<i64>) {
        let (mut known, now) = (self.known.lock().await, Instant::now());
        for lease in leases {
            known.entry(*lease).or_insert(now);
        }
    }

    /// A transaction with these changes found one of its leases gone: they are granted again when next named.
    pub(crate) async fn forget(&self, changes: &[Change]) {
        let mut known = self.known.lock().await;
        for lease in changes.iter().filter_map(lease_of) {
            known.remove(&lease);
        }
    }

    /// Renews what is due, until `cancel`.
    pub(crate) async fn keep(self, cancel: CancellationToken) {
        let mut tick = interval(TICK);
        while cancel.run_until_cancelled(tick.tick()).await.is_some() {
            let due: Vec<i64> = {
                let (known, now) = (self.known.lock().await, Instant::now());
                known.iter().filter(|(_, at)| **at <= now).map(|(lease, _)| *lease).collect()
            };
            if !due.is_empty() {
                self.renew_all(due).await;
            }
        }
    }

    async fn renew_all(&self, due: Vec<i64>) {
        // A source that cannot be asked: nothing is renewed now, and it is asked again at the next tick.
        let Ok(living) = self.living(&due).await else { return };
        let mut renewing = JoinSet::new();
        for lease in due {
            if !living.contains(&lease) {
                // The source's has ended, and its keys' deletes are on their way.
                self.known.lock().await.remove(&lease);
                continue;
            }
            if renewing.len() >= AT_ONCE {
                let _joined = renewing.join_next().await;
            }
            let ours = self.clone();
            renewing.spawn(async move {
                let ttl = ours.renew(lease).await;
                let mut known = ours.known.lock().await;
                match ttl {
                    // It did not live any more; the keys that lived by it are gone, which the observer tells.
                    Some(0) => known.remove(&lease),
                    Some(ttl) => known.insert(lease, Instant::now() + third(ttl)),
                    None => known.insert(lease, Instant::now() + TICK),
                };
            });
        }
        while renewing.join_next().await.is_some() {}
    }

    /// Which of these leases the source has.
    async fn living(&self, leases: &[i64]) -> Result<BTreeSet<i64>, EtcdError> {
        let mut member = self.asked_member().await?;
        match self.source.within(PATIENCE, member.client.leases()).await {
            Ok(all) => Ok(all.leases().iter().map(etcd_client::LeaseStatus::id).collect()),
            // A source that lets us ask for each, and not for all.
            Err(EtcdError::Denied { .. } | EtcdError::Refused { .. }) => {
                let mut living = BTreeSet::new();
                for lease in leases {
                    living.extend(self.source_ttl(*lease).await?.map(|_| *lease));
                }
                Ok(living)
            }
            Err(error) => Err(self.silent(error).await),
        }
    }

    /// The time to live that a lease of the source was granted; `None` when it does not exist.
    async fn source_ttl(&self, lease: i64) -> Result<Option<i64>, EtcdError> {
        let mut member = self.asked_member().await?;
        match self.source.within(PATIENCE, member.client.lease_time_to_live(lease, None)).await {
            Ok(answer) => Ok((answer.ttl() > 0).then_some(answer.granted_ttl())),
            Err(EtcdError::NoLease(_)) => Ok(None),
            Err(error) => Err(self.silent(error).await),
        }
    }

    async fn asked_member(&self) -> Result<Member, EtcdError> {
        let mut asked = self.asked.lock().await;
        if let Some(member) = &asked.member {
            return Ok(member.clone());
        }
        if asked.silent_until.is_some_and(|until| Instant::now() < until) {
            return Err(self.source.unreachable("it did not answer a moment ago".to_owned()));
        }
        match self.source.connect().await {
            Ok(member) => {
                asked.member = Some(member.clone());
                Ok(member)
            }
            Err(error) => {
                asked.silent_until = Some(Instant::now() + PATIENCE);
                Err(error)
            }
        }
    }

    async fn silent(&self, error: EtcdError) -> EtcdError {
        *self.asked.lock().await = Asked { member: None, silent_until: Some(Instant::now() + PATIENCE) };
        error
    }

    async fn grant(&self, lease: i64, ttl: i64) -> Result<(), EtcdError> {
        let mut member = self.destination.member().await?;
        let options = LeaseGrantOptions::new().with_id(lease);
        match self.destination.cluster.ask(member.client.lease_grant(ttl, Some(options))).await {
            // Ours from an earlier life.
            Err(EtcdError::Refused { why, .. }) if why.contains("lease already exists") => {
                self.renew(lease).await;
                Ok(())
            }
            Err(error @ EtcdError::Unreachable { .. }) => {
                // The next try is made at another member.
                self.destination.lost().await;
                Err(error)
            }
            other => other.map(drop),
        }
    }

    /// Its time to live, 0 when it is gone; `None` when nobody knows.
    async fn renew(&self, lease: i64) -> Option<i64> {
        let mut member = self.destination.member().await.ok()?;
        let renewing = async {
            let (mut keeper, mut answers) = member.client.lease_keep_alive(lease).await?;
            keeper.keep_alive().await?;
            answers.message().await
        };
        let answer = self.destination.cluster.ask(renewing).await.ok().flatten()?;
        Some(answer.ttl().max(0))
    }
}

fn lease_of(change: &Change) -> Option<i64> {
    match change.op {
        Op::Put { lease, .. } if lease != 0 => Some(lease),
        _ => None,
    }
}

fn joined(ended: Option<Result<Result<(), EtcdError>, tokio::task::JoinError>>) -> Result<(), EtcdError> {
    match ended {
        None => Ok(()),
        Some(Ok(result)) => result,
        Some(Err(error)) => Err(EtcdError::Refused { side: "destination", why: error.to_string() }),
    }
}

fn third(ttl: i64) -> Duration {
    Duration::from_secs(u64::try_from(ttl / 3).unwrap_or(1).max(1))
}
