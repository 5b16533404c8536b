//! A topology file and what etcd holds: compare, write, read back. Everything is checked before anything is written; endpoints
//! that programs registered are never touched.

mod diff;
mod file;

use std::collections::BTreeMap;

use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp};

pub use diff::{Change, ChangeKind};
pub use file::File;

use crate::{
    entry::Entry,
    etcd::{EtcdError, EtcdOptions, within},
    key::{Key, Kind},
    model::Problem,
    strangers::Stranger,
};
use diff::Planned;

/// Keys in one transaction. etcd allows 128 operations (`--max-txn-ops`) in each of its three parts.
const MAX_OPS: usize = 127;

/// Bytes of values in one transaction. etcd allows 1.5 MiB in a request (`--max-request-bytes`).
const MAX_BYTES: usize = 1 << 20;

/// What was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// The revision of etcd that holds it all: a server that has come this far acts on it.
    pub revision: i64,
    /// What was changed, in order of key; empty when etcd already held it.
    pub changes: Vec<Change>,
    /// Zones that are named and are not there, once this is written.
    pub strangers: Vec<Stranger>,
}

/// What applying a file would change.
#[derive(Debug, Clone, PartialEq)]
pub struct Compared {
    /// In order of key.
    pub changes: Vec<Change>,
    /// Zones that are named and are not there, once this is written.
    pub strangers: Vec<Stranger>,
}

/// Why a topology file could not be compared, written or read back. Each finishes the sentence "failed to ...".
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The file is no topology, or entries of it cannot be used. Nothing was written.
    #[error("use the topology file, nothing of it is written:{}", list(.0))]
    Invalid(Vec<Problem>),
    /// A key changed between reading and writing.
    #[error(
        "write the topology: somebody else changed it at the same moment. Of {total} changes, {written} are written; look at \
         what is left with a diff and apply it again"
    )]
    Conflict {
        /// Changes written before.
        written: usize,
        /// Changes there were to write.
        total: usize,
    },
    /// What etcd holds cannot be said in YAML.
    #[error("write the topology as YAML: {0}")]
    Render(String),
    /// etcd did not take it, or not all of it.
    #[error("{error}{}", if *.written > 0 { format!("; {written} changes are written already, apply again") } else { String::new() })]
    Etcd {
        /// What went wrong.
        error: EtcdError,
        /// Changes written before.
        written: usize,
    },
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}

impl From<EtcdError> for EditError {
    fn from(error: EtcdError) -> Self {
        Self::Etcd { error, written: 0 }
    }
}

/// What applying the file would change. With `prune`, keys that etcd has and the file has not are removed: of
/// the kinds that the file names at its top level, and never under a lease, so that registrations and drains stay.
pub async fn diff(etcd: &EtcdOptions, file: &File, prune: bool) -> Result<Compared, EditError> {
    let listing = etcd.list(&etcd.connect().await?, "").await?;
    let planned = diff::plan(file, &listing.entries, prune);
    let strangers = file.strangers_beside(&listing.entries, &planned);
    Ok(Compared { changes: planned.into_iter().map(|planned| planned.change).collect(), strangers })
}

/// Writes the file: one transaction if it fits, else several, each guarded by the revisions that were read.
pub async fn apply(etcd: &EtcdOptions, file: &File, prune: bool) -> Result<Applied, EditError> {
    let mut client = etcd.connect().await?;
    let ground = etcd.ground(&client).await?;
    let listing = etcd.list(&client, "").await?;
    let planned = diff::plan(file, &listing.entries, prune);
    let strangers = file.strangers_beside(&listing.entries, &planned);
    for planned in &planned {
        ground.check(&etcd.key(&planned.change.key))?;
    }
    let total = planned.len();
    let (mut revision, mut written) = (listing.revision, 0);
    for batch in batches(&planned) {
        let conditions: Vec<Compare> = batch
            .iter()
            .map(|p| Compare::mod_revision(etcd.key(&p.change.key), CompareOp::Equal, p.mod_revision))
            .chain(ground.unchanged())
            .collect();
        let ops: Vec<TxnOp> = batch.iter().map(|planned| operation(etcd, planned)).collect();
        let txn = Txn::new().when(conditions).and_then(ops);
        let answer = within(etcd.request_timeout, client.txn(txn)).await;
        let answer = answer.map_err(|error| EditError::Etcd { error, written })?;
        if !answer.succeeded() {
            // Whether it was a key, or the region that lost them all.
            let ground = etcd.ground(&client).await?;
            for planned in batch {
                let ours = ground.check(&etcd.key(&planned.change.key));
                ours.map_err(|error| EditError::Etcd { error, written })?;
            }
            return Err(EditError::Conflict { written, total });
        }
        revision = answer.header().map_or(revision, etcd_client::ResponseHeader::revision);
        written += batch.len();
    }
    Ok(Applied { revision, changes: planned.into_iter().map(|planned| planned.change).collect(), strangers })
}

/// What operators wrote (zones, services, shifts; endpoints when asked for), as a topology file. A value that cannot be used is
/// a comment in it. Applying what this gives changes nothing.
pub async fn get(etcd: &EtcdOptions, endpoints: bool) -> Result<String, EditError> {
    let listing = etcd.list(&etcd.connect().await?, "").await?;
    let mut kinds: BTreeMap<Kind, BTreeMap<Key, serde_json::Value>> = BTreeMap::new();
    let mut refused = Vec::new();
    for listed in listing.entries {
        let Ok(Some(key)) = Key::parse(&listed.key) else { continue };
        let wanted = match key.kind() {
            Kind::Zones | Kind::Services | Kind::Shifts => true,
            Kind::Endpoints => endpoints,
            Kind::Health | Kind::Forced | Kind::Confirmed => false,
        };
        if !wanted {
            continue;
        }
        match Entry::decode(&key, &listed.value) {
            Err(problem) => refused.push(problem),
            Ok(entry) => {
                // As it was written, without the defaults; but other programs' registrations in our form.
                let written =
                    serde_json::from_slice(&listed.value).ok().filter(|_| key.kind() != Kind::Endpoints);
                let value = written.or_else(|| entry.to_json().ok()).unwrap_or_default();
                kinds.entry(key.kind()).or_default().insert(key, value);
            }
        }
    }
    file::render(&kinds, &refused)
}

fn operation(etcd: &EtcdOptions, planned: &Planned) -> TxnOp {
    let key = etcd.key(&planned.change.key);
    match &planned.value {
        None => TxnOp::delete(key, None),
        // A key that lives by a lease goes on doing so.
        Some(value) if planned.leased => {
            TxnOp::put(key, value.as_str(), Some(PutOptions::new().with_ignore_lease()))
        }
        Some(value) => TxnOp::put(key, value.as_str(), None),
    }
}

fn batches(planned: &[Planned]) -> Vec<&[Planned]> {
    let mut batches = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (at, one) in planned.iter().enumerate() {
        let size = one.value.as_ref().map_or(0, String::len) + one.change.key.len();
        if at > start && (at - start == MAX_OPS || bytes + size > MAX_BYTES) {
            batches.extend(planned.get(start..at));
            (start, bytes) = (at, 0);
        }
        bytes += size;
    }
    batches.extend(planned.get(start..).filter(|rest| !rest.is_empty()));
    batches
}

#[cfg(test)]
mod tests;
