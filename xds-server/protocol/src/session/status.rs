//! How a session stands, type by type, for whoever asks.
//!
//! It only reads.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use super::event::Nack;
use super::machine::Session;
use super::watch::Watch;
use crate::resource::Resource;
use crate::snapshot::{NamesByType, Snapshot};
use crate::types::{TypeUrl, Version};

/// One type on one stream.
#[derive(Clone, Debug)]
pub struct TypeStatus {
    /// The type.
    pub type_url: TypeUrl,
    /// Whether the client subscribes to all resources.
    pub wildcard: bool,
    /// How many names the client subscribes to.
    pub names: usize,
    /// The version of the last response.
    pub sent: Option<Version>,
    /// The version of the last response that the client accepted, or brought along from an earlier stream.
    pub acked: Option<Version>,
    /// Whether a response awaits its answer.
    pub in_flight: bool,
    /// The refusal that still stands: the client has not what it should because of it.
    pub nack: Option<NackStatus>,
    /// Whether the client acknowledged all that its view holds now.
    pub converged: bool,
}

/// A refusal that still stands.
#[derive(Clone, Debug)]
pub struct NackStatus {
    /// The version refused.
    pub version: Version,
    /// The nonce of the response refused.
    pub nonce: String,
    /// What the client said.
    pub message: String,
    /// How long ago.
    pub ago: std::time::Duration,
    /// The resources it blames; all of the response when it blames none.
    pub resources: Vec<String>,
}

/// One resource on one stream.
#[derive(Clone, Debug)]
pub(crate) struct ResourceStatus {
    pub type_url: TypeUrl,
    pub name: Arc<str>,
    /// The version that the client has.
    pub version: Option<Version>,
    pub state: ResourceState,
}

/// How a resource stands against what the view holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ResourceState {
    /// The client acknowledged it.
    Synced,
    /// The client has another version, or is being sent this one.
    Stale,
    /// The client has nothing of it.
    NotSent,
    /// The client refused it, and said this.
    Refused(Arc<str>),
}

// === impl Session ===

impl Session {
    /// How each type stands at `now`, against what the view holds at this moment.
    pub fn status(&self, now: Instant, view: &Snapshot) -> Vec<TypeStatus> {
        self.watches()
            .map(|watch| TypeStatus {
                type_url: watch.type_url().clone(),
                wildcard: watch.subscription().is_wildcard(),
                names: watch.subscription().len(),
                sent: watch.sent().cloned(),
                acked: watch.acked().cloned(),
                in_flight: watch.is_in_flight(),
                nack: watch.nack().map(|nack| NackStatus::of(nack, now)),
                converged: watch.converged(view.set(watch.type_url())),
            })
            .collect()
    }

    /// Whether every type the client watches has acknowledged all that the view holds.
    pub fn converged(&self, view: &Snapshot) -> bool {
        // What is under way is seen at once, and then nothing has to be compared.
        !self.is_waiting() && self.watches().all(|watch| watch.converged(view.set(watch.type_url())))
    }

    /// How each resource stands that the view holds and the client subscribes to.
    pub(crate) fn resources(&self, view: &Snapshot) -> Vec<ResourceStatus> {
        let of_watch = |watch: &Watch| {
            let type_url = watch.type_url();
            let covered = view.set(type_url).iter().filter(|resource| watch.covers(resource.name()));
            let status = covered.map(|resource| {
                let (version, state) = watch.standing(resource);
                ResourceStatus { type_url: type_url.clone(), name: resource.name().clone(), version, state }
            });
            status.collect::<Vec<_>>()
        };
        self.watches().flat_map(of_watch).collect()
    }

    /// Of which types the client watches some of these names, and how many names that are in all.
    pub(crate) fn watches_of(&self, names: &NamesByType) -> (BTreeSet<TypeUrl>, usize) {
        let (mut types, mut number) = (BTreeSet::new(), 0);
        for watch in self.watches() {
            let Some(names) = names.get(watch.type_url()) else { continue };
            let watched = if watch.subscription().is_wildcard() {
                names.len()
            } else {
                names.iter().filter(|name| watch.covers(name)).count()
            };
            if watched > 0 {
                types.insert(watch.type_url().clone());
                number += watched;
            }
        }
        (types, number)
    }

    /// Whether the client watches this resource and has acknowledged it in this content.
    pub(crate) fn holds(&self, type_url: &TypeUrl, resource: &Arc<Resource>) -> bool {
        let mut watch = self.watches().filter(|watch| watch.type_url() == type_url);
        watch
            .any(|watch| watch.covers(resource.name()) && watch.standing(resource).1 == ResourceState::Synced)
    }

    /// Every refusal that still stands, by type.
    pub(crate) fn refusals(&self) -> impl Iterator<Item = (&TypeUrl, &Nack)> {
        self.watches().filter_map(|watch| Some((watch.type_url(), watch.nack()?)))
    }

    /// Whether some refusal still stands.
    pub fn refuses(&self) -> bool {
        self.watches().any(|watch| watch.nack().is_some())
    }
}

// === impl NackStatus ===

impl NackStatus {
    fn of(nack: &Nack, now: Instant) -> Self {
        Self {
            version: nack.version.clone(),
            nonce: nack.nonce.to_string(),
            message: nack.message.to_string(),
            ago: now.saturating_duration_since(nack.at),
            resources: nack.resources.iter().map(ToString::to_string).collect(),
        }
    }
}
