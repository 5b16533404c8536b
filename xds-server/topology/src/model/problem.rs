//! A value that was refused, and where to look. Describes; keeps nothing.

use std::fmt;

use serde::Serialize;

/// A value that cannot be used. Whatever was good before stays in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Its key without the prefix, such as `services/order-svc`; or the path of a file that cannot be read as a whole.
    pub key: String,
    /// The etcd revision that wrote it; with a file, how many times it had changed.
    pub revision: i64,
    /// Line within the value (etcd) or the file, from 1.
    pub line: Option<u32>,
    /// Column, from 1.
    pub column: Option<u32>,
    /// What is wrong, and what would be right.
    pub message: String,
    /// Whether an earlier, good value of the same key is in force in its place.
    pub kept: bool,
}

// === impl Problem ===

impl Problem {
    pub(crate) fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { key: key.into(), revision: 0, line: None, column: None, message: message.into(), kept: false }
    }

    pub(crate) fn at(mut self, position: Option<(u32, u32)>) -> Self {
        (self.line, self.column) = position.unzip();
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, " line {line} column {column}")?;
        }
        write!(f, ": {}", self.message)?;
        if self.kept {
            f.write_str(" (the last good value stays in force)")?;
        }
        Ok(())
    }
}
