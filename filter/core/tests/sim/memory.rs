//! How much memory the engine takes where memory counts: the linear memory of wasm32, which grows and never shrinks.

use zonebreak_core::{
    config::{CONFIG_VERSION, FilterConfig, MAX_SERVICES, MAX_ZONES, Role, ServiceConfig},
    engine::{Coin, Engine, Now, Outcome, Totals},
    names::ServiceName,
    policy::{Mode, ServicePolicy},
};

use super::scenarios::zone;

const PAGE: usize = 64 << 10;
const NOW: u64 = 1_700_000_000_000;

/// 256 services of eight zones, all of them busy and with a zone left, under configurations that come again and again.
pub fn everything_fits_into_a_megabyte() {
    let service = || ServiceConfig {
        zones: (0..MAX_ZONES).map(|i| (zone(i), 4)).collect(),
        policy: ServicePolicy { mode: Mode::Eventual, ..ServicePolicy::default() },
        shifts: Vec::new(),
    };
    let names = (0..MAX_SERVICES).map(|i| ServiceName::new(&format!("service-number-{i:03}")).unwrap());
    let config = FilterConfig {
        version: CONFIG_VERSION,
        role: Role::Downstream,
        zone: Some(zone(0)),
        services: names.map(|name| (name, service())).collect(),
        debug_header: false,
    };
    // What the configuration itself takes is not the engine's; a chunk given back here is what small leftovers may fill.
    drop(vec![0_u8; PAGE]);
    let before = pages();
    let mut engine = Engine::default();
    engine.configure(&config, None, Now(NOW));
    for tick in 0..60_u64 {
        for id in engine.services() {
            let now_ns = (NOW + tick * 100) * 1_000_000;
            let mut totals = [Totals { ok: tick * 10, ..Totals::default() }; MAX_ZONES];
            totals[1].fail = tick.saturating_sub(30) * 10;
            for zone in engine.zones(id).to_vec() {
                let zone = engine.zone(id, &zone).unwrap();
                let attempt = engine.attempt(id, zone, now_ns);
                engine.finish(&attempt, Outcome::Ok, now_ns + 1_000_000);
            }
            engine.decide(id, Now(NOW + tick * 100), Coin::Chance(tick), || true);
            if let Some(proposal) = engine.tick(id, Now(NOW + tick * 100), &totals) {
                engine.adopt(id, &proposal.state, Now(NOW + tick * 100)).unwrap();
            }
        }
    }
    assert!(engine.services().all(|id| engine.epoch(id) > 0), "a zone of each service was left");
    let taken = (pages() - before) * PAGE;
    assert!(taken <= 1 << 20, "{taken} bytes for {MAX_SERVICES} services");
    // The new list of services is made beside the old one: that is room for two, once, however many configurations come.
    for _ in 0..200 {
        engine.configure(&config, None, Now(NOW + 6_000));
    }
    assert!((pages() - before) * PAGE <= taken + 4 * PAGE, "configurations leak: {} pages", pages() - before);
}

fn pages() -> usize {
    core::arch::wasm32::memory_size::<0>()
}
