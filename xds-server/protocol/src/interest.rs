//! Who is concerned by a change: an index from names to the streams that asked for them.
//!
//! # Why it may pass a stream over
//!
//! A stream that is not woken for a snapshot goes on with the one before, as one does that was busy while several followed each
//! other. Nothing is lost by that when the two differ in no name that the stream asked for: what it is to send is decided by
//! comparing what the client has with what the snapshot holds under just those names. What it waits for besides are its client's
//! answers and the time, and before either is looked at the stream is brought to the newest snapshot ([`crate::stream`]).
//!
//! Three things make more than a name of its own matter, and then the whole type does: a wildcard; a refusal, which is made good
//! with the next change of its *type*; and an error in a resource's place, for it is no content and so no name's change.
//!
//! An alias and a collection are names here like any other: a change of a resource changes all that it goes by, and its collection.
//!
//! The index holds names and ears. It knows no session, and what it costs is bounded: who asks for more than [`MOST`] names of a
//! type, or for all that there are, counts as asking for the type.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;

use futures::task::AtomicWaker;

use crate::by_type::ByType;
use crate::name;
use crate::snapshot::Snapshot;
use crate::type_set::TypeSet;
use crate::types::{ChangeId, StreamId, TypeUrl};

/// The most names that are told apart, of one type on one stream. An entry costs some forty bytes on each side; a stream with
/// more names than this is concerned by so many changes that little is won.
pub(crate) const MOST: usize = 128;

/// What of a type concerns a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    /// Any change.
    Any,
    /// Changes of these: names, aliases and collections.
    Names(Vec<Arc<str>>),
}

/// What concerns a stream: the types that it watches.
pub(crate) type Interests = ByType<Interest>;

/// One stream's ear: rung by publishers, heard by the stream. A second ring before the first was heard adds nothing.
#[derive(Debug)]
pub(crate) struct Ear {
    stream: StreamId,
    /// The change it was rung for first, and one more, since no change may be 0; 0 when it was not.
    rung: AtomicU64,
    waker: AtomicWaker,
}

/// Ears, by their streams' numbers: the newest come last, where most coming and going is.
#[derive(Debug, Default)]
pub(crate) struct Ears(Vec<Arc<Ear>>);

/// See the file's head.
#[derive(Debug, Default)]
pub(crate) struct Index {
    types: HashMap<TypeUrl, OfType>,
}

/// Who watches one type.
#[derive(Debug, Default)]
struct OfType {
    any: Ears,
    names: HashMap<Arc<str>, Ears>,
}

// === impl Ear ===

impl Ear {
    /// Rung already: there may be something to hear.
    pub(crate) fn new(stream: StreamId) -> Arc<Self> {
        Arc::new(Self { stream, rung: AtomicU64::new(1), waker: AtomicWaker::new() })
    }

    /// Rings it for `change`, before which it was passed over; [`ChangeId`] 0 leaves that open.
    pub(crate) fn ring(&self, change: ChangeId) {
        let first = change.0.saturating_add(1);
        if self.rung.compare_exchange(0, first, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.waker.wake();
        }
    }

    /// The change for which it was rung first since this was asked last. If for none, `waker` is woken when it is.
    pub(crate) fn heard(&self, waker: &Waker) -> Option<ChangeId> {
        self.waker.register(waker);
        self.rung.swap(0, Ordering::AcqRel).checked_sub(1).map(ChangeId)
    }

    /// The same for who only wants to know, and leaves it to be heard.
    pub(crate) fn rung(&self) -> Option<ChangeId> {
        self.rung.load(Ordering::Acquire).checked_sub(1).map(ChangeId)
    }
}

// === impl Ears ===

impl Ears {
    pub(crate) fn insert(&mut self, ear: &Arc<Ear>) {
        if let Err(at) = self.place(ear) {
            self.0.insert(at, ear.clone());
        }
    }

    pub(crate) fn remove(&mut self, ear: &Arc<Ear>) {
        if let Ok(at) = self.place(ear) {
            self.0.remove(at);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn ring(&self, change: ChangeId) {
        self.0.iter().for_each(|ear| ear.ring(change));
    }

    fn place(&self, ear: &Arc<Ear>) -> Result<usize, usize> {
        self.0.binary_search_by_key(&ear.stream, |ear| ear.stream)
    }
}

// === impl Index ===

impl Index {
    /// From now on this is what concerns the stream, in place of what did.
    pub(crate) fn replace(&mut self, ear: &Arc<Ear>, old: &Interests, new: &Interests) {
        for (type_url, interest) in old.iter().filter(|(type_url, old)| new.get(type_url) != Some(*old)) {
            let Some(of_type) = self.types.get_mut(type_url) else { continue };
            of_type.remove(ear, interest);
            if of_type.is_empty() {
                self.types.remove(type_url);
            }
        }
        for (type_url, interest) in new.iter().filter(|(type_url, new)| old.get(type_url) != Some(*new)) {
            self.types.entry(type_url.clone()).or_default().insert(ear, interest);
        }
    }

    /// Rings those who are concerned when `new` takes the place of `old`.
    pub(crate) fn ring(&self, old: &Snapshot, new: &Snapshot) {
        let began =
            |(type_url, _): &(&TypeUrl, &Arc<TypeSet>)| Arc::ptr_eq(old.set(type_url), TypeSet::empty());
        for (type_url, _) in old.types().chain(new.types().filter(began)) {
            if let Some(of_type) = self.types.get(type_url) {
                of_type.ring(old.set(type_url), new.set(type_url), new.change());
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.types.is_empty()
    }
}

// === impl OfType ===

impl OfType {
    fn insert(&mut self, ear: &Arc<Ear>, interest: &Interest) {
        match interest {
            Interest::Any => self.any.insert(ear),
            Interest::Names(names) => {
                names.iter().for_each(|name| self.names.entry(name.clone()).or_default().insert(ear));
            }
        }
    }

    fn remove(&mut self, ear: &Arc<Ear>, interest: &Interest) {
        match interest {
            Interest::Any => self.any.remove(ear),
            Interest::Names(names) => {
                for name in names {
                    let Some(ears) = self.names.get_mut(name) else { continue };
                    ears.remove(ear);
                    if ears.is_empty() {
                        self.names.remove(name);
                    }
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.any.is_empty() && self.names.is_empty()
    }

    fn ring(&self, old: &TypeSet, new: &TypeSet, change: ChangeId) {
        let ring = |ears: &Ears| ears.ring(change);
        if old.errors() != new.errors() {
            ring(&self.any);
            return self.names.values().for_each(ring);
        }
        let changed = new.changed_since(old);
        if changed.is_empty() {
            return;
        }
        ring(&self.any);
        if self.names.is_empty() {
            return;
        }
        let named = |name: &str| self.names.get(name).into_iter();
        for name in changed.iter() {
            let collection = name::glob_of(name);
            named(name).chain(collection.iter().flat_map(|glob| named(glob))).for_each(ring);
        }
    }
}
