//! How the program ends: one exit code for each kind of ending, and the failure that carries it together with the words for
//! the operator. Prints nothing and never ends the process itself.

use std::{fmt, process::ExitCode};

/// Every way in which `zonebreak` ends. Scripts may rely on these numbers; they are never reused for another meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Exit {
    /// Done as asked.
    Ok = 0,
    /// Something that nobody foresaw.
    Unexpected = 1,
    /// A flag, a configuration or an input file that cannot be used. Nothing was changed.
    Usage = 2,
    /// A check came out negative: two topologies differ, a file is invalid.
    CheckFailed = 3,
    /// Written, but not every proxy confirmed it in the time given, or no server could be asked.
    NotConverged = 4,
    /// Refused by a guard that protects the service, with the reason. Nothing was changed.
    Refused = 5,
    /// Somebody else changed the same thing at the same time. Nothing was changed; try again.
    Conflict = 6,
    /// etcd or the server did not answer.
    Unreachable = 7,
}

/// The table in `zonebreak --help`.
pub const EXIT_CODES: &str = "Exit codes:
  0  done as asked
  1  unexpected error
  2  usage or configuration error; nothing was changed
  3  a check failed (topologies differ, a file is invalid)
  4  written, but not confirmed by every proxy in time
  5  refused by a guard, with the reason; nothing was changed
  6  conflict with a change made at the same time; try again
  7  etcd or the server is unreachable";

/// A command that did not end well: what to tell the operator and the code to end with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The kind of ending.
    pub exit: Exit,
    /// Where and why, as one fragment; further lines are detail.
    pub message: String,
    /// What to do about it, where there is something to do.
    pub hint: Option<String>,
}

/// What every command ends with.
pub type Outcome = Result<Exit, Failure>;

// === impl Exit ===

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

// === impl Failure ===

impl Failure {
    /// A failure of kind `exit` with nothing to recommend.
    pub fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self { exit, message: message.to_string(), hint: None }
    }

    /// A flag, configuration or input that cannot be used.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// The same failure with a recommendation.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Exit::Unexpected, format_args!("{error:#}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_text_names_every_code() {
        let all = [
            Exit::Ok,
            Exit::Unexpected,
            Exit::Usage,
            Exit::CheckFailed,
            Exit::NotConverged,
            Exit::Refused,
            Exit::Conflict,
            Exit::Unreachable,
        ];
        for (number, exit) in all.into_iter().enumerate() {
            assert_eq!(exit as usize, number);
            assert!(EXIT_CODES.contains(&format!("\n  {number}  ")), "{exit:?} is missing in the help text");
        }
    }

    #[test]
    fn a_hint_follows_the_message() {
        let failure = Failure::usage("no etcd was named").hint("pass --etcd URL");
        assert_eq!(failure.to_string(), "no etcd was named\n  hint: pass --etcd URL");
        assert_eq!(failure.exit, Exit::Usage);
    }
}
