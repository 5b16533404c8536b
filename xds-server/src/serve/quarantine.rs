//! Resources that a proxy of the first waves refused: everybody keeps their last good version, and all else goes on. Pure.
//!
//! Withheld is *content*, under a type and a name. A publication that still holds it gets the good version in its place, or
//! nothing where there never was one. One that holds something else under that name, or nothing, releases it: somebody has
//! changed what was wrong. It can be written down, so that a restart is no release.
//!
//! The filter's configuration also holds what moves by itself: capacities and drains. With others of these and the same module
//! and policies it is still what was refused, and the good version is served with the newer ones: a drain reaches the filter, and
//! an instance that turns unhealthy lets nothing out.

mod text;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use jiff::Timestamp;
use zonebreak_xds::{Refusal, Resource, Snapshot, SnapshotError, TypeUrl, ViewKey};

use crate::resources::of_the_moment;

/// What is withheld.
#[derive(Debug, Default)]
pub struct Quarantine {
    withheld: BTreeMap<(TypeUrl, Arc<str>), Withheld>,
    /// Whether it is another since [`Quarantine::take_news`].
    news: bool,
}

/// One resource, in as many contents as it has in the views.
#[derive(Debug, Clone)]
pub struct Withheld {
    /// Since when.
    pub since: Timestamp,
    /// The change that brought it.
    pub change: u64,
    /// Who refused it.
    pub node: String,
    /// What it said.
    pub message: String,
    contents: Vec<Pair>,
}

/// What was refused, and what is served in its place.
type Pair = (Arc<Resource>, Option<Arc<Resource>>);

/// Views, by key.
pub type Views = Vec<(ViewKey, Arc<Snapshot>)>;

/// A type and a name.
pub type Named = (TypeUrl, Arc<str>);

// === impl Quarantine ===

impl Quarantine {
    /// Withholds these of a change, each refused as it is told: what the views were to bring under their names, and what `good`
    /// has there instead. Gives the names that have something new in quarantine.
    pub fn withhold(
        &mut self,
        now: Timestamp,
        change: u64,
        guilty: &BTreeMap<Named, Refusal>,
        views: &Views,
        good: impl Fn(&ViewKey) -> Option<Arc<Snapshot>>,
    ) -> Vec<Named> {
        let mut new = Vec::new();
        for (key, refusal) in guilty {
            let contents = contents(&key.0, &key.1, views, &good);
            let (node, message) = (refusal.node.clone(), refusal.message.to_string());
            let mut fresh = Withheld { since: now, change, node, message, contents };
            match self.withheld.entry(key.clone()) {
                Entry::Vacant(_) if fresh.contents.is_empty() => continue,
                Entry::Vacant(place) => _ = place.insert(fresh),
                // One content under a name may be withheld while another one comes under it, and is refused as well.
                Entry::Occupied(mut withheld) => {
                    let known = |it: &Arc<Resource>| {
                        withheld.get().contents.iter().any(|(refused, _)| refused.same_content(it))
                    };
                    fresh.contents.retain(|(refused, _)| !known(refused));
                    if fresh.contents.is_empty() {
                        continue;
                    }
                    fresh.contents.append(&mut withheld.get_mut().contents);
                    withheld.insert(fresh);
                }
            }
            new.push(key.clone());
        }
        self.news |= !new.is_empty();
        new
    }

    /// Puts the good in the place of what is withheld, and gives the names that are not withheld any more. `views` are all there
    /// are.
    ///
    /// # Errors
    /// When a view cannot be put together again, which what was in one before rules out.
    pub fn apply(&mut self, views: Views) -> Result<(Views, Vec<Named>), SnapshotError> {
        let mut released = Vec::new();
        if self.withheld.is_empty() {
            return Ok((views, released));
        }
        self.withheld.retain(|(type_url, name), withheld| {
            let still = |(refused, _): &Pair| {
                let there = views.iter().filter_map(|(_, view)| view.get(type_url, name));
                there.into_iter().any(|there| is_still(refused, there))
            };
            let before = withheld.contents.len();
            withheld.contents.retain(still);
            self.news |= withheld.contents.len() != before;
            if withheld.contents.is_empty() {
                released.push((type_url.clone(), name.clone()));
            }
            !withheld.contents.is_empty()
        });
        let views = views.into_iter().map(|(key, view)| Ok((key, self.replaced(view)?)));
        Ok((views.collect::<Result<_, SnapshotError>>()?, released))
    }

    /// Whether it is another than when this was last asked.
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// What is withheld, by type and name.
    pub fn all(&self) -> impl Iterator<Item = (&Named, &Withheld)> {
        self.withheld.iter()
    }

    fn replaced(&self, view: Arc<Snapshot>) -> Result<Arc<Snapshot>, SnapshotError> {
        let found = self.withheld.iter().filter_map(|((type_url, name), withheld)| {
            let there = view.get(type_url, name)?;
            let (_, good) = withheld.contents.iter().find(|(refused, _)| is_still(refused, there))?;
            let moved = |good: &Arc<Resource>| of_the_moment(good, there).map_or(good.clone(), Arc::new);
            Some((type_url, name, good.as_ref().map(moved)))
        });
        let found: Vec<_> = found.collect();
        if found.is_empty() {
            return Ok(view);
        }
        let mut builder = view.edit(view.change());
        for (type_url, name, good) in found {
            match good {
                Some(good) => _ = builder.put(good)?,
                None => _ = builder.remove(type_url, name),
            }
        }
        Ok(Arc::new(builder.build()))
    }
}

/// Whether it is what was refused, be it for another moment.
fn is_still(refused: &Resource, there: &Resource) -> bool {
    refused.same_content(there) || of_the_moment(refused, there).is_some_and(|it| it.same_content(there))
}

/// What the views hold under a name that `good` does not hold as well, with what that holds; each content once.
fn contents(
    type_url: &TypeUrl,
    name: &str,
    views: &Views,
    good: impl Fn(&ViewKey) -> Option<Arc<Snapshot>>,
) -> Vec<Pair> {
    let mut contents: Vec<Pair> = Vec::new();
    for (key, view) in views {
        let Some(there) = view.get(type_url, name) else { continue };
        let before = good(key).and_then(|good| good.get(type_url, name).cloned());
        let same = before.as_ref().is_some_and(|before| before.same_content(there));
        if !same && !contents.iter().any(|(known, _)| known.same_content(there)) {
            contents.push((there.clone(), before));
        }
    }
    contents
}

#[cfg(test)]
mod tests {
    use zonebreak_xds::ChangeId;

    use super::*;

    fn view(resources: &[(&'static str, &'static str)]) -> Arc<Snapshot> {
        let mut builder = Snapshot::builder(ChangeId(1));
        for (name, content) in resources {
            builder.put(Resource::from_value(name, TypeUrl::CLUSTER, content.as_bytes())).unwrap();
        }
        Arc::new(builder.build())
    }

    fn refused<const N: usize>(names: [&str; N]) -> BTreeMap<Named, Refusal> {
        let of = |name: &str| {
            let (type_url, message, name) = (TypeUrl::CLUSTER, Arc::from("no"), Arc::from(name));
            let key = (type_url.clone(), Arc::clone(&name));
            (key, Refusal { node: "one".into(), type_url, message, resources: vec![name] })
        };
        names.into_iter().map(of).collect()
    }

    fn views(a: &[(&'static str, &'static str)], b: &[(&'static str, &'static str)]) -> Views {
        vec![(ViewKey::new("a"), view(a)), (ViewKey::new("b"), view(b))]
    }

    fn version(views: &Views, view: usize, name: &str) -> Option<String> {
        views[view].1.get(&TypeUrl::CLUSTER, name).map(|it| it.version().to_string())
    }

    #[test]
    fn the_guilty_one_stays_at_its_last_good_version_for_everyone_and_the_rest_goes_on() {
        let old = views(&[("x", "x1"), ("y", "y1")], &[("x", "x1b"), ("y", "y1")]);
        let new = views(&[("x", "x2"), ("y", "y2"), ("z", "z1")], &[("x", "x2b"), ("y", "y2"), ("z", "z1")]);
        let mut quarantine = Quarantine::default();
        let good = |key: &ViewKey| old.iter().find(|(known, _)| known == key).map(|(_, view)| view.clone());
        let refused = refused(["x", "z", "nobody"]);
        let held = quarantine.withhold(Timestamp::UNIX_EPOCH, 7, &refused, &new, good);
        assert_eq!(held.iter().map(|(_, name)| &**name).collect::<Vec<_>>(), ["x", "z"]);
        let (served, released) = quarantine.apply(new.clone()).unwrap();
        assert!(released.is_empty());
        for at in 0..2 {
            assert_eq!(version(&served, at, "x"), version(&old, at, "x"), "in every view");
            assert_eq!(version(&served, at, "y"), version(&new, at, "y"));
            assert_eq!(version(&served, at, "z"), None, "there never was a good one");
        }
        // A proxy that names the zone by an alias gets the same.
        let mut more = new.clone();
        more.push((ViewKey::new("alias"), new[0].1.clone()));
        let (served, _) = quarantine.apply(more).unwrap();
        assert_eq!(version(&served, 2, "x"), version(&old, 0, "x"));

        // Mended in one view and gone from the other; the rest is still there.
        let mended = views(&[("x", "x3"), ("z", "z1")], &[("z", "z1")]);
        let (served, released) = quarantine.apply(mended.clone()).unwrap();
        assert_eq!(released.iter().map(|(_, name)| &**name).collect::<Vec<_>>(), ["x"]);
        assert_eq!(version(&served, 0, "x"), version(&mended, 0, "x"));
        assert_eq!(version(&served, 0, "z"), None);
        let (served, _) = quarantine.apply(new.clone()).unwrap();
        assert_eq!(version(&served, 0, "x"), version(&new, 0, "x"), "what was released is tried anew");
    }

    #[test]
    fn a_name_in_quarantine_hides_no_other_bad_content_under_it() {
        let old = views(&[("x", "x1")], &[("x", "x1")]);
        let good = |key: &ViewKey| old.iter().find(|(known, _)| known == key).map(|(_, view)| view.clone());
        let mut quarantine = Quarantine::default();
        let one = views(&[("x", "bad")], &[("x", "x1")]);
        assert_eq!(quarantine.withhold(Timestamp::UNIX_EPOCH, 7, &refused(["x"]), &one, good).len(), 1);
        // The next change leaves that as it is, and brings the other view something else that is bad.
        let two = views(&[("x", "bad")], &[("x", "worse")]);
        let new = quarantine.withhold(Timestamp::UNIX_EPOCH, 8, &refused(["x"]), &two, good);
        assert_eq!(new.len(), 1);
        let (served, _) = quarantine.apply(two.clone()).unwrap();
        for at in 0..2 {
            assert_eq!(version(&served, at, "x"), version(&old, at, "x"));
        }
        assert!(quarantine.withhold(Timestamp::UNIX_EPOCH, 9, &refused(["x"]), &two, good).is_empty());
    }

    #[test]
    fn nothing_withheld_costs_nothing() {
        let some = views(&[("x", "x1")], &[]);
        let (served, _) = Quarantine::default().apply(some.clone()).unwrap();
        assert!(Arc::ptr_eq(&served[0].1, &some[0].1));
    }
}
