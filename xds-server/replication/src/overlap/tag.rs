//! What is known of a key beside its value: which region wrote it, when, and what the writer knew. One small JSON value for each
//! key, under the replicators' own keys, which are never replicated themselves. Pure; reads and writes no etcd.
//!
//! Applications write plain keys and know nothing of tags. A tag speaks of its key *as of the tag's own revision*, which etcd
//! keeps for us: a key that was written since (a later `mod_revision`), or that is there though the tag says deleted, or the
//! other way round, was written by somebody of this region, and its tag has yet to be brought up to date ([`Entry::known`]).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::hlc::Hlc;
use crate::{checkpoint::ClusterId, options::RESERVED};

/// The version of the format; another one is refused rather than guessed at.
const FORMAT: u32 = 1;

/// Which write a key holds, and which it followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// The etcd that the write was made in.
    pub origin: ClusterId,
    /// When.
    pub hlc: Hlc,
    /// The latest write of each region that this one followed, or that lost against it. Its own is among them.
    seen: BTreeMap<ClusterId, Hlc>,
}

/// What a tag says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// The write.
    pub version: Version,
    /// Whether it was a delete. Kept for a while, so that the other side hears of it.
    pub deleted: bool,
}

/// A key and its tag as one etcd has them, read at one revision of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entry {
    /// Its value and the value's `mod_revision`.
    pub data: Option<(Vec<u8>, i64)>,
    /// Its tag and the tag's `mod_revision`.
    pub tag: Option<(Tag, i64)>,
}

/// The tag as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    format: u32,
    origin: ClusterId,
    hlc: Hlc,
    seen: BTreeMap<String, Hlc>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
}

/// What the keys of all tags of a stream start with. What follows is what follows the prefix in the key itself, so that both sides
/// agree on it whatever their prefixes are.
pub fn root(stream: &str) -> String {
    format!("{RESERVED}tag/{stream}/")
}

// === impl Version ===

impl Version {
    /// A write in `origin` that followed `before`.
    pub fn following(before: Option<&Self>, origin: ClusterId, hlc: Hlc) -> Self {
        let mut seen = before.map(|before| before.seen.clone()).unwrap_or_default();
        seen.insert(origin, hlc);
        Self { origin, hlc, seen }
    }

    /// The same write, that also knows what `other` knew.
    #[must_use]
    pub fn joined(mut self, other: &Self) -> Self {
        for (origin, theirs) in &other.seen {
            let ours = self.seen.entry(*origin).or_default();
            *ours = (*ours).max(*theirs);
        }
        self
    }

    /// Whether this write followed that one, or is it.
    pub fn knows(&self, other: &Self) -> bool {
        self.seen.get(&other.origin).is_some_and(|known| *known >= other.hlc)
    }

    /// Whether it knows everything that the other one knew.
    pub fn covers(&self, other: &Self) -> bool {
        other.seen.iter().all(|(origin, theirs)| self.seen.get(origin).is_some_and(|ours| ours >= theirs))
    }

    /// The order of last writer wins: total, and the same everywhere.
    pub const fn rank(&self) -> (Hlc, u64) {
        (self.hlc, self.origin.0)
    }

    /// The latest time in it: what follows it must be later.
    pub fn latest(&self) -> Hlc {
        self.seen.values().copied().max().unwrap_or(self.hlc)
    }
}

// === impl Tag ===

impl Tag {
    /// The value to write.
    pub fn encode(&self) -> Vec<u8> {
        let Self { version: Version { origin, hlc, seen }, deleted } = self;
        let seen = seen.iter().map(|(origin, hlc)| (origin.to_string(), *hlc)).collect();
        let wire = Wire { format: FORMAT, origin: *origin, hlc: *hlc, seen, deleted: *deleted };
        // A structure of numbers and text always has a JSON form.
        serde_json::to_vec(&wire).unwrap_or_default()
    }

    /// Reads a value.
    ///
    /// # Errors
    /// Why it is none, in words.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let wire: Wire = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if wire.format != FORMAT {
            return Err(format!("its format is {} and this program knows {FORMAT}", wire.format));
        }
        let seen = wire.seen.into_iter().map(|(origin, hlc)| Ok((ClusterId::try_from(origin)?, hlc)));
        let seen: BTreeMap<ClusterId, Hlc> = seen.collect::<Result<_, String>>()?;
        if seen.get(&wire.origin) != Some(&wire.hlc) {
            return Err("it does not know of its own write".to_owned());
        }
        Ok(Self { version: Version { origin: wire.origin, hlc: wire.hlc, seen }, deleted: wire.deleted })
    }
}

// === impl Entry ===

impl Entry {
    /// The write that the key holds; `None` when nobody has said yet which that is, or there never was one.
    pub fn known(&self) -> Option<&Version> {
        let (tag, at) = self.tag.as_ref()?;
        let speaks = match &self.data {
            Some((_, written)) => !tag.deleted && written <= at,
            None => tag.deleted,
        };
        speaks.then_some(&tag.version)
    }

    /// Whether somebody of this region wrote or deleted the key and its tag does not say so yet.
    pub fn is_unsaid(&self) -> bool {
        self.known().is_none() && (self.data.is_some() || self.tag.is_some())
    }

    /// The value.
    pub fn value(&self) -> Option<&[u8]> {
        self.data.as_ref().map(|(value, _)| value.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ClusterId = ClusterId(0xa);
    const B: ClusterId = ClusterId(0xb);

    fn version(origin: ClusterId, ms: u64) -> Version {
        Version::following(None, origin, Hlc::new(ms, 0))
    }

    #[test]
    fn a_tag_reads_back_and_what_is_none_is_refused() {
        let both = Version::following(Some(&version(A, 1)), B, Hlc::new(2, 5));
        for deleted in [false, true] {
            let tag = Tag { version: both.clone(), deleted };
            assert_eq!(Tag::decode(&tag.encode()), Ok(tag));
        }
        let text = String::from_utf8(Tag { version: both, deleted: false }.encode()).unwrap();
        assert_eq!(text, r#"{"format":1,"origin":"b","hlc":"2.5","seen":{"a":"1.0","b":"2.5"}}"#);
        for (was, becomes, says) in [
            ("\"format\":1", "\"format\":2", "its format is 2"),
            ("\"b\":\"2.5\"", "\"b\":\"2.4\"", "its own write"),
            ("\"hlc\":\"2.5\"", "\"hlc\":\"x\"", "hybrid time"),
            ("}}", "},\"more\":1}", "unknown field"),
        ] {
            let error = Tag::decode(text.replace(was, becomes).as_bytes()).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_write_knows_what_it_followed_and_nothing_else() {
        let (one, other) = (version(A, 1), version(B, 1));
        assert!(!one.knows(&other) && !other.knows(&one) && one.knows(&one));
        let after = Version::following(Some(&one), B, Hlc::new(2, 0));
        assert!(after.knows(&one) && !one.knows(&after));
        let joined = one.clone().joined(&other);
        assert!(joined.covers(&one) && joined.covers(&other) && joined.knows(&other) && !one.covers(&joined));
        assert_eq!(joined.rank(), one.rank());
        assert_eq!(version(A, 3).joined(&version(B, 9)).latest(), Hlc::new(9, 0));
    }

    #[test]
    fn a_key_is_known_by_its_tag_until_somebody_writes_it() {
        let entry = |written: Option<i64>, tagged: Option<(bool, i64)>| Entry {
            data: written.map(|at| (b"v".to_vec(), at)),
            tag: tagged.map(|(deleted, at)| (Tag { version: version(A, 1), deleted }, at)),
        };
        for (written, tagged, known, unsaid) in [
            (None, None, false, false),
            (Some(5), None, false, true),
            // Written with its tag, and said later.
            (Some(5), Some((false, 5)), true, false),
            (Some(5), Some((false, 6)), true, false),
            // Written since; deleted since; made again since.
            (Some(7), Some((false, 6)), false, true),
            (None, Some((false, 6)), false, true),
            (Some(7), Some((true, 6)), false, true),
            (None, Some((true, 6)), true, false),
        ] {
            let entry = entry(written, tagged);
            assert_eq!((entry.known().is_some(), entry.is_unsaid()), (known, unsaid), "{entry:?}");
        }
    }
}
