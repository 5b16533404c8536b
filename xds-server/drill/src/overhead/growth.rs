//! Whether a proxy's memory grows with the requests that it serves: anonymous memory after a warm-up, and again and again until the
//! last of very many. Measures; judges nothing.

use std::time::{Duration, Instant};

use super::filters::{Setup, ZONES};
use crate::{
    closed::ClosedLoop,
    lab::{Backends, Lab, LabError},
};

/// Connections: enough to keep two workers busy.
const CONNECTIONS: usize = 16;

/// Looks at the memory on the way.
const LOOKS: usize = 10;

/// What a proxy held.
#[derive(Debug, Clone)]
pub struct Growth {
    /// Requests after the warm-up.
    pub requests: usize,
    /// How long they took.
    pub took: Duration,
    /// `RssAnon` in bytes: after the warm-up, and then after each tenth of the requests.
    pub held: Vec<u64>,
}

/// Sends so many requests through Zonebreak's proxy, after `warmup` others. `progress` is told what is going on.
pub async fn growth(
    concurrency: u32,
    warmup: usize,
    requests: usize,
    mut progress: impl FnMut(String),
) -> Result<Growth, LabError> {
    let backends = Backends::start(&ZONES, 1).await?;
    let proxy = Setup::Ours.start(&Lab::new()?, &backends, concurrency).await?;
    let mut load = ClosedLoop::connect(proxy.target(), CONNECTIONS).await?;
    let held = || Ok::<_, LabError>(proxy.envoy().memory()?.anonymous);
    progress(format!("{warmup} requests to warm up"));
    load.send(warmup).await?;
    let mut growth = Growth { requests: 0, took: Duration::ZERO, held: vec![held()?] };
    let began = Instant::now();
    while growth.requests < requests {
        growth.requests += load.send((requests / LOOKS).max(1)).await?.len();
        growth.held.push(held()?);
        progress(format!("{} requests: {growth}", growth.requests));
    }
    growth.took = began.elapsed();
    Ok(growth)
}

// === impl Growth ===

impl Growth {
    /// What it holds more at the end than after the warm-up, in bytes.
    pub fn grown(&self) -> u64 {
        let (first, last) = (self.held.first(), self.held.last());
        last.zip(first).map_or(0, |(last, first)| last.saturating_sub(*first))
    }
}

impl std::fmt::Display for Growth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let first = self.held.first().copied().unwrap_or_default() as f64 / 1e6;
        write!(f, "{first:.1} MB after the warm-up, {:+.0} kB since", self.grown() as f64 / 1e3)
    }
}
