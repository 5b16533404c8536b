//! What a client that comes back says it has, held against what there is now.
//!
//! Nearly all of it is nearly always what there is now, so that costs a look at each name and no memory that stays. It only reads.

use std::sync::Arc;

use crate::name;
use crate::session::heard::Heard;
use crate::session::subscription::{Change, Subscription};
use crate::type_set::{Sum, TypeSet};
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
    /// What it has and does not ask for by its own name.
    pub(super) strays: Vec<Arc<str>>,
}

/// The content of the type, of now or of before, that the client has all of in just those versions: what nearly every client has that
/// was not away for long. Then nothing of it is looked at by itself.
pub(super) fn whole<'a>(
    request: &Heard,
    subscription: &Subscription,
    contents: impl Iterator<Item = &'a Arc<TypeSet>>,
) -> Option<&'a Arc<TypeSet>> {
    let mut alike = contents
        .filter(|set| set.len() == request.versions_count() && set.is_plain() && subscription.covers_all(set))
        .peekable();
    alike.peek()?;
    let said = Sum::of_versions(request.versions());
    alike.find(|set| set.versions_sum() == said)
}

// === impl Brought ===

impl Brought {
    pub(super) fn new<'a>(
        versions: impl Iterator<Item = (&'a str, &'a str)>,
        subscription: &Subscription,
        known: &TypeSet,
    ) -> Self {
        let all = subscription.covers_all(known);
        let mut brought =
            Self { places: vec![false; known.len()], same: 0, others: Vec::new(), strays: Vec::new() };
        for (said, version) in versions {
            let name = name::normal(said);
            let place = known.place(&name);
            let resource = place.and_then(|place| known.at(place));
            let aliases = resource.iter().flat_map(|resource| resource.aliases());
            for alias in aliases.filter(|alias| subscription.names_exactly(alias)) {
                brought.others.push((alias.clone(), Version::new(version)));
            }
            if !(all && place.is_some() || subscription.covers(&name)) {
                brought.strays.push(Arc::from(&*name));
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::session::names::Names;
    use crate::{ChangeId, Resource, Snapshot, TypeUrl};

    const SDS: TypeUrl = TypeUrl::SECRET;
    /// Resources, each with an alias of its own, the last two in one collection.
    const ALL: [(&str, &str); 4] =
        [("a", "alias-a"), ("b", "alias-b"), ("xdstp://x/s/w/1", "alias-1"), ("xdstp://x/s/w/2", "alias-2")];
    const ASKED: [&str; 8] =
        ["a", "b", "xdstp://x/s/w/1", "xdstp://x/s/w/*", "alias-a", "alias-2", "gone", "*"];
    /// What a client may say it has: resources that may be there, one that is gone, and something that never was a resource.
    const SAID: [&str; 6] = ["a", "b", "xdstp://x/s/w/1", "xdstp://x/s/w/2", "gone", "alias-a"];

    fn resource(at: usize) -> Resource {
        let (name, alias) = ALL[at];
        Resource::from_value(name, SDS, "1").with_aliases([alias])
    }

    fn chosen(bits: u8) -> impl Iterator<Item = usize> {
        (0..8).filter(move |at| bits & (1 << at) != 0)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// The same found out one name after the other.
        #[test]
        fn each_name_is_there_or_another_or_a_stray(
            there in 0..16u8,
            asked in any::<u8>(),
            said in prop::collection::vec((0..SAID.len(), any::<bool>()), 0..8),
        ) {
            let mut view = Snapshot::builder(ChangeId(1));
            for at in chosen(there) {
                view.put(resource(at)).unwrap();
            }
            let known = view.build().set(&SDS).clone();
            let asked: Vec<String> = chosen(asked).map(|at| ASKED[at].to_owned()).collect();
            let mut subscription = Subscription::default();
            let mut change = subscription.adjust(&SDS, &asked, &Vec::new(), &known);
            // A client has a name once, and a field that is repeated says the same.
            let mut once = BTreeSet::new();
            let said = said.into_iter().filter(|(at, _)| once.insert(*at));
            let said: Vec<(&str, String)> = said.map(|(at, same)| {
                let version = ALL.iter().position(|(name, _)| *name == SAID[at] && same);
                (SAID[at], version.map_or("old".to_owned(), |at| resource(at).version().to_string()))
            }).collect();

            let versions = said.iter().map(|(name, version)| (*name, version.as_str()));
            let brought = Brought::new(versions.chain(said.iter().map(|(name, v)| (*name, v.as_str()))), &subscription, &known);

            let asks = |name: &str| asked.iter().any(|asked| asked == name);
            let covers = |name: &str| asks(name) || asks("*") || asks("xdstp://x/s/w/*") && name.starts_with("xdstp:");
            let has = |name: &str| said.iter().find(|(said, _)| *said == name).map(|(_, version)| version.clone());
            for (resource, same) in known.iter().zip(&brought.places) {
                let equal = has(resource.name()).is_some_and(|version| version == resource.version().as_str());
                prop_assert_eq!(*same, equal && covers(resource.name()), "{:?}", resource);
            }
            prop_assert_eq!(brought.same, brought.places.iter().filter(|same| **same).count());
            let mut others = BTreeSet::new();
            let mut strays = BTreeSet::new();
            for (name, version) in &said {
                let resource = known.iter().find(|resource| **resource.name() == **name);
                let equal = resource.is_some_and(|resource| resource.version().as_str() == version);
                if !covers(name) {
                    strays.insert(*name);
                } else if !equal {
                    others.insert((*name, version.as_str()));
                }
                for alias in resource.iter().flat_map(|resource| resource.aliases()).filter(|alias| asks(alias)) {
                    others.insert((alias, version.as_str()));
                }
            }
            let found: BTreeSet<_> = brought.others.iter().map(|(name, v)| (&**name, v.as_str())).collect();
            prop_assert_eq!(found, others);
            prop_assert_eq!(brought.strays.iter().map(|name| &**name).collect::<BTreeSet<_>>(), strays);

            // Of what was asked for, only that is left to answer which is not there in the version the client has.
            let left: BTreeSet<Arc<str>> = change.asked.iter().cloned().collect();
            brought.answers(&mut change, &known);
            let places = known.iter().zip(&brought.places);
            let here: BTreeSet<_> = places.filter(|(_, same)| **same).map(|(it, _)| it.name().clone()).collect();
            let names = |names: &Names| names.iter().cloned().collect::<BTreeSet<_>>();
            prop_assert_eq!(names(&change.asked), left.difference(&here).cloned().collect::<BTreeSet<_>>());
            prop_assert!(names(&change.new).is_disjoint(&here));
        }
    }

    /// Names in another form are the same names, and the version tells.
    #[test]
    fn a_client_may_say_context_parameters_in_any_order() {
        let mut view = Snapshot::builder(ChangeId(1));
        view.put(Resource::from_value("xdstp://x/s/1?a=1&b=2", SDS, "1")).unwrap();
        let known = view.build().set(&SDS).clone();
        let mut subscription = Subscription::default();
        subscription.adjust(&SDS, &vec!["xdstp://x/s/1?b=2&a=1".to_owned()], &Vec::new(), &known);
        let version = known.iter().next().unwrap().version().clone();
        let brought =
            Brought::new([("xdstp://x/s/1?b=2&a=1", version.as_str())].into_iter(), &subscription, &known);
        assert_eq!((brought.same, brought.others.len(), brought.strays.len()), (1, 0, 0));
    }
}
