//! The command line: one file a verb, each with its flags beside what it does.

mod bar;
mod by_file;
pub mod completions;
pub mod config;
pub mod confirm;
pub mod connect;
pub mod explain;
pub mod failures;
pub mod held;
pub mod output;
pub mod proxies;
pub mod register;
pub mod replicate;
pub mod root;
pub mod serve;
mod signal;
pub mod snapshot;
pub mod status;
pub mod tables;
pub mod topology;
mod why;
pub mod zone;
