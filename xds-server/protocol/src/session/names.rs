//! A set of names that costs nothing where it is all names of a type: then it is those of the snapshot, shared by every stream.
//!
//! It holds names and never what they stand for.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::heard::Texts;
use crate::type_set::{Places, TypeSet};

/// Names that a client asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    /// All of a set's.
    all: Option<Arc<Places>>,
    /// And these, none of which is in `all`.
    own: BTreeSet<Arc<str>>,
    /// How long those of `own` are together, in bytes.
    text: usize,
}

// === impl Names ===

impl Names {
    /// All names of `known`, if these are just that, each said once.
    pub(crate) fn all_of(known: &TypeSet, said: &impl Texts) -> Option<Self> {
        let all = said.count() > 0 && known.is_named(said.count(), said.texts());
        all.then(|| Self { all: Some(known.places().clone()), ..Self::default() })
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.own.contains(name) || self.all.as_ref().is_some_and(|all| all.contains_key(name))
    }

    pub(crate) fn len(&self) -> usize {
        self.own.len() + self.all.as_ref().map_or(0, |all| all.len())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether these are just the names of `set`, or evidently more.
    pub(crate) fn have_all_of(&self, set: &TypeSet) -> bool {
        self.all.as_ref().is_some_and(|all| Arc::ptr_eq(all, set.places()))
    }

    /// Whether these are, or were, all names of a set.
    pub(crate) fn are_shared(&self) -> bool {
        self.all.is_some()
    }

    /// Whether these are just the names of `set`.
    pub(crate) fn are_all_of(&self, set: &TypeSet) -> bool {
        self.have_all_of(set) && self.own.is_empty()
    }

    /// How long the names are together that are not shared, in bytes.
    pub(crate) fn text(&self) -> usize {
        self.text
    }

    /// In no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<str>> {
        self.all.iter().flat_map(|all| all.keys()).chain(&self.own)
    }

    /// Answers whether the name is new.
    pub(crate) fn insert(&mut self, name: Arc<str>) -> bool {
        let (known, len) = (self.all.as_ref().is_some_and(|all| all.contains_key(&name)), name.len());
        let new = !known && self.own.insert(name);
        self.text += if new { len } else { 0 };
        new
    }

    /// Adds all of these.
    pub(crate) fn extend(&mut self, names: Self) {
        if self.is_empty() {
            *self = names;
            return;
        }
        if let Some(all) = names.all {
            match &self.all {
                Some(known) if Arc::ptr_eq(known, &all) => {}
                Some(_) => all.keys().for_each(|name| {
                    self.insert(name.clone());
                }),
                None => {
                    self.own.retain(|name| !all.contains_key(name));
                    self.text = text(&self.own);
                    self.all = Some(all);
                }
            }
        }
        names.own.into_iter().for_each(|name| {
            self.insert(name);
        });
    }

    pub(crate) fn take(&mut self, name: &str) -> Option<Arc<str>> {
        if self.all.as_ref().is_some_and(|all| all.contains_key(name)) {
            self.unshare();
        }
        let taken = self.own.take(name)?;
        self.text -= taken.len();
        Some(taken)
    }

    pub(crate) fn retain(&mut self, keep: impl Fn(&Arc<str>) -> bool) {
        self.own.retain(&keep);
        if let Some(all) = self.all.take() {
            if all.keys().all(&keep) {
                self.all = Some(all);
            } else {
                self.own.extend(all.keys().filter(|name| keep(name)).cloned());
            }
        }
        self.text = text(&self.own);
    }

    /// Takes out all names of `set`.
    pub(crate) fn remove_all_of(&mut self, set: &TypeSet) {
        if self.have_all_of(set) {
            self.all = None;
        }
        self.retain(|name| set.place(name).is_none());
    }

    /// Shares the names with `known` if they are all of its own.
    pub(crate) fn share(&mut self, known: &TypeSet) {
        let same = !self.own.is_empty()
            && self.len() == known.len()
            && self.iter().all(|name| known.place(name).is_some());
        if same {
            *self = Self { all: Some(known.places().clone()), ..Self::default() };
        }
    }

    fn unshare(&mut self) {
        if let Some(all) = self.all.take() {
            self.own.extend(all.keys().cloned());
            self.text = text(&self.own);
        }
    }
}

fn text(names: &BTreeSet<Arc<str>>) -> usize {
    names.iter().map(|name| name.len()).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{ChangeId, Resource, Snapshot, TypeUrl};

    const ALL: [&str; 5] = ["a", "b", "c", "d", "e"];

    /// What can be done to a set of names.
    #[derive(Clone, Debug)]
    enum Step {
        Insert(usize),
        Take(usize),
        /// Keeps those of which the bit is set.
        Retain(u8),
        /// Shares with a type that holds those of which the bit is set.
        Share(u8),
        /// Begins anew with what a client says of such a type.
        Said(u8, Vec<usize>),
    }

    fn step() -> impl Strategy<Value = Step> {
        let at = || 0..ALL.len();
        prop_oneof![
            4 => at().prop_map(Step::Insert),
            3 => at().prop_map(Step::Take),
            1 => any::<u8>().prop_map(Step::Retain),
            3 => any::<u8>().prop_map(Step::Share),
            2 => (any::<u8>(), prop::collection::vec(at(), 0..6)).prop_map(|(bits, said)| Step::Said(bits, said)),
        ]
    }

    fn chosen(bits: u8) -> BTreeSet<Arc<str>> {
        let set = |(at, _): &(usize, &&str)| bits & (1 << at) != 0;
        ALL.iter().enumerate().filter(set).map(|(_, name)| Arc::from(*name)).collect()
    }

    fn known(bits: u8) -> Arc<TypeSet> {
        let mut builder = Snapshot::builder(ChangeId(1));
        for name in chosen(bits) {
            builder.put(Resource::from_value(&name, TypeUrl::ENDPOINT, "1")).unwrap();
        }
        builder.build().set(&TypeUrl::ENDPOINT).clone()
    }

    proptest! {
        /// A plain set does the same, whatever is shared meanwhile.
        #[test]
        fn sharing_changes_nothing_that_can_be_seen(steps in prop::collection::vec(step(), 0..40)) {
            let (mut names, mut model) = (Names::default(), BTreeSet::<Arc<str>>::new());
            for step in steps {
                match step {
                    Step::Insert(at) => prop_assert_eq!(names.insert(Arc::from(ALL[at])), model.insert(Arc::from(ALL[at]))),
                    Step::Take(at) => prop_assert_eq!(names.take(ALL[at]), model.take(ALL[at])),
                    Step::Retain(bits) => {
                        let kept = chosen(bits);
                        names.retain(|name| kept.contains(name));
                        model.retain(|name| kept.contains(name));
                    }
                    Step::Share(bits) => names.share(&known(bits)),
                    Step::Said(bits, said) => {
                        let said: Vec<String> = said.iter().map(|at| ALL[*at].to_owned()).collect();
                        let set: BTreeSet<Arc<str>> = said.iter().map(|name| Arc::from(name.as_str())).collect();
                        let just_that = !said.is_empty() && set.len() == said.len() && set == chosen(bits);
                        let all = Names::all_of(&known(bits), &said);
                        prop_assert_eq!(all.is_some(), just_that);
                        if let Some(all) = all {
                            (names, model) = (all, set);
                        }
                    }
                }
                prop_assert_eq!(names.iter().cloned().collect::<BTreeSet<_>>(), model.clone());
                prop_assert_eq!(names.iter().count(), model.len(), "no name twice");
                prop_assert_eq!((names.len(), names.is_empty()), (model.len(), model.is_empty()));
                prop_assert_eq!(names.text(), text(&names.own));
                prop_assert!(ALL.iter().all(|name| names.contains(name) == model.contains(*name)));
            }
        }
    }
}
