//! One server, one plan: connect, count its memory, time single changes, keep a pace, reconnect everybody. Takes figures; judges none.

use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;

use super::contender::{Cache, Contender, Servers};
use super::plan::Plan;
use super::swarm::{Arrival, Swarm};
use crate::lab::{cpu_time, memory};

/// The longest that anything is waited for.
const TOO_LONG: Duration = Duration::from_secs(90);
/// How long everything is left alone before memory is read, and between two changes that are timed one by one.
const REST: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(100);

/// What was measured. Times in milliseconds, from the moment a change was ordered to the moment a client had read it.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// The server.
    pub cache: Cache,
    /// From the first connection to the last stream having all, in seconds.
    pub connect_s: f64,
    /// Anonymous memory a stream, idle, above the same server without streams, in KiB.
    pub idle_kib: f64,
    /// How many single changes were timed. The next three are medians over these.
    pub triggers: usize,
    /// Half of the streams had it.
    pub p50_ms: f64,
    /// 99 % of the streams had it.
    pub p99_ms: f64,
    /// All had it.
    pub last_ms: f64,
    /// Bytes of responses that one change cost, a stream.
    pub bytes: f64,
    /// Server CPU that one change cost, a stream, in microseconds.
    pub cpu_us: f64,
    /// At a pace.
    pub sustained: Option<Sustained>,
    /// After all streams broke.
    pub storm: Option<Storm>,
}

/// Changes at a pace.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Sustained {
    /// Changes a second, until the last stream had the last.
    pub held: f64,
    /// From when a change was due, over all changes and streams.
    pub p50_ms: f64,
    /// The same.
    pub p99_ms: f64,
    /// Responses for each change and stream: below 1 where changes were merged.
    pub responses: f64,
    /// The server's CPU, in cores.
    pub cores: f64,
    /// The swarm's.
    pub swarm_cores: f64,
}

/// All streams reconnect at once, with what they had; one change was made while they were away.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Storm {
    /// Until the last stream had the change, in seconds.
    pub seconds: f64,
    /// Resources that each stream was sent; 1 is what changed.
    pub resources: f64,
    /// Bytes of responses, a stream.
    pub bytes: f64,
    /// CPU of the server until then, in seconds.
    pub cpu_s: f64,
    /// The swarm's.
    pub swarm_cpu_s: f64,
}

/// Measures one server. Must run on a single-threaded runtime inside a local set, as the swarm does.
///
/// # Errors
/// When the server cannot be started, ends, ends a stream, or does not answer within a minute and a half.
pub async fn measure(servers: &Servers, cache: Cache, plan: &Plan) -> anyhow::Result<Figures> {
    let mut server = Contender::start(servers, cache, plan.services).await?;
    let Connected { swarm, connect_s, idle_kib } = connect(&mut server, plan).await?;
    let mut next = 1;
    let single = singles(&mut server, &swarm, plan, &mut next).await?;
    let sustained = match plan.sustain {
        Duration::ZERO => None,
        _ => Some(sustain(&mut server, &swarm, plan, &mut next).await?),
    };
    let storm = storm(&mut server, swarm, plan, next).await?;

    let streams = plan.streams as f64;
    let each = |value: f64| value / (single.times.len().max(1) as f64 * streams);
    Ok(Figures {
        cache,
        connect_s,
        idle_kib,
        triggers: single.times.len(),
        p50_ms: median(single.times.iter().map(|of| of[0])),
        p99_ms: median(single.times.iter().map(|of| of[1])),
        last_ms: median(single.times.iter().map(|of| of[2])),
        bytes: each(single.bytes as f64),
        cpu_us: each(single.cpu.as_secs_f64() * 1e6),
        sustained,
        storm: Some(storm),
    })
}

/// What HTTP/2 alone takes of a stream, in KiB: the same server and swarm without an engine between them, incremental.
///
/// # Errors
/// As [`measure`].
pub async fn floor(servers: &Servers, plan: &Plan) -> anyhow::Result<f64> {
    let mut server = Contender::bare(servers).await?;
    connect(&mut server, plan).await.map(|connected| connected.idle_kib)
}

struct Connected {
    swarm: Swarm,
    connect_s: f64,
    idle_kib: f64,
}

async fn connect(server: &mut Contender, plan: &Plan) -> anyhow::Result<Connected> {
    server.settle().await?;
    tokio::time::sleep(REST).await;
    let empty = memory(server.pid)?.anonymous;

    let started = Instant::now();
    let swarm = Swarm::connect(server.address, plan, None);
    swarm.settled(plan.streams, TOO_LONG).await.context("failed to connect all streams")?;
    let connect_s = started.elapsed().as_secs_f64();
    tokio::time::sleep(REST).await;
    server.settle().await?;
    tokio::time::sleep(REST).await;
    let idle = memory(server.pid)?.anonymous.saturating_sub(empty);
    Ok(Connected { swarm, connect_s, idle_kib: idle as f64 / 1024.0 / plan.streams as f64 })
}

struct Singles {
    /// p50, p99 and last of each change.
    times: Vec<[f64; 3]>,
    bytes: usize,
    cpu: Duration,
}

async fn singles(
    server: &mut Contender,
    swarm: &Swarm,
    plan: &Plan,
    next: &mut u64,
) -> anyhow::Result<Singles> {
    let started = Instant::now();
    let mut single = Singles { times: Vec::new(), bytes: 0, cpu: Duration::ZERO };
    let (mut bytes, mut cpu) = (swarm.received().bytes, cpu_time(server.pid)?);
    // The first two warm up caches and are not counted.
    for warm in (0..plan.triggers + 2).map(|trigger| trigger >= 2) {
        let change = *next;
        *next += 1;
        swarm.arrivals();
        swarm.expect(change);
        let ordered = Instant::now();
        server.change(change).await?;
        swarm.reached(TOO_LONG).await.with_context(|| format!("failed to bring change {change} to all"))?;
        server.changed(change).await?;
        if warm {
            let mut times: Vec<f64> =
                swarm.arrivals().iter().map(|arrival| millis(ordered, arrival.at)).collect();
            single.times.push([
                quantile(&mut times, 0.5),
                quantile(&mut times, 0.99),
                quantile(&mut times, 1.0),
            ]);
        }
        tokio::time::sleep(PAUSE).await;
        if !warm {
            (bytes, cpu) = (swarm.received().bytes, cpu_time(server.pid)?);
        }
        if started.elapsed() > plan.patience && single.times.len() >= 2 {
            break;
        }
    }
    single.bytes = swarm.received().bytes - bytes;
    single.cpu = cpu_time(server.pid)?.saturating_sub(cpu);
    Ok(single)
}

async fn sustain(
    server: &mut Contender,
    swarm: &Swarm,
    plan: &Plan,
    next: &mut u64,
) -> anyhow::Result<Sustained> {
    swarm.arrivals();
    let first = *next;
    let (responses, cpu, own) =
        (swarm.received().responses, cpu_time(server.pid)?, cpu_time(std::process::id())?);
    let started = Instant::now();
    let mut due = Vec::new();
    loop {
        let at = started + Duration::from_secs(1) * u32::try_from(due.len())? / plan.rate;
        if at >= started + plan.sustain || started.elapsed() >= plan.sustain {
            break;
        }
        tokio::time::sleep_until(at.into()).await;
        due.push(at);
        server.change(*next).await?;
        server.changed(*next).await?;
        *next += 1;
    }
    swarm.expect(*next - 1);
    swarm.reached(TOO_LONG).await.context("failed to bring the last change to all")?;
    let took = started.elapsed().max(plan.sustain).as_secs_f64();
    let cores = |before: Duration, after: Duration| after.saturating_sub(before).as_secs_f64() / took;
    let cores_used = (cores(cpu, cpu_time(server.pid)?), cores(own, cpu_time(std::process::id())?));
    let mut times = lateness(&swarm.arrivals(), first, &due);
    let changes = due.len() as f64;
    Ok(Sustained {
        held: changes / took,
        p50_ms: quantile(&mut times, 0.5),
        p99_ms: quantile(&mut times, 0.99),
        responses: (swarm.received().responses - responses) as f64 / (changes * plan.streams as f64),
        cores: cores_used.0,
        swarm_cores: cores_used.1,
    })
}

/// How late each change was at each stream, in milliseconds after it was due: one that was merged into a later one came with that.
fn lateness(arrivals: &[Arrival], first: u64, due: &[Instant]) -> Vec<f64> {
    let mut times = Vec::with_capacity(arrivals.len());
    for arrival in arrivals {
        for change in arrival.before.max(first - 1) + 1..=arrival.change {
            let index = usize::try_from(change - first).unwrap_or(usize::MAX);
            times.extend(due.get(index).map(|due| millis(*due, arrival.at)));
        }
    }
    times
}

async fn storm(server: &mut Contender, swarm: Swarm, plan: &Plan, change: u64) -> anyhow::Result<Storm> {
    let has = swarm.has();
    drop(swarm);
    tokio::time::sleep(REST).await;
    server.change(change).await?;
    server.changed(change).await?;
    let (cpu, own) = (cpu_time(server.pid)?, cpu_time(std::process::id())?);
    let started = Instant::now();
    let swarm = Swarm::connect(server.address, plan, Some((has, change)));
    swarm.reached(TOO_LONG).await.context("failed to bring everybody back")?;
    let seconds = started.elapsed().as_secs_f64();
    let spent = |before: Duration, after: Duration| after.saturating_sub(before).as_secs_f64();
    let (cpu_s, swarm_cpu_s) = (spent(cpu, cpu_time(server.pid)?), spent(own, cpu_time(std::process::id())?));
    // What comes too late to matter still counts as sent again.
    tokio::time::sleep(REST).await;
    let received = swarm.received();
    let each = |value: usize| value as f64 / plan.streams as f64;
    Ok(Storm {
        seconds,
        resources: each(received.resources),
        bytes: each(received.bytes),
        cpu_s,
        swarm_cpu_s,
    })
}

fn millis(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64() * 1e3
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    quantile(&mut values.collect::<Vec<_>>(), 0.5)
}

/// The value that so many of all are not above.
fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() as f64 * share).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_occurred() {
        let mut values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!([0.5, 0.99, 1.0].map(|share| quantile(&mut values, share)), [50.0, 99.0, 100.0]);
        assert!(quantile(&mut [], 0.5).is_nan());
    }

    #[test]
    fn a_merged_change_is_as_late_as_the_response_it_came_with() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let arrivals =
            [Arrival { at: at(5), before: 3, change: 4 }, Arrival { at: at(100), before: 4, change: 6 }];
        let times = lateness(&arrivals, 4, &[at(0), at(40), at(80)]);
        assert_eq!(times.iter().map(|time| time.round() as u64).collect::<Vec<_>>(), [5, 60, 20]);
    }
}
