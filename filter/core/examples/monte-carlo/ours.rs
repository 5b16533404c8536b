//! Ours: the engine that runs in the filter, fed with counters as the filter feeds it. No re-implementation, no shortcut.

use zonebreak_core::{
    config::{CONFIG_VERSION, FilterConfig, Role, ServiceConfig},
    engine::{Engine, Now, ServiceId, State, Totals},
    names::{ServiceName, Zone},
    policy::{BreakerPolicy, Mode, Sensitivity, ServicePolicy},
};

use crate::{
    detector::Detector,
    traffic::{TICKS, Tick, ZONES},
};

/// One worker of a proxy in the first zone.
#[derive(Debug)]
pub struct Ours {
    engine: Engine,
    service: ServiceId,
    zones: Vec<Zone>,
    totals: [Totals; ZONES],
    now: u64,
}

// === impl Ours ===

impl Ours {
    pub fn new(weights: [u32; ZONES], sensitivity: Sensitivity) -> Self {
        let name = ServiceName::new("order-svc").expect("a name");
        let zones = ["az-a", "az-b", "az-c"].map(|zone| Zone::new(zone).expect("a name"));
        let policy = ServicePolicy {
            mode: Mode::Eventual,
            weights: zones.iter().cloned().zip(weights).collect(),
            breaker: BreakerPolicy { sensitivity, ..BreakerPolicy::default() },
            ..ServicePolicy::default()
        };
        let service = ServiceConfig {
            zones: zones.iter().map(|zone| (zone.clone(), 4)).collect(),
            policy,
            shifts: Vec::new(),
        };
        let config = FilterConfig {
            version: CONFIG_VERSION,
            role: Role::Downstream,
            zone: zones.first().cloned(),
            services: [(name, service)].into(),
            debug_header: false,
        };
        let (mut engine, now) = (Engine::default(), 1_700_000_000_000);
        engine.configure(&config, None, Now(now));
        let service = engine.service("order-svc").expect("the service just configured");
        // The first reading of the counters is where counting begins.
        let totals = [Totals::default(); ZONES];
        assert_eq!(engine.tick(service, Now(now), &totals), None);
        Self { engine, service, zones: zones.to_vec(), totals, now }
    }
}

impl Detector for Ours {
    fn watch(&mut self, tick: &Tick) -> Option<usize> {
        self.now += 1_000 / TICKS;
        for (totals, count) in self.totals.iter_mut().zip(&tick.counts) {
            totals.ok += u64::from(count.n - count.k);
            totals.fail += u64::from(count.k);
        }
        let proposal = self.engine.tick(self.service, Now(self.now), &self.totals)?;
        let left = proposal.transitions.iter().find(|transition| transition.to == State::Open)?;
        self.zones.iter().position(|zone| *zone == left.zone)
    }
}
