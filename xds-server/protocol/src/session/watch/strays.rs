//! Strays: resources the client may have although nothing it asks for leads to them any more.
//!
//! A client keeps what it asks for by any name, so one that asked for a resource by its own name and by an alias, and drops the
//! own name, still has it. Should the alias have moved on meanwhile, no name is left under which to tell of that: the resource
//! is a stray, to be removed by its own name. The same goes for what a client perhaps took of a response that it refused, and for
//! what it brings from an earlier stream. A stray may be one in vain: then the client is told to remove what it has not, which
//! clients pass over. State of the world knows neither aliases nor removals, and no strays.

use std::collections::HashMap;
use std::sync::Arc;

use super::content::Content;
use super::state::Watch;
use crate::resource::Resource;
use crate::session::held::Holds;
use crate::session::names::Names;
use crate::type_set::TypeSet;
use crate::types::Protocol;

// === impl Watch ===

impl Watch {
    /// The client does not ask for this name any more.
    pub(super) fn let_go(&mut self, name: &Arc<str>) {
        let had = self.held.of(name);
        self.held.forget(name);
        self.due.take(name);
        self.rejected.remove(name);
        self.may_keep(name, &had);
    }

    /// What the client had, or perhaps had, under a name that it does not ask for it keeps if it asks for an alias of it.
    pub(super) fn may_keep(&mut self, name: &Arc<str>, had: &Holds) {
        if self.protocol == Protocol::Sotw {
            return;
        }
        let strays: Vec<Arc<str>> = match had {
            // What that goes by only the client knows.
            Holds::Unseen(_) if !self.subscription.names().is_empty() => vec![name.clone()],
            had => {
                had.possible().filter(|it| self.goes_astray(it, had)).map(|it| it.name().clone()).collect()
            }
        };
        for name in strays {
            if !self.subscription.covers(&name) {
                self.strays.insert(name);
            } else if matches!(self.held.of(&name), Holds::Nothing) {
                self.held.set(&name, Holds::Unseen(None));
            }
        }
    }

    /// Whether the client keeps this by an alias under which it is not, or may soon be no longer, accounted for.
    fn goes_astray(&self, resource: &Resource, had: &Holds) -> bool {
        if matches!(had, Holds::Doubtful { .. }) {
            return !resource.aliases().is_empty();
        }
        let asked = resource.aliases().iter().filter(|alias| self.subscription.names_exactly(alias));
        let is_it = |alias: &Arc<str>| {
            self.held.of(alias).resource().is_some_and(|held| held.name() == resource.name())
        };
        // A response under way may take the alias elsewhere.
        asked.clone().next().is_some() && (self.in_flight.is_some() || !asked.clone().any(is_it))
    }

    /// Forgets the strays that the client asks for again, by whatever name.
    pub(super) fn prune_strays(&mut self, goal: &TypeSet) {
        if self.strays.is_empty() {
            return;
        }
        let Self { strays, subscription, held, .. } = self;
        strays.retain(|name| {
            if subscription.covers(name) {
                if matches!(held.of(name), Holds::Nothing) {
                    held.set(name, Holds::Unseen(None));
                }
                return false;
            }
            !asked_by_alias(goal, name, |alias| {
                let holds = held.of(alias);
                subscription.names_exactly(alias) && holds.resource().is_some() && holds.is(goal.get(name))
            })
        });
    }

    /// Whether the resource of this name is to be had by an alias that the client asks for.
    pub(super) fn wants_by_alias(&self, goal: &TypeSet, name: &str) -> bool {
        asked_by_alias(goal, name, |alias| self.subscription.names_exactly(alias))
    }

    /// What the client asks for anew it may have already, by another name of the same resource.
    pub(super) fn recall(&mut self, asked: &Names, new: &Names) {
        if self.protocol == Protocol::Sotw || asked.is_empty() {
            return;
        }
        for (name, holds) in self.has_by_another(asked, new) {
            self.held.set(&name, holds);
        }
    }

    /// The client asks for everything: it has by their own names what it has by aliases.
    pub(super) fn recall_all(&mut self) {
        if self.protocol == Protocol::Sotw {
            return;
        }
        let had: Vec<_> = self.held.differing().values().filter_map(Holds::resource).cloned().collect();
        for resource in had {
            if self.held.of(resource.name()).is_nothing() {
                self.held.set(&resource.name().clone(), Holds::This(resource));
            }
        }
    }

    fn has_by_another(&self, asked: &Names, new: &Names) -> Vec<(Arc<str>, Holds)> {
        let base = self.held.base();
        let known = |name: &Arc<str>| self.subscription.covers(name) && !new.contains(name);
        // Where the client differs from the set last compared with, and so do the aliases.
        let mut others: HashMap<&str, &Arc<Resource>> = HashMap::new();
        let overlay =
            self.held.differing().iter().filter_map(|(name, holds)| Some((name, holds.resource()?)));
        let aliased = overlay.filter(|(name, resource)| !resource.aliases().is_empty() && known(name));
        for (_, resource) in aliased {
            others.insert(resource.name(), resource);
            others.extend(resource.aliases().iter().map(|alias| (&**alias, resource)));
        }
        if base.has_no_aliases() && others.is_empty() {
            return Vec::new();
        }
        let has = |name: &Arc<str>| {
            if let Some(resource) = base.get(name) {
                let names = std::iter::once(resource.name()).chain(resource.aliases());
                for other in names.filter(|other| *other != name && known(other)) {
                    let holds = self.held.of(other);
                    if holds.resource().is_some_and(|held| held.name() == resource.name()) {
                        return Some(holds);
                    }
                }
            }
            others.get(&**name).map(|resource| Holds::This((*resource).clone()))
        };
        // An alias asked for beside everything is no new name, and was not accounted for until now.
        let beside = |name: &Arc<str>| {
            let own = base.get(name).map(|resource| resource.name()).filter(|own| *own != name)?;
            let silent = known(own) && !self.held.differing().contains_key(name);
            silent.then(|| self.held.of(own))
        };
        let holds = |name: &Arc<str>| if new.contains(name) { has(name) } else { beside(name) };
        asked.iter().filter_map(|name| Some((name.clone(), holds(name)?))).collect()
    }

    /// The client took `resource`: by all of its names that it asks for, and not only by those `content` brought it for.
    /// In the place of what it `had` under the name at hand, which it does not have by any other any more either.
    pub(super) fn has_by_all_names(
        &mut self,
        resource: &Arc<Resource>,
        had: &Holds,
        content: &Content,
        goal: &TypeSet,
    ) {
        self.strays.remove(resource.name());
        for alias in had.possible().flat_map(|had| had.aliases()).filter(|alias| !content.contains(alias)) {
            let is_it = |held: &Arc<Resource>| held.name() == resource.name() && !held.same_content(resource);
            if self.subscription.names_exactly(alias) && self.held.of(alias).resource().is_some_and(is_it) {
                self.held.set(alias, Holds::Nothing);
            }
        }
        if resource.aliases().is_empty() {
            return;
        }
        let own = Some(resource.name()).filter(|name| self.subscription.covers(name));
        let aliases = resource.aliases().iter().filter(|alias| self.subscription.names_exactly(alias));
        let theirs = |name: &&Arc<str>| goal.get(name).is_some_and(|it| it.same_content(resource));
        let names = own.into_iter().chain(aliases).filter(theirs);
        let names: Vec<_> = names.filter(|name| !content.contains(name)).collect();
        for name in names {
            self.rejected.remove(name);
            let had = self.held.set(name, Holds::This(resource.clone()));
            self.may_keep(name, &had);
        }
    }
}

/// Whether this is the own name of a resource, and one of the aliases that lead to it is `asked` for.
fn asked_by_alias(goal: &TypeSet, name: &str, asked: impl Fn(&str) -> bool) -> bool {
    let resource = goal.get(name).filter(|resource| **resource.name() == *name);
    resource.is_some_and(|resource| {
        let leads = |alias: &str| goal.get(alias).is_some_and(|it| it.name() == resource.name());
        resource.aliases().iter().any(|alias| asked(alias) && leads(alias))
    })
}
