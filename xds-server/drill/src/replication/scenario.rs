//! The measurements, one by one. Each has etcds of its own; contenders take turns on the same machine in the same run.

use std::time::{Duration, Instant};

use super::{
    contender::{Contender, Far, Pair, arrives, count, fill},
    load::{load, percentile},
    table::Row,
};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    /// 100,000 keys of 200 bytes to an empty destination.
    Baseline,
    /// Lag at 500 writes a second.
    Steady500,
    /// Lag at 2,000 writes a second.
    Steady2000,
    /// Lag while 64 clients write as fast as they can.
    Full,
    /// 200,000 revisions made while the replicator was down, and what catching up does to the source's writers.
    Backlog,
    /// 2,000 writes a second over 80 ms round trip, next to the destination.
    Far2000,
    /// A baseline of 20,000 keys over 80 ms round trip, next to the source.
    FarBaseline,
}

/// How long.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Of each load.
    pub time: Duration,
    /// Keys of the baseline.
    pub keys: usize,
    /// Revisions of the backlog.
    pub backlog: usize,
    /// How long a contender may take to catch up after a load.
    pub patience: Duration,
}

const ONE_WAY: Duration = Duration::from_millis(40);

/// Measures one contender in one scenario; `None` where it cannot take part.
///
/// # Errors
/// When a process does not start or etcd fails.
pub async fn measure(
    scenario: Scenario,
    contender: Contender,
    effort: Effort,
) -> anyhow::Result<Option<Row>> {
    let row = match scenario {
        Scenario::Baseline => baseline(scenario, contender, effort.keys, Far::Nowhere, effort).await?,
        Scenario::FarBaseline => {
            baseline(scenario, contender, effort.keys / 5, Far::Destination(ONE_WAY), effort).await?
        }
        Scenario::Steady500 => steady(scenario, contender, Some(500), 16, Far::Nowhere, effort).await?,
        Scenario::Steady2000 => steady(scenario, contender, Some(2000), 32, Far::Nowhere, effort).await?,
        Scenario::Full => steady(scenario, contender, None, 64, Far::Nowhere, effort).await?,
        Scenario::Far2000 => {
            steady(scenario, contender, Some(2000), 32, Far::Source(ONE_WAY), effort).await?
        }
        // It has no place to go on from: started again it copies everything, and deletes nothing.
        Scenario::Backlog if contender == Contender::MakeMirror => return Ok(None),
        Scenario::Backlog => backlog(scenario, contender, effort).await?,
    };
    Ok(Some(row))
}

async fn baseline(
    scenario: Scenario,
    contender: Contender,
    keys: usize,
    far: Far,
    effort: Effort,
) -> anyhow::Result<Row> {
    let pair = Pair::start(far).await?;
    fill(&mut pair.from().await?, keys, 200).await?;
    let mut to = pair.to().await?;
    let begun = Instant::now();
    let mut running = pair.run(contender)?;
    let wanted = i64::try_from(keys)?;
    let mut there = 0;
    while begun.elapsed() < effort.patience * 2 && running.is_alive() {
        there = count(&mut to).await?;
        if there >= wanted {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let took = begun.elapsed().as_secs_f64();
    let words = if there >= wanted {
        format!("{took:.2} s for {keys} keys ({:.0} a second)", keys as f64 / took)
    } else {
        format!("{there} of {keys} keys after {took:.0} s ({:.0} a second)", there as f64 / took)
    };
    Ok(Row { scenario, contender, value: took * keys as f64 / there.max(1) as f64, words })
}

async fn steady(
    scenario: Scenario,
    contender: Contender,
    rate: Option<u64>,
    writers: u64,
    far: Far,
    effort: Effort,
) -> anyhow::Result<Row> {
    let pair = Pair::start(far).await?;
    let mut running = pair.run(contender)?;
    arrives(&pair, "first").await?;
    let lag =
        load(&pair.from().await?, &pair.to().await?, rate, writers, effort.time, effort.patience).await?;
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| percentile(&lag.ms, share));
    let drain = lag.drain.map_or_else(
        || format!("{} writes missing after {} s", lag.missing, effort.patience.as_secs()),
        |drain| format!("drained in {:.2} s", drain.as_secs_f64()),
    );
    let died = if running.is_alive() { "" } else { ", IT DIED" };
    let words =
        format!("p50 {p50:.1}, p99 {p99:.1}, max {max:.0} ms at {:.0} a second, {drain}{died}", lag.rate);
    Ok(Row { scenario, contender, value: p99, words })
}

async fn backlog(scenario: Scenario, contender: Contender, effort: Effort) -> anyhow::Result<Row> {
    let pair = Pair::start(Far::Nowhere).await?;
    let mut running = pair.run(contender)?;
    arrives(&pair, "first").await?;
    let (from, to) = (pair.from().await?, pair.to().await?);
    let idle = load(&from, &to, Some(200), 4, Duration::from_secs(3), effort.patience).await?;
    running.kill();
    // One revision each, over 20,000 keys.
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..64 {
        let (mut from, each) = (from.clone(), effort.backlog / 64);
        tasks.spawn(async move {
            for at in 0..each {
                let key = format!("{}b/{:05}", super::PREFIX, (at * 64 + writer) % 20_000);
                from.put(key, format!("{at:0200}"), None).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let begun = Instant::now();
    let mut running = pair.run(contender)?;
    let loading = load(&from, &to, Some(200), 4, Duration::from_secs(8), effort.patience);
    let arriving = async {
        // The last key in order, and as many as the source has: a comparison writes in the order of keys.
        arrives(&pair, "z/after").await?;
        let (mut from, mut to) = (pair.from().await?, pair.to().await?);
        while count(&mut to).await? < count(&mut from).await? {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        anyhow::Ok(begun.elapsed().as_secs_f64())
    };
    let (busy, took) = tokio::join!(loading, arriving);
    let (busy, took) = (busy?, took?);
    let (before, during) = (percentile(&idle.put_ms, 0.99), percentile(&busy.put_ms, 0.99));
    let died = if running.is_alive() { "" } else { ", IT DIED" };
    let words = format!(
        "{took:.2} s for {} revisions; the source's put p99 {before:.1} ms before, {during:.1} ms meanwhile{died}",
        effort.backlog
    );
    Ok(Row { scenario, contender, value: took, words })
}
