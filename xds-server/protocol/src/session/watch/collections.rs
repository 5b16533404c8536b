//! Collections of the `xdstp:` scheme: what begins, goes on and ends with a subscription to all of one.
//!
//! A member is a resource like any other once it is known to be wanted; this only finds out which ones those are.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::state::Watch;
use crate::name;
use crate::resource::Resource;
use crate::session::held::Holds;
use crate::session::names::Names;
use crate::session::subscription::Change;
use crate::type_set::TypeSet;
use crate::types::Protocol;

// === impl Watch ===

impl Watch {
    /// The names the client has something of because it asked for them, or for their collection: before now, and so neither for those
    /// that are `fresh` nor for a collection that `began` in the same request.
    pub(super) fn kept_without_a_wildcard(&self, fresh: &Names, began: &[Arc<str>]) -> Vec<Arc<str>> {
        let names = self.subscription.names().iter().filter(|name| !fresh.contains(name)).cloned();
        let mut kept: Vec<Arc<str>> = names.collect();
        let new = |name: &str| name::glob_of(name).is_some_and(|of| began.iter().any(|glob| *of == **glob));
        kept.extend(self.members(|name| {
            self.subscription.collects(name) && !new(name) && !self.subscription.names_exactly(name)
        }));
        kept
    }

    /// The names we know anything of that belong to a collection.
    fn members(&self, belongs: impl Fn(&str) -> bool) -> Vec<Arc<str>> {
        let base = self.held.base().iter().map(|resource| resource.name());
        let names: BTreeSet<&Arc<str>> = base.chain(self.held.differing().keys()).collect();
        names.into_iter().filter(|name| belongs(name)).cloned().collect()
    }

    pub(super) fn follow_collections(&mut self, change: &Change) {
        let of = |glob: &Arc<str>| {
            let glob = glob.clone();
            move |name: &str| name::glob_of(name).is_some_and(|of| *of == *glob)
        };
        for glob in &change.globs_began {
            if !self.subscription.is_wildcard() {
                // News to the client, whatever the set we last compared with.
                let named = |name: &str| self.subscription.names_exactly(name);
                let belongs = of(glob);
                let mut new = Names::default();
                for name in self.members(|name| belongs(name) && !named(name)) {
                    self.held.begin(&name, Holds::Nothing);
                    new.insert(name);
                }
                self.recall(&new, &new);
            }
            self.due.insert(glob.clone());
        }
        for glob in &change.globs_again {
            let members = self.members(of(glob));
            members.into_iter().for_each(|name| {
                self.due.insert(name);
            });
            self.due.insert(glob.clone());
        }
        for glob in &change.globs_ended {
            self.due.take(glob);
            self.told.remove(glob);
            let belongs = of(glob);
            for name in self.members(|name| belongs(name)) {
                if !self.subscription.covers(&name) {
                    self.let_go(&name);
                } else if self.subscription.is_wildcard() && self.protocol == Protocol::Delta {
                    self.due.insert(name);
                }
            }
        }
    }

    /// Asks for each member of the collections the client waits for, unless it brought it along. A collection without any stays,
    /// to be called absent.
    pub(super) fn expand_collections(&mut self, goal: &TypeSet) {
        if !self.subscription.has_globs() {
            return;
        }
        let waited: Vec<Arc<str>> = self.due.iter().filter(|name| name::is_glob(name)).cloned().collect();
        for glob in waited {
            let belongs =
                |resource: &&Arc<Resource>| name::glob_of(resource.name()).is_some_and(|of| *of == *glob);
            let mut members = goal.iter().filter(belongs).map(|resource| resource.name()).peekable();
            if members.peek().is_some() {
                let lacking = members.filter(|name| self.held.of(name).is_nothing());
                let lacking: Vec<Arc<str>> = lacking.cloned().collect();
                lacking.into_iter().for_each(|name| {
                    self.due.insert(name);
                });
                self.due.take(&glob);
            }
        }
    }
}
