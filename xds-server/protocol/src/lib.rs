//! An xDS server engine: streams, versions, order and fan-out of opaque resources.
//!
//! It speaks Envoy's discovery protocol, state of the world and incremental, aggregated and by type, and knows nothing of
//! where resources come from. A publisher builds a [`Snapshot`] for each view and gives it to the [`Hub`]; a [`Server`]
//! brings every client to its view, in an order in which no request fails, and remembers what each acknowledged.
//!
//! ```no_run
//! use std::sync::Arc;
//! use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
//! use zonebreak_xds::{ChangeId, Hub, Resource, Server, ServerOptions, Snapshot, TransportOptions, ViewKey, listen};
//!
//! # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
//! let hub = Hub::new();
//! let server = Server::new(hub.clone(), |node| ViewKey::new(&node.cluster), ServerOptions::default());
//!
//! let endpoints = ClusterLoadAssignment { cluster_name: "order".into(), ..Default::default() };
//! let mut snapshot = Snapshot::builder(ChangeId(1));
//! snapshot.put(Resource::encode("order", &endpoints))?;
//! hub.publish([(ViewKey::new("front"), Arc::new(snapshot.build()))]); // again with each change, at any time
//!
//! let transport = TransportOptions::default(); // keepalive, and bounds on what a connection may cost
//! let incoming = transport.incoming(listen("0.0.0.0:18000".parse()?)?);
//! transport.server().add_routes(server.routes()).serve_with_incoming(incoming).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Rules are cited where they are followed, as `xds_protocol.rst, "<section>"` (Envoy's description of the protocol) or by the
//! name of the proto file whose comment states them.

mod admission;
mod by_type;
mod canonical;
mod clock;
mod codec;
mod csds;
mod error;
mod gather;
mod hub;
mod inbound;
mod interest;
mod journal;
mod ledger;
mod links;
mod lrs;
mod metrics;
mod name;
mod outbound;
mod pieces;
mod resource;
mod server;
mod service;
mod session;
mod snapshot;
mod stream;
mod transport;
mod type_set;
mod types;
mod wire;

/// So that the example in there compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use csds::ClientStatus;
pub use envoy_types::pb::envoy::config::core::v3::Node;
pub use error::{ProtocolError, SnapshotError};
pub use hub::Hub;
pub use journal::{ChangeStatus, Refusal};
pub use ledger::{Convergence, Follower, Locality, ProxyStatus, Trial, TrialAnswer};
pub use lrs::{LoadMetrics, LoadReport, LoadReporting, LocalityLoad};
pub use metrics::{AckLatency, Metrics, StreamCount, TypeMetrics};
pub use resource::{Resource, ResourceError};
pub use server::{Server, ServerOptions};
pub use service::service_names;
pub use session::{
    Effect, Event, Heard, HeardError, Nack, NackStatus, Request, Resources, Response, Session,
    SessionOptions, TypeStatus,
};
pub use snapshot::{NamesByType, Snapshot, SnapshotBuilder};
pub use transport::{Punctual, TransportOptions, listen};
pub use type_set::TypeSet;
pub use types::{ChangeId, Protocol, Scope, StreamId, TypeUrl, Version, ViewKey};
