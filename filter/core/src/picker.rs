//! From shares to header values: a table that turns a coin into the subset key that one request carries. Built whenever a
//! state or a share changes; looked up without allocation for each request. It knows Envoy's priorities and weights, and
//! decides no share itself.
//!
//! # What Envoy does with a key
//!
//! For a proxy in zone o, the endpoints of o are priority 0, all other zones are priority 1 with their weights of locality;
//! zones that the operator drained wholly come last. A retry goes to another priority than the attempt before it. Without
//! a known own zone all are in priority 0. So:
//!
//! | wanted | key | a retry then reaches |
//! |---|---|---|
//! | own zone | none, or all left zones excluded | the other zones |
//! | some other zone, by weight | own zone excluded, and all that are not whole | the other zones again |
//! | a zone that keeps a part, the only such one | the above in a mix with and without it | the other zones |
//! | a zone that keeps a part, one of several | that zone alone | that zone |
//!
//! The mix: let t keep a part, so that its share is f, and let Envoy give it r of what goes to the whole zones and t
//! together. Then a share f/r of the requests excludes o alone, the rest excludes o and t. Every share is exact in expectation.
//!
//! A zone whose drain ended by time, but which the control plane may still hold in the last priority, is named alone ("pinned").
//!
//! # Where a coin falls
//!
//! The coin's range is laid out by the *usual* shares, and what a zone loses is handed on from its own stretch. So
//! where the coin is a hash of the user, a user stays where he is unless it is his zone that is left.

use crate::{
    config::MAX_ZONES,
    engine::Reason,
    names::Zone,
    shares::{Shares, share_of},
    subset::{self, ZoneSet},
};

/// What the table is made of. All lists are in the order of the service's zones.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// The zones.
    pub zones: &'a [Zone],
    /// The proxy's own one.
    pub own: Option<usize>,
    /// Usual shares ([`crate::shares::usual`]).
    pub usual: &'a Shares,
    /// Shares now ([`crate::shares::target`]).
    pub shares: &'a Shares,
    /// What each zone keeps of its usual share, 0 to 1.
    pub keep: &'a [f64],
    /// Weights of locality.
    pub weights: &'a [u32],
    /// Zones that the operator drains wholly: Envoy has them in the last priority.
    pub drained: ZoneSet,
    /// Zones that must be named to be reached for sure.
    pub pinned: ZoneSet,
    /// Most of all requests that may be moved out of left zones, 0 to 1; the rest of those is refused.
    pub spill: f64,
}

/// From coins to keys.
#[derive(Debug, Clone, Default)]
pub struct Table {
    picks: Vec<Pick>,
    keys: Vec<Box<str>>,
}

/// What a stretch of the coin's range does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// No header.
    Pass,
    /// A key, by its place in the table.
    Serve {
        /// Place.
        key: u8,
        /// Why.
        reason: Reason,
    },
    /// More was to be moved than may be.
    Spill,
}

/// One stretch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pick {
    /// First coin beyond it; coins are 0 to 2^32 - 1.
    upto: u64,
    /// What it does.
    pub act: Act,
    /// Whether the request is moved out of a zone that is left.
    pub moved: bool,
}

/// Somewhere to send requests, and how.
#[derive(Debug, Clone)]
struct Aim {
    usual: f64,
    share: f64,
    /// Keys, and in which parts (they sum to 1).
    keys: Vec<(Option<u8>, f64)>,
    reason: Reason,
}

// === impl Table ===

impl Table {
    /// Works out the table.
    pub fn new(plan: &Plan<'_>) -> Self {
        let mut table = Self::default();
        let aims = table.aims(plan);
        table.lay_out(&aims, plan);
        table
    }

    /// The stretch that a coin falls into; `None` when there is no zone to go to.
    pub fn draw(&self, coin: u32) -> Option<Pick> {
        self.picks.iter().find(|pick| u64::from(coin) < pick.upto).or(self.picks.last()).copied()
    }

    /// The key at a place.
    pub fn key(&self, place: u8) -> Option<&str> {
        self.keys.get(usize::from(place)).map(|key| &**key)
    }

    /// The place of the key for a trial request to a zone; `None` inside when no header is needed, outside when there is no such
    /// zone. The own zone is tried the way it is usually reached, so that a trial that fails is tried again elsewhere.
    pub fn trial(&mut self, plan: &Plan<'_>, zone: usize) -> Option<Option<u8>> {
        if Some(zone) == plan.own && !plan.pinned.contains(zone) {
            return Some(self.own_key(plan, zone));
        }
        plan.zones.get(zone).map(|name| Some(self.only(name)))
    }

    fn only(&mut self, zone: &Zone) -> u8 {
        self.intern(subset::only(zone))
    }

    /// The place of the key that keeps to the own zone first, and out of the zones that are left.
    fn own_key(&mut self, plan: &Plan<'_>, own: usize) -> Option<u8> {
        let left = |zone: &usize| *zone != own && plan.keep.get(*zone).is_some_and(|keep| *keep <= 0.0);
        let all: ZoneSet = (0..plan.zones.len()).filter(left).collect();
        // Drained zones come last in Envoy anyway: where there is no key for all, these need none.
        let broken: ZoneSet =
            (0..plan.zones.len()).filter(left).filter(|z| !plan.drained.contains(*z)).collect();
        self.excluding(plan, all).or_else(|| self.excluding(plan, broken)).flatten()
    }

    fn intern(&mut self, key: String) -> u8 {
        let at = self.keys.iter().position(|have| **have == *key).unwrap_or_else(|| {
            self.keys.push(key.into_boxed_str());
            self.keys.len().saturating_sub(1)
        });
        // A service has at most eight aims of two keys.
        at as u8
    }

    /// The place of the key that excludes these zones: `None` inside when no header is needed, outside when there is no such key.
    fn excluding(&mut self, plan: &Plan<'_>, excluded: ZoneSet) -> Option<Option<u8>> {
        if excluded.is_empty() {
            return Some(None);
        }
        subset::key(plan.zones, excluded).map(|key| Some(self.intern(key)))
    }

    fn aims(&mut self, plan: &Plan<'_>) -> Vec<Aim> {
        let all = 0..plan.zones.len().min(MAX_ZONES);
        let share = |zone: usize| share_of(plan.shares, zone);
        let keep = |zone: usize| plan.keep.get(zone).copied().unwrap_or_default();
        let own = plan.own.filter(|own| share(*own) > 0.0 && !plan.pinned.contains(*own));
        let mut aims = Vec::new();
        if let Some(own) = own {
            let key = self.own_key(plan, own);
            aims.push(Aim::new(plan, &[own], vec![(key, 1.0)], Reason::Avoid));
        }
        let others =
            all.clone().filter(|zone| Some(*zone) != plan.own || (own.is_none() && share(*zone) > 0.0));
        let (whole, partial): (Vec<_>, Vec<_>) = others
            .filter(|zone| keep(*zone) > 0.0)
            .partition(|zone| keep(*zone) >= 1.0 && !plan.pinned.contains(*zone));
        let partial: Vec<_> = partial.into_iter().filter(|zone| share(*zone) > 0.0).collect();
        let reason = if plan.own.is_some() { Reason::Split } else { Reason::Avoid };
        let whole_share: f64 = whole.iter().map(|zone| share(*zone)).sum();
        let mut pins = partial.clone();
        if whole_share > 0.0 {
            let but = |kept: &[usize]| all.clone().filter(|zone| !kept.contains(zone)).collect::<ZoneSet>();
            let mixed = match partial.as_slice() {
                [one] if !plan.pinned.contains(*one) => self.mix(plan, &whole, *one, but),
                _ => None,
            };
            match (mixed, self.excluding(plan, but(&whole))) {
                (Some((zones, keys)), _) => {
                    pins.clear();
                    aims.push(Aim::new(plan, &zones, keys, reason));
                }
                (None, Some(key)) => aims.push(Aim::new(plan, &whole, vec![(key, 1.0)], reason)),
                // No key says it: name each zone.
                (None, None) => pins.extend(whole.iter().filter(|zone| share(**zone) > 0.0)),
            }
        }
        for zone in pins {
            let key = plan.zones.get(zone).map(|name| self.only(name));
            let reason = if Some(zone) == plan.own { Reason::Avoid } else { reason };
            aims.push(Aim::new(plan, &[zone], vec![(key, 1.0)], reason));
        }
        aims
    }

    /// The whole zones and one that keeps a part, and the keys that give that one its share exactly.
    #[expect(clippy::type_complexity, reason = "named at its only call")]
    fn mix(
        &mut self,
        plan: &Plan<'_>,
        whole: &[usize],
        one: usize,
        but: impl Fn(&[usize]) -> ZoneSet,
    ) -> Option<(Vec<usize>, Vec<(Option<u8>, f64)>)> {
        let together: Vec<usize> = whole.iter().copied().chain([one]).collect();
        let weight = |zone: usize| f64::from(plan.weights.get(zone).copied().unwrap_or_default());
        let natural = weight(one) / together.iter().map(|zone| weight(*zone)).sum::<f64>();
        let total: f64 = together.iter().map(|zone| share_of(plan.shares, *zone)).sum();
        let with = share_of(plan.shares, one) / natural / total;
        // More than its natural part cannot be had by exclusion (and 0 of 0 is no number).
        if with.is_nan() || with > 1.0 {
            return None;
        }
        let (with_key, without_key) =
            (self.excluding(plan, but(&together))?, self.excluding(plan, but(whole))?);
        Some((together, vec![(with_key, with), (without_key, 1.0 - with)]))
    }

    fn lay_out(&mut self, aims: &[Aim], plan: &Plan<'_>) {
        let gains: f64 = aims.iter().map(Aim::gain).sum();
        let may_move = if gains > 0.0 { (plan.spill / gains).clamp(0.0, 1.0) } else { 1.0 };
        let mut line = Line::default();
        // What the aims keep of their usual shares, and what they lose; then what is left altogether, all of it lost.
        let left = 1.0 - aims.iter().map(|aim| aim.usual).sum::<f64>();
        let losses = aims.iter().map(Aim::loss).chain([left]);
        for (aim, lost) in aims.iter().map(Some).chain([None]).zip(losses) {
            if let Some(aim) = aim {
                line.add(aim, aim.usual.min(aim.share), false);
            }
            for taker in aims.iter().filter(|aim| aim.gain() > 0.0) {
                line.add(taker, lost * may_move * taker.gain() / gains, true);
            }
            line.push(lost * (1.0 - may_move), Act::Spill, true);
        }
        self.picks = line.picks;
        if let Some(last) = self.picks.last_mut() {
            last.upto = 1 << 32;
        }
    }
}

/// The stretches laid so far.
#[derive(Debug, Default)]
struct Line {
    picks: Vec<Pick>,
    at: f64,
}

// === impl Line ===

impl Line {
    fn add(&mut self, aim: &Aim, share: f64, moved: bool) {
        for (key, part) in &aim.keys {
            let act = match key {
                None => Act::Pass,
                Some(key) => Act::Serve { key: *key, reason: if moved { Reason::Moved } else { aim.reason } },
            };
            self.push(share * part, act, moved);
        }
    }

    fn push(&mut self, share: f64, act: Act, moved: bool) {
        self.at += share.max(0.0);
        let upto = (self.at * 4_294_967_296.0).round() as u64;
        let from = self.picks.last().map_or(0, |pick| pick.upto);
        match self.picks.last_mut() {
            _ if upto <= from => {}
            Some(last) if last.act == act && last.moved == moved => last.upto = upto,
            _ => self.picks.push(Pick { upto, act, moved }),
        }
    }
}

// === impl Aim ===

impl Aim {
    fn new(plan: &Plan<'_>, zones: &[usize], keys: Vec<(Option<u8>, f64)>, reason: Reason) -> Self {
        let sum = |shares: &Shares| zones.iter().map(|zone| share_of(shares, *zone)).sum();
        Self { usual: sum(plan.usual), share: sum(plan.shares), keys, reason }
    }

    fn gain(&self) -> f64 {
        (self.share - self.usual).max(0.0)
    }

    fn loss(&self) -> f64 {
        (self.usual - self.share).max(0.0)
    }
}

#[cfg(test)]
mod tests;
