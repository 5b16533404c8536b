//! Two regions that both write the same keys, by opt-in.

pub mod hlc;
pub mod merge;
pub mod tag;

use std::{fmt, str::FromStr};

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

/// All policies, as they are written.
const POLICIES: [(Policy, &str); 4] = [
    (Policy::LwwHlc, "lww-hlc"),
    (Policy::SourceWins, "source-wins"),
    (Policy::DestWins, "dest-wins"),
    (Policy::RejectAndAlert, "reject-and-alert"),
];

// === impl Policy ===

impl Policy {
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
