//! What is known of a client's holdings of one type: the questions the order of types is decided by.
//!
//! It reads, and changes nothing that a client could see.

use std::sync::Arc;

use super::state::Watch;
use crate::interest::Interest;
use crate::resource::Resource;
use crate::session::ResourceState;
use crate::session::held::Holds;
use crate::type_set::TypeSet;
use crate::types::{Protocol, Version};

// === impl Watch ===

impl Watch {
    pub(crate) fn has_turned(&self) -> bool {
        self.turned
    }

    /// What of the type concerns the client. Until that may be something else the watch has not turned.
    pub(crate) fn turn(&mut self) -> Interest {
        self.turned = false;
        // What was refused is made good with the next change of the type, whatever that is.
        if self.nack.is_some() || self.refuses() { Interest::Any } else { self.subscription.interest() }
    }

    /// Whether the client surely has something of each of these names that it subscribes to and that `set` has.
    pub(crate) fn has_all_of(&self, set: &TypeSet) -> bool {
        let lacks = |name: &Arc<str>| self.subscription.covers(name) && self.held.of(name).may_be_gone();
        if set.same_content(self.held.base()) {
            return !self.held.differing().keys().any(|name| set.get(name).is_some() && lacks(name));
        }
        !set.iter().any(|resource| lacks(resource.name()))
    }

    pub(crate) fn covers(&self, name: &str) -> bool {
        self.subscription.covers(name)
    }

    /// Whether the client has something under this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.covers(name) && !self.held.of(name).is_nothing()
    }

    /// Whether this name is under way or about to be.
    pub(crate) fn is_answering(&self, name: &str) -> bool {
        self.due.contains(name)
            || self.in_flight.as_ref().is_some_and(|in_flight| in_flight.content.contains(name))
    }

    /// Whether it refused anything that it should have.
    pub(crate) fn refuses(&self) -> bool {
        !self.rejected.is_empty()
    }

    /// Whether the client has nothing under this name because it refused what it was given.
    pub(crate) fn is_refused_and_missing(&self, name: &str) -> bool {
        self.rejected.contains_key(name)
            && self.in_flight.is_none()
            && (!self.covers(name) || self.held.of(name).may_be_gone())
    }

    /// Whether the client has, or is just being given or told to give up, a name that `set` has not.
    pub(crate) fn has_more_than(&self, set: &TypeSet) -> bool {
        // What is in error is not on its way out.
        let extra = |name: &Arc<str>| set.get(name).is_none() && !set.errors().contains_key(name);
        self.in_flight.as_ref().is_some_and(|in_flight| in_flight.content.names().any(extra))
            || self.held.differing().keys().any(|name| extra(name) && self.has(name))
            || !set.same_content(self.held.base())
                && self.held.base().iter().any(|r| extra(r.name()) && self.has(r.name()))
    }

    /// Whether the client uses something older because of a refusal, and nothing newer is under way.
    pub(crate) fn is_stuck(&self) -> bool {
        self.lacks_refused() && self.in_flight.is_none()
    }

    /// What the client has of a resource that it should have, and how that stands.
    pub(crate) fn standing(&self, wanted: &Arc<Resource>) -> (Option<Version>, ResourceState) {
        let holds = self.held.of(wanted.name());
        let version = match &holds {
            Holds::Unseen(version) => version.clone(),
            known => known.resource().map(|resource| resource.version().clone()),
        };
        let rejected = self.rejected.get(wanted.name()).and_then(|rejected| rejected.content.as_ref());
        let state = if holds.is(Some(wanted)) {
            ResourceState::Synced
        } else if let (Some(nack), true) = (&self.nack, rejected.is_some_and(|it| it.same_content(wanted))) {
            ResourceState::Refused(nack.message.clone())
        } else if holds.is_nothing() && !self.is_answering(wanted.name()) {
            ResourceState::NotSent
        } else {
            ResourceState::Stale
        };
        (version, state)
    }

    /// Whether the client has acknowledged all it subscribes to of `set`, and nothing is left to remove.
    pub(crate) fn converged(&self, set: &Arc<TypeSet>) -> bool {
        let silent = self.protocol == Protocol::Sotw && !self.type_url.is_full_state();
        let differs = |name: &Arc<str>| {
            let wanted = set.get(name);
            // What is in error stays as it is, and what cannot be said need not be waited for.
            let settled = set.errors().contains_key(name) || silent && wanted.is_none();
            self.subscription.covers(name) && !self.held.of(name).is(wanted) && !settled
        };
        self.in_flight.is_none()
            && self.due.is_empty()
            && !self.owed
            && self.strays.is_empty()
            && self.resume.is_none()
            && (set.errors().is_empty() || self.errors_to_tell(set).is_empty())
            && !self.held.differing().keys().any(differs)
            && !set.changed_since(self.held.base()).iter().any(differs)
    }
}
