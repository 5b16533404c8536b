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
//! | some other zone, more of it than by weight | by weight as far as that goes, the rest that zone alone | see there |
//! | each other zone by name (sticky users, drills by zone) | that zone alone | that zone |
//!
//! The mix: let t keep a part, so that its share is f, and let Envoy give it r of what goes to the whole zones and t
//! together. Then a share f/r of the requests excludes o alone, the rest excludes o and t. Every share is exact in expectation.
//!
//! A zone whose drain ended by time, but which the control plane may still hold in the last priority, is named alone ("pinned").
//!
//! # Where a coin falls
//!
//! A coin is a user's own, or dealt ([`crate::deck`]). Its range is laid out by the *usual* shares, and what a zone loses is the
//! upper end of its own stretch. Where that goes is drawn by a second number, made of the same coin. So where the coin is a hash
//! of the user, a user stays where he is unless it is his zone that is left; and however slowly his zone is drained, or taken
//! back, he moves once, to a zone that does not depend on how far the drain has come.

use crate::{
    config::MAX_ZONES,
    engine::Reason,
    mix::mix,
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
    /// What part of what is moved has a place in the others at all, 0 to 1; the rest is refused as well.
    pub fits: f64,
    /// Whether every other zone than the own one is to be named, so that it is known where each request goes.
    pub named: bool,
}

/// From coins to keys.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// By the coin.
    home: Vec<Pick>,
    /// Of what is moved, by the second number.
    moved: Vec<Pick>,
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
    /// Moved out of a zone that is left: the second number says where to.
    Move,
    /// More was to be moved than may be.
    Spill,
}

/// One stretch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pick {
    /// First number beyond it; numbers are 0 to 2^32 - 1.
    upto: u64,
    /// What it does.
    pub act: Act,
    /// Where it may lead, retries aside.
    pub zones: ZoneSet,
    /// Whether the request is moved out of a zone that is left.
    pub moved: bool,
}

/// Numbers that a draw is made from.
const WHOLE: f64 = 4_294_967_296.0;

/// Shares that differ by less are the same.
const SAME: f64 = 1e-9;

/// Somewhere to send requests, and how.
#[derive(Debug, Clone)]
struct Aim {
    /// All zones that it is about.
    zones: ZoneSet,
    usual: f64,
    share: f64,
    ways: Vec<Way>,
    reason: Reason,
}

/// A key, which part of an aim's requests carries it (the parts sum to 1), and where it leads.
#[derive(Debug, Clone, Copy)]
struct Way {
    key: Option<u8>,
    part: f64,
    zones: ZoneSet,
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

    /// The stretch that a coin falls into, by its lower half; `None` when there is no zone to go to. Never one of [`Act::Move`].
    pub fn draw(&self, coin: u64) -> Option<Pick> {
        let draw = |picks: &[Pick], number: u64| picks.iter().find(|pick| number < pick.upto).copied();
        let pick = draw(&self.home, coin & 0xffff_ffff)?;
        if pick.act == Act::Move { draw(&self.moved, mix(coin).wrapping_shr(32)) } else { Some(pick) }
    }

    /// The part of what is moved that is refused, 0 to 1.
    pub fn spilled(&self) -> f64 {
        let mut from = 0;
        let mut spilled = 0_u64;
        for pick in &self.moved {
            if pick.act == Act::Spill {
                spilled = spilled.saturating_add(pick.upto.saturating_sub(from));
            }
            from = pick.upto;
        }
        spilled as f64 / WHOLE
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
            aims.push(Aim::new(plan, vec![Way::new(key, 1.0, &[own])], Reason::Avoid));
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
        let natural = natural(plan, &whole, whole_share);
        if plan.named {
            pins.extend(whole.iter().filter(|zone| share(**zone) > 0.0));
        } else if whole_share > 0.0 {
            let but = |kept: &[usize]| all.clone().filter(|zone| !kept.contains(zone)).collect::<ZoneSet>();
            let mixed = match partial.as_slice() {
                [one] if !plan.pinned.contains(*one) && natural.is_none() => {
                    self.mix(plan, &whole, *one, but)
                }
                _ => None,
            };
            match (mixed, self.excluding(plan, but(&whole))) {
                (Some(ways), _) => {
                    pins.clear();
                    aims.push(Aim::new(plan, ways.into(), reason));
                }
                (None, Some(key)) if let Some(natural) = natural => {
                    for zone in whole.iter().filter(|zone| share(**zone) > 0.0) {
                        let part = share_of(&natural, *zone) / share(*zone);
                        let only = plan.zones.get(*zone).map(|name| self.only(name));
                        let ways = vec![Way::new(key, part, &whole), Way::new(only, 1.0 - part, &[*zone])];
                        aims.push(Aim::about(plan, [*zone].into_iter().collect(), ways, reason));
                    }
                }
                (None, Some(key)) => aims.push(Aim::new(plan, vec![Way::new(key, 1.0, &whole)], reason)),
                // No key says it: name each zone.
                (None, None) => pins.extend(whole.iter().filter(|zone| share(**zone) > 0.0)),
            }
        }
        for zone in pins {
            let key = plan.zones.get(zone).map(|name| self.only(name));
            let reason = if Some(zone) == plan.own { Reason::Avoid } else { reason };
            aims.push(Aim::new(plan, vec![Way::new(key, 1.0, &[zone])], reason));
        }
        aims
    }

    /// The ways to the whole zones and one that keeps a part, which give that one its share exactly.
    fn mix(
        &mut self,
        plan: &Plan<'_>,
        whole: &[usize],
        one: usize,
        but: impl Fn(&[usize]) -> ZoneSet,
    ) -> Option<[Way; 2]> {
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
        Some([Way::new(with_key, with, &together), Way::new(without_key, 1.0 - with, whole)])
    }

    fn lay_out(&mut self, aims: &[Aim], plan: &Plan<'_>) {
        let gains: f64 = aims.iter().map(Aim::gain).sum();
        let (mut home, mut moved) = (Line::default(), Line::default());
        let laid = stretches(aims, plan);
        if gains > SAME {
            let may_move = (plan.spill / gains).min(plan.fits).clamp(0.0, 1.0);
            for taker in laid.iter().filter_map(|(aim, _)| *aim).filter(|aim| aim.gain() > 0.0) {
                moved.add(taker, may_move * taker.gain() / gains, true);
            }
            moved.push(1.0 - may_move, Act::Spill, true, ZoneSet::EMPTY);
        }
        for (aim, lost) in laid {
            if let Some(aim) = aim {
                home.add(aim, aim.usual.min(aim.share), false);
            }
            if gains > SAME {
                home.push(lost, Act::Move, true, ZoneSet::EMPTY);
            }
        }
        (self.home, self.moved) = (home.end(), moved.end());
    }
}

/// The coin's range in the order that it is laid out in, which is the same whatever the zones keep: the own zone first, then by
/// index; an aim of several zones at the first of them. With each what is lost there, and the aim, if anything is kept.
fn stretches<'a>(aims: &'a [Aim], plan: &Plan<'_>) -> Vec<(Option<&'a Aim>, f64)> {
    let mut laid = ZoneSet::EMPTY;
    let mut stretches = Vec::with_capacity(MAX_ZONES);
    let others = (0..plan.zones.len().min(MAX_ZONES)).filter(|zone| Some(*zone) != plan.own);
    for zone in plan.own.into_iter().chain(others) {
        match aims.iter().find(|aim| aim.zones.contains(zone)) {
            Some(_) if laid.contains(zone) => {}
            Some(aim) => {
                laid = laid.union(aim.zones);
                stretches.push((Some(aim), aim.loss()));
            }
            None => stretches.push((None, share_of(plan.usual, zone))),
        }
    }
    stretches
}

/// What Envoy's own weights give each of the whole zones while none gets more than its share, as shares of all requests; `None` when
/// that is their shares themselves.
fn natural(plan: &Plan<'_>, whole: &[usize], whole_share: f64) -> Option<Shares> {
    let weight = |zone: usize| f64::from(plan.weights.get(zone).copied().unwrap_or_default());
    let sum: f64 = whole.iter().map(|zone| weight(*zone)).sum();
    if sum <= 0.0 {
        return None;
    }
    let part = |zone: usize| weight(zone) / sum;
    let even =
        whole.iter().all(|zone| (share_of(plan.shares, *zone) - part(*zone) * whole_share).abs() < SAME);
    if even {
        return None;
    }
    let weighty = || whole.iter().filter(|zone| weight(**zone) > 0.0);
    let common =
        weighty().map(|zone| share_of(plan.shares, *zone) / part(*zone)).fold(f64::INFINITY, f64::min);
    Some(std::array::from_fn(|zone| if whole.contains(&zone) { common * part(zone) } else { 0.0 }))
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
        for way in &aim.ways {
            let act = match way.key {
                None => Act::Pass,
                Some(key) => Act::Serve { key, reason: if moved { Reason::Moved } else { aim.reason } },
            };
            self.push(share * way.part, act, moved, way.zones);
        }
    }

    /// The stretches, the last of them up to the end.
    fn end(mut self) -> Vec<Pick> {
        if let Some(last) = self.picks.last_mut() {
            last.upto = 1 << 32;
        }
        self.picks
    }

    fn push(&mut self, share: f64, act: Act, moved: bool, zones: ZoneSet) {
        self.at += share.max(0.0);
        let upto = (self.at * WHOLE).round() as u64;
        let from = self.picks.last().map_or(0, |pick| pick.upto);
        match self.picks.last_mut() {
            _ if upto <= from => {}
            Some(last) if last.act == act && last.moved == moved && last.zones == zones => last.upto = upto,
            _ => self.picks.push(Pick { upto, act, zones, moved }),
        }
    }
}

// === impl Way ===

impl Way {
    fn new(key: Option<u8>, part: f64, zones: &[usize]) -> Self {
        Self { key, part, zones: zones.iter().copied().collect() }
    }
}

// === impl Aim ===

impl Aim {
    /// About all zones that its ways lead to.
    fn new(plan: &Plan<'_>, ways: Vec<Way>, reason: Reason) -> Self {
        let zones = (0..MAX_ZONES).filter(|zone| ways.iter().any(|way| way.zones.contains(*zone))).collect();
        Self::about(plan, zones, ways, reason)
    }

    /// About these zones, though some of it may go elsewhere, and others' here.
    fn about(plan: &Plan<'_>, zones: ZoneSet, ways: Vec<Way>, reason: Reason) -> Self {
        let sum = |shares: &Shares| {
            (0..MAX_ZONES).filter(|zone| zones.contains(*zone)).map(|zone| share_of(shares, zone)).sum()
        };
        Self { zones, usual: sum(plan.usual), share: sum(plan.shares), ways, reason }
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
