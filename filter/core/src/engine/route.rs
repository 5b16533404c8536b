//! Where the requests of one service go at the moment: shares, the table made of them, and until when both hold. Worked out
//! from a state; changes none.

use crate::{
    breaker::{ServiceState, Shifted, State, Tuning},
    config::MAX_ZONES,
    engine::cell::Cell,
    names::Zone,
    picker::{Plan, Table},
    policy::{AbortPolicy, AbortWhen, Mode},
    shares::{self, Shares},
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
    /// Requests to fail on purpose, in permille.
    pub abort: u16,
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
    pub mode: Mode,
    pub has_weights: bool,
    pub tuning: &'a Tuning,
    pub state: &'a ServiceState,
    pub cells: &'a [Cell],
    pub abort: Option<&'a AbortPolicy>,
    pub spill: Option<f64>,
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
        let usual = shares::usual(terrain.mode, terrain.own, terrain.has_weights, &weights);
        let keep = terrain.keep(now);
        let kept = keep.get(..weights.len()).unwrap_or(&[]);
        let shares = shares::target(&usual, kept, &weights);
        let plan = terrain.plan(now, &usual, shares.as_ref().unwrap_or(&usual), kept, &weights);
        let mut table = if shares.is_some() { Table::new(&plan) } else { Table::default() };
        let trial = terrain.on_trial(now).and_then(|zone| Some((zone as u8, table.trial(&plan, zone)?)));
        let drains = || terrain.cells.iter().filter_map(|cell| cell.drain(now)).map(|drain| drain.until);
        Self {
            trial,
            table,
            abort: terrain.abort(now, &keep),
            from: now,
            until: drains().chain(terrain.next_ramp_step(now)).min().unwrap_or(u64::MAX),
            relief: drains().min(),
            keep: keep.map(|keep| Percent::new(keep * 100.0).unwrap_or_default()),
        }
    }
}

// === impl Terrain ===

impl<'a> Terrain<'a> {
    /// What each zone keeps of its usual share: the breaker's word times the operator's.
    fn keep(&self, now: u64) -> [f64; MAX_ZONES] {
        let both = || self.cells.iter().zip(&self.state.zones);
        let operator = |cell: &Cell| cell.drain(now).map_or(1.0, |drain| drain.keep.fraction());
        let fill = |of: &dyn Fn(&Cell, f64) -> f64| {
            let mut keep = [0.0; MAX_ZONES];
            for (keep, (cell, zone)) in keep.iter_mut().zip(both()) {
                *keep = of(cell, zone.keep(self.tuning, now));
            }
            keep
        };
        let keep = fill(&|cell, breaker| match shifted(cell, now) {
            Shifted::Held => 1.0,
            _ => operator(cell) * breaker,
        });
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
            spill: self.spill.unwrap_or(1.0),
        }
    }

    fn on_trial(&self, now: u64) -> Option<usize> {
        self.state.zones.iter().zip(self.cells).position(|(zone, cell)| {
            self.tuning.acts()
                && zone.state == State::HalfOpen
                && matches!(shifted(cell, now), Shifted::No | Shifted::Part)
        })
    }

    /// Shadowed states are no reason to fail requests: they leave the traffic alone.
    fn abort(&self, now: u64, keep: &[f64]) -> u16 {
        let Some(abort) = self.abort else { return 0 };
        let degraded = keep.iter().zip(self.cells).any(|(keep, _)| *keep < 1.0);
        let open = self.cells.iter().zip(&self.state.zones).any(|(cell, zone)| {
            shifted(cell, now) == Shifted::Whole || (self.tuning.acts() && zone.state == State::Open)
        });
        let applies = match abort.when {
            AbortWhen::Always => true,
            AbortWhen::ZoneDegraded => degraded,
            AbortWhen::ZoneOpen => open,
        };
        if applies { abort.percent.permille() } else { 0 }
    }

    fn next_ramp_step(&self, now: u64) -> Option<u64> {
        let ramps = self.tuning.acts() && self.state.zones.iter().any(|zone| zone.state == State::Ramp);
        let step = self.tuning.ramp_ms.checked_div(RAMP_STEPS).unwrap_or_default().max(RAMP_STEP_MS);
        ramps.then(|| now.saturating_add(step))
    }
}
