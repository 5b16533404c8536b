//! What only a returning region has: everything that it took in after the last revision that the new owner knows, key by key, with
//! both values. Saved in a file before anything there is overwritten; never dropped, never merged by guess.
//!
//! The file is a line of JSON for each key. `here` is what the returning region has, `owner` what the new owner has at that
//! moment; `null` is no key. Text is a string, other bytes are `{"base64": "..."}`.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::RegionError;
use crate::{
    client::{EtcdError, Member},
    error::ReplicationError,
    listing::Listing,
    revision::Revision,
    run::Context,
};

/// Values by key, of one side.
type Side = BTreeMap<Vec<u8>, Vec<u8>>;

/// A tail that was saved.
pub(crate) struct Exported {
    pub path: PathBuf,
    pub keys: usize,
}

// === impl Context ===

impl Context {
    /// Saves what the destination changed after its revision `safe` and the source does not have. `None` when that is nothing.
    pub(super) async fn export(
        &self,
        source: &Member,
        destination: &Member,
        safe: Revision,
        epoch: u64,
    ) -> Result<Option<Exported>, ReplicationError> {
        let rules = &self.options.rules;
        let (at, prefix) = (destination.head, rules.destination_prefix());
        let mut owner = Side::new();
        let mut listing = Listing::start(&self.source, source, rules.source_prefix(), source.head);
        while let Some(kv) = listing.next().await? {
            if let Some(key) = rules.map_key(kv.key()) {
                owner.insert(key, kv.value().to_vec());
            }
        }
        let (mut here, mut put_since) = (Side::new(), BTreeMap::new());
        let mut listing = Listing::start(&self.destination.cluster, destination, prefix, at);
        while let Some(kv) = listing.next().await? {
            if rules.owns(kv.key()) {
                if kv.mod_revision() > safe.0 {
                    put_since.insert(kv.key().to_vec(), kv.mod_revision());
                }
                here.insert(kv.key().to_vec(), kv.value().to_vec());
            }
        }
        let deleted = self.deleted(destination, safe, &here, &owner).await?;
        let lines: Vec<Value> = put_since
            .iter()
            .map(|(key, revision)| (key, Some(*revision)))
            .chain(deleted.iter().map(|key| (key, None)))
            .filter(|(key, _)| here.get(*key) != owner.get(*key))
            .map(|(key, revision)| {
                let value = |side: &Side| side.get(key).map_or(Value::Null, |value| bytes(value));
                json!({ "key": bytes(key), "revision": revision, "here": value(&here), "owner": value(&owner) })
            })
            .collect();
        if lines.is_empty() {
            return Ok(None);
        }
        let name = format!("divergent-{}-{epoch}-{}.jsonl", self.options.stream, destination.cluster);
        let path = self.options.spool.join(name);
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        save(&path, text.as_bytes()).map_err(|error| RegionError::Export {
            path: path.display().to_string(),
            why: error.to_string(),
        })?;
        Ok(Some(Exported { path, keys: lines.len() }))
    }

    /// Keys that the destination deleted after `safe`. Where it does not know that revision any more, those that the source has
    /// and it has not: deleted here or made there, which nobody can tell.
    async fn deleted(
        &self,
        destination: &Member,
        safe: Revision,
        here: &Side,
        owner: &Side,
    ) -> Result<Vec<Vec<u8>>, ReplicationError> {
        let rules = &self.options.rules;
        let (cluster, prefix) = (&self.destination.cluster, rules.destination_prefix());
        let mut listing = Listing::start(cluster, destination, prefix, safe);
        let mut deleted = Vec::new();
        loop {
            match listing.next().await {
                Ok(Some(kv)) if rules.owns(kv.key()) && !here.contains_key(kv.key()) => {
                    deleted.push(kv.key().to_vec());
                }
                Ok(Some(_)) => {}
                Ok(None) => return Ok(deleted),
                Err(EtcdError::Compacted { .. }) => {
                    return Ok(owner.keys().filter(|key| !here.contains_key(*key)).cloned().collect());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => json!({ "base64": STANDARD.encode(bytes) }),
    }
}

/// Whole and safe on disk, or not there. An earlier one of the same return is replaced: it was not overwritten from.
fn save(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory)?;
    let temporary = path.with_extension("new");
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    std::fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text_and_other_bytes_are_kept_whole() {
        assert_eq!(bytes("zürich".as_bytes()), json!("zürich"));
        assert_eq!(bytes(&[0xff, 0]), json!({ "base64": "/wA=" }));
    }

    #[test]
    fn a_file_is_whole_or_not_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new").join("divergent.jsonl");
        save(&path, b"one\n").unwrap();
        save(&path, b"two\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two\n");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
