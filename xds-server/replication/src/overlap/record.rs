//! What a link between two regions that both write says of itself at its destination, so that others know: the link in the other
//! direction, which must decide as this one does, and links of one owner, which must keep away. Pure.

use serde::{Deserialize, Serialize};

use super::Policy;
use crate::{
    checkpoint::ClusterId,
    options::RESERVED,
    region::{Region, own},
};

/// The version of the format; another one is refused rather than guessed at.
const FORMAT: u32 = 1;

/// A link, as its destination knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Format of this value.
    pub format: u32,
    /// What is written by both, as the destination names it.
    pub prefix: String,
    /// By what conflicts are decided.
    pub policy: Policy,
    /// The etcd that it brings changes from.
    pub source: ClusterId,
    /// The etcd that it brings them to.
    pub destination: ClusterId,
    /// The destination's region.
    pub region: Region,
}

/// Why two regions cannot both write. Each finishes the sentence "failed to ...".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OverlapError {
    /// The two directions would decide differently.
    #[error(
        "begin: this direction decides conflicts by {ours} and the one to region {region} by {theirs} (record {key} of the source), so that the \
         two sides would not become equal. Set replicate.overlap to {wanted} here. To change it for both, stop both replicators, set it in \
         both, and start both: the first one waits for the other"
    )]
    Contradicts {
        /// This one's.
        ours: Policy,
        /// The other's.
        theirs: Policy,
        /// What would fit the other.
        wanted: Policy,
        /// Whose it is.
        region: String,
        /// Its record.
        key: String,
    },
    /// Somebody owns the prefix.
    #[error(
        "begin: region {region} owns {prefix:?} (record {key} of the destination, epoch {epoch}), and with replicate.overlap nobody does. Stop the \
         replicator of that link; then, if both sides are to write it, run once with --overwrite, which removes the record and no data"
    )]
    Owned {
        /// The prefix.
        prefix: String,
        /// Its owner.
        region: String,
        /// Its epoch.
        epoch: u64,
        /// The record.
        key: String,
    },
    /// Another link of this kind has it.
    #[error(
        "begin: another stream already replicates {prefix:?} to this destination, for two regions that both write (record {key}). Prefixes \
         of two links must not overlap, and both directions of one prefix must have the same stream name; if that link is gone for good, delete \
         that key at the destination"
    )]
    Taken {
        /// Its prefix.
        prefix: String,
        /// The record.
        key: String,
    },
    /// A record or a conflict that is none.
    #[error("read {key}: {why}. Nothing was changed. Look at it with etcdctl; delete it if it is nobody's")]
    Unreadable {
        /// Which.
        key: String,
        /// Why.
        why: String,
    },
    /// What needs one owner.
    #[error(
        "change the owner of {prefix:?}: both regions write it (replicate.overlap: {policy}), so that there is none to change. Send the writers to \
         the other region; what one region did not send before it was lost comes when it is back"
    )]
    Shared {
        /// The prefix.
        prefix: String,
        /// The policy.
        policy: Policy,
    },
    /// A stream that is none of these.
    #[error(
        "look at conflicts: no link between two regions that both write ends here as stream {stream:?}. Check --stream and --destination, and that \
         replicate.overlap is set"
    )]
    NotShared {
        /// The stream.
        stream: String,
    },
    /// A conflict that is not open.
    #[error("decide about {key}: {why}")]
    Undecidable {
        /// The key.
        key: String,
        /// Why.
        why: String,
    },
}

/// What the keys of all such records start with.
pub fn root() -> String {
    format!("{RESERVED}overlap/")
}

/// The key of a stream's record.
pub fn key(stream: &str) -> String {
    format!("{}{stream}", root())
}

// === impl Link ===

impl Link {
    /// A link.
    pub const fn new(
        prefix: String,
        policy: Policy,
        source: ClusterId,
        destination: ClusterId,
        region: Region,
    ) -> Self {
        Self { format: FORMAT, prefix, policy, source, destination, region }
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

    /// Whether this link and the one in the other direction, as the source knows it, make one whole.
    ///
    /// # Errors
    /// [`OverlapError::Contradicts`].
    pub fn agrees(&self, stream: &str, other: &Self) -> Result<(), OverlapError> {
        let wanted = other.policy.reversed();
        // A record of another pair of etcds is of a link that is gone.
        if self.policy == wanted || (other.source, other.destination) != (self.destination, self.source) {
            return Ok(());
        }
        Err(OverlapError::Contradicts {
            ours: self.policy,
            theirs: other.policy,
            wanted,
            region: other.region.to_string(),
            key: key(stream),
        })
    }

    /// Whether a link of this stream may end where these others do.
    ///
    /// # Errors
    /// [`OverlapError::Taken`].
    pub fn is_alone(stream: &str, prefix: &str, others: &[(String, Self)]) -> Result<(), OverlapError> {
        for (name, other) in others {
            if name != stream && own::overlap(&other.prefix, prefix) {
                return Err(OverlapError::Taken { prefix: other.prefix.clone(), key: key(name) });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(policy: Policy, source: u64, destination: u64) -> Link {
        let region = Region::new("east").unwrap();
        Link::new("/a/".to_owned(), policy, ClusterId(source), ClusterId(destination), region)
    }

    #[test]
    fn a_record_reads_back_and_another_format_is_refused() {
        let record = link(Policy::LwwHlc, 1, 2);
        assert_eq!(Link::decode(&record.encode()), Ok(record.clone()));
        let other = Link { format: 3, ..record };
        assert!(Link::decode(&other.encode()).unwrap_err().contains("its format is 3"));
    }

    #[test]
    fn both_directions_must_name_the_same_winner() {
        use Policy::{DestWins, LwwHlc, RejectAndAlert, SourceWins};
        let all = [LwwHlc, SourceWins, DestWins, RejectAndAlert];
        for ours in all {
            for theirs in all {
                let fits = matches!(
                    (ours, theirs),
                    (LwwHlc, LwwHlc)
                        | (SourceWins, DestWins)
                        | (DestWins, SourceWins)
                        | (RejectAndAlert, RejectAndAlert)
                );
                let verdict = link(ours, 1, 2).agrees("s", &link(theirs, 2, 1));
                assert_eq!(verdict.is_ok(), fits, "{ours} {theirs}");
                if let Err(error) = verdict {
                    let says = format!("Set replicate.overlap to {}", theirs.reversed());
                    assert!(error.to_string().contains(&says), "{error}");
                }
                assert_eq!(link(ours, 1, 2).agrees("s", &link(theirs, 3, 1)), Ok(()), "not of this pair");
            }
        }
    }

    #[test]
    fn two_such_links_into_one_etcd_may_not_overlap() {
        let others = [("s".to_owned(), link(Policy::LwwHlc, 1, 2))];
        assert_eq!(Link::is_alone("s", "/a/", &others), Ok(()));
        assert_eq!(Link::is_alone("t", "/b/", &others), Ok(()));
        let error = Link::is_alone("t", "/a/b/", &others).unwrap_err();
        assert!(matches!(&error, OverlapError::Taken { key, .. } if key.ends_with("/overlap/s")), "{error}");
    }
}
