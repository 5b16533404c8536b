//! Log levels and lines. Plain data.

use std::time::Duration;

/// How much a log line matters (`proxy_log_level_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are the ABI's own")]
#[repr(u32)]
pub enum Level {
    Trace = 0,
    Debug = 1,
    Info = 2,
    Warn = 3,
    Error = 4,
    Critical = 5,
}

/// What a VM wrote to the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When, since the start of the process.
    pub at: Duration,
    /// On which thread: 0 is the main thread, workers follow.
    pub thread: usize,
    /// How much it matters.
    pub level: Level,
    /// The line.
    pub text: String,
}

// === impl Level ===

impl Level {
    pub(crate) const fn from_abi(level: u32) -> Option<Self> {
        match level {
            0 => Some(Self::Trace),
            1 => Some(Self::Debug),
            2 => Some(Self::Info),
            3 => Some(Self::Warn),
            4 => Some(Self::Error),
            5 => Some(Self::Critical),
            _ => None,
        }
    }
}
