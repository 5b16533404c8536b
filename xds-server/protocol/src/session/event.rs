//! What a session is told and what it asks to be done.
//!
//! Plain data: nothing here decides, sends or reads a clock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};

use super::heard::Heard;
use crate::error::ProtocolError;
use crate::resource::{Resource, ResourceError};
use crate::snapshot::Snapshot;
use crate::type_set::TypeSet;
use crate::types::{ChangeId, Protocol, TypeUrl, Version};

/// What happens to a stream.
#[derive(Debug)]
pub enum Event {
    /// The client said something.
    Request(Request),
    /// The same, as it was read from the client's bytes.
    Heard(Heard),
    /// The client's view has this content now.
    Snapshot(Arc<Snapshot>),
    /// The moment of [`super::Session::deadline`] has come.
    Timer,
}

/// A request of either protocol, of those who have one decoded: [`Heard::read`] takes bytes.
#[derive(Clone, Debug)]
pub enum Request {
    /// State of the world.
    Sotw(Box<DiscoveryRequest>),
    /// Incremental.
    Delta(Box<DeltaDiscoveryRequest>),
}

/// What the stream's owner is to do, in this order.
#[derive(Debug)]
pub enum Effect {
    /// The client said who it is: choose its view and feed the session its snapshots.
    Identified(Box<Node>),
    /// Send this.
    Send(Response),
    /// The client accepted a response, this long after it was sent.
    Acked {
        /// The response's type.
        type_url: TypeUrl,
        /// From sending to the client's answer.
        latency: Duration,
    },
    /// The client refused a response.
    Nacked {
        /// The response's type.
        type_url: TypeUrl,
        /// What it said.
        nack: Nack,
    },
    /// A part of a change was sent without the ACK it should have waited for, because none came in time.
    GateExpired {
        /// The types whose answer was missing.
        waiting_for: Vec<TypeUrl>,
        /// How long it was waited for.
        waited: Duration,
    },
    /// End the stream with this error; nothing follows.
    End(ProtocolError),
}

/// A response, put together from shared parts; the codec writes it.
#[derive(Clone, Debug)]
pub struct Response {
    /// Which of the two response messages this becomes.
    pub protocol: Protocol,
    /// The type of all its resources.
    pub type_url: TypeUrl,
    /// `version_info` or `system_version_info`.
    pub version: Version,
    /// Unique on the stream.
    pub nonce: Arc<str>,
    /// No name twice.
    pub resources: Resources,
    /// `removed_resources`; always empty in state of the world.
    pub removed: Vec<Arc<str>>,
    /// Resources whose time to live begins anew, sent without their content.
    pub refreshed: Vec<Arc<Resource>>,
    /// Aliases that no resource goes by, each sent as a resource of that name and alias and no content (vhds.rst).
    pub unresolved: Vec<Arc<str>>,
    /// `resource_errors`.
    pub errors: Vec<(Arc<str>, Arc<ResourceError>)>,
    /// Whether this client heeds times to live.
    pub with_ttl: bool,
    /// Whether it does nothing but keep alive what the client has.
    pub heartbeat: bool,
    /// Who we are: `control_plane.identifier`, left out when empty.
    pub control_plane: Arc<str>,
}

/// The resources of a response: a slice of them.
#[derive(Clone, Debug)]
pub enum Resources {
    /// These.
    Chosen(Vec<Arc<Resource>>),
    /// All of a set, shared with every other response that brings all of it.
    All(Arc<TypeSet>),
}

/// What a client says it can do (client_features.rst), as far as it matters here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Features {
    /// It heeds times to live, in the protocol it speaks.
    pub ttl: bool,
    /// It reads `resource_errors`.
    pub errors: bool,
}

/// A refusal, as the client put it.
#[derive(Clone, Debug)]
pub struct Nack {
    /// The version refused.
    pub version: Version,
    /// The nonce of the response refused.
    pub nonce: Arc<str>,
    /// The change that the response brought: an earlier one than the newest, if that came while it was under way.
    pub change: ChangeId,
    /// `error_detail.message`, its first 4 KiB.
    pub message: Arc<str>,
    /// The resources the message blames; all that the response brought when it blames none; no more than 100.
    pub resources: Vec<Arc<str>>,
    /// When the refusal arrived.
    pub at: Instant,
}

// === impl Resources ===

impl std::ops::Deref for Resources {
    type Target = [Arc<Resource>];

    fn deref(&self) -> &[Arc<Resource>] {
        match self {
            Self::Chosen(chosen) => chosen,
            Self::All(set) => set.iter().as_slice(),
        }
    }
}

impl From<Vec<Arc<Resource>>> for Resources {
    fn from(chosen: Vec<Arc<Resource>>) -> Self {
        Self::Chosen(chosen)
    }
}

// === impl Features ===

impl Features {
    pub(crate) fn of(node: &Node, protocol: Protocol) -> Self {
        let has = |feature: &str| node.client_features.iter().any(|said| said == feature);
        // client_features.rst has one name for it, cncf/xds TP3 the other.
        let unwraps = has("xds.config.resource-in-sotw") || has("xds.config.supports-resource-in-sotw");
        Self {
            ttl: has("xds.config.supports-resource-ttl") && (protocol == Protocol::Delta || unwraps),
            // No feature stands for it: "clients would just ignore them" (TP3). Of those that read them, gRPC's is known
            // (gRFC A88), and others need not be woken with responses that hold nothing for them.
            errors: node.user_agent_name.starts_with("gRPC"),
        }
    }
}
