//! What a client that comes back says it has, held against what there is now.
//!
//! Nearly all of it is nearly always what there is now, so that costs a look at each name and no memory that stays. It only reads.

use std::sync::Arc;

use crate::name;
use crate::session::subscription::{Change, Subscription};
use crate::type_set::TypeSet;
use crate::types::Version;

/// What of `initial_resource_versions` is subscribed to.
#[derive(Debug)]
pub(super) struct Brought {
    /// For each resource that there is now: whether the client has it in that version.
    pub(super) places: Vec<bool>,
    /// How many of these it has.
    pub(super) same: usize,
    /// What it has in another version, or by another name, or is not there any more.
    pub(super) others: Vec<(Arc<str>, Version)>,
}

// === impl Brought ===

impl Brought {
    pub(super) fn new<'a>(
        versions: impl Iterator<Item = (&'a str, &'a str)>,
        subscription: &Subscription,
        known: &TypeSet,
    ) -> Self {
        let all = subscription.covers_all(known);
        let mut brought = Self { places: vec![false; known.len()], same: 0, others: Vec::new() };
        for (said, version) in versions {
            let name = name::normal(said);
            let place = known.place(&name);
            let resource = place.and_then(|place| known.at(place));
            let aliases = resource.iter().flat_map(|resource| resource.aliases());
            for alias in aliases.filter(|alias| subscription.names_exactly(alias)) {
                brought.others.push((alias.clone(), Version::new(version)));
            }
            if !(all && place.is_some() || subscription.covers(&name)) {
                continue;
            }
            match (resource, place.and_then(|place| brought.places.get_mut(place))) {
                (Some(resource), Some(same)) if resource.version().as_str() == version => {
                    brought.same += usize::from(!std::mem::replace(same, true));
                }
                (Some(resource), _) => brought.others.push((resource.name().clone(), Version::new(version))),
                (None, _) => brought.others.push((Arc::from(&*name), Version::new(version))),
            }
        }
        brought
    }

    /// What is there need not be answered though it was asked for.
    pub(super) fn answers(&self, change: &mut Change, known: &TypeSet) {
        let there =
            |name: &Arc<str>| known.place(name).and_then(|place| self.places.get(place)) == Some(&true);
        change.asked.retain(|name| !there(name));
        change.new.retain(|name| !there(name));
    }
}
