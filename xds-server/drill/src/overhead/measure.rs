//! Runs the rounds and takes the figures. Every setup has a proxy of its own, all alive at once, and they take turns round by
//! round, so that a busy minute of the machine hits all of them alike.

use std::time::Duration;

use serde::Serialize;

use super::filters::{Setup, ZONES};
use crate::{
    closed::ClosedLoop,
    lab::{Backends, Lab, LabError},
    proxy::Proxy,
};

/// Hosts in each zone.
const HOSTS: usize = 4;

/// Connections to each proxy: enough to keep two workers busy.
const CONNECTIONS: usize = 8;

/// How much to do.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Requests to each proxy before the first round. After them memory is read.
    pub warmup: usize,
    /// Rounds; the median counts.
    pub rounds: usize,
    /// Requests in each.
    pub requests: usize,
}

/// What one proxy used.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// What ran in it.
    pub setup: Setup,
    /// Its worker threads.
    pub concurrency: u32,
    /// CPU time (user and system, all threads) in microseconds a request: the median of the rounds.
    pub cpu_us: f64,
    /// The least and the most of the rounds.
    pub cpu_us_range: (f64, f64),
    /// Median latency in the closed loop, in microseconds: the median of the rounds.
    pub p50_us: f64,
    /// Anonymous memory (`RssAnon`) before the first request, in MB (10^6 bytes).
    pub start_mb: f64,
    /// The same after the warm-up.
    pub warm_mb: f64,
    /// The same after all rounds.
    pub end_mb: f64,
}

struct Contestant {
    setup: Setup,
    proxy: Proxy,
    load: ClosedLoop,
    start_mb: f64,
    warm_mb: f64,
    cpu_us: Vec<f64>,
    p50_us: Vec<f64>,
}

/// Measures the setups at one concurrency, side by side. `progress` is told what is going on.
pub async fn measure(
    setups: &[Setup],
    concurrency: u32,
    effort: Effort,
    mut progress: impl FnMut(String),
) -> Result<Vec<Figures>, LabError> {
    let backends = Backends::start(&ZONES, HOSTS).await?;
    let mut contestants = Vec::with_capacity(setups.len());
    for &setup in setups {
        progress(format!("concurrency {concurrency}: starting {}", setup.name()));
        contestants.push(Contestant::start(setup, &backends, concurrency, effort.warmup).await?);
    }
    for round in 1..=effort.rounds {
        for contestant in &mut contestants {
            contestant.round(effort.requests).await?;
        }
        progress(format!("concurrency {concurrency}: round {round} of {}", effort.rounds));
    }
    contestants.into_iter().map(|contestant| contestant.figures(concurrency)).collect()
}

// === impl Contestant ===

impl Contestant {
    async fn start(
        setup: Setup,
        backends: &Backends,
        concurrency: u32,
        warmup: usize,
    ) -> Result<Self, LabError> {
        let proxy = setup.start(&Lab::new()?, backends, concurrency).await?;
        let start_mb = megabytes(&proxy)?;
        let mut load = ClosedLoop::connect(proxy.target(), CONNECTIONS).await?;
        load.send(warmup).await?;
        let warm_mb = megabytes(&proxy)?;
        Ok(Self { setup, proxy, load, start_mb, warm_mb, cpu_us: Vec::new(), p50_us: Vec::new() })
    }

    async fn round(&mut self, requests: usize) -> Result<(), LabError> {
        let before = self.proxy.envoy().cpu_time()?;
        let latencies = self.load.send(requests).await?;
        let used = self.proxy.envoy().cpu_time()?.saturating_sub(before);
        self.cpu_us.push(microseconds(used) / latencies.len() as f64);
        self.p50_us.push(median(latencies.into_iter().map(microseconds).collect()));
        Ok(())
    }

    fn figures(self, concurrency: u32) -> Result<Figures, LabError> {
        let fold = |f: fn(f64, f64) -> f64, from: f64| self.cpu_us.iter().copied().fold(from, f);
        Ok(Figures {
            setup: self.setup,
            concurrency,
            cpu_us_range: (fold(f64::min, f64::INFINITY), fold(f64::max, 0.0)),
            p50_us: median(self.p50_us),
            start_mb: self.start_mb,
            warm_mb: self.warm_mb,
            end_mb: megabytes(&self.proxy)?,
            cpu_us: median(self.cpu_us),
        })
    }
}

fn megabytes(proxy: &Proxy) -> Result<f64, LabError> {
    Ok(proxy.envoy().memory()?.anonymous as f64 / 1e6)
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// The middle value, or the mean of the two in the middle; 0 of none.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.get(middle) {
        None => 0.0,
        Some(&upper) if values.len() % 2 == 1 => upper,
        Some(&upper) => (values[middle - 1] + upper) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(vec![]), 0.0);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn static_setups_are_measured_and_pass_every_request() {
        let effort = Effort { warmup: 200, rounds: 2, requests: 400 };
        let setups = [Setup::None, Setup::EmptyWasm, Setup::Lua];
        let figures = measure(&setups, 1, effort, |_| {}).await.unwrap();
        assert_eq!(figures.iter().map(|f| f.setup).collect::<Vec<_>>(), setups);
        for f in &figures {
            assert!(f.cpu_us > 0.0 && f.p50_us > 0.0, "{f:?}");
            assert!(f.start_mb > 1.0 && f.warm_mb > 1.0 && f.end_mb > 1.0, "{f:?}");
        }
        // V8 alone takes more than three: without it the filter would not have been loaded.
        assert!(figures[1].warm_mb > figures[0].warm_mb + 1.5, "{figures:?}");
    }
}
