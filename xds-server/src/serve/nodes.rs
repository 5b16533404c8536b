//! Which view a proxy gets: the one of the zone that its node names. Remembers the names that were asked for, within a bound,
//! and tells the publisher of new ones.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::mpsc;
use zonebreak_core::names::Zone;
use zonebreak_topology::Topology;
use zonebreak_xds::ViewKey;

use super::publisher::key;

/// Names of zones that are remembered. Proxies with yet another name get the view of nobody's zone, unless the topology knows
/// it: names that somebody makes up must not cost memory without bound, nor take a place from a zone that is real.
const MAX_ASKED: usize = 1024;

/// Names that are remembered at all: zones come and go, and a name that was real once is kept for whoever follows its view.
/// Beyond that a proxy with yet another name gets the view of nobody's zone, until the server starts again.
pub const MAX_ASKED_EVER: usize = 4 * MAX_ASKED;

/// Proxies that are warned about, once each, before warnings stop.
const MAX_WARNED: usize = 10_000;

/// Characters that are kept and logged of a name that a proxy sends: it may be as long as a message.
const MAX_NAME: usize = 256;

/// What was asked for so far.
#[derive(Debug)]
pub struct Nodes {
    memory: Mutex<Memory>,
    news: mpsc::UnboundedSender<Zone>,
}

#[derive(Debug, Default)]
struct Memory {
    /// Zones and aliases of the loaded topology; `None` before the first.
    known: Option<BTreeSet<Zone>>,
    asked: BTreeSet<Zone>,
    warned: BTreeSet<String>,
}

// === impl Nodes ===

impl Nodes {
    /// Nobody asked yet; `news` gets every new name, once.
    pub fn new(news: mpsc::UnboundedSender<Zone>) -> Self {
        Self { memory: Mutex::default(), news }
    }

    /// Learns which zones there are.
    pub fn learn(&self, topology: &Topology) {
        let mut known = topology.known_zones();
        known.extend(topology.zones.values().flat_map(|zone| zone.aliases.iter().cloned()));
        self.memory().known = Some(known);
    }

    /// The view of the proxy `id` that says it is in `zone`.
    pub fn view(&self, id: &str, zone: &str) -> ViewKey {
        let named = Zone::new(zone);
        let (id, zone) = (shortened(id), shortened(zone));
        let mut memory = self.memory();
        let knows = |zone| memory.known.as_ref().map(|known| known.contains(zone));
        let known = named.as_ref().ok().and_then(knows);
        match &named {
            Err(error) => memory.warn(id, || {
                tracing::warn!(node = id, zone, %error, "the proxy names no zone that could be one (node.locality.zone)");
            }),
            Ok(zone) if known == Some(false) => memory.warn(id, || {
                tracing::warn!(node = id, %zone, "the proxy names a zone that the topology does not know (node.locality.zone)");
            }),
            Ok(_) => {}
        }
        let Ok(zone) = named else { return key(None) };
        if !memory.asked.contains(&zone) {
            let room = if known == Some(true) { MAX_ASKED_EVER } else { MAX_ASKED };
            if memory.asked.len() >= room {
                memory.warn(id, || {
                    tracing::warn!(node = id, %zone, "proxies named too many zones to remember this one; it gets the view of nobody's zone");
                });
                return key(None);
            }
            memory.asked.insert(zone.clone());
            // Nobody listens once the server is on its way out.
            let _stopping = self.news.send(zone.clone());
        }
        key(Some(&zone))
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // Nothing in here can panic half-way, so a poisoned lock still guards a whole memory.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first [`MAX_NAME`] characters.
fn shortened(name: &str) -> &str {
    name.char_indices().nth(MAX_NAME).map_or(name, |(end, _)| name.get(..end).unwrap_or_default())
}

// === impl Memory ===

impl Memory {
    fn warn(&mut self, id: &str, warn: impl FnOnce()) {
        if self.warned.len() < MAX_WARNED && self.warned.insert(id.to_owned()) {
            warn();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology(zone: &str) -> std::sync::Arc<Topology> {
        let mut registry = zonebreak_topology::registry::Registry::default();
        let (key, value) = (format!("zones/{zone}"), br#"{"aliases": ["euc1-az1"]}"#.to_vec());
        registry.apply(zonebreak_topology::registry::Event::Put { key, value, mod_revision: 1 });
        registry.topology()
    }

    #[test]
    fn a_name_is_told_once_and_names_without_bound_are_not_remembered() {
        let (news, mut told) = mpsc::unbounded_channel();
        let nodes = Nodes::new(news);
        assert_eq!(nodes.view("n", "az-a").as_str(), "az-a");
        assert_eq!(nodes.view("m", "az-a").as_str(), "az-a");
        assert_eq!(nodes.view("n", "").as_str(), "");
        assert_eq!(nodes.view("n", "a/b").as_str(), "");
        assert_eq!(told.try_recv().unwrap().as_str(), "az-a");
        assert!(told.try_recv().is_err());
        for n in 0..2 * MAX_ASKED {
            nodes.view("n", &format!("made-up-{n}"));
        }
        assert_eq!(nodes.view("n", "one-more").as_str(), "");
        assert_eq!(nodes.view("n", "az-a").as_str(), "az-a");
        assert_eq!(nodes.memory().asked.len(), MAX_ASKED);
    }

    #[test]
    fn a_zone_that_the_topology_knows_is_served_whatever_was_made_up_before() {
        let (news, mut told) = mpsc::unbounded_channel();
        let nodes = Nodes::new(news);
        for n in 0..MAX_ASKED {
            nodes.view("n", &format!("made-up-{n}"));
            told.try_recv().unwrap();
        }
        assert_eq!(nodes.view("n", "az-a").as_str(), "", "nothing is loaded, so nothing is known");
        nodes.learn(&topology("az-a"));
        for real in ["az-a", "euc1-az1"] {
            assert_eq!(nodes.view("n", real).as_str(), real);
            assert_eq!(told.try_recv().unwrap().as_str(), real);
        }
        assert_eq!(nodes.view("n", "made-up").as_str(), "");
    }

    #[test]
    fn zones_that_come_and_go_are_not_remembered_without_bound() {
        let (news, mut told) = mpsc::unbounded_channel();
        let nodes = Nodes::new(news);
        for n in 0..=MAX_ASKED_EVER {
            let zone = format!("az-{n}");
            nodes.learn(&topology(&zone));
            let expected = if n < MAX_ASKED_EVER { zone.as_str() } else { "" };
            assert_eq!(nodes.view("n", &zone).as_str(), expected);
        }
        let count = std::iter::from_fn(|| told.try_recv().ok()).count();
        assert_eq!(count, MAX_ASKED_EVER, "the publisher hears of no more than that");
    }

    #[test]
    fn a_long_name_is_kept_in_part() {
        let nodes = Nodes::new(mpsc::unbounded_channel().0);
        nodes.view(&"\u{e4}".repeat(100_000), "");
        assert_eq!(nodes.memory().warned.first().unwrap(), &"\u{e4}".repeat(MAX_NAME));
    }

    #[test]
    fn only_proxies_whose_zone_is_unknown_are_warned_about_and_once() {
        let nodes = Nodes::new(mpsc::unbounded_channel().0);
        let warned = || nodes.memory().warned.iter().cloned().collect::<Vec<_>>();
        nodes.view("early", "az-x");
        assert!(warned().is_empty(), "nothing is loaded, so nothing is unknown");
        nodes.learn(&topology("az-a"));
        nodes.view("right", "az-a");
        nodes.view("alias", "euc1-az1");
        nodes.view("wrong", "az-x");
        nodes.view("wrong", "az-x");
        nodes.view("none", "");
        assert_eq!(warned(), ["none", "wrong"]);
    }
}
