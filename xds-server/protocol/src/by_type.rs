//! A map with a type for its key: a handful of entries, looked up many times for each change on each stream.
//!
//! It is ordered as types are, which is the order of sending. A known type is found by its place, as no search would.

use crate::types::TypeUrl;

/// See the file's head.
#[derive(Clone, Debug)]
pub(crate) struct ByType<T> {
    entries: Vec<(TypeUrl, T)>,
    /// Where each known type is in `entries`, counted from 1; 0 where it is not.
    places: [u8; TypeUrl::KNOWN_COUNT],
}

// === impl ByType ===

impl<T> ByType<T> {
    pub(crate) fn get(&self, type_url: &TypeUrl) -> Option<&T> {
        self.entries.get(self.place(type_url)?).map(|(_, value)| value)
    }

    pub(crate) fn get_mut(&mut self, type_url: &TypeUrl) -> Option<&mut T> {
        let place = self.place(type_url)?;
        self.entries.get_mut(place).map(|(_, value)| value)
    }

    pub(crate) fn contains_key(&self, type_url: &TypeUrl) -> bool {
        self.place(type_url).is_some()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// In the order of types.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&TypeUrl, &T)> {
        self.entries.iter().map(|(type_url, value)| (type_url, value))
    }

    /// What is at this place in that order.
    pub(crate) fn at_mut(&mut self, at: usize) -> Option<(&TypeUrl, &mut T)> {
        self.entries.get_mut(at).map(|(type_url, value)| (&*type_url, value))
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().map(|(_, value)| value)
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().map(|(_, value)| value)
    }

    /// Replaces what was there.
    pub(crate) fn insert(&mut self, type_url: TypeUrl, value: T) {
        match self.entries.binary_search_by(|(of, _)| of.cmp(&type_url)) {
            Ok(at) => self.entries[at].1 = value,
            Err(at) => {
                self.entries.insert(at, (type_url, value));
                self.index();
            }
        }
    }

    pub(crate) fn remove(&mut self, type_url: &TypeUrl) -> Option<T> {
        let place = self.place(type_url)?;
        let (_, value) = self.entries.remove(place);
        self.index();
        Some(value)
    }

    fn place(&self, type_url: &TypeUrl) -> Option<usize> {
        match self.places.get(type_url.position()) {
            Some(place) => usize::from(*place).checked_sub(1),
            None => self.entries.iter().position(|(of, _)| of == type_url),
        }
    }

    fn index(&mut self) {
        self.places = Default::default();
        // Known types come first, and there are no more of them than this.
        for (place, (type_url, _)) in (1..).zip(self.entries.iter().take(TypeUrl::KNOWN_COUNT)) {
            if let Some(known) = self.places.get_mut(type_url.position()) {
                *known = place;
            }
        }
    }
}

impl<T> Default for ByType<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), places: Default::default() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map_in_the_order_of_types(
            ops in proptest::collection::vec((0..14usize, proptest::option::of(0..9u8)), 0..40),
        ) {
            let (mut map, mut model) = (ByType::default(), BTreeMap::new());
            for (kind, value) in ops {
                let type_url = TypeUrl::KNOWN.get(kind).cloned().unwrap_or_else(|| TypeUrl::new(&format!("x/{kind}")));
                match value {
                    Some(value) => {
                        map.insert(type_url.clone(), value);
                        model.insert(type_url.clone(), value);
                    }
                    None => prop_assert_eq!(map.remove(&type_url), model.remove(&type_url)),
                }
                prop_assert_eq!((map.get(&type_url), map.len()), (model.get(&type_url), model.len()));
            }
            prop_assert!(map.iter().eq(model.iter()));
            for (at, (type_url, value)) in model.iter_mut().enumerate() {
                prop_assert_eq!(map.at_mut(at), Some((type_url, value)));
            }
        }
    }
}
