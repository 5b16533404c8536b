//! Resources that cannot be had: which errors a client is to be told of, and which of those it was told are over.
//!
//! An error is said once. It takes nothing away: what the client has under that name it keeps, until the resource is sent
//! again or removed (discovery.proto: "the error condition is not considered to be cleared until a response is received that
//! contains the resource"; cncf/xds, TP3).

use std::sync::{Arc, LazyLock};

use super::state::Watch;
use crate::resource::ResourceError;
use crate::type_set::{Errors, TypeSet};

// === impl Watch ===

impl Watch {
    /// What the client asked for, is in error, and does not know.
    pub(super) fn errors_to_tell(&self, goal: &TypeSet) -> Errors {
        let untold = |(name, error): &(&Arc<str>, &Arc<ResourceError>)| {
            let whole = &***name == "*" && self.subscription.is_wildcard();
            (whole || self.subscription.covers(name) || self.subscription.names_exactly(name))
                && self.told.get(*name) != Some(error)
        };
        goal.errors().iter().filter(untold).map(|(name, error)| (name.clone(), error.clone())).collect()
    }

    /// Has what is no longer in error sent again, or said to be gone: the client waits for either.
    pub(super) fn clear_errors(&mut self, goal: &TypeSet) {
        if self.told.is_empty() {
            return;
        }
        let (subscription, due) = (&self.subscription, &mut self.due);
        self.told.retain(|name, _| {
            let over = !goal.errors().contains_key(name);
            if over && &**name != "*" && subscription.covers(name) {
                due.insert(name.clone());
            }
            !over
        });
    }
}

/// What a name that does not exist is said to be, to those who read errors (TP3: "an error with status code NOT_FOUND will be
/// interpreted to mean that the resource does not exist").
pub(super) fn absent() -> Arc<ResourceError> {
    static ABSENT: LazyLock<Arc<ResourceError>> = LazyLock::new(|| {
        let message = "the server has no resource of this name".to_owned();
        Arc::new(ResourceError { code: tonic::Code::NotFound, message })
    });
    ABSENT.clone()
}
