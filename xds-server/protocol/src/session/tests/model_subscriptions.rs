//! Clients that ask for whatever comes into their heads, on every kind of stream, against what they must hold in the end.
//!
//! Names, a collection and everything, asked for and dropped in any order, while answers are under way too; changes, refusals and
//! reconnects between them. The client keeps what it asks for and forgets the rest. `model.rs` has the order of types, and
//! `model_names.rs` the names that only incremental clients know.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::cases;
use super::client::*;
use crate::session::{Response, SessionOptions};
use crate::types::{Protocol, TypeUrl};

/// Resources; the last two lie in one collection.
const NAMES: [&str; 4] = ["a", "b", "xdstp://x/t/web/1", "xdstp://x/t/web/2"];
const COLLECTION: &str = "xdstp://x/t/web/*";
const ASKED: [&str; 7] = [NAMES[0], NAMES[1], NAMES[2], NAMES[3], COLLECTION, "nobody", "*"];
const CONTENTS: [&str; 3] = ["0", "1", "2"];
/// What no view held before the last.
const LAST: [&str; 3] = ["last 0", "last 1", "last 2"];
/// What changes when nothing else does; of no concern to the client.
const TICK: &str = "tick";
/// Longer than any wait of the server's, and shorter than its patience.
const CALM: Duration = Duration::from_secs(2);

/// The content of each name in a view.
type Spec = [Option<usize>; NAMES.len()];

#[derive(Clone, Debug)]
enum Op {
    Publish(Spec),
    Ask(usize),
    Drop(usize),
    /// Takes what was sent.
    Answer,
    /// Refuses it: all of it without a word, or the first resource by its name.
    Refuse(bool),
    Wait(u64),
    /// With what it has, or without; and in between it begins, or ceases, to ask for one of these, but for everything: of that alone
    /// a version says what the client has.
    Reconnect(bool, Option<usize>),
}

fn spec() -> impl Strategy<Value = Spec> {
    prop::array::uniform4(prop::option::weighted(0.7, 0..CONTENTS.len()))
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => spec().prop_map(Op::Publish),
        4 => (0..ASKED.len()).prop_map(Op::Ask),
        3 => (0..ASKED.len()).prop_map(Op::Drop),
        6 => Just(Op::Answer),
        2 => any::<bool>().prop_map(Op::Refuse),
        1 => (0..1000u64).prop_map(Op::Wait),
        1 => (any::<bool>(), prop::option::of(0..ASKED.len() - 1)).prop_map(|(with, at)| Op::Reconnect(with, at)),
    ]
}

/// The client, what it asked for and what it holds.
struct World {
    client: Option<Client>,
    kind: TypeUrl,
    asked: BTreeSet<&'static str>,
    /// Content by name.
    held: BTreeMap<&'static str, &'static str>,
    sent: Vec<Response>,
    /// How many responses it must take until one answered that it asks for everything: only then does it have all of its version.
    until_all: usize,
    view: Vec<Item>,
    /// Whether it ever refused anything.
    refused: bool,
}

impl World {
    fn new(mut client: Client, kind: &TypeUrl) -> Self {
        assert!(client.publish(&[]).is_empty());
        let (asked, held) = (BTreeSet::new(), BTreeMap::new());
        let (sent, view) = (Vec::new(), Vec::new());
        Self {
            client: Some(client),
            kind: kind.clone(),
            asked,
            held,
            sent,
            until_all: 0,
            view,
            refused: false,
        }
    }

    fn client(&self) -> &Client {
        self.client.as_ref().unwrap()
    }

    fn hears(&mut self, happens: impl FnOnce(&mut Client, &TypeUrl) -> Vec<Response>) {
        let client = self.client.as_mut().unwrap();
        let more = happens(client, &self.kind);
        self.sent.extend(more);
        assert!(self.sent.len() <= 1, "more than one response of a type under way");
        assert!(client.error.is_none(), "a well-behaved client was thrown out");
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Publish(spec) => self.publish(&spec, &CONTENTS),
            Op::Ask(at) => {
                if self.asked.insert(ASKED[at]) && ASKED[at] == "*" {
                    self.until_all = 1 + self.sent.len();
                }
                self.hears(|client, kind| client.subscribe(kind, &[ASKED[at]]));
            }
            Op::Drop(at) if self.asked.remove(ASKED[at]) => {
                self.hears(|client, kind| client.unsubscribe(kind, &[ASKED[at]]));
                self.forget();
            }
            Op::Drop(_) => {}
            Op::Answer => _ = self.answer(),
            Op::Refuse(names) => self.refuse(names),
            Op::Wait(millis) => self.hears(|client, _| client.wait(Duration::from_millis(millis))),
            Op::Reconnect(with, toggled) => self.reconnect(with, toggled),
        }
    }

    fn publish(&mut self, spec: &Spec, contents: &[&'static str; 3]) {
        let there = NAMES.iter().zip(spec).filter_map(|(name, content)| Some((*name, (*content)?)));
        self.view = there.map(|(name, content)| (self.kind.clone(), name, contents[content])).collect();
        let view = self.view.clone();
        self.hears(|client, _| client.publish(&view));
    }

    fn answer(&mut self) -> bool {
        let Some(response) = self.sent.pop() else { return false };
        self.take(&response, None);
        self.until_all = self.until_all.saturating_sub(1);
        self.hears(|client, _| client.ack(&response));
        true
    }

    fn refuse(&mut self, names: bool) {
        let Some(response) = self.sent.pop() else { return };
        self.refused = true;
        let first = response.resources.first().map(|resource| resource.name().to_string());
        let message = match first.filter(|_| names) {
            Some(first) => {
                self.take(&response, Some(&first));
                format!("'{first}' is bad")
            }
            None => "no".to_owned(),
        };
        self.hears(|client, _| client.nack(&response, &message));
    }

    /// Takes what a response brings, but for one resource.
    fn take(&mut self, response: &Response, but: Option<&str>) {
        let full = response.protocol == Protocol::Sotw && self.kind.is_full_state();
        if full {
            let there = |name: &str| response.resources.iter().any(|resource| &**resource.name() == name);
            self.held.retain(|name, _| there(name));
        }
        let taken = response.resources.iter().filter(|resource| Some(&**resource.name()) != but);
        for offered in taken.filter(|resource| &**resource.name() != TICK) {
            let contents = CONTENTS.iter().chain(&LAST);
            let name = NAMES.iter().find(|name| **name == &**offered.name()).expect("a name there is");
            let same =
                |content: &&&'static str| *offered.version() == version(&(self.kind.clone(), name, content));
            self.held.insert(name, contents.clone().find(same).expect("a content there is"));
        }
        response.removed.iter().for_each(|name| _ = self.held.remove(&**name));
        self.forget();
    }

    fn asks_for(&self, name: &str) -> bool {
        let collected = self.asked.contains(COLLECTION) && name.starts_with("xdstp:");
        self.asked.contains(name) || self.asked.contains("*") || collected
    }

    fn forget(&mut self) {
        let mut held = std::mem::take(&mut self.held);
        held.retain(|name, _| self.asks_for(name));
        self.held = held;
    }

    /// The same client on a new stream, which asks for all it asked for, but for one name, and has what it had or has lost it.
    fn reconnect(&mut self, with: bool, toggled: Option<usize>) {
        let mut asked = self.asked.clone();
        if let Some(at) = toggled
            && !asked.remove(ASKED[at])
        {
            asked.insert(ASKED[at]);
        }
        if asked.is_empty() {
            // To say nothing would be to ask for everything.
            return;
        }
        self.asked = asked;
        self.forget();
        let before = self.client.take().unwrap();
        if !with {
            self.held.clear();
        }
        self.sent.clear();
        let brings: Vec<Item> =
            self.held.iter().map(|(name, content)| (self.kind.clone(), *name, *content)).collect();
        let mut client = before.reconnect(&brings, &self.view);
        if !with || self.until_all > 0 {
            client.forget_version(&self.kind);
            self.until_all = 1;
        }
        client.forget_names(&self.kind);
        self.client = Some(client);
        let asked: Vec<&str> = self.asked.iter().copied().collect();
        self.hears(|client, kind| client.subscribe(kind, &asked));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(200), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_client_ends_with_what_it_asks_for_however_it_came_to_ask_for_it(
        ops in prop::collection::vec(op(), 0..50),
        last in spec(),
        narrow in any::<bool>(),
    ) {
        // Then a response holds one resource or name, where it may be split at all.
        let max_response_bytes = if narrow { 1 } else { SessionOptions::default().max_response_bytes };
        let options = SessionOptions { max_response_bytes, ..SessionOptions::default() };
        for kind in [CDS, LDS, EDS, TypeUrl::SECRET] {
            let clients = everywhere_with(&kind, &options);
            for mut world in clients.into_iter().map(|client| World::new(client, &kind)) {
                ops.iter().cloned().for_each(|op| world.apply(op));
                // What was refused is not said again, so that has to change; what was not may well be the same.
                world.publish(&last, if world.refused { &LAST } else { &CONTENTS });
                // A removal that was refused has no content, and is said again when anything changes.
                world.view.push((kind.clone(), TICK, "tick"));
                let view = world.view.clone();
                world.hears(|client, _| client.publish(&view));
                let mut rounds = 0;
                loop {
                    while world.answer() {
                        rounds += 1;
                        assert!(rounds < 100, "client and server do not come to rest");
                    }
                    world.hears(|client, _| client.wait(CALM));
                    if world.sent.is_empty() {
                        break;
                    }
                }
                let wanted = world.view.iter().filter(|(_, name, _)| *name != TICK && world.asks_for(name));
                let wanted: BTreeMap<_, _> = wanted.map(|(_, name, content)| (*name, *content)).collect();
                let mut held = world.held.clone();
                let silent = world.client().protocol == Protocol::Sotw && !kind.is_full_state();
                if silent {
                    // There is no word for what is gone: clients find out by its parent.
                    held.retain(|name, _| world.view.iter().any(|(_, there, _)| there == name));
                }
                let context = (world.client().protocol, &kind, &world.asked, narrow);
                prop_assert_eq!(held, wanted, "{:?}", context);
                prop_assert!(world.client().converged(), "the session does not know it: {:?}", context);
                prop_assert!(!world.client().session.refuses());
            }
        }
    }
}
