//! Replication between real etcds: what the guarantees say, each with the failure that would break it.

mod failures;
mod guards;
mod resync;
mod secure;
mod snapshots;
mod stream;
mod support;
