//! One connection's worth of a registration: from a lease granted to that lease lost. The table of what happens then stands in
//! [`super`].

use std::{convert::Infallible, time::Duration};

use etcd_client::{
    Client, Compare, EventType, KeyValue, LeaseKeepAliveStream, LeaseKeeper, PutOptions, Txn, TxnOp,
    WatchOptions, WatchStream,
};
use tokio::time::{Instant, MissedTickBehavior};

use super::{RegisterError, RegisterEvent, RegisterOptions};
use crate::{
    entry::Entry,
    etcd::{EtcdError, EtcdOptions, within},
    key::Key,
};

/// Leases remembered while one attempt after another fails between the grant and the put.
const MAX_LEASES: usize = 16;

/// What is registered, and what is known of it across connections.
pub(super) struct Registration {
    key: String,
    value: String,
    ttl: Duration,
    /// Leases that may still live, the latest last.
    leases: Vec<i64>,
    /// Whether another registration has the name.
    stands_back: bool,
}

/// A registration with a lease.
pub(super) struct Session<'a> {
    registration: &'a mut Registration,
    etcd: &'a EtcdOptions,
    client: Client,
    limit: Duration,
    lease: i64,
    ttl: Duration,
    keeper: LeaseKeeper,
    answers: LeaseKeepAliveStream,
    watch: WatchStream,
}

/// What an event on our own key means.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// It is as we wrote it.
    Ours,
    /// It is gone.
    Deleted,
    /// Another lease, or none, has it.
    Taken(i64),
}

/// Reads an event on our own key. A put under our lease is ours, be it an echo.
fn judge(kind: EventType, kv: Option<&KeyValue>, lease: i64) -> Seen {
    match (kind, kv.map(KeyValue::lease)) {
        (EventType::Delete, _) => Seen::Deleted,
        (EventType::Put, Some(by)) if by != lease => Seen::Taken(by),
        (EventType::Put, _) => Seen::Ours,
    }
}

/// Whether etcd says that a lease does not exist (any more).
pub(super) fn is_gone(error: &EtcdError) -> bool {
    matches!(error, EtcdError::Failed(why) if why.contains("requested lease not found"))
}

// === impl Registration ===

impl Registration {
    pub(super) fn new(options: &RegisterOptions, etcd: &EtcdOptions) -> Result<Self, RegisterError> {
        let (instance, endpoint) = options.endpoint()?;
        let ttl = options.lease()?;
        let key = etcd.key(&Key::Endpoint(options.service.clone(), instance).to_string());
        let value = Entry::Endpoint(endpoint).to_json().map_err(|e| EtcdError::Failed(e.to_string()))?;
        Ok(Self { key, value: value.to_string(), ttl, leases: Vec::new(), stands_back: false })
    }

    /// Between two renewals.
    pub(super) fn renewal(&self) -> Duration {
        self.ttl / 3
    }

    /// Leases that may still live.
    pub(super) fn leases(&self) -> &[i64] {
        &self.leases
    }
}

// === impl Session ===

impl<'a> Session<'a> {
    /// Connects, takes a lease and puts the key under it, unless another registration has it.
    pub(super) async fn open(
        registration: &'a mut Registration,
        etcd: &'a EtcdOptions,
        member: usize,
        on: &impl Fn(RegisterEvent),
    ) -> Result<Self, EtcdError> {
        let mut client = etcd.connect_from(member).await?;
        let limit = etcd.request_timeout;
        let asked = i64::try_from(registration.ttl.as_secs()).unwrap_or(i64::MAX);
        let granted = within(limit, client.lease_grant(asked, None)).await?;
        let (lease, seconds) = (granted.id(), granted.ttl());
        let forgotten = registration.leases.len().saturating_sub(MAX_LEASES - 1);
        registration.leases.drain(..forgotten);
        registration.leases.push(lease);
        let ttl = Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).max(Duration::from_secs(1));

        let key = registration.key.as_str();
        let there = within(limit, client.get(key, None)).await?;
        let from = there.header().map_or(0, etcd_client::ResponseHeader::revision);
        registration.stands_back &= !there.kvs().is_empty();
        // From before our own put on, so that nothing slips in between; our own put shows up and is known by its lease.
        let options = WatchOptions::new().with_start_revision(from.saturating_add(1));
        let watch = within(limit, client.watch(key, Some(options))).await?;
        let (keeper, answers) = within(limit, client.lease_keep_alive(lease)).await?;
        let mut session = Self { registration, etcd, client, limit, lease, ttl, keeper, answers, watch };
        if !session.registration.stands_back {
            session.put(on).await?;
        }
        Ok(session)
    }

    async fn put(&mut self, on: &impl Fn(RegisterEvent)) -> Result<(), EtcdError> {
        let Registration { key, value, .. } = &*self.registration;
        let ground = self.etcd.ground(&self.client).await?;
        ground.check(key)?;
        let options = PutOptions::new().with_lease(self.lease);
        let write = TxnOp::put(key.as_str(), value.as_str(), Some(options));
        let conditions: Vec<Compare> = ground.unchanged().into_iter().collect();
        let txn = Txn::new().when(conditions).and_then([write]);
        let put = within(self.limit, self.client.txn(txn)).await?;
        if !put.succeeded() {
            return Err(lost("the owners of prefixes changed at the same moment"));
        }
        let revision = put.header().map_or(0, etcd_client::ResponseHeader::revision);
        let key = key.clone();
        // The leases before have no key any more.
        self.registration.leases.retain(|lease| *lease == self.lease);
        on(RegisterEvent::Registered { key, revision, lease: self.lease, ttl: self.ttl });
        Ok(())
    }

    /// Renews the lease and watches over the key until either is lost.
    pub(super) async fn live(&mut self, on: &impl Fn(RegisterEvent)) -> Result<Infallible, EtcdError> {
        let mut renewals = tokio::time::interval(self.ttl / 3);
        renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // A lease counts from when etcd took the renewal, which is no earlier than when it was sent.
        let mut sent = Instant::now();
        let mut ends = sent + self.ttl;
        loop {
            tokio::select! {
                _ = renewals.tick() => {
                    sent = Instant::now();
                    within(self.limit, self.keeper.keep_alive()).await?;
                }
                answer = self.answers.message() => match answer? {
                    Some(answer) if answer.ttl() > 0 => ends = sent + self.ttl,
                    Some(_) => return Err(lost("the lease ended before it was renewed")),
                    None => return Err(lost("etcd ended the renewals")),
                },
                message = self.watch.message() => match message? {
                    Some(response) if response.canceled() => return Err(lost("etcd ended the watch on the key")),
                    Some(response) => {
                        let Some(last) = response.events().last() else { continue };
                        self.seen(judge(last.event_type(), last.kv(), self.lease), on).await?;
                    }
                    None => return Err(lost("etcd ended the watch on the key")),
                },
                () = tokio::time::sleep_until(ends) => return Err(lost("no renewal was answered for a whole TTL")),
            }
        }
    }

    async fn seen(&mut self, seen: Seen, on: &impl Fn(RegisterEvent)) -> Result<(), EtcdError> {
        match seen {
            Seen::Ours => self.registration.stands_back = false,
            Seen::Deleted => {
                on(RegisterEvent::Deleted);
                self.registration.stands_back = false;
                self.put(on).await?;
            }
            Seen::Taken(by) => {
                self.registration.stands_back = true;
                on(RegisterEvent::Superseded { by });
            }
        }
        Ok(())
    }
}

fn lost(why: &str) -> EtcdError {
    EtcdError::Failed(why.to_owned())
}
