//! What only a returning region has: everything that it took in after the last revision that the new owner knows, key by key, with
//! both values. Saved in a file before anything there is overwritten; never dropped, never merged by guess. The same for what a
//! destination holds that an operator has overwritten.
//!
//! The file is a line of JSON for each key. `here` is what the returning region has, `owner` what the new owner has at that
//! moment; `null` is no key. Text is a string, other bytes are `{"base64": "..."}`.
//!
//! Three listings are walked at once in the order of their keys, a page of each at a time: what the owner has, what is here, and
//! the keys that were here when the owner last knew. However large a region is, no side of it is held in memory.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{
    RegionError,
    tail::{Draft, Exported},
    unless_compacted,
};
use crate::{
    checkpoint::Checkpoint,
    client::{EtcdError, Member},
    digest::Digest,
    error::ReplicationError,
    listing::Listing,
    revision::Revision,
    rules::Rules,
    run::Context,
};

/// A key of one side, under the destination's name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    key: Vec<u8>,
    value: Vec<u8>,
    modified: Revision,
}

/// What comes next of the keys that were here when the owner last knew.
#[derive(Debug, Clone, Copy)]
enum Before<'a> {
    /// This one, or none any more.
    Known(Option<&'a Entry>),
    /// The etcd has compacted that revision, or was another one then: a key that is not here may have been deleted here, or made there.
    Forgotten,
}

/// A listing, and the entry of it that comes next.
struct Side<'a> {
    rules: &'a Rules,
    listing: Listing,
    /// Whether its keys have the source's names.
    mapped: bool,
    next: Option<Entry>,
}

// === impl Context ===

impl Context {
    /// Saves what the destination changed after the revision that the source has of it by its checkpoint `safe`, or, without one,
    /// whatever it has, where the source does not have the same. `None` when that is nothing.
    ///
    /// An etcd that was rebuilt or restored since has forgotten what it knew then, and whatever it has was made after it.
    pub(super) async fn export(
        &self,
        source: &Member,
        destination: &Member,
        safe: Option<&Checkpoint>,
        name: String,
    ) -> Result<Option<Exported>, ReplicationError> {
        let (rules, cluster, directory) =
            (&self.options.rules, &self.destination.cluster, &self.options.spool);
        let of_owner = Listing::start(&self.source, source, rules.source_prefix(), source.head);
        let at = |revision| Listing::start(cluster, destination, rules.destination_prefix(), revision);
        let mut owner = Side::begin(rules, of_owner, true).await?;
        let mut here = Side::begin(rules, at(destination.head), false).await?;
        let known = match safe {
            Some(safe) if self.remembers(destination, safe).await? => Some(safe.source_revision),
            _ => None,
        };
        let mut before = match known {
            Some(safe) => unless_compacted(Side::begin(rules, at(safe), false).await)?,
            None => None,
        };
        let since = known.unwrap_or(Revision(0));
        let failed = |error: std::io::Error| RegionError::Export {
            path: directory.join(&name).display().to_string(),
            why: error.to_string(),
        };
        let mut draft: Option<Draft> = None;
        loop {
            let known = match &before {
                Some(side) => Before::Known(side.next.as_ref()),
                None if safe.is_some() => Before::Forgotten,
                // What is not here is not overwritten.
                None => Before::Known(None),
            };
            let Some((key, diverged)) = judge(here.next.as_ref(), owner.next.as_ref(), known, since) else {
                break;
            };
            let (ours, theirs) = (here.take(&key).await?, owner.take(&key).await?);
            if let Some(side) = &mut before
                && unless_compacted(side.take(&key).await)?.is_none()
            {
                before = None;
            }
            if diverged {
                let line = line(&key, ours.as_ref(), theirs.as_ref());
                let draft = match &mut draft {
                    Some(draft) => draft,
                    None => draft.insert(Draft::create(directory, name.clone()).await.map_err(failed)?),
                };
                draft.push(&line).await.map_err(failed)?;
            }
        }
        match draft {
            None => Ok(None),
            Some(draft) => Ok(Some(draft.finish().await.map_err(failed)?)),
        }
    }

    /// Whether the destination is the etcd that the source knew: at the revision of `safe` it had what that says. Not its ID and no
    /// revision tells it from one that was made anew, and one that has compacted the revision tells nothing.
    async fn remembers(&self, destination: &Member, safe: &Checkpoint) -> Result<bool, EtcdError> {
        if safe.source_revision > destination.head {
            return Ok(false);
        }
        let (rules, cluster) = (&self.options.rules, &self.destination.cluster);
        let mut listing =
            Listing::start(cluster, destination, rules.destination_prefix(), safe.source_revision);
        let mut digest = Digest::default();
        loop {
            match unless_compacted(listing.next().await)? {
                None => return Ok(false),
                Some(None) => return Ok(digest == safe.digest),
                // By the owner's names, as its replicator counted them.
                Some(Some(kv)) => {
                    if let Some(name) = rules.unmap_key(kv.key()) {
                        digest = digest.with(&name, kv.value());
                    }
                }
            }
        }
    }
}

/// The key that comes next on any side, and whether it is what only the returning region has: put here since, or deleted here,
/// and not the same at the owner.
fn judge(
    here: Option<&Entry>,
    owner: Option<&Entry>,
    before: Before<'_>,
    safe: Revision,
) -> Option<(Vec<u8>, bool)> {
    let known = match before {
        Before::Known(next) => next,
        Before::Forgotten => None,
    };
    let key = [here, owner, known].into_iter().flatten().map(|entry| &entry.key).min()?;
    let [here, owner, known] = [here, owner, known].map(|side| side.filter(|entry| entry.key == *key));
    let diverged = match (here, owner) {
        (Some(here), owner) => here.modified > safe && owner.is_none_or(|owner| owner.value != here.value),
        (None, Some(_)) => matches!(before, Before::Forgotten) || known.is_some(),
        (None, None) => false,
    };
    Some((key.clone(), diverged))
}

fn line(key: &[u8], here: Option<&Entry>, owner: Option<&Entry>) -> Value {
    let value = |side: Option<&Entry>| side.map_or(Value::Null, |entry| bytes(&entry.value));
    let revision = here.map(|entry| entry.modified);
    json!({ "key": bytes(key), "revision": revision, "here": value(here), "owner": value(owner) })
}

fn bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => json!({ "base64": STANDARD.encode(bytes) }),
    }
}

// === impl Side ===

impl<'a> Side<'a> {
    async fn begin(rules: &'a Rules, listing: Listing, mapped: bool) -> Result<Self, EtcdError> {
        let mut side = Self { rules, listing, mapped, next: None };
        side.advance().await?;
        Ok(side)
    }

    /// The next entry, if it is of this key.
    async fn take(&mut self, key: &[u8]) -> Result<Option<Entry>, EtcdError> {
        if self.next.as_ref().is_none_or(|next| next.key != key) {
            return Ok(None);
        }
        let taken = self.next.take();
        self.advance().await?;
        Ok(taken)
    }

    async fn advance(&mut self) -> Result<(), EtcdError> {
        while let Some(kv) = self.listing.next().await? {
            let modified = Revision(kv.mod_revision());
            let (key, value) = kv.into_key_value();
            let name =
                if self.mapped { self.rules.map_key(&key) } else { self.rules.owns(&key).then_some(key) };
            if let Some(key) = name {
                self.next = Some(Entry { key, value, modified });
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Values and revisions by key.
    type Keys = BTreeMap<u8, (u8, i64)>;

    #[test]
    fn text_stays_text_and_other_bytes_are_kept_whole() {
        assert_eq!(bytes("zürich".as_bytes()), json!("zürich"));
        assert_eq!(bytes(&[0xff, 0]), json!({ "base64": "/wA=" }));
    }

    fn entries(keys: &Keys) -> Vec<Entry> {
        let entry = |(key, (value, modified)): (&u8, &(u8, i64))| Entry {
            key: vec![*key],
            value: vec![*value],
            modified: Revision(*modified),
        };
        keys.iter().map(entry).collect()
    }

    fn keys() -> impl Strategy<Value = Keys> {
        prop::collection::btree_map(0_u8..16, (0_u8..3, 1_i64..10), 0..14)
    }

    proptest! {
        #[test]
        fn a_walk_finds_what_whole_sides_held_beside_each_other_would(
            here in keys(), owner in keys(), before in prop::option::of(keys()), safe in 0_i64..10,
        ) {
            let (ours, theirs, known) = (entries(&here), entries(&owner), before.as_ref().map(entries));
            let (mut i, mut j, mut k, mut found) = (0, 0, 0, Vec::new());
            loop {
                let past = known.as_ref().map_or(Before::Forgotten, |known| Before::Known(known.get(k)));
                let Some((key, diverged)) = judge(ours.get(i), theirs.get(j), past, Revision(safe)) else { break };
                i += usize::from(ours.get(i).is_some_and(|entry| entry.key == key));
                j += usize::from(theirs.get(j).is_some_and(|entry| entry.key == key));
                k += usize::from(known.as_ref().and_then(|known| known.get(k)).is_some_and(|entry| entry.key == key));
                found.extend(diverged.then_some(key[0]));
            }
            let value = |side: &Keys, key| side.get(&key).map(|(value, _)| *value);
            let put = |key| here.get(&key).is_some_and(|(_, modified)| *modified > safe);
            let deleted = |key| !here.contains_key(&key) && before.as_ref().is_none_or(|it| it.contains_key(&key));
            let wanted: Vec<u8> = (0..16)
                .filter(|key| (put(*key) || deleted(*key)) && value(&here, *key) != value(&owner, *key))
                .collect();
            prop_assert_eq!(found, wanted);
        }
    }
}
