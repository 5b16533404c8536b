//! A map with a type for its key: a handful of entries, looked up many times for each change on each stream.
//!
//! It is ordered as types are, which is the order of sending. A glance at each entry finds one faster than any tree would.

use crate::types::TypeUrl;

/// See the file's head.
#[derive(Clone, Debug)]
pub(crate) struct ByType<T>(Vec<(TypeUrl, T)>);

// === impl ByType ===

impl<T> ByType<T> {
    pub(crate) fn get(&self, type_url: &TypeUrl) -> Option<&T> {
        self.0.iter().find(|(of, _)| of == type_url).map(|(_, value)| value)
    }

    pub(crate) fn get_mut(&mut self, type_url: &TypeUrl) -> Option<&mut T> {
        self.0.iter_mut().find(|(of, _)| of == type_url).map(|(_, value)| value)
    }

    pub(crate) fn contains_key(&self, type_url: &TypeUrl) -> bool {
        self.get(type_url).is_some()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// In the order of types.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&TypeUrl, &T)> {
        self.0.iter().map(|(type_url, value)| (type_url, value))
    }

    /// The type at this place.
    pub(crate) fn key_at(&self, at: usize) -> Option<&TypeUrl> {
        self.0.get(at).map(|(type_url, _)| type_url)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|(_, value)| value)
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut().map(|(_, value)| value)
    }

    /// Replaces what was there.
    pub(crate) fn insert(&mut self, type_url: TypeUrl, value: T) {
        match self.0.binary_search_by(|(of, _)| of.cmp(&type_url)) {
            Ok(at) => self.0[at].1 = value,
            Err(at) => self.0.insert(at, (type_url, value)),
        }
    }

    pub(crate) fn remove(&mut self, type_url: &TypeUrl) -> Option<T> {
        let at = self.0.iter().position(|(of, _)| of == type_url)?;
        Some(self.0.remove(at).1)
    }
}

impl<T> Default for ByType<T> {
    fn default() -> Self {
        Self(Vec::new())
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
            prop_assert!((0..map.len()).map(|at| map.key_at(at).unwrap()).eq(model.keys()));
        }
    }
}
