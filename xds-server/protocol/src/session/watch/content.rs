//! What a response brings to a client: chosen names one by one, or all of a set at once.
//!
//! A client that begins is nearly always to be given everything that there is. Then nothing is listed: the set is the list, and a
//! thousand such clients share it. It holds and answers, and decides nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::resource::Resource;
use crate::type_set::TypeSet;

/// Names, each with a resource or with its removal.
pub(crate) type Chosen = BTreeMap<Arc<str>, Option<Arc<Resource>>>;

/// What a response brings: names, each with a resource or with its removal.
#[derive(Debug)]
pub(crate) enum Content {
    /// These.
    Chosen(Chosen),
    /// All resources of a set whose names are all there is to it (see [`TypeSet::is_plain`]).
    All(Arc<TypeSet>),
}

// === impl Content ===

impl Content {
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Chosen(chosen) => chosen.is_empty(),
            Self::All(set) => set.is_empty(),
        }
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        match self {
            Self::Chosen(chosen) => chosen.contains_key(name),
            Self::All(set) => set.place(name).is_some(),
        }
    }

    /// In the order of names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, Option<&Arc<Resource>>)> {
        let (chosen, all) = match self {
            Self::Chosen(chosen) => (Some(chosen), None),
            Self::All(set) => (None, Some(set)),
        };
        let chosen = chosen.into_iter().flatten().map(|(name, resource)| (name, resource.as_ref()));
        let all = all.into_iter().flat_map(|set| set.iter());
        chosen.chain(all.map(|resource| (resource.name(), Some(resource))))
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.iter().map(|(name, _)| name)
    }

    /// The set, if this is all of one.
    pub(crate) fn whole(&self) -> Option<&Arc<TypeSet>> {
        match self {
            Self::Chosen(_) => None,
            Self::All(set) => Some(set),
        }
    }

    /// The same, name by name.
    pub(crate) fn into_chosen(self) -> Chosen {
        match self {
            Self::Chosen(chosen) => chosen,
            Self::All(set) => {
                set.iter().map(|resource| (resource.name().clone(), Some(resource.clone()))).collect()
            }
        }
    }
}
