//! Why a configuration was refused: where it stands, what is wrong with it and what to do. Formats; decides nothing.

use std::{io, path::PathBuf};

/// Why a configuration was refused. Ends with exit code 2 at the start; at a reload the old one stays in force.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("failed to read {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file is not YAML, or not of the schema.
    #[error("{}:{line}:{column}: {message}\n{snippet}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: u32,
        /// Column, from 1.
        column: u32,
        /// What is wrong.
        message: String,
        /// The place, for people.
        snippet: String,
    },
    /// An environment variable or a flag with a value that cannot be used.
    #[error("{origin}: {message}")]
    Value {
        /// `$ZONEBREAK_ETCD__PREFIX` or `--prefix`.
        origin: String,
        /// What is wrong.
        message: String,
    },
    /// A variable that names no key.
    #[error("${variable}: there is no such setting{near} (`zonebreak config defaults` lists all)")]
    UnknownVariable {
        /// Its name.
        variable: String,
        /// What is most like it; empty, or the end of a sentence.
        near: String,
    },
    /// Neither etcd nor a file.
    #[error(
        "no source of the topology: name an etcd (etcd.endpoints, --etcd URL or $ZONEBREAK_ETCD__ENDPOINTS) or a file \
         (topology.file or --topology FILE)"
    )]
    NoSource,
    /// Both etcd and a file, of the same rank.
    #[error("two sources of the topology, etcd.endpoints ({etcd}) and topology.file ({file}): remove one")]
    TwoSources {
        /// Where the first was set.
        etcd: String,
        /// Where the second was set.
        file: String,
    },
    /// A client command without etcd.
    #[error(
        "no etcd was named: pass --etcd URL, set $ZONEBREAK_ETCD__ENDPOINTS or name a file with --config that has etcd.endpoints"
    )]
    NoEtcd,
    /// Two keys that only make sense together.
    #[error("{given} is set and {missing} is not: set both or neither")]
    Pair {
        /// The key that is set.
        given: &'static str,
        /// The key that is not.
        missing: &'static str,
    },
}
