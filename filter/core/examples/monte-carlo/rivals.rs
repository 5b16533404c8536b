//! What else there is: the breakers people use, and the tests that statistics offers, each applied to zones.

use std::collections::VecDeque;

use zonebreak_core::stats::{score, wilson_upper};

use crate::{
    detector::Detector,
    traffic::{Count, TICKS, Tick, ZONES},
};

/// gobreaker's default (`ReadyToTrip`: more than 5 consecutive failures), a breaker for each zone.
#[derive(Debug, Default)]
pub struct Consecutive([u32; ZONES]);

/// resilience4j's default: a window of the last 100 calls, failure rate 50 %, at least 100 calls; a breaker for each zone.
#[derive(Debug, Default)]
pub struct Percentage([VecDeque<bool>; ZONES]);

/// A fifth of at least 20 requests in 10 s failed.
#[derive(Debug, Default)]
pub struct Absolute(Past);

/// A cumulative sum of log likelihood ratios: the zone's rate is its peers' of the last minute, against ten points more (E. S. Page,
/// "Continuous inspection schemes", 1954). Trips at 8.
#[derive(Debug, Default)]
pub struct Cusum {
    past: Past,
    sums: [f64; ZONES],
}

/// A test of a zone against its peers in four windows: 0.5, 2, 10 and 60 s.
#[derive(Debug)]
pub struct Plain {
    past: Past,
    rule: Rule,
}

/// How two rates are compared.
#[derive(Debug, Clone, Copy)]
pub enum Rule {
    /// The pooled z test for two proportions.
    TwoProportions { z: f64 },
    /// `n * KL(k/n || u)`, with u the upper end of Wilson's interval of the peers.
    Divergence { z: f64, score: f64 },
}

/// Counts of the last minute, tick by tick, and their sums over each window.
#[derive(Debug)]
struct Past {
    ticks: VecDeque<[Count; ZONES]>,
    sums: [[Count; ZONES]; WINDOWS.len()],
}

/// In ticks.
const WINDOWS: [u64; 4] = [TICKS / 2, 2 * TICKS, 10 * TICKS, 60 * TICKS];
const TEN: usize = 2;
const SIXTY: usize = 3;

// === impl Consecutive ===

impl Detector for Consecutive {
    fn watch(&mut self, tick: &Tick) -> Option<usize> {
        let mut tripped = None;
        for request in &tick.requests {
            let run = &mut self.0[request.zone];
            *run = if request.failed { *run + 1 } else { 0 };
            if *run > 5 {
                tripped = tripped.or(Some(request.zone));
            }
        }
        tripped
    }
}

// === impl Percentage ===

impl Detector for Percentage {
    fn watch(&mut self, tick: &Tick) -> Option<usize> {
        for request in &tick.requests {
            let calls = &mut self.0[request.zone];
            calls.push_back(request.failed);
            if calls.len() > 100 {
                calls.pop_front();
            }
        }
        self.0
            .iter()
            .position(|calls| calls.len() == 100 && calls.iter().filter(|failed| **failed).count() >= 50)
    }
}

// === impl Absolute ===

impl Detector for Absolute {
    fn watch(&mut self, tick: &Tick) -> Option<usize> {
        self.0.take(tick.counts);
        self.0.sums[TEN].iter().position(|count| count.n >= 20 && count.rate() >= 0.2)
    }
}

// === impl Cusum ===

impl Detector for Cusum {
    fn watch(&mut self, tick: &Tick) -> Option<usize> {
        for zone in 0..ZONES {
            let good = others(&self.past.sums[SIXTY], zone).rate().clamp(0.005, 0.85);
            let bad = good + 0.1;
            let Count { n, k } = tick.counts[zone];
            let step =
                f64::from(k) * (bad / good).ln() + f64::from(n - k) * ((1.0 - bad) / (1.0 - good)).ln();
            self.sums[zone] = (self.sums[zone] + step).max(0.0);
        }
        self.past.take(tick.counts);
        self.sums.iter().position(|sum| *sum >= 8.0)
    }
}

// === impl Plain ===

impl Plain {
    pub fn new(rule: Rule) -> Self {
        Self { past: Past::default(), rule }
    }

    fn is_worse(&self, zone: Count, peers: Count) -> bool {
        if zone.k < 3 || peers.n < 5 || zone.rate() < peers.rate() + 0.05 {
            return false;
        }
        let peers_n = f64::from(peers.n);
        match self.rule {
            Rule::TwoProportions { z } => {
                let pooled = zone.plus(peers).rate();
                let deviation = (pooled * (1.0 - pooled) * (1.0 / f64::from(zone.n) + 1.0 / peers_n)).sqrt();
                zone.rate() - peers.rate() >= z * deviation
            }
            Rule::Divergence { z, score: needed } => {
                score(zone.k, zone.n, wilson_upper(peers.rate(), peers_n, z).max(0.005)) >= needed
            }
        }
    }
}

impl Detector for Plain {
    fn watch(&mut self, tick: &Tick) -> Option<usize> {
        self.past.take(tick.counts);
        let worse = |sums: &[Count; ZONES], zone: usize| self.is_worse(sums[zone], others(sums, zone));
        self.past.sums.iter().find_map(|sums| (0..ZONES).find(|zone| worse(sums, *zone)))
    }
}

// === impl Past ===

impl Default for Past {
    fn default() -> Self {
        Self { ticks: VecDeque::new(), sums: [[Count::default(); ZONES]; WINDOWS.len()] }
    }
}

impl Past {
    fn take(&mut self, counts: [Count; ZONES]) {
        self.ticks.push_front(counts);
        for (sums, width) in self.sums.iter_mut().zip(WINDOWS) {
            let gone = self.ticks.get(width as usize).copied().unwrap_or_default();
            for ((sum, new), gone) in sums.iter_mut().zip(counts).zip(gone) {
                *sum = sum.plus(new).minus(gone);
            }
        }
        self.ticks.truncate(WINDOWS[SIXTY] as usize);
    }
}

fn others(counts: &[Count; ZONES], zone: usize) -> Count {
    counts.iter().fold(Count::default(), |all, one| all.plus(*one)).minus(counts[zone])
}
