//! The ownership record of a prefix and the names of regions: how they read, and what follows from them. Pure.

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::RegionError;
use crate::{checkpoint::ClusterId, options::RESERVED};

/// The version of the format; another one is refused rather than guessed at.
const FORMAT: u32 = 1;

/// The name of a region, as people know it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Region(String);

/// Who owns a prefix, as one etcd knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ownership {
    /// Format of this value.
    pub format: u32,
    /// The owner.
    pub region: Region,
    /// The owner's etcd. Who finds the ID of the etcd that the record stands in here, may write.
    pub cluster: ClusterId,
    /// Counts changes of the owner; a lower one is stale.
    pub epoch: u64,
    /// When the owner became so, by the clock of who wrote this.
    pub since: Timestamp,
    /// Who wrote this.
    pub actor: String,
    /// Tells this change of ownership from every other.
    pub id: Uuid,
    /// Set at a source that is fenced, until the destination is known to have been taken: nobody may write meanwhile, and it can be
    /// taken back ([`super::abort()`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pending: bool,
}

/// A record as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Of which prefix.
    pub prefix: String,
    /// What it says.
    pub ownership: Ownership,
    /// Its `mod_revision`, for comparing.
    pub mod_revision: i64,
}

/// What the keys of all records start with.
pub fn root() -> String {
    format!("{RESERVED}own/")
}

/// The key of a prefix's record. Under the replicators' own keys, which are never replicated themselves.
pub fn key(prefix: &str) -> String {
    format!("{}{prefix}", root())
}

/// Whether a key could be under both.
pub fn overlap(one: &str, other: &str) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

// === impl Region ===

impl Region {
    /// A name that is one.
    ///
    /// # Errors
    /// [`RegionError::Name`].
    pub fn new(name: &str) -> Result<Self, RegionError> {
        let fits = (1..=63).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        fits.then(|| Self(name.to_owned())).ok_or_else(|| RegionError::Name(name.to_owned()))
    }

    /// What a region is called that was given no name: the ID of its etcd.
    pub fn of_cluster(cluster: ClusterId) -> Self {
        Self(cluster.to_string())
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Region {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        Self::new(name).map_err(|error| error.to_string())
    }
}

impl TryFrom<String> for Region {
    type Error = String;
    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
    }
}

impl From<Region> for String {
    fn from(region: Region) -> Self {
        region.0
    }
}

// === impl Ownership ===

impl Ownership {
    /// From now on, at this epoch.
    pub fn new(region: Region, cluster: ClusterId, epoch: u64, actor: &str, now: Timestamp) -> Self {
        let id = Uuid::now_v7();
        Self {
            format: FORMAT,
            region,
            cluster,
            epoch,
            since: now,
            actor: actor.to_owned(),
            id,
            pending: false,
        }
    }

    /// The value to write.
    pub fn encode(&self) -> Vec<u8> {
        // A structure of numbers and text always has a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a value.
    ///
    /// # Errors
    /// Why it is none, in words.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let read: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if read.format == FORMAT {
            return Ok(read);
        }
        Err(format!("its format is {} and this program knows {FORMAT}", read.format))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_and_another_format_is_refused() {
        let region = Region::new("eu-1").unwrap();
        let record = Ownership::new(region, ClusterId(0xcafe), 3, "eve@host", Timestamp::UNIX_EPOCH);
        assert_eq!(Ownership::decode(&record.encode()), Ok(record.clone()));
        let text = String::from_utf8(record.encode()).unwrap();
        assert!(!text.contains("pending"), "an owner reads as ever: {text}");
        let fence = Ownership { pending: true, ..record.clone() };
        assert_eq!(Ownership::decode(&fence.encode()), Ok(fence));
        let other = Ownership { format: 2, ..record };
        assert!(Ownership::decode(&other.encode()).unwrap_err().contains("its format is 2"));
        assert!(Ownership::decode(b"{}").is_err());
    }

    #[test]
    fn prefixes_overlap_where_a_key_could_be_under_both() {
        for (one, other, expected) in [
            ("/a/", "/a/", true),
            ("/a/", "/a/b/", true),
            ("/a/b/", "/a/", true),
            ("/a/", "/b/", false),
            ("", "/b/", true),
        ] {
            assert_eq!(overlap(one, other), expected, "{one} {other}");
        }
    }

    #[test]
    fn names_of_regions_are_words() {
        assert!(Region::new("eu-west_1.a").is_ok());
        for odd in ["", "a b", "a/b", &"x".repeat(64)] {
            assert_eq!(Region::new(odd), Err(RegionError::Name(odd.to_owned())));
        }
    }
}
