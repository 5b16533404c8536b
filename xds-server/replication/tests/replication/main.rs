//! Replication between real etcds: what the guarantees say, each with the failure that would break it.

mod abort;
mod alone;
mod bounds;
mod clusters;
mod failures;
mod guards;
mod leader;
mod leases;
mod links;
mod overlap;
mod region;
mod resync;
mod rollback;
mod secure;
mod snapshots;
mod states;
mod stream;
mod support;
