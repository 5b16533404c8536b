//! Makes a live etcd what a moment was, by difference: what is equal already is not touched, revisions go on, watches stay open
//! and tell what happened.
//!
//! # How
//!
//! ```text
//!  guard ──> claim the mark ──> pass: walk over both sides, write what differs ──> pass ... ──> nothing differs: take the mark away
//!                                        │                          ^
//!                                        └── somebody else wrote: read those keys again, say so
//! ```
//!
//! - Every transaction compares the `mod_revision` of each key it touches with the one that was read: what somebody else wrote in
//!   between makes it fail whole, and is read before it is written over. It is counted, and reported.
//! - Every transaction compares the mark as well, a key of replication's own that says which moment is on its way. It is there from
//!   the first write to the last, so that readers can tell; of two restores the later one goes on and the earlier one ends.
//! - A crash leaves the mark and some part written. The same command again writes what is still missing.
//!
//! The whole is not one transaction and cannot be: a reader in the middle of it sees some keys as they were and others as they
//! are. Who must not see that waits for the mark to go.

mod etcd;
mod walk;

use std::{sync::Arc, time::Instant};

use serde::Serialize;
use tokio::task::JoinSet;

use super::{
    Progress, SnapshotError,
    diff::{Kind, Step},
    moment::Moment,
};
use crate::{batch::Limits, client::EtcdError, options::ClusterOptions, revision::Revision};
use etcd::Target;
use walk::Walk;

/// The key that is there while a restore goes on.
pub const MARK: &str = "/zonebreak/v1/replication/restore:mark";

/// Transactions on their way at the same time.
const AT_ONCE: usize = 8;

/// Walks over both sides before we say that somebody else keeps writing.
const PASSES: u32 = 6;

/// Where a moment goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Into the etcd that it was of.
    InPlace,
    /// Into whatever etcd that is.
    Anywhere,
    /// Into one that holds nothing under the prefix, or was left half restored to this very moment.
    Empty,
}

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Job {
    /// The etcd.
    pub etcd: ClusterOptions,
    /// What it shall be.
    pub moment: Moment,
    /// Which etcd that may be.
    pub place: Place,
    /// Whether keys that the moment does not have are deleted.
    pub deletes: bool,
    /// What a transaction may hold.
    pub limits: Limits,
    /// How far it is.
    pub progress: Arc<Progress>,
}

/// What would happen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Preview {
    /// Keys that would come.
    pub added: u64,
    /// Keys that would have another value.
    pub changed: u64,
    /// Keys that would go.
    pub deleted: u64,
    /// Keys that are as they shall be.
    pub equal: u64,
    /// The first of those that are not.
    pub steps: Vec<Shown>,
}

/// A step for people: values are cut short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// The key, printable.
    pub key: String,
    /// `add`, `change` or `delete`.
    pub change: &'static str,
    /// What it is.
    pub now: Option<String>,
    /// What it would be.
    pub then: Option<String>,
}

/// What happened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Keys that came, changed, or went.
    pub written: u64,
    /// Transactions that this took.
    pub transactions: u64,
    /// Writes of somebody else that came in between, were read, and written over.
    pub overwritten: u64,
    /// Keys that they wrote, the first ones.
    pub overwritten_keys: Vec<String>,
    /// Keys that were as they should be already.
    pub equal: u64,
    /// Whether an earlier restore had been left unfinished.
    pub resumed: bool,
    /// The etcd's revision at which nothing differed.
    pub revision: Revision,
    /// How long it took, in milliseconds.
    pub elapsed_ms: u64,
}

/// What a transaction came to.
#[derive(Debug, Default)]
struct Done {
    written: u64,
    transactions: u64,
    overwritten: Vec<Vec<u8>>,
}

/// Says what a restore would do, naming at most `show` keys, and does nothing.
///
/// # Errors
/// When it would be refused, when a side cannot be read.
pub async fn preview(job: &Job, show: usize) -> Result<Preview, SnapshotError> {
    let target = Target::connect(job).await?;
    let mut walk = target.walk(job).await?;
    let mut preview = Preview::default();
    while let Some(step) = walk.next().await? {
        let kind = step.kind();
        match kind {
            Kind::Add => preview.added += 1,
            Kind::Change => preview.changed += 1,
            Kind::Delete if !job.deletes => continue,
            Kind::Delete => preview.deleted += 1,
        }
        if preview.steps.len() < show {
            preview.steps.push(Shown::of(&step));
        }
    }
    preview.equal = walk.equal;
    Ok(preview)
}

/// Restores.
///
/// # Errors
/// When it is refused, when somebody else keeps writing, when a side fails for longer than a few seconds. Running it again goes on.
pub async fn restore(job: &Job) -> Result<Report, SnapshotError> {
    let begun = Instant::now();
    let mut target = Target::connect(job).await?;
    let mut report = Report { resumed: target.claim(job).await?, ..Report::default() };
    let target = Arc::new(target);
    for pass in 0..PASSES {
        let mut walk = target.walk(job).await?;
        let differed = carry_out(&target, job, &mut walk, pass, &mut report).await?;
        if pass == 0 {
            report.equal = walk.equal;
        }
        if differed.is_none() {
            report.revision = walk.at;
            target.release().await?;
            report.elapsed_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            return Ok(report);
        }
        if pass + 1 == PASSES {
            let key = differed.unwrap_or_default().escape_ascii().to_string();
            return Err(SnapshotError::Conflict(format!(
                "somebody else keeps writing under {:?} (such as {key}); stop them first",
                job.moment.prefix
            )));
        }
    }
    Err(SnapshotError::Internal("no pass was made".to_owned()))
}

/// One pass: writes what differs. Hands out a key that did.
async fn carry_out(
    target: &Arc<Target>,
    job: &Job,
    walk: &mut Walk,
    pass: u32,
    report: &mut Report,
) -> Result<Option<Vec<u8>>, SnapshotError> {
    let (mut differed, mut batch, mut bytes) = (None, Vec::new(), 0);
    let mut tasks: JoinSet<Result<Done, SnapshotError>> = JoinSet::new();
    loop {
        let step = walk.next().await?;
        let ended = step.is_none();
        let full = step.as_ref().is_some_and(|step| {
            // Beside the mark, the record of the owner is compared.
            batch.len() + 1 >= job.limits.operations.max(2) || bytes + step.size() > job.limits.bytes
        });
        if (full || ended) && !batch.is_empty() {
            let (target, steps) = (Arc::clone(target), std::mem::take(&mut batch));
            bytes = 0;
            tasks.spawn(async move { target.transact(steps).await });
        }
        while tasks.len() >= AT_ONCE || ended {
            let Some(done) = tasks.join_next().await else { break };
            let done = done.map_err(|error| SnapshotError::Internal(error.to_string()))??;
            report.add(done);
        }
        let Some(step) = step else { return Ok(differed) };
        let skipped = match step.kind() {
            Kind::Delete => !job.deletes,
            // It was written in an earlier pass, and its lease has ended since: nobody renewed it.
            Kind::Add => pass > 0 && step.wanted.as_ref().is_some_and(|wanted| wanted.lease != 0),
            Kind::Change => false,
        };
        if !skipped {
            differed.get_or_insert_with(|| step.key.clone());
            bytes += step.size();
            batch.push(step);
        }
    }
}

// === impl Report ===

impl Report {
    fn add(&mut self, done: Done) {
        /// Keys that are named.
        const NAMED: usize = 20;
        self.written += done.written;
        self.transactions += done.transactions;
        self.overwritten += done.overwritten.len() as u64;
        let room = NAMED.saturating_sub(self.overwritten_keys.len());
        let names = done.overwritten.iter().take(room).map(|key| key.escape_ascii().to_string());
        self.overwritten_keys.extend(names);
    }
}

// === impl Shown ===

impl Shown {
    fn of(step: &Step) -> Self {
        /// Characters of a value.
        const SHORT: usize = 40;
        let short = |value: &[u8]| {
            let text = String::from_utf8_lossy(value);
            let mut text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            if let Some((at, _)) = text.char_indices().nth(SHORT) {
                text.truncate(at);
                text.push('…');
            }
            text
        };
        let value = |item: &Option<super::Item>| item.as_ref().map(|item| short(&item.value));
        Self {
            key: String::from_utf8_lossy(&step.key).into_owned(),
            change: match step.kind() {
                Kind::Add => "add",
                Kind::Change => "change",
                Kind::Delete => "delete",
            },
            now: value(&step.there),
            then: value(&step.wanted),
        }
    }
}

impl SnapshotError {
    /// Whether the etcd may answer when it is asked again.
    const fn is_transient(&self) -> bool {
        matches!(self, Self::Etcd(EtcdError::Unreachable { .. }))
    }
}
