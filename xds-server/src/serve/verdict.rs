//! Whether what a few proxies refuse is to blame, or they are. Pure.
//!
//! One proxy alone decides nothing: it may refuse whatever it gets, because of its version or a fault of its own. So
//!
//! - two different proxies that refuse the same resource make it *guilty*;
//! - a proxy that refuses alone what another one took, in the same content, is *contradicted*; who does not subscribe to it
//!   cannot say;
//! - what one refuses and nobody else has said anything about is *open*, and somebody else is to be asked.
//!
//! A proxy refuses a response, and its message may name what it means. When it names nothing that the change changed, all that
//! the change changed of that type is meant: what it means is among that, and half a guess would let it through.

use std::collections::{BTreeMap, BTreeSet};

use zonebreak_xds::{Refusal, Snapshot, StreamId, ViewKey};

use super::quarantine::Named;

/// From so many names on a refusal's list may have been cut (`Nack::resources`).
const CUT: usize = 100;

/// One proxy's word on the change it was given.
#[derive(Debug, Clone)]
pub struct Testimony {
    /// Who says it.
    pub stream: StreamId,
    /// `node.id`: the streams of one proxy have one voice.
    pub node: String,
    /// The view it follows.
    pub view: ViewKey,
    /// What it said.
    pub answer: Answer,
}

/// What it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Nothing yet.
    Silent,
    /// Nothing any more: it went away. Decides nothing here; see [`super::waves`].
    Gone,
    /// It has all of it that it subscribes to.
    Took,
    /// It refuses these; none of them when what it refuses is not of this change.
    Refuses(BTreeSet<Named>),
}

/// What follows from what was said so far.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Refused by two.
    pub guilty: BTreeSet<Named>,
    /// Refused by one, and nobody else knows; with the view that it was refused in.
    pub open: BTreeMap<Named, ViewKey>,
    /// Proxies all of whose refusals are contradicted.
    pub contradicted: BTreeSet<String>,
}

/// What a refusal means of what `view` brings that `good` has not.
pub fn meant(refusal: &Refusal, view: &Snapshot, good: Option<&Snapshot>) -> BTreeSet<Named> {
    let of_type = view.set(&refusal.type_url);
    let is_new = |name: &str| {
        let before = good.and_then(|good| good.get(&refusal.type_url, name));
        view.get(&refusal.type_url, name)
            .is_some_and(|it| before.is_none_or(|before| !before.same_content(it)))
    };
    let key = |name: &std::sync::Arc<str>| (refusal.type_url.clone(), name.clone());
    let named: BTreeSet<Named> = refusal.resources.iter().filter(|name| is_new(name)).map(key).collect();
    if !named.is_empty() && refusal.resources.len() < CUT {
        return named;
    }
    of_type.iter().map(|it| it.name()).filter(|name| is_new(name)).map(key).collect()
}

/// Judges. `holds` says whether a stream has acknowledged what this view brings under a name.
pub fn judge(all: &[Testimony], holds: impl Fn(StreamId, &Named, &ViewKey) -> bool) -> Verdict {
    let mut charges: BTreeMap<&Named, Vec<&Testimony>> = BTreeMap::new();
    for testimony in all {
        if let Answer::Refuses(named) = &testimony.answer {
            named.iter().for_each(|named| charges.entry(named).or_default().push(testimony));
        }
    }
    let mut verdict = Verdict::default();
    let (mut contradicted, mut standing) = (BTreeSet::new(), BTreeSet::new());
    for (named, accusers) in charges {
        let Some(first) = accusers.first() else { continue };
        if accusers.iter().any(|other| other.node != first.node) {
            verdict.guilty.insert(named.clone());
            standing.extend(accusers.iter().map(|accuser| &accuser.node));
            continue;
        }
        let takes = |other: &Testimony| {
            other.answer == Answer::Took
                && other.node != first.node
                && holds(other.stream, named, &first.view)
        };
        if all.iter().any(takes) {
            contradicted.insert(&first.node);
        } else {
            verdict.open.insert(named.clone(), first.view.clone());
            standing.insert(&first.node);
        }
    }
    verdict.contradicted = contradicted.difference(&standing).map(|node| (*node).clone()).collect();
    verdict
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use zonebreak_xds::{ChangeId, Resource, TypeUrl};

    use super::*;

    fn named(name: &str) -> Named {
        (TypeUrl::CLUSTER, Arc::from(name))
    }

    fn says(node: &str, view: &str, answer: Answer) -> Testimony {
        let stream = StreamId(u64::from(node.as_bytes()[0]));
        Testimony { stream, node: node.to_owned(), view: ViewKey::new(view), answer }
    }

    fn refuses(names: &[&str]) -> Answer {
        Answer::Refuses(names.iter().map(|name| named(name)).collect())
    }

    fn everywhere(_: StreamId, _: &Named, _: &ViewKey) -> bool {
        true
    }

    fn names(all: &BTreeSet<Named>) -> Vec<&str> {
        all.iter().map(|(_, name)| &**name).collect()
    }

    #[test]
    fn one_decides_nothing_and_two_do() {
        let alone = [says("a", "z", refuses(&["x"]))];
        let verdict = judge(&alone, everywhere);
        assert_eq!((verdict.guilty.len(), verdict.open.len(), verdict.contradicted.len()), (0, 1, 0));
        // Two streams of one proxy are one voice.
        let twice = [says("a", "z", refuses(&["x"])), says("a", "z", refuses(&["x"]))];
        assert!(judge(&twice, everywhere).guilty.is_empty());
        // One that refuses everything and one that refuses what is bad agree on that only.
        let two = [says("a", "z", refuses(&["x", "y"])), says("b", "z", refuses(&["x"]))];
        let verdict = judge(&two, everywhere);
        assert_eq!(names(&verdict.guilty), ["x"]);
        assert_eq!(verdict.open.len(), 1);
        assert!(verdict.contradicted.is_empty(), "it was right about one");
    }

    #[test]
    fn who_refuses_what_another_took_is_contradicted_and_only_in_the_same_content() {
        let said = [says("a", "z", refuses(&["x"])), says("b", "w", Answer::Took)];
        let verdict = judge(&said, everywhere);
        assert!(verdict.guilty.is_empty() && verdict.open.is_empty());
        assert_eq!(verdict.contradicted, BTreeSet::from(["a".to_owned()]));
        let other = judge(&said, |_, _, _| false);
        assert_eq!(
            (other.open.len(), other.contradicted.len()),
            (1, 0),
            "it took something else, or was not given it"
        );
        // Two are not outvoted, however many took it: both may be of the version that cannot.
        let many = [said[0].clone(), said[1].clone(), says("c", "z", refuses(&["x"]))];
        assert_eq!(names(&judge(&many, everywhere).guilty), ["x"]);
        assert_eq!(judge(&[says("a", "z", refuses(&[])), said[1].clone()], everywhere), Verdict::default());
    }

    #[test]
    fn a_refusal_that_names_nothing_new_means_all_that_is_new_of_its_type() {
        let view = |content: &[(&'static str, &'static str)]| {
            let mut builder = Snapshot::builder(ChangeId(1));
            for (name, content) in content {
                builder.put(Resource::from_value(name, TypeUrl::CLUSTER, content.as_bytes())).unwrap();
                builder.put(Resource::from_value(name, TypeUrl::LISTENER, content.as_bytes())).unwrap();
            }
            builder.build()
        };
        let (good, new) = (view(&[("old", "1"), ("x", "1")]), view(&[("old", "1"), ("x", "2"), ("y", "1")]));
        let refusal = |resources: &[&str]| Refusal {
            node: "n".into(),
            type_url: TypeUrl::CLUSTER,
            message: Arc::from("no"),
            resources: resources.iter().map(|name| Arc::from(*name)).collect(),
        };
        let meant = |resources: &[&str]| {
            let meant = meant(&refusal(resources), &new, Some(&good));
            assert!(meant.iter().all(|(type_url, _)| *type_url == TypeUrl::CLUSTER));
            names(&meant).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(meant(&["x"]), ["x"]);
        assert_eq!(meant(&["x", "old"]), ["x"]);
        assert_eq!(meant(&["old"]), ["x", "y"]);
        assert_eq!(meant(&[]), ["x", "y"]);
        assert_eq!(meant(&["x"; CUT]), ["x", "y"], "a list that was cut says too little");
    }
}
