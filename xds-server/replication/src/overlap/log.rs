//! Conflicts, as they are written down at the destination: the key, both writes with their values, the policy, who won. Those that
//! nobody won stay *open*, one for each key, until a write that knew both arrives or somebody decides; the others are a log of
//! which the latest [`KEPT`] are kept. Formats and names; reads and writes no etcd.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Policy, hlc::Hlc};
use crate::{checkpoint::ClusterId, options::RESERVED, region::Region};

/// The version of the format; another one is refused rather than guessed at.
const FORMAT: u32 = 1;

/// Conflicts of the log that are kept. Each is [`VALUE_BYTES`] twice at most.
pub const KEPT: usize = 1_000;

/// Bytes of a value that are kept; of a longer one, the first of them.
pub const VALUE_BYTES: usize = 16 << 10;

/// Two writes of one key of which neither knew of the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conflict {
    /// Format of this value.
    pub format: u32,
    /// The key at the destination.
    pub key: Kept,
    /// When it was found, by the clock of who found it.
    pub at: Timestamp,
    /// What it was decided by.
    pub policy: Policy,
    /// The etcd whose write is in force; `None` while both sides keep their own.
    pub winner: Option<ClusterId>,
    /// The destination's write.
    pub local: Party,
    /// The source's.
    pub remote: Party,
    /// Who decided, where it was a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_by: Option<String>,
}

/// One of the two writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Party {
    /// Where it was written, as people call it.
    pub region: Region,
    /// The same, as its etcd calls itself.
    pub origin: ClusterId,
    /// When.
    pub hlc: Hlc,
    /// What it left; `None` for a delete.
    pub value: Option<Kept>,
}

/// A key or value as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// Where it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
    /// How long it is; what is kept is shorter where that is over [`VALUE_BYTES`].
    pub bytes: usize,
}

/// What the keys of a stream's conflicts start with.
pub fn root(stream: &str) -> String {
    format!("{RESERVED}conflicts/{stream}/")
}

/// The same of those that are open. What follows is what follows the prefix in the key.
pub fn open(stream: &str) -> String {
    format!("{}open/", root(stream))
}

/// The same of those that are not. What follows is [`id`].
pub fn closed(stream: &str) -> String {
    format!("{}log/", root(stream))
}

/// The name of an entry of the log, in the order of time.
pub fn id(at: Hlc) -> String {
    format!("{:015}.{:05}", at.ms(), at.count())
}

// === impl Conflict ===

impl Conflict {
    /// Two writes that met.
    pub fn new(
        key: &[u8],
        at: Timestamp,
        policy: Policy,
        winner: Option<ClusterId>,
        local: Party,
        remote: Party,
    ) -> Self {
        Self { format: FORMAT, key: Kept::of(key), at, policy, winner, local, remote, decided_by: None }
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

// === impl Kept ===

impl Kept {
    /// Keeps what fits.
    pub fn of(bytes: &[u8]) -> Self {
        let kept = bytes.get(..VALUE_BYTES).unwrap_or(bytes);
        let text = match std::str::from_utf8(kept) {
            Ok(text) => Some(text),
            // Cut in the middle of a character, and text otherwise.
            Err(error) if error.error_len().is_none() && kept.len() < bytes.len() => {
                kept.get(..error.valid_up_to()).and_then(|kept| std::str::from_utf8(kept).ok())
            }
            Err(_) => None,
        };
        Self {
            text: text.map(str::to_owned),
            base64: text.is_none().then(|| STANDARD.encode(kept)),
            bytes: bytes.len(),
        }
    }
}

impl std::fmt::Display for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.text, &self.base64) {
            (Some(text), _) => f.write_str(text),
            (None, Some(base64)) => write!(f, "base64:{base64}"),
            (None, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_reads_back_and_another_format_is_refused() {
        let party = |name: &str, origin, value: Option<&[u8]>| Party {
            region: Region::new(name).unwrap(),
            origin: ClusterId(origin),
            hlc: Hlc::new(7, origin as u16),
            value: value.map(Kept::of),
        };
        let (local, remote) = (party("west", 1, Some(b"one")), party("east", 2, None));
        let at = Timestamp::UNIX_EPOCH;
        let conflict =
            Conflict::new("/zürich".as_bytes(), at, Policy::LwwHlc, Some(ClusterId(2)), local, remote);
        assert_eq!(Conflict::decode(&conflict.encode()), Ok(conflict.clone()));
        let other = Conflict { format: 2, ..conflict };
        assert!(Conflict::decode(&other.encode()).unwrap_err().contains("its format is 2"));
    }

    #[test]
    fn a_value_is_kept_whole_or_its_beginning() {
        let kept = |bytes: &[u8]| (Kept::of(bytes).text, Kept::of(bytes).bytes);
        assert_eq!(kept(b"v"), (Some("v".to_owned()), 1));
        let long = "ü".repeat(VALUE_BYTES);
        let odd = format!("x{long}");
        assert_eq!(kept(long.as_bytes()), (Some("ü".repeat(VALUE_BYTES / 2)), 2 * VALUE_BYTES));
        assert_eq!(kept(odd.as_bytes()).0.unwrap().len(), VALUE_BYTES - 1, "no half of a character");
        assert_eq!(Kept::of(&[0xff, 0]).base64.as_deref(), Some("/wA="));
        assert_eq!(Kept::of(&[0xff, 0]).to_string(), "base64:/wA=");
    }

    #[test]
    fn entries_of_the_log_are_in_the_order_of_time() {
        let times = [Hlc::new(9, 9), Hlc::new(9, 10), Hlc::new(10, 0), Hlc::new(1_767_225_600_000, 1)];
        assert!(times.map(id).is_sorted());
    }
}
