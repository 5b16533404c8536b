//! The model of `model.rs` for names that are more than a name: collections, aliases, wildcards and times to live, in any order of
//! asking, dropping, changing, refusing, beating and coming back; against what such a client must hold in the end. The client keeps
//! a resource for as long as it asks for any name that it knows the resource by.
//!
//! One type on a service of its own, incremental: order is not what is looked for here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::cases;
use super::client::*;
use crate::session::{Request, Response, SessionOptions};
use crate::types::{Protocol, Scope, TypeUrl};
use crate::{Resource, SnapshotBuilder};

const SDS: TypeUrl = TypeUrl::SECRET;

/// Resources, by the names that they may have; the last two lie in one collection.
const NAMES: [&str; 4] = ["a", "b", "xdstp://x/s/web/1", "xdstp://x/s/web/2"];
const COLLECTION: &str = "xdstp://x/s/web/*";
/// Other names, each of which one resource at a time may go by.
const ALIASES: [&str; 2] = ["alias-1", "alias-2"];
const WILDCARD: &str = "*";
/// All that a client may ask for.
const ASKED: [&str; 9] =
    [NAMES[0], NAMES[1], NAMES[2], NAMES[3], COLLECTION, ALIASES[0], ALIASES[1], "nobody", WILDCARD];

const TTL: &str = "xds.config.supports-resource-ttl";

/// What a publisher wants: content and whether it runs out, for each name; and for each alias, whose it is.
#[derive(Clone, Debug)]
struct Spec {
    resources: [Option<(u8, bool)>; NAMES.len()],
    aliases: [usize; ALIASES.len()],
}

#[derive(Clone, Debug)]
enum Op {
    Publish(Spec),
    Ask(usize),
    Drop(usize),
    /// Takes what was sent.
    Answer,
    Refuse(Manner),
    Wait(u64),
    /// With what it has, or without.
    Reconnect(bool),
}

/// How a client refuses.
#[derive(Clone, Copy, Debug)]
enum Manner {
    /// Takes nothing and blames nobody.
    Whole,
    /// Takes the rest, and names the first resource.
    Partial,
}

fn spec() -> impl Strategy<Value = Spec> {
    let resource = prop::option::weighted(0.7, (0..4u8, any::<bool>()));
    let resources = prop::array::uniform4(resource);
    (resources, prop::array::uniform2(0..NAMES.len()))
        .prop_map(|(resources, aliases)| Spec { resources, aliases })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => spec().prop_map(Op::Publish),
        4 => (0..ASKED.len()).prop_map(Op::Ask),
        2 => (0..ASKED.len()).prop_map(Op::Drop),
        6 => Just(Op::Answer),
        1 => Just(Op::Refuse(Manner::Whole)),
        1 => Just(Op::Refuse(Manner::Partial)),
        2 => (0..20_000u64).prop_map(Op::Wait),
        1 => any::<bool>().prop_map(Op::Reconnect),
    ]
}

impl Spec {
    /// Aliases by the name of the resource that goes by them now.
    fn aliases_of(&self, at: usize) -> Vec<&'static str> {
        ALIASES.iter().zip(self.aliases).filter(|(_, of)| *of == at).map(|(alias, _)| *alias).collect()
    }

    fn put(&self, view: &mut SnapshotBuilder, mark: &str) {
        for (at, name) in NAMES.iter().enumerate() {
            view.remove(&SDS, name);
            let Some((content, ttl)) = self.resources[at] else { continue };
            let made = Resource::from_value(name, SDS, format!("{content}{mark}").into_bytes());
            let made = if ttl { made.with_ttl(Duration::from_secs(10)) } else { made };
            view.put(made.with_aliases(self.aliases_of(at))).unwrap();
        }
    }

    /// The names of what a client that asks for this must hold.
    fn wanted(&self, asked: &BTreeSet<&'static str>) -> BTreeSet<&'static str> {
        let there = NAMES.iter().enumerate().filter(|(at, _)| self.resources[*at].is_some());
        let wanted = there.filter(|(at, name)| {
            asked.contains(WILDCARD)
                || asked.contains(*name)
                || *at >= 2 && asked.contains(COLLECTION)
                || self.aliases_of(*at).iter().any(|alias| asked.contains(alias))
        });
        wanted.map(|(_, name)| *name).collect()
    }
}

/// A resource as the client got it: its version, and what else it goes by.
struct Held {
    version: String,
    aliases: Vec<String>,
}

/// The client and what it holds.
struct World {
    client: Client,
    asked: BTreeSet<&'static str>,
    held: BTreeMap<String, Held>,
    sent: Vec<Response>,
    spec: Option<Spec>,
    /// Whether it ever refused anything.
    refused: bool,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            client: fresh(),
            asked: BTreeSet::new(),
            held: BTreeMap::new(),
            sent: Vec::new(),
            spec: None,
            refused: false,
        };
        world.hears(|_| Vec::new());
        world
    }

    fn hears(&mut self, happens: impl FnOnce(&mut Client) -> Vec<Response>) {
        let more = happens(&mut self.client);
        self.sent.extend(more);
        assert!(self.sent.len() <= 1, "more than one response of a type under way");
        assert!(self.client.error.is_none(), "a well-behaved client was thrown out");
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Publish(spec) => self.publish(spec, ""),
            Op::Ask(at) => {
                self.asked.insert(ASKED[at]);
                self.hears(|client| client.subscribe(&SDS, &[ASKED[at]]));
            }
            Op::Drop(at) => {
                if self.asked.remove(ASKED[at]) {
                    self.hears(|client| client.unsubscribe(&SDS, &[ASKED[at]]));
                    self.forget();
                }
            }
            Op::Answer => _ = self.answer(),
            Op::Refuse(manner) => self.refuse(manner),
            Op::Wait(millis) => self.hears(|client| client.wait(Duration::from_millis(millis))),
            Op::Reconnect(with) => self.reconnect(with),
        }
    }

    fn publish(&mut self, spec: Spec, mark: &str) {
        self.spec = Some(spec.clone());
        self.hears(|client| client.edit(|view| spec.put(view, mark)));
    }

    fn answer(&mut self) -> bool {
        let Some(response) = self.sent.pop() else { return false };
        self.take(&response, None);
        self.hears(|client| client.ack(&response));
        true
    }

    fn refuse(&mut self, manner: Manner) {
        let Some(response) = self.sent.pop() else { return };
        self.refused = true;
        let first = response.resources.first().map(|resource| resource.name().to_string());
        match (manner, first) {
            (Manner::Partial, Some(first)) => {
                self.take(&response, Some(&first));
                self.hears(|client| client.nack(&response, &format!("'{first}' is bad")));
            }
            (Manner::Whole, _) | (_, None) => self.hears(|client| client.nack(&response, "no")),
        }
    }

    fn take(&mut self, response: &Response, but: Option<&str>) {
        for resource in response.resources.iter().filter(|resource| Some(&**resource.name()) != but) {
            let aliases = resource.aliases().iter().map(ToString::to_string).collect();
            let held = Held { version: resource.version().to_string(), aliases };
            self.held.insert(resource.name().to_string(), held);
        }
        for resource in &response.refreshed {
            // What was dropped while this was on its way is nobody's to keep alive.
            if let Some(kept) = self.held.get(&**resource.name()) {
                assert_eq!(
                    kept.version,
                    resource.version().to_string(),
                    "kept alive, and not what the client has"
                );
            }
        }
        for name in &response.removed {
            self.held.remove(&**name);
            // Nothing goes by that name any more.
            self.held.values_mut().for_each(|held| held.aliases.retain(|alias| **alias != **name));
        }
        self.forget();
    }

    /// As a client does with what it asked for no longer.
    fn forget(&mut self) {
        let asked = &self.asked;
        self.held.retain(|name, held| {
            let at = NAMES.iter().position(|known| known == name);
            let named = |at: usize| asked.contains(NAMES[at]) || at >= 2 && asked.contains(COLLECTION);
            asked.contains(WILDCARD)
                || at.is_some_and(named)
                || held.aliases.iter().any(|alias| asked.contains(alias.as_str()))
        });
    }

    /// The same client on a new stream, which asks for all it asked for, and has what it had or has lost it.
    fn reconnect(&mut self, with: bool) {
        self.client = fresh();
        if !with {
            self.held.clear();
        }
        self.sent.clear();
        if let Some(spec) = self.spec.clone() {
            self.publish(spec, "");
        }
        let asked: Vec<&str> = self.asked.iter().copied().collect();
        if !asked.is_empty() {
            let mut request = delta(&SDS, &asked, &[], "");
            request.node.as_mut().unwrap().client_features = vec![TTL.to_owned()];
            let brings = self.held.iter().map(|(name, held)| (name.clone(), held.version.clone()));
            request.initial_resource_versions = brings.collect();
            self.hears(|client| client.raw(Request::Delta(Box::new(request))));
        }
    }
}

fn fresh() -> Client {
    let mut client = Client::with(Protocol::Delta, Scope::Single(SDS), SessionOptions::default());
    client.features = vec![TTL];
    client
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(1000), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_client_of_collections_and_aliases_ends_with_what_they_stand_for(
        ops in prop::collection::vec(op(), 0..50),
        last in spec(),
    ) {
        let mut world = World::new();
        ops.into_iter().for_each(|op| world.apply(op));
        // What was refused is not said again, so that has to change; what was not may well be the same.
        let mark = if world.refused { ";last" } else { "" };
        world.publish(last.clone(), mark);
        // A removal that was refused has no content, and is said again when anything changes.
        world.hears(|client| client.edit(|view| _ = view.put(Resource::from_value("tick", SDS, "tick")).unwrap()));
        let mut rounds = 0;
        while world.answer() {
            rounds += 1;
            assert!(rounds < 100, "client and server do not come to rest");
        }
        let held = world.held.keys().map(String::as_str).filter(|name| *name != "tick");
        let held: BTreeSet<&str> = held.collect();
        prop_assert_eq!(&held, &last.wanted(&world.asked), "asked for {:?}", world.asked);
        for (at, name) in NAMES.iter().enumerate().filter(|(_, name)| held.contains(*name)) {
            let content = format!("{}{mark}", last.resources[at].unwrap().0);
            let same = Resource::from_value(name, SDS, content.into_bytes());
            let same = if last.resources[at].unwrap().1 { same.with_ttl(Duration::from_secs(10)) } else { same };
            let same = same.with_aliases(last.aliases_of(at));
            prop_assert_eq!(&world.held[*name].version, &same.version().to_string());
        }
        prop_assert!(world.asked.is_empty() || world.client.converged(), "the session does not know it");
        prop_assert!(!world.client.session.refuses());
        // What runs out is kept alive, without content, for as long as nobody changes it.
        let runs_out = NAMES.iter().enumerate().any(|(at, name)| {
            held.contains(name) && last.resources[at].is_some_and(|(_, ttl)| ttl)
        });
        world.hears(|client| client.wait(Duration::from_secs(6)));
        let beat = world.sent.pop();
        prop_assert_eq!(beat.as_ref().is_some_and(|beat| beat.heartbeat), runs_out);
        prop_assert!(beat.is_none_or(|beat| beat.resources.is_empty() && !beat.refreshed.is_empty()));
    }
}
