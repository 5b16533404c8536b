//! Which words a response is made of, once it is decided what it says.
//!
//! It only reads. Aliases end here: a client asks by them and is answered by resources' own names.

use std::cell::LazyCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::content::Chosen;
use super::state::Watch;
use crate::resource::Resource;
use crate::type_set::TypeSet;
use crate::types::TypeUrl;
use crate::{codec, wire};

/// What the client has no use for any more, and what it asked for in vain.
#[derive(Debug, Default)]
pub(super) struct Gone {
    pub(super) removed: Vec<Arc<str>>,
    pub(super) unresolved: Vec<Arc<str>>,
}

// === impl Watch ===

impl Watch {
    /// Everything the client will have once it took `content`.
    pub(super) fn full_state(&self, content: &Chosen) -> Vec<Arc<Resource>> {
        let after = |name: &Arc<str>| match content.get(name) {
            Some(resource) => resource.clone(),
            None => self.held.of(name).resource().cloned(),
        };
        let mut names: BTreeSet<&Arc<str>> = self.subscription.names().iter().collect();
        if self.subscription.is_wildcard() || self.subscription.has_globs() {
            names.extend(self.held.base().iter().map(|resource| resource.name()));
            names.extend(self.held.differing().keys());
        }
        let resources: Vec<_> =
            names.into_iter().filter(|name| self.subscription.covers(name)).filter_map(after).collect();
        distinct(&resources)
    }

    /// The most that an answer under this name takes of a response that can be split, in bytes.
    pub(super) fn bytes_of(&self, name: &str, new: Option<&Resource>, goal: &TypeSet) -> usize {
        let removed = |name: &str| wire::bytes_len(name.len());
        let had = self.held.of(name);
        let own = had.resource().map(|had| had.name());
        match new {
            Some(new) => {
                // What an alias led to before it moved is taken away by its own name.
                let moved = own.filter(|own| *own != new.name()).map_or(0, |own| removed(own));
                wire::bytes_len(codec::body_len(self.protocol, self.features.ttl, new)) + moved
            }
            None if self.type_url == TypeUrl::VIRTUAL_HOST => {
                removed(name).max(wire::bytes_len(codec::unresolved_len(goal.version(), name)))
            }
            None => own.map_or(0, |own| removed(own)).max(removed(name)),
        }
    }

    /// How an incremental client is told of what it is to give up, or does not exist.
    pub(super) fn gone(&self, content: &Chosen, goal: &TypeSet) -> Gone {
        let mut gone = Gone::default();
        let resources = || content.values().flatten().map(|resource| resource.name());
        let brought: LazyCell<BTreeSet<&Arc<str>>, _> = LazyCell::new(|| resources().collect());
        for (key, new) in content {
            if new.is_none() && self.strays.contains(key) {
                gone.removed.push(key.clone());
                continue;
            }
            let old = self.held.of(key).resource().cloned();
            // What the client has under an alias it knows by the resource's own name.
            let own = old.as_ref().map(|old| old.name()).filter(|own| *own != key);
            // By its own name, or by another alias: not merely wanted by that, but had, or brought in this response.
            let still = |own: &Arc<str>| {
                let has = |name: &Arc<str>| {
                    name != key && self.held.of(name).resource().is_some_and(|held| held.name() == own)
                };
                let by_alias = |alias: &Arc<str>| self.subscription.names_exactly(alias) && has(alias);
                goal.get(own).is_some_and(|it| {
                    let covered = self.subscription.covers(own);
                    covered || brought.contains(own) || it.aliases().iter().any(by_alias)
                })
            };
            match (new, own) {
                (Some(new), Some(own)) if new.name() != own && !still(own) => gone.removed.push(own.clone()),
                (Some(_), _) => {}
                (None, Some(own)) if !still(own) => gone.removed.push(own.clone()),
                // vhds.rst, "Subscribing to Resources": "the resources entry for that virtual host has the name and aliases set
                // to the requested host entry and the resource unpopulated".
                (None, None) if old.is_none() && self.type_url == TypeUrl::VIRTUAL_HOST => {
                    gone.unresolved.push(key.clone());
                }
                (None, _) => gone.removed.push(key.clone()),
            }
        }
        gone.removed.sort();
        gone.removed.dedup();
        // That it is taken away says as well that there is none.
        let Gone { removed, unresolved } = &mut gone;
        unresolved.retain(|name| removed.binary_search(name).is_err());
        gone
    }
}

/// Each resource once, though a client may have asked for it by several names.
pub(super) fn distinct<'a>(resources: impl IntoIterator<Item = &'a Arc<Resource>>) -> Vec<Arc<Resource>> {
    let mut distinct: Vec<Arc<Resource>> = Vec::new();
    let mut aliased = BTreeSet::new();
    for resource in resources {
        if aliased.insert(resource.name()) {
            distinct.push(resource.clone());
        }
    }
    distinct
}
