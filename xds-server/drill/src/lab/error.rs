//! What can go wrong in a lab. Each message finishes "failed to ..." and carries what was seen, so that a red test on
//! another machine explains itself; it never hides a child's own words.

use std::{io, path::PathBuf, process::ExitStatus, time::Duration};

/// Why a lab could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A program or module that the lab runs is not there.
    #[error("find {what}: no file {}; run `{remedy}`, or name one in {variable}", path.display())]
    Missing {
        /// The program.
        what: &'static str,
        /// Where it was looked for.
        path: PathBuf,
        /// The command that makes it.
        remedy: &'static str,
        /// The environment variable that names another.
        variable: &'static str,
    },
    /// The workspace was not found above the running program or the current directory.
    #[error("find the workspace: no folder above {} holds scripts/tools.lock; run inside the checkout", from.display())]
    NoWorkspace {
        /// The running program.
        from: PathBuf,
    },
    /// A file, a process or a socket.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// What the system says.
        source: io::Error,
    },
    /// A child ended that should not have.
    #[error("keep {what} running: it ended with {status}; the end of its log:\n{tail}")]
    Exited {
        /// The child.
        what: String,
        /// How it ended.
        status: ExitStatus,
        /// The last lines that it wrote.
        tail: String,
    },
    /// A command that ended badly.
    #[error("run {what}: it ended with {status}: {words}")]
    Command {
        /// The command line.
        what: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote to stderr.
        words: String,
    },
    /// A condition did not come true in time.
    #[error("see {what} within {limit:?}; last seen: {seen}")]
    Timeout {
        /// The condition.
        what: String,
        /// How long was waited.
        limit: Duration,
        /// What the last look found; the end of a log where there is one.
        seen: String,
    },
    /// An HTTP request to an admin interface.
    #[error("{method} {url}: {why}")]
    Http {
        /// The method.
        method: &'static str,
        /// The whole address.
        url: String,
        /// What the client or the server says.
        why: String,
    },
    /// No free port below the ephemeral range.
    #[error("reserve a port: {tried} candidates from {first} to {last} are taken; stop some labs")]
    NoPort {
        /// Candidates tried.
        tried: usize,
        /// First port of the range.
        first: u16,
        /// Last port of the range.
        last: u16,
    },
}

// === impl LabError ===

impl LabError {
    /// Wraps an I/O error with what was being done: `map_err(LabError::io("read ..."))`.
    pub fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }

    /// A child that ended because another program had taken its port: worth a second try on other ports.
    pub(super) fn is_taken_port(&self) -> bool {
        matches!(self, Self::Exited { tail, .. } if tail.to_lowercase().contains("address already in use"))
    }
}

/// An error with its causes: hyper's and reqwest's own lines leave the reason ("connection refused") to the source.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
