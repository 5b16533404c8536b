//! One contender under one fault: builds a lab of its own, loads it, breaks it, mends it. Measures; `verdict.rs` sums up.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::{
    contender::Contender,
    native,
    scenario::{BROKEN, HOSTS, Scenario, ZONES},
    verdict::{Moments, Verdict},
};
use crate::{
    embedded::EmbeddedOptions,
    lab::{Backends, Fault, Lab, LabError, Load, LoadOptions, until},
    proxy::Proxy,
    world::{SERVICE, SOON},
};

/// How long each part of a trial takes.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Under load before the fault, so that connections are open and windows filled.
    pub steady: Duration,
    /// The fault.
    pub fault: Duration,
    /// Under load after it.
    pub recovery: Duration,
}

/// One cell of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Trial {
    /// Who.
    pub contender: Contender,
    /// Under what.
    pub scenario: Scenario,
    /// What it cost.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// Runs one trial from nothing, and takes everything down after it.
pub async fn run(contender: Contender, scenario: Scenario, timing: Timing) -> Result<Trial, LabError> {
    let lab = Lab::new()?;
    let backends = Backends::start(&ZONES, HOSTS).await?;
    let proxy = proxy(&lab, contender, &backends).await?;
    let load = Load::start(LoadOptions::new(proxy.target(), SERVICE, scenario.rate()))?;
    until("a second without a failure", SOON, async || {
        let recent = load.recent(Duration::from_secs(1));
        let enough = scenario.rate() * 0.8;
        if recent.total.failed == 0 && recent.total.requests as f64 >= enough {
            Ok(())
        } else {
            Err(format!("{recent:?}"))
        }
    })
    .await?;

    let steady = Instant::now();
    tokio::time::sleep(timing.steady).await;
    let onset = Instant::now();
    scenario.begin(&backends);
    tokio::time::sleep(timing.fault).await;
    backends.set_fault(Fault::None);
    let clear = Instant::now();
    tokio::time::sleep(timing.recovery).await;
    let end = Instant::now();
    let samples = load.stop().await;
    let at = Moments { steady, onset, clear, end };
    let verdict = Verdict::of(&samples, backends.zone(BROKEN).timeline(), at);
    Ok(Trial { contender, scenario, verdict })
}

async fn proxy(lab: &Lab, contender: Contender, backends: &Backends) -> Result<Proxy, LabError> {
    match contender.policy() {
        Some(policy) => {
            Proxy::ours(lab, backends, EmbeddedOptions { policy, ..EmbeddedOptions::default() }).await
        }
        None => Proxy::fixed(lab, backends, native::bootstrap(contender, backends), 1).await,
    }
}
