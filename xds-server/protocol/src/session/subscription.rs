//! Which resources of one type a client asked for: names, collections, "all of them", or any of these together.
//!
//! It knows what was asked and never what was sent.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::heard::Texts;
use super::names::Names;
use crate::interest::{self, Interest};
use crate::name;
use crate::type_set::TypeSet;
use crate::types::TypeUrl;

/// The name that means "all resources".
const WILDCARD: &str = "*";

/// A client's subscription to one type.
#[derive(Debug, Default)]
pub(crate) struct Subscription {
    /// Names and aliases.
    names: Names,
    /// Collections of the `xdstp:` scheme.
    globs: Names,
    wildcard: bool,
    /// Whether the client ever named anything, after which saying nothing no longer means "all"
    /// (xds_protocol.rst, "How the client specifies what resources to return").
    explicit: bool,
    /// A hash of the last state-of-the-world list: every ACK repeats it.
    list: Option<u128>,
    /// What lists that did not count have left out since.
    missed: Option<Box<Missed>>,
}

/// What is subscribed to and was not in every list that a state-of-the-world client sent.
#[derive(Debug, Default)]
struct Missed {
    names: BTreeSet<Arc<str>>,
    globs: BTreeSet<Arc<str>>,
    wildcard: bool,
}

/// What one request changed.
#[derive(Debug, Default)]
pub(crate) struct Change {
    /// Names to be answered: new ones in state of the world, all that were asked for in incremental.
    pub asked: Names,
    /// Of those, the ones not subscribed to before in any way: by name, wildcard or collection.
    pub new: Names,
    /// Names no longer subscribed to by name.
    pub dropped: Vec<Arc<str>>,
    /// Collections not subscribed to before.
    pub globs_began: Vec<Arc<str>>,
    /// Collections an incremental client asked for once more.
    pub globs_again: Vec<Arc<str>>,
    pub globs_ended: Vec<Arc<str>>,
    pub wildcard_began: bool,
    pub wildcard_ended: bool,
}

// === impl Subscription ===

impl Subscription {
    pub(crate) fn covers(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name) || self.collects(name)
    }

    /// Whether all of this set is evidently subscribed to.
    pub(crate) fn covers_all(&self, set: &TypeSet) -> bool {
        self.wildcard || self.names.have_all_of(set)
    }

    /// Whether a collection that is subscribed to has this name.
    pub(crate) fn collects(&self, name: &str) -> bool {
        collected(&self.globs, name)
    }

    /// Whether this very name was asked for, be it a resource's, an alias or a collection.
    pub(crate) fn names_exactly(&self, name: &str) -> bool {
        self.names.contains(name) || self.globs.contains(name)
    }

    pub(crate) fn has_globs(&self) -> bool {
        !self.globs.is_empty()
    }

    /// How many names and collections were asked for.
    pub(crate) fn len(&self) -> usize {
        self.names.len() + self.globs.len()
    }

    /// How much memory their text takes, in bytes: what is shared with a snapshot takes none.
    pub(crate) fn text(&self) -> usize {
        self.names.text() + self.globs.text()
    }

    pub(crate) fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    /// Takes the full list of a state-of-the-world request. Names of `known` resources are shared with it.
    pub(crate) fn replace(&mut self, type_url: &TypeUrl, names: &impl Texts, known: &TypeSet) -> Change {
        let mut change = Change::default();
        let list = names.digest();
        if self.list.replace(list) == Some(list) {
            return change;
        }
        let was_wildcard = self.wildcard;
        // xds_protocol.rst, "How the client specifies what resources to return": "if the client sends a request for a given
        // resource type but has never explicitly subscribed to any resource names ... treat that identically to ... '*'".
        self.explicit |= names.count() > 0;
        self.wildcard = if self.explicit {
            names.texts().any(|name| name == WILDCARD)
        } else {
            type_url.is_wildcard_by_default()
        };
        if self.names.is_empty()
            && self.globs.is_empty()
            && let Some(all) = Names::all_of(known, names)
        {
            self.begin_with(all, was_wildcard, &mut change);
            return change;
        }
        let wanted = names.texts().filter(|name| *name != WILDCARD).map(name::normal);
        let (globs, wanted): (BTreeSet<_>, BTreeSet<_>) = wanted.partition(|n| name::is_glob(n));
        for name in self.names.iter().filter(|name| !wanted.contains(&***name)) {
            change.dropped.push(name.clone());
        }
        if !change.dropped.is_empty() {
            change.dropped.sort();
            self.names.retain(|name| wanted.contains(&**name));
        }
        let globs_before = self.globs.clone();
        let ended = self.globs.iter().filter(|glob| !globs.contains(&***glob));
        change.globs_ended.extend(ended.cloned());
        if !change.globs_ended.is_empty() {
            self.globs.retain(|glob| globs.contains(&**glob));
        }
        for name in wanted {
            if !self.names.contains(&name) {
                let name = shared(&name, known);
                self.names.insert(name.clone());
                change.asked.insert(name.clone());
                if !was_wildcard && !collected(&globs_before, &name) {
                    change.new.insert(name);
                }
            }
        }
        for glob in globs {
            let glob: Arc<str> = Arc::from(glob);
            if self.globs.insert(glob.clone()) {
                change.globs_began.push(glob);
            }
        }
        self.names.share(known);
        change.wildcard_began = self.wildcard && !was_wildcard;
        change.wildcard_ended = was_wildcard && !self.wildcard;
        change
    }

    /// Hears the list of a state-of-the-world request that does not count, of which only what it leaves out is remembered: the client
    /// may have forgotten that by the time it asks for it again, and the list that counts may be what it was all along.
    pub(crate) fn overhear(&mut self, names: &impl Texts) {
        if self.list == Some(names.digest()) {
            return;
        }
        if !self.explicit && names.count() > 0 {
            // The same list means something else from now on.
            self.explicit = true;
            self.list = None;
        }
        let said: BTreeSet<_> = names.texts().map(name::normal).collect();
        let left_out = |name: &&Arc<str>| !said.contains(&***name);
        let wildcard = self.wildcard && self.explicit && !said.contains(WILDCARD);
        let mut names = self.names.iter().filter(left_out).peekable();
        let mut globs = self.globs.iter().filter(left_out).peekable();
        if wildcard || names.peek().is_some() || globs.peek().is_some() {
            let missed = self.missed.get_or_insert_default();
            missed.names.extend(names.cloned());
            missed.globs.extend(globs.cloned());
            missed.wildcard |= wildcard;
        }
    }

    /// Drops what lists that did not count have left out, before one that counts is taken: what that names is new to the client.
    pub(crate) fn drop_missed(&mut self) -> Option<Change> {
        let missed = self.missed.take()?;
        self.list = None;
        self.wildcard &= !missed.wildcard;
        Some(Change {
            dropped: missed.names.iter().filter_map(|name| self.names.take(name)).collect(),
            globs_ended: missed.globs.iter().filter_map(|glob| self.globs.take(glob)).collect(),
            wildcard_ended: missed.wildcard,
            ..Change::default()
        })
    }

    /// Takes the additions and removals of an incremental request. Names of `known` resources are shared with it.
    pub(crate) fn adjust(
        &mut self,
        type_url: &TypeUrl,
        subscribe: &impl Texts,
        unsubscribe: &impl Texts,
        known: &TypeSet,
    ) -> Change {
        let mut change = Change::default();
        let was_wildcard = self.wildcard;
        // xds_protocol.rst, "Incremental xDS": "(legacy behavior) the request must have no resources in both
        // resource_names_subscribe and resource_names_unsubscribe".
        if !self.explicit && subscribe.count() == 0 && unsubscribe.count() == 0 {
            self.wildcard = type_url.is_wildcard_by_default();
        }
        self.explicit |= subscribe.count() > 0;
        let globs_before = self.globs.clone();
        if self.names.is_empty()
            && globs_before.is_empty()
            && unsubscribe.count() == 0
            && let Some(all) = Names::all_of(known, subscribe)
        {
            self.begin_with(all, was_wildcard, &mut change);
            return change;
        }
        for name in subscribe.texts() {
            if name == WILDCARD {
                self.wildcard = true;
                continue;
            }
            let name = name::normal(name);
            if name::is_glob(&name) {
                let glob: Arc<str> = Arc::from(name);
                let new = self.globs.insert(glob.clone());
                if new {
                    change.globs_began.push(glob)
                } else {
                    change.globs_again.push(glob)
                }
                continue;
            }
            let name = shared(&name, known);
            if self.names.insert(name.clone()) && !was_wildcard && !collected(&globs_before, &name) {
                change.new.insert(name.clone());
            }
            change.asked.insert(name);
        }
        for name in unsubscribe.texts() {
            if name == WILDCARD {
                self.wildcard = false;
                self.explicit = true;
            } else if let Some(glob) = self.globs.take(&name::normal(name)) {
                change.globs_ended.push(glob);
            } else if let Some(name) = self.names.take(&name::normal(name)) {
                // xds_protocol.rst, "Unsubscribing from Resources": a name that was not subscribed to is a phantom,
                // "it can simply ignore these phantom unsubscriptions".
                change.dropped.push(name);
            }
        }
        if !change.asked.is_empty() || !change.dropped.is_empty() {
            self.names.share(known);
        }
        change.wildcard_began = self.wildcard && !was_wildcard;
        change.wildcard_ended = was_wildcard && !self.wildcard;
        change
    }

    /// What of the type concerns a client that refused nothing.
    pub(crate) fn interest(&self) -> Interest {
        if self.wildcard || self.names.are_shared() || self.len() > interest::MOST {
            return Interest::Any;
        }
        Interest::Names(self.names.iter().chain(self.globs.iter()).cloned().collect())
    }

    /// The client named all resources that there are, at once and none before.
    fn begin_with(&mut self, all: Names, was_wildcard: bool, change: &mut Change) {
        if !was_wildcard {
            change.new = all.clone();
        }
        change.asked = all.clone();
        self.names = all;
        change.wildcard_began = self.wildcard && !was_wildcard;
        change.wildcard_ended = was_wildcard && !self.wildcard;
    }
}

// === impl Change ===

impl Change {
    pub(crate) fn is_nothing(&self) -> bool {
        let globs = [&self.globs_began, &self.globs_again, &self.globs_ended];
        self.asked.is_empty()
            && self.dropped.is_empty()
            && globs.into_iter().all(Vec::is_empty)
            && !self.wildcard_began
            && !self.wildcard_ended
    }
}

/// Whether one of these collections has this name.
fn collected(globs: &Names, name: &str) -> bool {
    !globs.is_empty() && name::glob_of(name).is_some_and(|glob| globs.contains(&glob))
}

/// The name as the snapshot holds it, so that a thousand streams do not keep a thousand copies.
fn shared(name: &str, known: &TypeSet) -> Arc<str> {
    match known.get(name) {
        Some(resource) if **resource.name() == *name => resource.name().clone(),
        _ => Arc::from(name),
    }
}
