//! What one measurement is about, and how long each part of it takes. Plain data.

use std::time::Duration;

use clap::ValueEnum;

/// The two protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Speaks {
    /// Incremental.
    Delta,
    /// State of the world.
    Sotw,
}

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// The protocol of all clients.
    pub speaks: Speaks,
    /// How many services there are: as many clusters and endpoint assignments.
    pub services: usize,
    /// How many streams, each a proxy.
    pub streams: usize,
    /// Over how many TCP connections.
    pub connections: usize,
    /// How many single changes are timed.
    pub triggers: usize,
    /// The longest that the single changes may take together; a server that needs more is timed on fewer.
    pub patience: Duration,
    /// How many changes a second are asked for after that.
    pub rate: u32,
    /// For how long; zero leaves it out.
    pub sustain: Duration,
}

/// How many zones the clients are in; as the servers have it.
pub(super) const ZONES: usize = 3;

// === impl Speaks ===

impl Speaks {
    /// As in tables.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Delta => "delta",
            Self::Sotw => "SotW",
        }
    }

    /// The path of its aggregated service.
    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::Delta => "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
            Self::Sotw => "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
        }
    }
}
