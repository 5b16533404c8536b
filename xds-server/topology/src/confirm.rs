//! An operator's word on changes that are held: one transaction. Writes to etcd, so that every replica hears it; the gate
//! ([`crate::gate`]) decides what it lets through.
//!
//! The keys live under a lease that ends with the confirmation: nobody has to clean up, and nothing that was said at night
//! counts in the morning.

use etcd_client::{PutOptions, Txn, TxnOp};
use jiff::{SignedDuration, Timestamp};
use zonebreak_core::units::Millis;

use crate::{
    entry::Entry,
    etcd::{EtcdError, EtcdOptions, within},
    key::{Key, Kind},
    model::{Confirmation, HeldId},
};

/// How long a confirmation counts: enough for every replica to hear of it and for a slow deletion to end, too short for the
/// next accident.
pub const LASTS: Millis = Millis::secs(600);

/// A confirmation of a change that leaves `endpoints`, from `now` on.
pub fn given(endpoints: usize, reason: &str, actor: &str, now: Timestamp) -> Confirmation {
    let lasts = SignedDuration::from_millis(i64::try_from(LASTS.0).unwrap_or(i64::MAX));
    Confirmation {
        endpoints,
        reason: reason.trim().to_owned(),
        actor: actor.to_owned(),
        confirmed_at: now,
        expires_at: now.checked_add(lasts).unwrap_or(Timestamp::MAX),
    }
}

/// Writes confirmations, all at once, and answers the revision that holds them: a server that has come this far acts on them.
///
/// # Errors
/// When etcd cannot be reached or does not take them.
pub async fn confirm(etcd: &EtcdOptions, all: &[(HeldId, Confirmation)]) -> Result<i64, EtcdError> {
    let mut client = etcd.connect().await?;
    let ground = etcd.ground(&client).await?;
    for (id, _) in all {
        ground.check(&etcd.key(&Key::Confirmed(id.clone()).to_string()))?;
    }
    let seconds = i64::try_from(LASTS.0 / 1000).unwrap_or(i64::MAX);
    let lease = within(etcd.request_timeout, client.lease_grant(seconds, None)).await?.id();
    let mut puts = Vec::new();
    for (id, confirmation) in all {
        let value = Entry::Confirmed(confirmation.clone()).to_json();
        let value = value.map_err(|error| EtcdError::Failed(error.to_string()))?;
        let key = etcd.key(&Key::Confirmed(id.clone()).to_string());
        puts.push(TxnOp::put(key, value.to_string(), Some(PutOptions::new().with_lease(lease))));
    }
    // etcd allows 128 operations in a transaction (`--max-txn-ops`); what is held belongs together only by accident.
    let mut revision = 0;
    for batch in puts.chunks(127) {
        let conditions: Vec<_> = ground.unchanged().into_iter().collect();
        let txn = Txn::new().when(conditions).and_then(batch);
        let answer = within(etcd.request_timeout, client.txn(txn)).await?;
        if !answer.succeeded() {
            let key = etcd.key(&format!("{}/", Kind::Confirmed.name()));
            etcd.ground(&client).await?.check(&key)?;
            return Err(EtcdError::Failed(
                "the owners of prefixes changed at the same moment; try again".to_owned(),
            ));
        }
        revision = answer.header().map_or(revision, etcd_client::ResponseHeader::revision);
    }
    Ok(revision)
}
