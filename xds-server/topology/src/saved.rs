//! The last good state as text, for a server that has to start without etcd. Writes and reads the text, checksum included;
//! opens no files.
//!
//! ```text
//! zonebreak-state 1 8f14e45fceea167a 1234
//! { "saved_at": "...", "prefix": "/zonebreak/v1/", "cluster": 7, "revision": 42, "keys": { "zones/az-a": { ... }, ... } }
//! ```
//!
//! The first line names the format's version, then the xxh3 of what follows and its length in bytes: a file that was cut off, or
//! in which a bit turned, is known as such and not used in part. The rest is JSON, for people too, with the keys and values of
//! etcd's own schema. What this version does not know in it is an error: half a topology is worse than none.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    key::Key,
    model::Topology,
    registry::{Listed, Registry},
};

/// Opens the first line.
const MAGIC: &str = "zonebreak-state";

/// The version of the format; another one is not read.
const VERSION: u32 = 1;

/// A topology that was served.
#[derive(Debug, Clone, PartialEq)]
pub struct Saved {
    /// When.
    pub saved_at: Timestamp,
    /// The prefix of its keys in etcd.
    pub prefix: String,
    /// The etcd cluster that it came from.
    pub cluster: u64,
    /// The revision of its last change.
    pub revision: i64,
    /// The topology, without the values that were refused.
    pub topology: Arc<Topology>,
}

/// Why a text is no saved state. Each finishes the sentence "failed to ...".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSaved {
    /// It does not begin as one.
    #[error("find the line that opens a state file")]
    Opening,
    /// It is of another version of this program.
    #[error("read a state file of version {found}: this program reads version {VERSION}")]
    Version {
        /// What it says.
        found: String,
    },
    /// It is not whole.
    #[error("make sense of it: it is damaged ({0})")]
    Damaged(String),
    /// It is whole, and not a topology.
    #[error("use what it holds: {0}")]
    Content(String),
}

/// The text after the first line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    saved_at: Timestamp,
    prefix: String,
    cluster: u64,
    revision: i64,
    keys: BTreeMap<String, serde_json::Value>,
}

/// The text of a state file with this body.
pub fn seal(body: &str) -> String {
    format!("{MAGIC} {VERSION} {:016x} {}\n{body}", xxh3_64(body.as_bytes()), body.len())
}

/// The body of a state file's text.
///
/// # Errors
/// When it is not whole, or of another version.
pub fn open(text: &[u8]) -> Result<&[u8], InvalidSaved> {
    let end = text.iter().position(|byte| *byte == b'\n').ok_or(InvalidSaved::Opening)?;
    let (line, body) = text.split_at(end);
    let body = body.get(1..).unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_| InvalidSaved::Opening)?;
    let words: Vec<&str> = line.split(' ').collect();
    let [MAGIC, version, rest @ ..] = words.as_slice() else { return Err(InvalidSaved::Opening) };
    if *version != VERSION.to_string() {
        return Err(InvalidSaved::Version { found: (*version).to_owned() });
    }
    let [sum, length] = rest else { return Err(InvalidSaved::Opening) };
    if *length != body.len().to_string() {
        return Err(InvalidSaved::Damaged(format!("{} bytes instead of {length}", body.len())));
    }
    let found = format!("{:016x}", xxh3_64(body));
    if *sum != found {
        return Err(InvalidSaved::Damaged(format!("checksum {found} instead of {sum}")));
    }
    Ok(body)
}

// === impl Saved ===

impl Saved {
    /// The text.
    ///
    /// # Errors
    /// When a value cannot be said in JSON, which none can bring about that came from there.
    pub fn to_text(&self) -> Result<String, serde_json::Error> {
        let mut keys = BTreeMap::new();
        for (key, entry) in Registry::of(self.topology.clone()).entries() {
            keys.insert(key.to_string(), entry.to_json()?);
        }
        let Self { saved_at, prefix, cluster, revision, topology: _ } = self.clone();
        let body = serde_json::to_string(&Body { saved_at, prefix, cluster, revision, keys })?;
        Ok(seal(&body))
    }

    /// Reads the text.
    ///
    /// # Errors
    /// When it is not whole, of another version, or holds a value that this version refuses.
    pub fn from_text(text: &[u8]) -> Result<Self, InvalidSaved> {
        let body: Body =
            serde_json::from_slice(open(text)?).map_err(|error| InvalidSaved::Content(error.to_string()))?;
        let revision = body.revision;
        let mut listed = Vec::new();
        for (key, value) in body.keys {
            if !matches!(Key::parse(&key), Ok(Some(_))) {
                return Err(InvalidSaved::Content(format!("{key:?} is no key of this version")));
            }
            let value = value.to_string().into_bytes();
            listed.push(Listed { key, value, mod_revision: revision, lease: 0 });
        }
        let mut registry = Registry::default();
        registry.reset(listed, revision);
        let topology = registry.topology();
        if let Some(problem) = topology.problems.values().find(|problem| Key::parse(&problem.key).is_ok()) {
            return Err(InvalidSaved::Content(problem.to_string()));
        }
        let Body { saved_at, prefix, cluster, .. } = body;
        Ok(Self { saved_at, prefix, cluster, revision, topology })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::registry::Event;

    fn saved() -> Saved {
        let mut registry = Registry::default();
        let shift = r#"{"keep_percent": 30, "reason": "r", "actor": "a", "started_at": "2026-01-01T00:00:00Z",
            "expires_at": "2026-01-01T01:00:00Z"}"#;
        for (key, value) in [
            ("zones/az-a", r#"{"region": "eu", "aliases": ["a"], "capacity": 7}"#),
            ("services/s", r#"{"mode": "eventual", "weights": {"az-a": 80, "az-b": 20}}"#),
            ("endpoints/s/i", r#"{"address": "10.0.0.1", "port": 80, "zone": "a", "labels": {"x": "y"}}"#),
            ("endpoints/s/j", r#"{"Op":0,"Addr":"10.0.0.2:80","Metadata":{"zone":"az-b"}}"#),
            ("shifts/az-a/s", shift),
            ("services/bad", "{"),
        ] {
            let (key, value) = (key.to_owned(), value.as_bytes().to_vec());
            registry.apply(Event::Put { key, value, mod_revision: 42 });
        }
        let saved_at = "2026-01-01T00:00:00Z".parse().unwrap();
        let (prefix, cluster) = ("/zonebreak/v1/".to_owned(), u64::MAX);
        Saved { saved_at, prefix, cluster, revision: 42, topology: registry.topology() }
    }

    #[test]
    fn what_was_written_reads_the_same_without_what_was_refused() {
        let saved = saved();
        let read = Saved::from_text(saved.to_text().unwrap().as_bytes()).unwrap();
        let mut topology = Topology::clone(&saved.topology);
        topology.problems.clear();
        assert_eq!(*read.topology, topology);
        assert_eq!(Saved { topology: saved.topology.clone(), ..read }, saved);
    }

    #[test]
    fn another_version_or_another_file_is_told_from_a_damaged_one() {
        let text = saved().to_text().unwrap();
        let read = |text: &str| Saved::from_text(text.as_bytes()).unwrap_err().to_string();
        assert_eq!(read("{}"), "find the line that opens a state file");
        assert!(read(&text.replacen("state 1", "state 2", 1)).contains("of version 2"));
        assert!(read(&text[..text.len() - 1]).contains("damaged"));
        let (_, body) = text.split_once('\n').unwrap();
        let renamed = body.replace("zones/az-a", "zonse/az-a");
        let whole = format!("{MAGIC} 1 {:016x} {}\n{renamed}", xxh3_64(renamed.as_bytes()), renamed.len());
        assert!(read(&whole).contains("\"zonse/az-a\" is no key"), "{}", read(&whole));
    }

    proptest! {
        #[test]
        fn a_file_that_was_cut_or_in_which_a_bit_turned_is_not_used(at in 0..1_000_usize, bit in 0..8_u8, cut in any::<bool>()) {
            let mut text = saved().to_text().unwrap().into_bytes();
            let at = at % text.len();
            if cut { text.truncate(at) } else { text[at] ^= 1 << bit }
            prop_assert!(Saved::from_text(&text).is_err());
        }
    }
}
