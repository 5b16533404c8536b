//! What a destination knows of itself: which revision of which source it holds, whose word it takes, and whether it is whole.
//! One small JSON value under `<reserved prefix><stream>`, written in the same transaction as the data it speaks of, so that it
//! is never wrong about them. Says how to read and write it; decides nothing.
//!
//! It also is the fence: every transaction of a replicator compares this key's `mod_revision` with the one that its own last
//! transaction gave it. Whoever else writes the key (another replicator, a promotion) makes the next transaction fail whole.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{digest::Digest, overlap::Policy, revision::Revision};

/// The version of the format; another one is refused rather than guessed at.
const FORMAT: u32 = 1;

/// The destination's own account of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Format of this value.
    pub format: u32,
    /// The source's cluster ID, in hexadecimal.
    pub source_cluster: ClusterId,
    /// The destination's cluster ID.
    pub destination_cluster: ClusterId,
    /// What of the source is replicated, and to where: the two prefixes.
    pub prefixes: (String, String),
    /// The revision of the source that the destination holds.
    pub source_revision: Revision,
    /// How many revisions of the source that changed something here have been taken in, since the first.
    pub sync_version: u64,
    /// When that revision reached the replicator, in milliseconds since 1970.
    pub source_ms: u64,
    /// Counts changes of ownership; a lower one is stale.
    pub epoch: u64,
    /// Whether the destination takes its state from the source or is a source of its own.
    pub role: Role,
    /// The replicator that wrote this.
    pub holder: Uuid,
    /// Counts that replicator's writes of this key, so that each is told from every other.
    pub write: u64,
    /// The digest of all replicated keys and values as of `source_revision`.
    pub digest: Digest,
    /// How many keys that is.
    pub keys: u64,
    /// The last revision in the holder's log when this was written: a log that ends there or later has every change up to
    /// `source_revision`; one that ends before it has lost some. `None` while the log is not known to have them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logged: Option<Revision>,
    /// Set while the destination is between two revisions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub torn: Option<Torn>,
    /// Set where both regions write the prefix: by what conflicts are decided. Digest and keys then say nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap: Option<Policy>,
    /// CRC-32C of the whole with this field 0, so that a damaged value is told from a strange one.
    pub crc32: u32,
}

/// Whether a destination follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It takes its state from the source.
    Replica,
    /// It was promoted and takes nothing any more.
    Primary,
}

/// Why a destination is not, at this moment, a revision of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "why")]
pub enum Torn {
    /// A revision larger than a transaction is being written; `source_revision` is the one before it.
    Staging {
        /// The revision on its way.
        revision: Revision,
    },
    /// The whole prefix is being brought to a revision, keys that the source does not have included.
    Aligning {
        /// The revision it will be at.
        revision: Revision,
    },
}

/// The ID of an etcd cluster. It shares it with any that was made or restored with the same peer URLs and token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterId(pub u64);

/// Why a checkpoint cannot be used. Each finishes the sentence "failed to ...".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Not what was written.
    #[error(
        "read the checkpoint: it is damaged ({0}). Nothing was changed. Run once with --overwrite to compare both sides, make \
         the destination what the source has, and go on"
    )]
    Damaged(String),
    /// Written by another version.
    #[error(
        "read the checkpoint: its format is {found} and this program knows {FORMAT}; use the version that wrote it"
    )]
    Format {
        /// Its version.
        found: u32,
    },
}

// === impl Checkpoint ===

impl Checkpoint {
    /// The first one of a destination: nothing taken in yet.
    pub fn genesis(
        source_cluster: ClusterId,
        destination_cluster: ClusterId,
        prefixes: (String, String),
        holder: Uuid,
    ) -> Self {
        Self {
            format: FORMAT,
            source_cluster,
            destination_cluster,
            prefixes,
            source_revision: Revision(0),
            sync_version: 0,
            source_ms: 0,
            epoch: 1,
            role: Role::Replica,
            holder,
            write: 0,
            digest: Digest::default(),
            keys: 0,
            logged: None,
            torn: None,
            overlap: None,
            crc32: 0,
        }
    }

    /// The value to write.
    pub fn encode(&self) -> Vec<u8> {
        let with_crc = |crc32| {
            // A structure of numbers and text always has a JSON form.
            serde_json::to_vec(&Self { crc32, ..self.clone() }).unwrap_or_default()
        };
        with_crc(crc32c::crc32c(&with_crc(0)))
    }

    /// Reads a value.
    ///
    /// # Errors
    /// When it is not one that [`Self::encode`] of this version made.
    pub fn decode(bytes: &[u8]) -> Result<Self, CheckpointError> {
        #[derive(Deserialize)]
        struct Any {
            format: u32,
        }
        let damaged = |why: &dyn std::fmt::Display| CheckpointError::Damaged(why.to_string());
        let any: Any = serde_json::from_slice(bytes).map_err(|error| damaged(&error))?;
        if any.format != FORMAT {
            return Err(CheckpointError::Format { found: any.format });
        }
        let checkpoint: Self = serde_json::from_slice(bytes).map_err(|error| damaged(&error))?;
        if checkpoint.encode() != bytes {
            return Err(damaged(&"its checksum is not that of its content"));
        }
        Ok(checkpoint)
    }

    /// Whether the destination is exactly what the source was at `source_revision`.
    pub const fn is_whole(&self) -> bool {
        self.torn.is_none() && self.source_revision.0 > 0
    }
}

// === impl ClusterId ===

impl std::fmt::Display for ClusterId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl From<ClusterId> for String {
    fn from(id: ClusterId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for ClusterId {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        u64::from_str_radix(&text, 16)
            .map(Self)
            .map_err(|error| format!("{text:?} is no cluster ID: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn checkpoint() -> Checkpoint {
        let prefixes = ("/a/".to_owned(), "/b/".to_owned());
        Checkpoint {
            source_revision: Revision(42),
            torn: Some(Torn::Staging { revision: Revision(43) }),
            ..Checkpoint::genesis(ClusterId(0xcafe), ClusterId(u64::MAX), prefixes, Uuid::nil())
        }
    }

    #[test]
    fn a_checkpoint_reads_back() {
        let read = Checkpoint::decode(&checkpoint().encode()).unwrap();
        assert_eq!(Checkpoint { crc32: 0, ..read.clone() }, checkpoint());
        assert_ne!(read.crc32, 0);
        assert!(!read.is_whole());
    }

    #[test]
    fn another_format_is_refused_and_not_guessed_at() {
        let text = String::from_utf8(checkpoint().encode()).unwrap().replace("\"format\":1", "\"format\":2");
        assert_eq!(Checkpoint::decode(text.as_bytes()), Err(CheckpointError::Format { found: 2 }));
    }

    proptest! {
        #[test]
        fn no_damage_goes_unseen(at: prop::sample::Index, bit in 0_u8..8, cut: prop::sample::Index) {
            let mut bytes = checkpoint().encode();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(Checkpoint::decode(&bytes).is_err());
            let whole = checkpoint().encode();
            prop_assert!(Checkpoint::decode(&whole[..cut.index(whole.len())]).is_err());
        }
    }
}
