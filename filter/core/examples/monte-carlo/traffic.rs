//! Requests by chance: arrivals at a mean rate, zones by their shares, failures by the zone's rate. One tick at a time; repeatable by
//! its seed.

use zonebreak_core::mix;

/// Zones in every trial.
pub const ZONES: usize = 3;

/// Ticks in a second.
pub const TICKS: u64 = 10;

/// One request, in the order of their ends.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    pub zone: usize,
    pub failed: bool,
}

/// Requests of one zone within a span of time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Count {
    pub n: u32,
    pub k: u32,
}

/// What ended within one tick.
#[derive(Debug, Default)]
pub struct Tick {
    pub requests: Vec<Request>,
    pub counts: [Count; ZONES],
}

/// Where requests come from.
#[derive(Debug)]
pub struct Traffic {
    /// Requests a tick, on average.
    mean: f64,
    /// Which zone a request goes to, by a coin up to each.
    upto: [f64; ZONES],
    state: u64,
}

// === impl Traffic ===

impl Traffic {
    pub fn new(rps: f64, weights: [u32; ZONES], seed: u64) -> Self {
        let whole: u32 = weights.iter().sum();
        let mut sum = 0;
        let upto = weights.map(|weight| {
            sum += weight;
            f64::from(sum) / f64::from(whole)
        });
        Self { mean: rps / TICKS as f64, upto, state: mix::mix(seed) | 1 }
    }

    /// The next tick, with these failure rates by zone.
    pub fn tick(&mut self, rates: [f64; ZONES], tick: &mut Tick) {
        tick.requests.clear();
        tick.counts = [Count::default(); ZONES];
        // The arrivals of a Poisson process: exponential gaps.
        let mut at = self.gap();
        while at < self.mean {
            let coin = self.uniform();
            let zone = self.upto.iter().position(|upto| coin < *upto).unwrap_or(ZONES - 1);
            let failed = self.uniform() < rates[zone];
            tick.requests.push(Request { zone, failed });
            tick.counts[zone].n += 1;
            tick.counts[zone].k += u32::from(failed);
            at += self.gap();
        }
    }

    /// Uniform in 0..1.
    pub fn uniform(&mut self) -> f64 {
        // xorshift64* (Vigna, 2016).
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        mix::fraction(self.state.wrapping_mul(0x2545_F491_4F6C_DD1D))
    }

    fn gap(&mut self) -> f64 {
        -(1.0 - self.uniform()).ln()
    }
}

// === impl Count ===

impl Count {
    pub const fn plus(self, other: Self) -> Self {
        Self { n: self.n + other.n, k: self.k + other.k }
    }

    pub const fn minus(self, other: Self) -> Self {
        Self { n: self.n - other.n, k: self.k - other.k }
    }

    pub fn rate(self) -> f64 {
        if self.n == 0 { 0.0 } else { f64::from(self.k) / f64::from(self.n) }
    }
}
