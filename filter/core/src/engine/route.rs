//! Where the requests of one service go at the moment: shares, the table made of them, and until when both hold. Worked out
//! from a state and the rules of a policy; changes none.

use crate::{
    breaker::{ServiceState, Shed, Shifted, State, Tuning},
    config::MAX_ZONES,
    engine::cell::Cell,
    names::Zone,
    picker::{Plan, Table},
    policy::{AbortPolicy, AbortWhen, Mode, ServicePolicy, Spread},
    shares::{self, Shares, share_of},
    subset::ZoneSet,
    units::Percent,
};

/// The standing answers to requests.
#[derive(Debug, Clone, Default)]
pub(super) struct Route {
    pub table: Table,
    /// What each zone keeps.
    pub keep: [Percent; MAX_ZONES],
    /// The zone on trial, and the place of the key that leads there, if one is needed.
    pub trial: Option<(u8, Option<u8>)>,
    /// Requests to fail on purpose, and of the rest those to delay, in permille.
    pub abort: u16,
    /// See `abort`.
    pub delay: u16,
    /// The zones that both are about, unless it is all.
    only: Option<ZoneSet>,
    /// Nothing is moved but what a gray zone sheds, which it could serve as well.
    pub shedding: bool,
    /// Holds from here (Unix ms) up to there.
    from: u64,
    until: u64,
    /// When the next drain ends, if no zone is left; Unix ms.
    pub relief: Option<u64>,
}

/// What a route is worked out from.
pub(super) struct Terrain<'a> {
    pub zones: &'a [Zone],
    pub own: Option<usize>,
    pub rules: &'a Rules,
    /// Weights that lean to the faster zones, where that is asked for.
    pub leaning: Option<&'a [u32]>,
    pub tuning: &'a Tuning,
    pub state: &'a ServiceState,
    pub shed: Option<Shed>,
    pub cells: &'a [Cell],
    pub drill: Option<&'a Drill>,
}

/// A policy's word on shares.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rules {
    pub mode: Mode,
    pub has_weights: bool,
    pub by_latency: bool,
    pub sticky: bool,
    explore: Percent,
    /// Infinite where there is no bound.
    max_share: f64,
    headroom: f64,
}

/// Requests failed or delayed on purpose, as configured.
#[derive(Debug, Clone)]
pub(super) struct Drill {
    percent: Percent,
    pub status: u16,
    when: AbortWhen,
    only: Option<ZoneSet>,
    /// Unix ms.
    until: u64,
    pub delay_ms: u32,
    delay_percent: Percent,
}

/// Steps in which a ramp rises, and the least time between two, in ms.
const RAMP_STEPS: u64 = 64;
const RAMP_STEP_MS: u64 = 100;

/// A clock that jumps back by more than this, in ms, makes a route be worked out anew.
const CLOCK_SLACK_MS: u64 = 1_000;

/// What the operator's drain does to a zone now.
pub(super) fn shifted(cell: &Cell, now: u64) -> Shifted {
    match cell.drain(now).map(|drain| drain.keep) {
        None => Shifted::No,
        Some(Percent::ZERO) => Shifted::Whole,
        Some(Percent::FULL) => Shifted::Held,
        Some(_) => Shifted::Part,
    }
}

// === impl Route ===

impl Route {
    /// Whether it holds at `now`.
    pub fn holds(&self, now: u64) -> bool {
        now < self.until && now.saturating_add(CLOCK_SLACK_MS) >= self.from
    }

    /// Makes it be worked out anew.
    pub fn expire(&mut self) {
        self.until = 0;
    }

    /// Works out the route.
    pub fn new(terrain: &Terrain<'_>, now: u64) -> Self {
        let weights: Vec<u32> = terrain.cells.iter().map(|cell| cell.weight).collect();
        let pull = terrain.leaning.filter(|leaning| leaning.len() == weights.len()).unwrap_or(&weights);
        let rules = terrain.rules;
        let explore = rules.explore.fraction();
        let usual = shares::usual(rules.mode, terrain.own, explore, rules.has_weights, pull);
        let keep = terrain.keep(now, &usual);
        let kept = keep.get(..weights.len()).unwrap_or(&[]);
        let room = rules.headroom.is_finite().then(|| {
            let capacities: Vec<u32> = terrain.cells.iter().map(|cell| cell.capacity).collect();
            shares::room(rules.headroom, &capacities, kept)
        });
        let target = shares::target(&usual, kept, pull, room.as_ref());
        let (shares, fits) = target.map_or((None, 1.0), |(shares, fits)| (Some(shares), fits));
        let drill = terrain.drill.filter(|drill| terrain.applies(drill, now, &keep));
        let only = drill.and_then(|drill| drill.only);
        let plan = Plan {
            spill: rules.max_share,
            fits,
            named: rules.sticky || only.is_some(),
            ..terrain.plan(now, &usual, shares.as_ref().unwrap_or(&usual), kept, &weights)
        };
        let mut table = if shares.is_some() { Table::new(&plan) } else { Table::default() };
        let ends = drill.map(|drill| drill.until);
        let trial = terrain.on_trial(now).and_then(|zone| Some((zone as u8, table.trial(&plan, zone)?)));
        let drains = || terrain.cells.iter().filter_map(|cell| cell.drain(now)).map(|drain| drain.until);
        Self {
            trial,
            table,
            abort: drill.map_or(0, |drill| drill.percent.permille()),
            delay: drill
                .map_or(0, |drill| if drill.delay_ms > 0 { drill.delay_percent.permille() } else { 0 }),
            only,
            shedding: terrain.shed.is_some() && kept.iter().all(|keep| *keep > 0.0),
            from: now,
            until: drains().chain(terrain.next_ramp_step(now)).chain(ends).min().unwrap_or(u64::MAX),
            relief: drains().min(),
            keep: keep.map(|keep| Percent::new(keep * 100.0).unwrap_or_default()),
        }
    }
}

impl Route {
    /// Whether a request that may go to these zones is one that a drill is about.
    pub fn drills(&self, zones: ZoneSet) -> bool {
        self.only.is_none_or(|only| !zones.is_empty() && zones.is_within(only))
    }
}

// === impl Rules ===

impl From<&ServicePolicy> for Rules {
    fn from(policy: &ServicePolicy) -> Self {
        let bound = |bound: Option<f64>| bound.unwrap_or(f64::INFINITY);
        Self {
            mode: policy.mode,
            has_weights: !policy.weights.is_empty(),
            by_latency: policy.spread == Spread::ByLatency,
            sticky: policy.sticky.is_some(),
            explore: policy.explore,
            max_share: bound(policy.spill.as_ref().and_then(|spill| spill.max_share)),
            headroom: bound(policy.spill.as_ref().and_then(|spill| spill.headroom)),
        }
    }
}

impl Rules {
    /// Whether more zones than the own one have a share while all is well.
    pub fn splits(&self, own: Option<u8>) -> bool {
        self.mode != Mode::Strong || own.is_none() || self.explore > Percent::ZERO
    }
}

// === impl Drill ===

impl Drill {
    /// Of a policy, for these zones.
    pub fn new(policy: &AbortPolicy, zones: &[Zone]) -> Self {
        let named = zones.iter().enumerate().filter(|(_, zone)| policy.zones.contains(zone));
        Self {
            percent: policy.percent,
            status: policy.status,
            when: policy.when,
            only: (!policy.zones.is_empty()).then(|| named.map(|(at, _)| at).collect()),
            until: policy.until.map_or(u64::MAX, |until| until.0),
            delay_ms: policy.delay.map_or(0, |delay| u32::try_from(delay.0).unwrap_or(u32::MAX)),
            delay_percent: policy.delay_percent,
        }
    }
}

// === impl Terrain ===

impl<'a> Terrain<'a> {
    /// What each zone keeps of its usual share: the breaker's word times the operator's.
    fn keep(&self, now: u64, usual: &Shares) -> [f64; MAX_ZONES] {
        let both = || self.cells.iter().zip(&self.state.zones);
        let operator = |cell: &Cell| cell.drain(now).map_or(1.0, |drain| drain.keep.fraction());
        let fill = |of: &dyn Fn(&Cell, f64) -> f64| {
            let mut keep = [0.0; MAX_ZONES];
            for (keep, (cell, zone)) in keep.iter_mut().zip(both()) {
                *keep = of(cell, zone.keep(self.tuning, now));
            }
            keep
        };
        let mut keep = fill(&|cell, breaker| match shifted(cell, now) {
            Shifted::Held => 1.0,
            _ => operator(cell) * breaker,
        });
        if let Some(shed) = self.shed
            && let Some(keep) = keep.get_mut(usize::from(shed.zone))
        {
            *keep = keep.min(shed.keeps(self.least(usize::from(shed.zone), usual)));
        }
        // The breaker yields where it has left a zone and the operator has drained the others since: the last zone stays.
        if keep.iter().all(|keep| *keep < 1.0) { fill(&|cell, _| operator(cell)) } else { keep }
    }

    fn plan<'p>(
        &'p self,
        now: u64,
        usual: &'p Shares,
        shares: &'p Shares,
        keep: &'p [f64],
        weights: &'p [u32],
    ) -> Plan<'p> {
        let those = |what: &dyn Fn(&Cell) -> bool| {
            let zones = self.cells.iter().enumerate();
            zones.filter(|(_, cell)| what(cell)).map(|(i, _)| i).collect::<ZoneSet>()
        };
        Plan {
            zones: self.zones,
            own: self.own,
            usual,
            shares,
            keep,
            weights,
            drained: those(&|cell| shifted(cell, now) == Shifted::Whole),
            pinned: those(&|cell| cell.is_pinned(now)),
            spill: 1.0,
            fits: 1.0,
            named: false,
        }
    }

    /// What a zone must keep for the others to have room for the rest.
    fn least(&self, zone: usize, usual: &Shares) -> f64 {
        let all: f64 = self.cells.iter().map(|cell| f64::from(cell.capacity)).sum();
        let own = self.cells.get(zone).map_or(0.0, |cell| f64::from(cell.capacity));
        let by_capacity = 1.0 - self.rules.headroom * (all - own) / own;
        let by_share = 1.0 - self.rules.max_share / share_of(usual, zone);
        // Nothing of nothing is no number, and no bound.
        [by_capacity, by_share].into_iter().filter(|least| least.is_finite()).fold(0.0, f64::max)
    }

    fn on_trial(&self, now: u64) -> Option<usize> {
        self.state.zones.iter().zip(self.cells).position(|(zone, cell)| {
            self.tuning.acts()
                && zone.state == State::HalfOpen
                && matches!(shifted(cell, now), Shifted::No | Shifted::Part)
        })
    }

    /// Whether a drill is on. Shadowed states are no reason for one: they leave the traffic alone.
    fn applies(&self, drill: &Drill, now: u64, keep: &[f64]) -> bool {
        let degraded = || keep.iter().zip(self.cells).any(|(keep, _)| *keep < 1.0);
        let open = || {
            self.cells.iter().zip(&self.state.zones).any(|(cell, zone)| {
                shifted(cell, now) == Shifted::Whole || (self.tuning.acts() && zone.state == State::Open)
            })
        };
        now < drill.until
            && match drill.when {
                AbortWhen::Always => true,
                AbortWhen::ZoneDegraded => degraded(),
                AbortWhen::ZoneOpen => open(),
            }
    }

    fn next_ramp_step(&self, now: u64) -> Option<u64> {
        let ramps = self.tuning.acts() && self.state.zones.iter().any(|zone| zone.state == State::Ramp);
        let step = self.tuning.ramp_ms.checked_div(RAMP_STEPS).unwrap_or_default().max(RAMP_STEP_MS);
        ramps.then(|| now.saturating_add(step))
    }
}
