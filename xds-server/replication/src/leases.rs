//! Leases of the destination on behalf of the source's: same number, same time to live, renewed for as long as the source says
//! that its own lives. When the source's ends, its keys' deletes arrive by themselves; when the source is gone altogether, its
//! leases end here as they would have ended there. Decides nothing about keys.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use etcd_client::LeaseGrantOptions;
use tokio::{
    sync::Mutex,
    time::{Instant, interval},
};
use tokio_util::sync::CancellationToken;

use crate::{
    client::{Cluster, EtcdError, Member},
    destination::Destination,
    revision::{Change, Op},
};

/// Time to live of a lease whose source is gone before we could ask: long enough for the delete to arrive.
const ORPHAN: i64 = 60;

/// Between two looks at which leases are due.
const TICK: Duration = Duration::from_secs(1);

/// Leases known at the destination.
#[derive(Clone)]
pub(crate) struct Leases {
    source: Arc<Cluster>,
    destination: Arc<Destination>,
    known: Arc<Mutex<BTreeMap<i64, Lease>>>,
    /// The source's member that is asked.
    member: Arc<Mutex<Option<Member>>>,
}

#[derive(Debug, Clone, Copy)]
struct Lease {
    ttl: i64,
    due: Instant,
}

// === impl Leases ===

impl Leases {
    pub(crate) fn new(source: Arc<Cluster>, destination: Arc<Destination>) -> Self {
        Self { source, destination, known: Arc::default(), member: Arc::default() }
    }

    /// Makes sure that every lease that these changes name exists at the destination.
    pub(crate) async fn ensure(&self, changes: &[Change]) -> Result<(), EtcdError> {
        for change in changes {
            if let Op::Put { lease, .. } = change.op
                && lease != 0
                && !self.known.lock().await.contains_key(&lease)
            {
                let ttl = self.source_ttl(lease).await?.unwrap_or(ORPHAN);
                self.grant(lease, ttl).await?;
                let due = Instant::now() + third(ttl);
                self.known.lock().await.insert(lease, Lease { ttl, due });
            }
        }
        Ok(())
    }

    /// A transaction found one of its leases gone: they are all granted again when next named.
    pub(crate) async fn forget(&self) {
        self.known.lock().await.clear();
    }

    /// Renews what is due, until `cancel`.
    pub(crate) async fn keep(self, cancel: CancellationToken) {
        let mut tick = interval(TICK);
        while cancel.run_until_cancelled(tick.tick()).await.is_some() {
            let now = Instant::now();
            let due: Vec<(i64, Lease)> = {
                let known = self.known.lock().await;
                known.iter().filter(|(_, lease)| lease.due <= now).map(|(id, lease)| (*id, *lease)).collect()
            };
            for (id, lease) in due {
                let kept = match self.source_ttl(id).await {
                    // The source's has ended, and its keys' deletes are on their way.
                    Ok(None) => false,
                    Ok(Some(_)) => self.renew(id).await,
                    // The source cannot be asked: not renewed now, asked again soon.
                    Err(_) => true,
                };
                let mut known = self.known.lock().await;
                if kept {
                    let due = now + third(lease.ttl);
                    known.insert(id, Lease { due, ..lease });
                } else {
                    known.remove(&id);
                }
            }
        }
    }

    /// The time to live that a lease of the source was granted; `None` when it does not exist.
    async fn source_ttl(&self, lease: i64) -> Result<Option<i64>, EtcdError> {
        let mut member = self.member.lock().await;
        let mut client = match member.as_ref() {
            Some(known) => known.client.clone(),
            None => member.insert(self.source.connect().await?).client.clone(),
        };
        match self.source.ask(client.lease_time_to_live(lease, None)).await {
            Ok(answer) => Ok((answer.ttl() > 0).then_some(answer.granted_ttl())),
            Err(EtcdError::NoLease(_)) => Ok(None),
            Err(error) => {
                *member = None;
                Err(error)
            }
        }
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
            other => other.map(drop),
        }
    }

    /// Whether it lives on.
    async fn renew(&self, lease: i64) -> bool {
        let Ok(mut member) = self.destination.member().await else { return true };
        let renewing = async {
            let (mut keeper, mut answers) = member.client.lease_keep_alive(lease).await?;
            keeper.keep_alive().await?;
            answers.message().await
        };
        match self.destination.cluster.ask(renewing).await {
            Ok(Some(answer)) => answer.ttl() > 0,
            Ok(None) | Err(_) => true,
        }
    }
}

fn third(ttl: i64) -> Duration {
    Duration::from_secs(u64::try_from(ttl / 3).unwrap_or(1).max(1))
}
