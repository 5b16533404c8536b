//! What may go to everybody while another change is on trial. Pure.
//!
//! A view is always built whole, so the one that brings an urgent change holds what is on trial as well. Taken back out of it is
//! every resource that the trial made another and the newer view did not touch: it stays as everybody has it. A resource that
//! both made another goes out as it is: nobody can take the two apart, and the newer change does not wait.

use std::{collections::BTreeSet, sync::Arc};

use zonebreak_xds::{Resource, Snapshot, SnapshotError, TypeUrl};

/// `new` without what `tried` made another than `old` and `new` left alone.
///
/// # Errors
/// When the parts cannot be put together, which their being in one of these views each rules out but for aliases.
pub fn without(
    old: &Snapshot,
    tried: &Snapshot,
    new: &Arc<Snapshot>,
) -> Result<Arc<Snapshot>, SnapshotError> {
    let types: BTreeSet<&TypeUrl> = old.types().chain(tried.types()).map(|(type_url, _)| type_url).collect();
    let mut builder = new.edit(new.change());
    let mut touched = false;
    for type_url in types {
        let (before, on_trial) = (old.set(type_url), tried.set(type_url));
        let names: BTreeSet<&Arc<str>> =
            before.iter().chain(on_trial.iter()).map(|resource| resource.name()).collect();
        for name in names {
            let [was, is, will] = [old, tried, &**new].map(|view| view.get(type_url, name));
            if same(was, is) || !same(is, will) {
                continue;
            }
            touched = true;
            match was {
                Some(was) => _ = builder.put(was.clone())?,
                None => _ = builder.remove(type_url, name),
            }
        }
    }
    Ok(if touched { Arc::new(builder.build()) } else { new.clone() })
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
            builder.put(Resource::from_value(name, TypeUrl::CLUSTER, vec![*content])).unwrap();
        }
        Arc::new(builder.build())
    }

    fn has(view: &Snapshot, name: &str) -> u8 {
        view.get(&TypeUrl::CLUSTER, name).map_or(0, |it| *it.any().last().unwrap())
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
                let expected = if new[at] == tried[at] { old[at] } else { new[at] };
                prop_assert_eq!(has(&got, name), expected);
            }
        }
    }
}
