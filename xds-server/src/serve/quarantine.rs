//! Resources that a proxy of the first waves refused: everybody keeps their last good version, and all else goes on. Pure.
//!
//! Withheld is *content*, under a type and a name. A publication that still holds it gets the good version in its place, or
//! nothing where there never was one. One that holds something else under that name, or nothing, releases it: the operator has
//! changed what was wrong.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use zonebreak_xds::{Refusal, Resource, Snapshot, SnapshotError, TypeUrl, ViewKey};

/// What is withheld.
#[derive(Debug, Default)]
pub struct Quarantine {
    withheld: BTreeMap<(TypeUrl, Arc<str>), Withheld>,
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
    contents: Vec<(Arc<Resource>, Option<Arc<Resource>>)>,
}

/// Views, by key.
pub type Views = Vec<(ViewKey, Arc<Snapshot>)>;

/// A type and a name.
pub type Named = (TypeUrl, Arc<str>);

// === impl Quarantine ===

impl Quarantine {
    /// Withholds what these refused of a change: what the views were to bring under the names that they blame, and what `good`
    /// has there instead. Gives the names that are new in quarantine.
    pub fn withhold(
        &mut self,
        now: Timestamp,
        change: u64,
        refusals: &[Refusal],
        views: &Views,
        good: impl Fn(&ViewKey) -> Option<Arc<Snapshot>>,
    ) -> Vec<Named> {
        let mut new = Vec::new();
        for refusal in refusals {
            for name in &refusal.resources {
                let contents = contents(&refusal.type_url, name, views, &good);
                let key = (refusal.type_url.clone(), name.clone());
                if contents.is_empty() || self.withheld.contains_key(&key) {
                    continue;
                }
                let (node, message) = (refusal.node.clone(), refusal.message.to_string());
                self.withheld.insert(key.clone(), Withheld { since: now, change, node, message, contents });
                new.push(key);
            }
        }
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
            let still = |(refused, _): &(Arc<Resource>, Option<Arc<Resource>>)| {
                let holds = |view: &Arc<Snapshot>| {
                    view.get(type_url, name).is_some_and(|it| it.same_content(refused))
                };
                views.iter().any(|(_, view)| holds(view))
            };
            withheld.contents.retain(still);
            if withheld.contents.is_empty() {
                released.push((type_url.clone(), name.clone()));
            }
            !withheld.contents.is_empty()
        });
        let views = views.into_iter().map(|(key, view)| Ok((key, self.replaced(view)?)));
        Ok((views.collect::<Result<_, SnapshotError>>()?, released))
    }

    /// What is withheld, by type and name.
    pub fn all(&self) -> impl Iterator<Item = (&Named, &Withheld)> {
        self.withheld.iter()
    }

    fn replaced(&self, view: Arc<Snapshot>) -> Result<Arc<Snapshot>, SnapshotError> {
        let found = self.withheld.iter().filter_map(|((type_url, name), withheld)| {
            let there = view.get(type_url, name)?;
            let (_, good) = withheld.contents.iter().find(|(refused, _)| refused.same_content(there))?;
            Some((type_url, name, good))
        });
        let found: Vec<_> = found.collect();
        if found.is_empty() {
            return Ok(view);
        }
        let mut builder = view.edit(view.change());
        for (type_url, name, good) in found {
            match good {
                Some(good) => _ = builder.put(good.clone())?,
                None => _ = builder.remove(type_url, name),
            }
        }
        Ok(Arc::new(builder.build()))
    }
}

/// What the views hold under a name that `good` does not hold as well, with what that holds; each content once.
fn contents(
    type_url: &TypeUrl,
    name: &str,
    views: &Views,
    good: impl Fn(&ViewKey) -> Option<Arc<Snapshot>>,
) -> Vec<(Arc<Resource>, Option<Arc<Resource>>)> {
    let mut contents: Vec<(Arc<Resource>, Option<Arc<Resource>>)> = Vec::new();
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

    fn refusal(name: &str) -> Refusal {
        let (type_url, message) = (TypeUrl::CLUSTER, Arc::from("no"));
        Refusal { node: "one".into(), type_url, message, resources: vec![Arc::from(name)] }
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
        let refused = [refusal("x"), refusal("z"), refusal("nobody")];
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
    fn nothing_withheld_costs_nothing() {
        let some = views(&[("x", "x1")], &[]);
        let (served, _) = Quarantine::default().apply(some.clone()).unwrap();
        assert!(Arc::ptr_eq(&served[0].1, &some[0].1));
    }
}
