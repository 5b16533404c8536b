//! Leased keys when their owner changes. Until then the replicator renews what they live by for as long as the source's leases live;
//! from then on nobody does, and a key that lives by a lease of ten seconds would be gone before whoever renews it has heard of the
//! new owner. So what has less than the grace left gets a lease that ends by itself after that. Never makes a key immortal, and never
//! touches one that was registered with the new owner already.
//!
//! Which those are is told by revisions: the replicator's last write came before the ownership record, and what the new owner's
//! registrars write comes after it. What was given a grace lease was written after it too, so that whoever does this again after a
//! kill takes up what is left. Values are not read: the lease alone is replaced, by a transaction that compares the key's revision.

use std::{collections::BTreeSet, sync::Arc};

use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp};
use tokio::task::JoinSet;

use super::own::{self, Held};
use crate::{
    client::{EtcdError, Member},
    error::ReplicationError,
    listing::Listing,
    revision::Revision,
    run::Context,
};

/// Keys in one transaction; each is compared, and etcd counts comparisons as it does operations.
const TOGETHER: usize = 64;

/// Leases that are asked about at the same time.
const AT_ONCE: usize = 64;

/// A key at the destination that lives by a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leased {
    key: Vec<u8>,
    lease: i64,
    modified: Revision,
}

// === impl Context ===

impl Context {
    /// Every key of ours at the destination that lives by a lease.
    pub(super) async fn leased(&self, here: &Member) -> Result<Vec<Leased>, EtcdError> {
        let (rules, mut found) = (&self.options.rules, Vec::new());
        let prefix = rules.destination_prefix();
        let mut listing = Listing::keys(&self.destination.cluster, here, prefix, Revision(0));
        while let Some(kv) = listing.next().await? {
            if kv.lease() != 0 && rules.owns(kv.key()) {
                let (lease, modified) = (kv.lease(), Revision(kv.mod_revision()));
                found.push(Leased { key: kv.into_key_value().0, lease, modified });
            }
        }
        Ok(found)
    }

    /// Gives the leased keys that the replicator left here their time, unless they have it. How many it left, given or not.
    pub(super) async fn give_grace(
        &self,
        here: &Member,
        prefix: &str,
        own: &Held,
    ) -> Result<u64, ReplicationError> {
        let mut left = self.leased(here).await?;
        left.retain(|it| it.modified.0 < own.mod_revision);
        let count = u64::try_from(left.len()).unwrap_or(u64::MAX);
        let grace = i64::try_from(self.options.lease_grace.as_secs()).unwrap_or(i64::MAX);
        if grace > 0 {
            let ends = self.ending(here, left.iter().map(|it| it.lease).collect(), grace).await?;
            left.retain(|it| ends.contains(&it.lease));
        } else {
            left.clear();
        }
        if left.is_empty() {
            return Ok(count);
        }
        let mut member = here.client.clone();
        let cluster = &self.destination.cluster;
        let lease = cluster.ask(member.lease_grant(grace, None)).await?.id();
        let owner = Compare::mod_revision(own::key(prefix), CompareOp::Equal, own.mod_revision);
        let mut given = 0;
        for keys in left.chunks(TOGETHER.min(self.options.limits.operations.saturating_sub(1)).max(1)) {
            if self.hand_over(here, &owner, keys, lease).await? {
                given += keys.len();
                continue;
            }
            // One of them was registered, or has gone, at this very moment.
            for key in keys {
                let alone = std::slice::from_ref(key);
                given += usize::from(self.hand_over(here, &owner, alone, lease).await?);
            }
        }
        tracing::info!(keys = given, seconds = grace, "leased keys have time to be registered here");
        Ok(count)
    }

    /// Which of these leases have less than `grace` seconds left.
    async fn ending(
        &self,
        here: &Member,
        leases: BTreeSet<i64>,
        grace: i64,
    ) -> Result<BTreeSet<i64>, EtcdError> {
        let leases: Vec<i64> = leases.into_iter().collect();
        let mut asking = JoinSet::new();
        for part in leases.chunks(leases.len().div_ceil(AT_ONCE).max(1)) {
            let (part, mut client) = (part.to_vec(), here.client.clone());
            let cluster = Arc::clone(&self.destination.cluster);
            asking.spawn(async move {
                let mut ends = Vec::new();
                for lease in part {
                    match cluster.ask(client.lease_time_to_live(lease, None)).await {
                        Ok(answer) if answer.ttl() >= grace => {}
                        Err(error @ EtcdError::Unreachable { .. }) => return Err(error),
                        // It has less, or this user may not ask.
                        _ => ends.push(lease),
                    }
                }
                Ok(ends)
            });
        }
        let mut ends = BTreeSet::new();
        while let Some(part) = asking.join_next().await {
            let broke = |error: tokio::task::JoinError| EtcdError::Refused {
                side: "destination",
                why: error.to_string(),
            };
            ends.extend(part.map_err(broke)??);
        }
        Ok(ends)
    }

    /// Whether these keys live by `lease` from now on: nobody wrote them meanwhile, and the owner is the same.
    async fn hand_over(
        &self,
        here: &Member,
        owner: &Compare,
        keys: &[Leased],
        lease: i64,
    ) -> Result<bool, EtcdError> {
        let same = |it: &Leased| Compare::mod_revision(it.key.as_slice(), CompareOp::Equal, it.modified.0);
        let conditions: Vec<Compare> = keys.iter().map(same).chain([owner.clone()]).collect();
        let options = PutOptions::new().with_lease(lease).with_ignore_value();
        let moves: Vec<TxnOp> =
            keys.iter().map(|it| TxnOp::put(it.key.as_slice(), "", Some(options.clone()))).collect();
        let txn = Txn::new().when(conditions).and_then(moves);
        Ok(self.destination.cluster.ask(here.kv().txn(txn)).await?.succeeded())
    }
}
