//! One type on one stream: what was asked for, what the client has, what is under way, what it refused.
//!
//! # The states
//!
//! A type is *idle* (nothing under way) or *awaiting* (one response sent, neither ACKed nor NACKed). Only an idle type sends,
//! so a slow client has at most one response of a type before it, and whatever changes meanwhile is merged into the next.
//!
//! Sending is decided by comparison: `Held` says what the client has, the goal set says what it should have, and a name is
//! sent when the two differ, or when the client asked for it (`due`) whether they differ or not. Nothing is counted
//! as held before its ACK.
//!
//! # Refusals
//!
//! A refused resource is not sent again with the same content, except to a client that asks for it anew:
//! - a resource the client blamed, or the only one in its response, waits until its own content changes;
//! - the others of that response were perhaps taken, perhaps not: they go out once more with the type's next change, and
//!   wait for their own content if they are refused again.
//!
//! Until then what the client has under their names is doubtful, so they are said again when the goal goes back as well.
//!
//! So one content is refused at most twice on a stream, and never twice in a row without a change.
//!
//! # Names
//!
//! A resource that goes by several names of which the client asks for more than one is kept account of under each of these, and
//! under all of them the same: what was taken for one was taken for all. What a client may have under none of them is a stray
//! (`strays.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use super::beat::Beat;
use super::content::Content;
use crate::resource::Resource;
use crate::session::event::{Features, Nack};
use crate::session::held::Held;
use crate::session::names::Names;
use crate::session::subscription::Subscription;
use crate::type_set::{Errors, TypeSet};
use crate::types::{ChangeId, Protocol, TypeUrl, Version};

/// One type on one stream.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(super) type_url: TypeUrl,
    pub(super) protocol: Protocol,
    pub(super) features: Features,
    pub(super) subscription: Subscription,
    pub(super) held: Held,
    /// Names the client asked for, or must be given again, that have not been answered.
    pub(super) due: Names,
    /// Whether the client waits for an answer even if there is nothing to put into it.
    pub(super) owed: bool,
    /// The version a state-of-the-world client brought from an earlier stream, until it can be compared.
    pub(super) resume: Option<String>,
    /// Whether the client has things from an earlier stream that we cannot see.
    pub(super) resumed: bool,
    pub(super) in_flight: Option<InFlight>,
    pub(super) rejected: BTreeMap<Arc<str>, Rejected>,
    /// Own names of what the client may have although no name it asks for leads there (`strays.rs`).
    pub(super) strays: BTreeSet<Arc<str>>,
    /// The goal whose response was refused last.
    pub(super) rejected_goal: Option<Arc<TypeSet>>,
    pub(super) nack: Option<Nack>,
    /// The errors the client was told of and no resource has cleared since.
    pub(super) told: Errors,
    /// When times to live last began anew.
    pub(super) beat: Beat,
    pub(super) last_nonce: Option<Arc<str>>,
    pub(super) sent: Option<Version>,
    pub(super) acked: Option<Version>,
    /// The newest point of the stream's history whose content the client has answered for, in whatever way.
    pub(super) answered: u64,
    /// The newest point whose content the client has, with nothing refused.
    pub(super) accepted: u64,
    /// Whether other changes may concern it than when [`Watch::turn`] was asked last.
    pub(super) turned: bool,
}

/// A response the client has not answered.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) nonce: Arc<str>,
    pub(super) serial: u64,
    pub(super) at: Instant,
    pub(super) version: Version,
    pub(super) goal: Arc<TypeSet>,
    /// What it brings: a resource, or its removal.
    pub(super) content: Content,
    /// The errors it tells of.
    pub(super) errors: Errors,
    /// Whether it does nothing but keep alive what the client has.
    pub(super) heartbeat: bool,
    /// The point of the stream's history that it brings the client to; `None` while more must follow.
    pub(super) point: Option<u64>,
    /// What the publisher calls the point that it was made for.
    pub(super) change: ChangeId,
}

/// Content a client refused under a name.
#[derive(Debug)]
pub(super) struct Rejected {
    /// `None` for a removal.
    pub(super) content: Option<Arc<Resource>>,
    /// Whether it waits for its own content to change, and not only for the type's.
    pub(super) guilty: bool,
}

// === impl Watch ===

impl Watch {
    pub(crate) fn new(type_url: TypeUrl, protocol: Protocol, features: Features) -> Self {
        Self {
            type_url,
            protocol,
            features,
            subscription: Subscription::default(),
            held: Held::nothing(),
            due: Names::default(),
            owed: false,
            resume: None,
            resumed: false,
            in_flight: None,
            rejected: BTreeMap::new(),
            strays: BTreeSet::new(),
            rejected_goal: None,
            nack: None,
            told: Errors::new(),
            beat: Beat::Idle,
            last_nonce: None,
            sent: None,
            acked: None,
            answered: 0,
            accepted: 0,
            turned: true,
        }
    }

    pub(crate) fn type_url(&self) -> &TypeUrl {
        &self.type_url
    }

    /// Whether each response repeats all that the client is to have, and so cannot be split.
    pub(super) fn tells_full_state(&self) -> bool {
        self.protocol == Protocol::Sotw && self.type_url.is_full_state()
    }

    pub(crate) fn subscription(&self) -> &Subscription {
        &self.subscription
    }

    pub(crate) fn answered(&self) -> u64 {
        self.answered
    }

    pub(crate) fn accepted(&self) -> u64 {
        self.accepted
    }

    pub(crate) fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// When the response under way was sent.
    pub(crate) fn in_flight_since(&self) -> Option<Instant> {
        self.in_flight.as_ref().map(|in_flight| in_flight.at)
    }

    pub(crate) fn nack(&self) -> Option<&Nack> {
        self.nack.as_ref()
    }

    pub(crate) fn sent(&self) -> Option<&Version> {
        self.sent.as_ref()
    }

    pub(crate) fn acked(&self) -> Option<&Version> {
        self.acked.as_ref()
    }
}
