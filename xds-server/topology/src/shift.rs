//! Drains as operators make them: `drain`, `extend`, `restore`, each one guarded transaction. Writes to etcd, the source of
//! truth; tells no proxy anything itself.
//!
//! A drain is refused while another is in force, so drains must see each other: the state is read at one revision, the guards
//! ([`guard`]) judge it, and the transaction goes through only if no key under `shifts/` changed since. Of two people who drain
//! at the same moment, one wins, and the other is told who.
//!
//! The key is written under a lease that ends a minute after the drain does, so that etcd forgets it even when no
//! server of ours runs any more. Until then `expires_at` in the value rules: everybody who reads it holds it against a clock.

pub mod guard;

use etcd_client::{Client, Compare, CompareOp, PutOptions, Txn, TxnOp, TxnResponse};
use jiff::{RoundMode, SignedDuration, Timestamp, TimestampRound, Unit};
use zonebreak_core::{
    names::{ServiceName, Zone},
    units::{Millis, Percent},
};

pub use guard::Refusal;

use crate::{
    entry::Entry,
    etcd::{EtcdError, EtcdOptions, within},
    key::{Key, Kind},
    model::{Shift, ShiftTarget, Topology},
    registry::{Listed, Registry},
};

/// How long the key outlives the drain. Covers clocks that disagree and an operator who wants to see what just ended.
const LEASE_MARGIN: Millis = Millis::secs(60);

/// The longest that a drain may last from now: three days, the same as zonal shifts in AWS. A drain that is still wanted then
/// deserves a person's second look.
pub const LONGEST: Millis = Millis(72 * 3_600_000);

/// The shortest.
pub const SHORTEST: Millis = Millis::secs(1);

/// A drain that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    /// The zone, or an alias of it.
    pub zone: Zone,
    /// For this service alone; for all when absent.
    pub service: Option<ServiceName>,
    /// What the zone keeps of its usual share; less than everything.
    pub keep_percent: Percent,
    /// For how long, [`SHORTEST`] to [`LONGEST`].
    pub duration: Millis,
    /// Why. Not empty.
    pub reason: String,
    /// Who.
    pub actor: String,
    /// Go on where a guard says no; an unknown zone stays unknown.
    pub force: bool,
}

/// A new end for a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extension {
    /// This long from now.
    For(Millis),
    /// This much later than it would have ended.
    By(Millis),
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The revision of etcd that holds it: a server that has come this far acts on it.
    pub revision: i64,
    /// What the drain applies to.
    pub target: ShiftTarget,
    /// The drain; for `restore`, the one that was ended.
    pub shift: Shift,
}

/// Why a drain could not be made, extended or ended. Each finishes the sentence "failed to ...".
#[derive(Debug, thiserror::Error)]
pub enum ShiftError {
    /// The request makes no sense whatever the state.
    #[error("{0}")]
    Usage(String),
    /// A guard says no.
    #[error("{0}")]
    Refused(Refusal),
    /// Somebody else was faster.
    #[error("{0}")]
    Conflict(String),
    /// etcd did not take it.
    #[error("{0}")]
    Etcd(#[from] EtcdError),
}

/// The kinds of [`ShiftError`], for exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShiftErrorKind {
    /// Ask for something else, or as somebody else.
    Usage,
    /// Refused by a guard.
    Refused,
    /// Try again, after a look at what changed.
    Conflict,
    /// etcd cannot be reached.
    Unreachable,
    /// etcd answers and does not do it.
    Failed,
}

// === impl ShiftError ===

impl ShiftError {
    /// Its kind.
    pub const fn kind(&self) -> ShiftErrorKind {
        match self {
            Self::Usage(_)
            | Self::Etcd(EtcdError::Options(_) | EtcdError::Certificates { .. } | EtcdError::Denied(_)) => {
                ShiftErrorKind::Usage
            }
            Self::Refused(_) | Self::Etcd(EtcdError::NotOwner { .. }) => ShiftErrorKind::Refused,
            Self::Conflict(_) => ShiftErrorKind::Conflict,
            Self::Etcd(EtcdError::Unreachable { .. }) => ShiftErrorKind::Unreachable,
            Self::Etcd(EtcdError::Failed(_)) => ShiftErrorKind::Failed,
        }
    }
}

// === impl Drain ===

impl Drain {
    fn validate(&self) -> Result<(), ShiftError> {
        let zone = &self.zone;
        let usage = |why: String| Err(ShiftError::Usage(why));
        if self.reason.trim().is_empty() {
            return usage(format!(
                "drain {zone} without a reason: whoever finds the drain at night needs one"
            ));
        }
        if self.keep_percent == Percent::FULL {
            return usage(format!(
                "drain {zone} and have it keep 100 %, which is no drain: keep less, or restore it"
            ));
        }
        check_duration(zone, self.duration)
    }
}

fn check_duration(zone: &Zone, duration: Millis) -> Result<(), ShiftError> {
    if (SHORTEST..=LONGEST).contains(&duration) {
        return Ok(());
    }
    Err(ShiftError::Usage(format!(
        "drain {zone} for {duration}: a drain lasts {SHORTEST} to {LONGEST} from now, and can be extended"
    )))
}

/// Drains a zone, for all services or for one.
pub async fn drain(etcd: &EtcdOptions, drain: &Drain) -> Result<Applied, ShiftError> {
    drain.validate()?;
    let mut writer = Writer::connect(etcd).await?;
    let (topology, revision, _) = writer.read().await?;
    let now = Timestamp::now();
    guard::check(&topology, drain, now).map_err(ShiftError::Refused)?;

    let target =
        ShiftTarget { zone: topology.canonical(&drain.zone).clone(), service: drain.service.clone() };
    let shift = Shift {
        keep_percent: drain.keep_percent,
        reason: drain.reason.trim().to_owned(),
        actor: drain.actor.clone(),
        started_at: now,
        expires_at: after(now, drain.duration)?,
    };
    let shifts = etcd.key(&format!("{}/", Kind::Shifts.name()));
    let unchanged = Compare::mod_revision(shifts, CompareOp::Less, revision.saturating_add(1)).with_prefix();
    match writer.put(unchanged, &target, &shift, now).await? {
        Some(revision) => Ok(Applied { revision, target, shift }),
        None => Err(writer.lost_to(&target).await),
    }
}

/// Ends a drain before its time.
pub async fn restore(etcd: &EtcdOptions, target: &ShiftTarget) -> Result<Applied, ShiftError> {
    let mut writer = Writer::connect(etcd).await?;
    let (topology, _, listed) = writer.read().await?;
    let (target, shift) =
        guard::in_force(&topology, target, Timestamp::now()).map_err(ShiftError::Refused)?;
    let key = Key::Shift(target.clone()).to_string();
    let same = same_revision(etcd, &key, &listed);
    let delete = TxnOp::delete(etcd.key(&key), None);
    match writer.commit(same, delete).await? {
        Some(revision) => Ok(Applied { revision, target, shift }),
        None => Err(writer.lost_to(&target).await),
    }
}

/// Gives a drain another end.
pub async fn extend(
    etcd: &EtcdOptions,
    target: &ShiftTarget,
    extension: Extension,
) -> Result<Applied, ShiftError> {
    let mut writer = Writer::connect(etcd).await?;
    let (topology, _, listed) = writer.read().await?;
    let now = Timestamp::now();
    let (target, shift) = guard::in_force(&topology, target, now).map_err(ShiftError::Refused)?;
    let expires_at = match extension {
        Extension::For(duration) => after(now, duration)?,
        Extension::By(duration) => after(shift.expires_at, duration)?,
    };
    let left = expires_at.duration_since(now).as_millis();
    check_duration(&target.zone, Millis(u64::try_from(left).unwrap_or(0)))?;
    let shift = Shift { expires_at, ..shift };
    let same = same_revision(etcd, &Key::Shift(target.clone()).to_string(), &listed);
    match writer.put(same, &target, &shift, now).await? {
        Some(revision) => Ok(Applied { revision, target, shift }),
        None => Err(writer.lost_to(&target).await),
    }
}

/// The drains in force, in order of zone.
pub async fn list(etcd: &EtcdOptions) -> Result<Vec<(ShiftTarget, Shift)>, EtcdError> {
    let topology = etcd.topology().await?;
    let now = Timestamp::now();
    let active = topology.shifts.iter().filter(|(_, shift)| shift.active(now));
    Ok(active.map(|(target, shift)| (target.clone(), shift.clone())).collect())
}

fn after(from: Timestamp, duration: Millis) -> Result<Timestamp, ShiftError> {
    let far = || ShiftError::Usage(format!("have a drain end {duration} from {from}: that is too far away"));
    let millis = i64::try_from(duration.0).map_err(|_| far())?;
    let end = from.checked_add(SignedDuration::from_millis(millis)).map_err(|_| far())?;
    // People read this: milliseconds will do, and never less time than was asked for.
    end.round(TimestampRound::new().smallest(Unit::Millisecond).mode(RoundMode::Ceil)).map_err(|_| far())
}

fn same_revision(etcd: &EtcdOptions, key: &str, listed: &[Listed]) -> Compare {
    let revision = listed.iter().find(|l| l.key == key).map_or(0, |l| l.mod_revision);
    Compare::mod_revision(etcd.key(key), CompareOp::Equal, revision)
}

/// A connection to one member, for one read and one write.
struct Writer<'a> {
    etcd: &'a EtcdOptions,
    client: Client,
}

// === impl Writer ===

impl<'a> Writer<'a> {
    async fn connect(etcd: &'a EtcdOptions) -> Result<Self, EtcdError> {
        Ok(Self { etcd, client: etcd.connect().await? })
    }

    async fn read(&mut self) -> Result<(std::sync::Arc<Topology>, i64, Vec<Listed>), EtcdError> {
        let listing = self.etcd.list(&self.client, "").await?;
        let mut registry = Registry::default();
        registry.reset(listing.entries.iter().cloned(), listing.revision);
        Ok((registry.topology(), listing.revision, listing.entries))
    }

    /// Writes a drain under a lease. `None` when the condition no longer holds.
    async fn put(
        &mut self,
        condition: Compare,
        target: &ShiftTarget,
        shift: &Shift,
        now: Timestamp,
    ) -> Result<Option<i64>, EtcdError> {
        let left = shift.expires_at.duration_since(now).as_secs();
        let margin = i64::try_from(LEASE_MARGIN.0 / 1000).unwrap_or(0);
        let limit = self.etcd.request_timeout;
        let lease = within(limit, self.client.lease_grant(left.saturating_add(margin), None)).await?.id();
        let key = Key::Shift(target.clone()).to_string();
        let value = Entry::Shift(shift.clone()).to_json().map_err(|e| EtcdError::Failed(e.to_string()))?;
        let options = PutOptions::new().with_lease(lease);
        let put = TxnOp::put(self.etcd.key(&key), value.to_string(), Some(options));
        let written = self.commit(condition, put).await;
        if !matches!(written, Ok(Some(_))) {
            // Nothing is attached to it; if this fails too, it ends by itself.
            _ = within(limit, self.client.lease_revoke(lease)).await;
        }
        written
    }

    async fn commit(&mut self, condition: Compare, op: TxnOp) -> Result<Option<i64>, EtcdError> {
        let shifts = self.etcd.key(&format!("{}/", Kind::Shifts.name()));
        let ground = self.etcd.ground(&self.client).await?;
        ground.check(&shifts)?;
        let conditions: Vec<Compare> = ground.unchanged().into_iter().chain([condition]).collect();
        let txn = Txn::new().when(conditions).and_then([op]);
        let answer: TxnResponse = within(self.etcd.request_timeout, self.client.txn(txn)).await?;
        if !answer.succeeded() {
            self.etcd.ground(&self.client).await?.check(&shifts)?;
        }
        let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        Ok(answer.succeeded().then_some(revision))
    }

    /// Says who was faster.
    async fn lost_to(&mut self, target: &ShiftTarget) -> ShiftError {
        let topology = match self.read().await {
            Ok((topology, ..)) => topology,
            Err(error) => return error.into(),
        };
        let now = Timestamp::now();
        let others: Vec<String> = topology
            .shifts
            .iter()
            .filter(|(_, shift)| shift.active(now))
            .map(|(target, shift)| guard::describe(target, shift))
            .collect();
        let now_there = match others.as_slice() {
            [] => "now none is in force".to_owned(),
            others => format!("in force now: {}", others.join("; ")),
        };
        ShiftError::Conflict(format!(
            "change the drain of {target}: somebody else changed the drains at the same moment; {now_there}. Look at \
             it and try again if it is still wanted"
        ))
    }
}
