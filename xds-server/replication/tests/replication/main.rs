//! Replication between real etcds: what the guarantees say, each with the failure that would break it.

mod failures;
mod guards;
mod leader;
mod region;
mod resync;
mod secure;
mod stream;
mod support;
