//! Two regions that both write the same keys, by opt-in: each tells the other what was written in it, and both come to the same.
//! What is decided, and why both sides decide alike, is in [`merge`]; the rest carries it out on real etcds.
//!
//! ```text
//!   applications of west                                        applications of east
//!      │ plain puts and deletes                                    │
//!      v                                                           v
//!  ┌────────────┐   tags, then values    ┌──────────────────┐  one fenced transaction  ┌────────────┐
//!  │ west, etcd │ ─────────────────────> │ the link to east │ ───────────────────────> │ east, etcd │
//!  │            │                        │                  │ <─ what east wrote: it   │            │
//!  │            │                        └──────────────────┘    is given its time ─── │            │
//!  │            │ <──────────────────────  the link to west  <──────────────────────── │            │
//!  └────────────┘                                                                      └────────────┘
//! ```
//!
//! # Who says what
//!
//! A link runs next to its destination, and is the only one that writes tags there. It does two things. It watches its destination
//! for writes that no tag speaks of, which are the applications', and gives each its time: a *tag* beside the key
//! ([`tag`]). And it watches the *tags* of its source: whatever is said there that is not known here is fetched, decided about, and
//! written together with its tag. So a write goes from one region to the other when the replicator of *its own* region has seen it,
//! and the time that it then gets is what both sides go by.
//!
//! Nothing goes in circles: what a link wrote it wrote with its tag, and a tag tells the other side nothing that it does not know.
//!
//! # What is remembered
//!
//! Everything is in the two etcds: keys, tags, conflicts. A link that starts compares keys with tags and tags with tags, which takes
//! seconds for 100,000 keys, and goes on; whatever was written or deleted while it was down differs from its tag. There is no
//! pruning: a key without a tag was written here. A spool directory says who a link is; nothing else is in it.
//!
//! Each key is decided about by itself, and written if it still is what was read: a key that an application writes at the same
//! moment is looked at again.

pub mod conflicts;
mod enter;
pub(crate) mod equal;
mod etcd;
mod exchange;
mod hear;
pub mod hlc;
pub mod log;
pub mod merge;
mod open;
pub mod record;
mod say;
mod scan;
pub mod tag;

pub(crate) use enter::links;
pub use record::OverlapError;

use crate::options::OptionsError;

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

/// Who wins where two regions wrote a key and neither knew of the other's write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// The later one, by hybrid logical clocks.
    LwwHlc,
    /// The source of this direction.
    SourceWins,
    /// The destination of this direction.
    DestWins,
    /// Nobody: both keep what they have, and somebody must decide.
    #[default]
    RejectAndAlert,
}

/// What an operator says of a prefix that two regions write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overlap {
    /// By what conflicts are decided.
    pub policy: Policy,
    /// How long a delete is remembered: longer than the two regions will ever be cut off from each other. A region that hears of it
    /// later brings the key back.
    pub remember: Duration,
}

/// The shortest [`Overlap::remember`].
const REMEMBER_LEAST: Duration = Duration::from_secs(60);

/// All policies, as they are written.
const POLICIES: [(Policy, &str); 4] = [
    (Policy::LwwHlc, "lww-hlc"),
    (Policy::SourceWins, "source-wins"),
    (Policy::DestWins, "dest-wins"),
    (Policy::RejectAndAlert, "reject-and-alert"),
];

// === impl Overlap ===

impl Overlap {
    /// By this policy, remembering deletes for a week.
    pub const fn new(policy: Policy) -> Self {
        Self { policy, remember: Duration::from_secs(7 * 86_400) }
    }

    pub(crate) fn validate(&self) -> Result<(), OptionsError> {
        if self.remember < REMEMBER_LEAST {
            let why = "a delete must be remembered for at least a minute (replicate.overlap_remember)";
            return Err(OptionsError::Setting(why.to_owned()));
        }
        Ok(())
    }
}

// === impl Policy ===

impl Policy {
    /// What the link in the other direction must go by, so that the same write wins at both ends.
    #[must_use]
    pub const fn reversed(self) -> Self {
        match self {
            Self::SourceWins => Self::DestWins,
            Self::DestWins => Self::SourceWins,
            same => same,
        }
    }

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        POLICIES.into_iter().find_map(|(policy, name)| (policy == self).then_some(name)).unwrap_or_default()
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Policy {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let known = POLICIES.into_iter().find_map(|(policy, name)| (name == text).then_some(policy));
        known
            .ok_or_else(|| format!("it is lww-hlc, source-wins, dest-wins or reject-and-alert, not {text:?}"))
    }
}
