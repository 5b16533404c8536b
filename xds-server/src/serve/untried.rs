//! What may go to everybody while something else is on trial. Pure.
//!
//! A view is always built whole, so the one that brings an urgent change holds what is on trial as well. Taken back out of it is
//! every resource that the trial made another: it stays as everybody has it. When the newer view made it another still, and the
//! resource is
//!
//! - the *filter's configuration*: the newer capacities and drains go out in the one that everybody has
//!   ([`of_the_moment`]), so that a drain neither waits for a policy nor takes it along;
//! - *endpoints*: they go as they are, in a form that every proxy has taken before;
//! - anything else: it stays, and what is on trial is tried in the newer form. Nobody waits for it.

use std::{collections::BTreeSet, sync::Arc};

use zonebreak_xds::{Resource, Snapshot, SnapshotError, TypeUrl};

use super::quarantine::Named;
use crate::resources::of_the_moment;

/// `new` without what `tried` made another than `old`.
///
/// # Errors
/// When the parts cannot be put together, which their being in one of these views each rules out but for aliases.
pub fn without(
    old: &Snapshot,
    tried: &Snapshot,
    new: &Arc<Snapshot>,
) -> Result<Arc<Snapshot>, SnapshotError> {
    let mut on_trial = BTreeSet::new();
    for type_url in old.types().chain(tried.types()).map(|(type_url, _)| type_url) {
        let names = old.set(type_url).iter().chain(tried.set(type_url).iter()).map(|it| it.name());
        for name in names {
            let [was, is, will] = [old, tried, &**new].map(|view| view.get(type_url, name));
            // What is gone by now was on trial for nothing.
            let goes = !same(is, will) && (is_endpoints(type_url) || will.is_none());
            if !same(was, is) && !goes {
                on_trial.insert((type_url.clone(), name.clone()));
            }
        }
    }
    keeping(old, new, &on_trial)
}

/// `new` with these as they are in `old`, but for the filter's configuration, which is so for the newer moment.
///
/// # Errors
/// As above.
pub fn keeping<'a>(
    old: &Snapshot,
    new: &Arc<Snapshot>,
    names: impl IntoIterator<Item = &'a Named>,
) -> Result<Arc<Snapshot>, SnapshotError> {
    let mut builder = new.edit(new.change());
    let mut touched = false;
    for (type_url, name) in names {
        let (was, will) = (old.get(type_url, name), new.get(type_url, name));
        let moved = || of_the_moment(was?, will?).map(Arc::new);
        let kept = moved().or_else(|| was.cloned());
        if same(kept.as_ref(), will) {
            continue;
        }
        touched = true;
        match kept {
            Some(kept) => _ = builder.put(kept)?,
            None => _ = builder.remove(type_url, name),
        }
    }
    Ok(if touched { Arc::new(builder.build()) } else { new.clone() })
}

/// Whether it goes to all whatever is on trial.
pub fn is_endpoints(type_url: &TypeUrl) -> bool {
    *type_url == TypeUrl::ENDPOINT
}

fn same(one: Option<&Arc<Resource>>, two: Option<&Arc<Resource>>) -> bool {
    match (one, two) {
        (None, None) => true,
        (Some(one), Some(two)) => one.same_content(two),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zonebreak_xds::ChangeId;

    use super::*;

    const NAMES: [&str; 4] = ["a", "b", "c", "d"];

    fn view(change: u64, contents: &[u8]) -> Arc<Snapshot> {
        let mut builder = Snapshot::builder(ChangeId(change));
        for (name, content) in NAMES.iter().zip(contents).filter(|(_, content)| **content > 0) {
            for kind in [TypeUrl::CLUSTER, TypeUrl::ENDPOINT] {
                builder.put(Resource::from_value(name, kind, vec![*content])).unwrap();
            }
        }
        Arc::new(builder.build())
    }

    fn has(view: &Snapshot, kind: &TypeUrl, name: &str) -> u8 {
        view.get(kind, name).map_or(0, |it| *it.any().last().unwrap())
    }

    proptest! {
        /// Each resource by itself; 0 stands for none.
        #[test]
        fn what_is_on_trial_stays_as_it_was_and_what_is_newer_goes(
            old in prop::collection::vec(0..3_u8, 4), tried in prop::collection::vec(0..3_u8, 4), new in prop::collection::vec(0..3_u8, 4)
        ) {
            let got = without(&view(1, &old), &view(2, &tried), &view(3, &new)).unwrap();
            prop_assert_eq!(got.change(), ChangeId(3));
            for (at, name) in NAMES.iter().enumerate() {
                let (was, is, will) = (old[at], tried[at], new[at]);
                let moved = will != is;
                prop_assert_eq!(has(&got, &TypeUrl::ENDPOINT, name), if moved { will } else { was });
                let stays = was != is && !(moved && will == 0);
                prop_assert_eq!(has(&got, &TypeUrl::CLUSTER, name), if stays { was } else { will });
            }
        }
    }
}
