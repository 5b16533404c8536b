//! The measurements of replication, one by one. Each has etcds of its own; contenders take turns on the same machine in the same
//! run. Measures; judges nothing.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::ensure;
use etcd_client::{Client, GetOptions, SortOrder, SortTarget};

use super::{
    PREFIX,
    contender::{Contender, Far, Pair, Running, arrives, count, fill},
    load::{load, percentile},
    server::Server,
    table::Cell,
    targets::{Figure, Limit, Quantity},
};
use crate::lab::{Tool, until};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scenario {
    /// Keys of 200 bytes to an empty destination.
    Baseline,
    /// A fifth of them over 80 ms round trip, next to the destination.
    BaselineAtDestination,
    /// The same next to the source.
    BaselineAtSource,
    /// Both sides read and compared.
    Verify,
    /// The source changed and was compacted while the replicator was down.
    Compacted,
    /// Lag at so many writes a second.
    Steady(u64),
    /// The same of keys that may wait, which are collected for a while.
    Batched(u64),
    /// Lag while 64 clients write as fast as they can.
    Full,
    /// Lag at so many writes a second over 80 ms round trip, next to the destination.
    SteadyAtDestination(u64),
    /// The same next to the source.
    SteadyAtSource(u64),
    /// Revisions made while the replicator was down, and what catching up does to the source's writers.
    Backlog,
}

/// How much.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// How long each load lasts.
    pub time: Duration,
    /// Keys of the baseline, and of the restores.
    pub keys: usize,
    /// Revisions of the backlog.
    pub backlog: usize,
    /// How often the backlog is made and caught up with: the source's puts meanwhile are few.
    pub rounds: usize,
    /// How long a contender may take to catch up after a load.
    pub patience: Duration,
    /// Kills of the kill loop.
    pub kills: u32,
    /// Whether it is only to be seen that everything works: fewer measurements, held against no target.
    pub quick: bool,
}

const ONE_WAY: Duration = Duration::from_millis(40);

/// What a baseline of 20,000 keys over a far link may take: `make-mirror` would need half an hour.
const FAR_PATIENCE: Duration = Duration::from_secs(10);

/// Writes a second, and writers, whose puts show what catching up costs the source.
const WITNESS: (u64, u64) = (500, 8);

// === impl Effort ===

impl Effort {
    /// Everything, in the length that targets are for.
    pub const fn full(time: Duration, kills: u32) -> Self {
        let (keys, backlog, patience) = (100_000, 200_000, Duration::from_secs(30));
        Self { time, keys, backlog, rounds: 2, patience, kills, quick: false }
    }

    /// Enough to see that everything works.
    pub const fn quick() -> Self {
        let (time, patience) = (Duration::from_secs(1), Duration::from_secs(20));
        Self { time, keys: 5_000, backlog: 25_600, rounds: 1, patience, kills: 3, quick: true }
    }
}

// === impl Scenario ===

impl Scenario {
    /// For tables.
    pub fn title(self, effort: &Effort) -> String {
        let (keys, far) = (effort.keys, effort.keys / 5);
        match self {
            Self::Baseline => format!("copy of {keys} keys"),
            Self::BaselineAtDestination => format!("{far} keys, 80 ms round trip, next to the destination"),
            Self::BaselineAtSource => format!("{far} keys, 80 ms round trip, next to the source"),
            Self::Verify => format!("`replicate verify` of {keys} keys"),
            Self::Compacted => {
                format!("{keys} keys, every tenth deleted, the source compacted meanwhile")
            }
            Self::Steady(rate) => format!("{rate} writes a second"),
            Self::Batched(rate) => format!("{rate} writes a second that may wait 100 ms"),
            Self::Full => "64 clients at full speed".to_owned(),
            Self::SteadyAtDestination(rate) => format!("{rate}/s, 80 ms round trip, next to the destination"),
            Self::SteadyAtSource(rate) => format!("{rate}/s, 80 ms round trip, next to the source"),
            Self::Backlog => format!("{} revisions over 20,000 keys", effort.backlog),
        }
    }

    /// What the figures have to be.
    pub fn limits(self) -> Vec<Limit> {
        use Quantity::{Drain, Max, P99, Seconds, Slowdown, Wrong};
        let limits: &[(Quantity, f64)] = match self {
            Self::Baseline | Self::BaselineAtDestination | Self::BaselineAtSource => &[(Seconds, 3.0)],
            Self::Verify => &[(Seconds, 2.0)],
            Self::Compacted => &[(Seconds, 5.0), (Wrong, 0.0)],
            Self::Steady(500) => &[(P99, 15.0), (Max, 100.0)],
            Self::Steady(_) => &[(P99, 25.0), (Max, 250.0)],
            Self::Batched(_) => &[(P99, 500.0)],
            Self::Full => &[(P99, 100.0), (Drain, 1.0)],
            // Half a round trip and 60 ms.
            Self::SteadyAtDestination(_) => &[(P99, 100.0)],
            Self::SteadyAtSource(_) => &[],
            Self::Backlog => &[(Seconds, 5.0), (Slowdown, 3.0), (Wrong, 0.0)],
        };
        limits.iter().map(|(quantity, most)| Limit::new(*quantity, *most)).collect()
    }

    /// Whether `etcdctl make-mirror` can take part: it has no place to go on from, started again it copies everything and
    /// deletes nothing; it compares nothing; it collects nothing; and next to the source it waits a round trip for each key.
    pub const fn is_for_mirror(self) -> bool {
        !matches!(
            self,
            Self::Verify | Self::Compacted | Self::Backlog | Self::Batched(_) | Self::SteadyAtSource(_)
        )
    }

    /// Measures one contender on one etcd.
    pub async fn measure(
        self,
        server: &Server,
        contender: Contender,
        effort: &Effort,
    ) -> anyhow::Result<Cell> {
        let far = match self {
            Self::BaselineAtDestination | Self::SteadyAtDestination(_) => Far::Source(ONE_WAY),
            Self::BaselineAtSource | Self::SteadyAtSource(_) => Far::Destination(ONE_WAY),
            _ => Far::Nowhere,
        };
        let mut pair = Pair::start(server, far).await?;
        if let Self::Batched(_) = self {
            // With other keys urgent, those that are written may wait.
            pair.environment.push(("ZONEBREAK_REPLICATE__REALTIME", format!("{PREFIX}urgent/")));
        }
        match self {
            Self::Baseline => baseline(&pair, contender, effort.keys, effort.patience * 2).await,
            Self::BaselineAtDestination | Self::BaselineAtSource => {
                baseline(&pair, contender, effort.keys / 5, FAR_PATIENCE).await
            }
            Self::Verify => verify(&pair, effort).await,
            Self::Compacted => compacted(&pair, effort).await,
            Self::Steady(rate) | Self::Batched(rate) if rate < 1000 => {
                steady(&pair, contender, Some(rate), 16, effort).await
            }
            Self::Steady(rate)
            | Self::Batched(rate)
            | Self::SteadyAtDestination(rate)
            | Self::SteadyAtSource(rate) => steady(&pair, contender, Some(rate), 32, effort).await,
            Self::Full => steady(&pair, contender, None, 64, effort).await,
            Self::Backlog => backlog(&pair, effort).await,
        }
    }
}

/// Until as many keys have arrived as there are.
async fn baseline(
    pair: &Pair,
    contender: Contender,
    keys: usize,
    patience: Duration,
) -> anyhow::Result<Cell> {
    fill(&mut pair.from().await?, keys, 200).await?;
    let mut to = pair.to().await?;
    let begun = Instant::now();
    let mut running = pair.run(contender)?;
    let wanted = i64::try_from(keys)?;
    let mut there = 0;
    while begun.elapsed() < patience && running.is_alive() {
        there = count(&mut to).await?;
        if there >= wanted {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let took = begun.elapsed().as_secs_f64();
    let (words, figures) = if there >= wanted {
        (format!("{took:.2} s"), vec![Figure::new(Quantity::Seconds, took)])
    } else {
        (format!("{there} of {keys} after {took:.0} s"), Vec::new())
    };
    // Who did not get to the end is taken to go on as fast.
    Ok(Cell { value: took * keys as f64 / there.max(1) as f64, words, figures })
}

async fn steady(
    pair: &Pair,
    contender: Contender,
    rate: Option<u64>,
    writers: u64,
    effort: &Effort,
) -> anyhow::Result<Cell> {
    let mut running = pair.run(contender)?;
    arrives(pair, "first").await?;
    let begun = Instant::now();
    let lag =
        load(&pair.from().await?, &pair.to().await?, rate, writers, effort.time, effort.patience).await?;
    let put = lag.put_p99(begun..Instant::now());
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| percentile(&lag.ms, share));
    let mut figures = Vec::new();
    let drain = match lag.drain.map(|drain| drain.as_secs_f64()) {
        // Of writes that never arrived there is no lag: with some of them, no percentile is one.
        None => format!("; {} writes missing {} s later", lag.missing, effort.patience.as_secs()),
        Some(drain) => {
            let of =
                [(Quantity::P50, p50), (Quantity::P99, p99), (Quantity::Max, max), (Quantity::Drain, drain)];
            figures.extend(of.map(|(quantity, value)| Figure::new(quantity, value)));
            if drain > 0.05 { format!("; drained in {drain:.2} s") } else { String::new() }
        }
    };
    let at = if rate.is_none() { format!(" at {:.0}/s", lag.rate) } else { String::new() };
    let died = if running.is_alive() { "" } else { "; IT DIED" };
    let words = format!("{p50:.1} / {p99:.1} / {max:.0} ms{at} (a put {put:.1}){drain}{died}");
    Ok(Cell { value: p99, words, figures })
}

/// `zonebreak replicate verify`, from the outside.
async fn verify(pair: &Pair, effort: &Effort) -> anyhow::Result<Cell> {
    let _running = follow(pair, effort.keys).await?;
    let (source, destination) = pair.urls();
    let begun = Instant::now();
    let output = tokio::process::Command::new(pair.lab.programs().path(Tool::Zonebreak)?)
        .args(["replicate", "verify", "--source", &source, "--destination", &destination])
        .args(["--prefix", PREFIX])
        .kill_on_drop(true)
        .output()
        .await?;
    let took = begun.elapsed().as_secs_f64();
    ensure!(output.status.success(), "replicate verify: {}", String::from_utf8_lossy(&output.stderr));
    let figures = vec![Figure::new(Quantity::Seconds, took)];
    Ok(Cell { value: took, words: format!("{took:.2} s"), figures })
}

/// Deletes while it is down, and no history of them left.
async fn compacted(pair: &Pair, effort: &Effort) -> anyhow::Result<Cell> {
    let mut running = follow(pair, effort.keys).await?;
    running.kill();
    let mut from = pair.from().await?;
    for key in (0..effort.keys).step_by(10) {
        from.delete(format!("{PREFIX}k/{key:07}"), None).await?;
    }
    let last = from.put(format!("{PREFIX}k/0000001"), "changed", None).await?;
    let head = last.header().map_or(0, etcd_client::ResponseHeader::revision);
    from.compact(head, None).await?;
    let begun = Instant::now();
    let _running = pair.run(Contender::Zonebreak)?;
    let took = caught_up(pair, begun).await?;
    let wrong = wrong(pair).await?;
    let figures = vec![Figure::new(Quantity::Seconds, took), Figure::new(Quantity::Wrong, wrong as f64)];
    Ok(Cell { value: took, words: format!("{took:.2} s, {wrong} keys wrong"), figures })
}

async fn backlog(pair: &Pair, effort: &Effort) -> anyhow::Result<Cell> {
    let mut running = pair.run(Contender::Zonebreak)?;
    arrives(pair, "first").await?;
    let (from, to) = (pair.from().await?, pair.to().await?);
    let (rate, writers) = WITNESS;
    let (mut before, mut during, mut worst) = (Vec::new(), Vec::new(), 0.0_f64);
    for _ in 0..effort.rounds {
        let begun = Instant::now();
        let idle = load(&from, &to, Some(rate), writers, effort.time / 2, effort.patience).await?;
        before.push(idle.put_p99(begun..Instant::now()));
        running.kill();
        pile_up(&from, effort.backlog).await?;
        // What the disk still owes from that is nobody's catching up.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let loading = load(&from, &to, Some(rate), writers, effort.time / 2, effort.patience);
        let catching_up = async {
            // With the writers at work: what they notice of its beginning counts.
            tokio::time::sleep(Duration::from_millis(500)).await;
            let begun = Instant::now();
            let running = pair.run(Contender::Zonebreak)?;
            anyhow::Ok((running, begun, caught_up(pair, begun).await?))
        };
        let (busy, caught_up) = tokio::join!(loading, catching_up);
        let (again, begun, took) = caught_up?;
        running = again;
        worst = worst.max(took);
        during.push(busy?.put_p99(begun..begun + Duration::from_secs_f64(took)));
    }
    let died = if running.is_alive() { "" } else { "; IT DIED" };
    let middle = |ms: &[f64]| ms.iter().sum::<f64>() / ms.len() as f64;
    let (before, during) = (middle(&before), middle(&during));
    let slowdown = during / before;
    let wrong = wrong(pair).await?;
    let figures =
        [(Quantity::Seconds, worst), (Quantity::Slowdown, slowdown), (Quantity::Wrong, wrong as f64)];
    let words = format!(
        "{worst:.2} s, {wrong} keys wrong; the source's put p99 {before:.1} ms before, {during:.1} ms meanwhile{died}"
    );
    Ok(Cell { value: worst, words, figures: figures.map(|(of, value)| Figure::new(of, value)).to_vec() })
}

/// Puts, one revision each, over 20,000 keys.
async fn pile_up(from: &Client, revisions: usize) -> anyhow::Result<()> {
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..64 {
        let (mut from, each) = (from.clone(), revisions / 64);
        tasks.spawn(async move {
            for at in 0..each {
                let key = format!("{PREFIX}b/{:05}", (at * 64 + writer) % 20_000);
                from.put(key, format!("{at:0200}"), None).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// A replicator that follows, with so many keys at both sides.
async fn follow(pair: &Pair, keys: usize) -> anyhow::Result<Running> {
    fill(&mut pair.from().await?, keys, 200).await?;
    let mut running = pair.run(Contender::Zonebreak)?;
    if let Running::Ours(replicator) = &mut running {
        replicator.ready().await?;
    }
    Ok(running)
}

/// Waits until a key that is written now has arrived, which comes after all others, and as many keys as the source has; seconds
/// since `begun`.
async fn caught_up(pair: &Pair, begun: Instant) -> anyhow::Result<f64> {
    arrives(pair, "z/after").await?;
    let (mut from, mut to) = (pair.from().await?, pair.to().await?);
    while count(&mut to).await? != count(&mut from).await? {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(begun.elapsed().as_secs_f64())
}

/// Keys that are not the same on both sides, once they had the time to become so.
async fn wrong(pair: &Pair) -> anyhow::Result<usize> {
    let (from, to) = (pair.from().await?, pair.to().await?);
    let differ = async || {
        let (from, to) = (list(&mut from.clone()).await?, list(&mut to.clone()).await?);
        let missing = from.iter().filter(|(key, value)| to.get(*key) != Some(value)).count();
        anyhow::Ok(missing + to.keys().filter(|key| !from.contains_key(*key)).count())
    };
    let waited = until("both sides be the same", Duration::from_secs(10), async || match differ().await {
        Ok(0) => Ok(()),
        Ok(wrong) => Err(format!("{wrong} keys differ")),
        Err(error) => Err(error.to_string()),
    });
    if waited.await.is_ok() { Ok(0) } else { differ().await }
}

/// Every key and value, a page at a time.
async fn list(client: &mut Client) -> anyhow::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    const PAGE: i64 = 5_000;
    let (mut all, mut start) = (BTreeMap::new(), PREFIX.as_bytes().to_vec());
    let mut end = PREFIX.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    loop {
        let options = GetOptions::new()
            .with_range(end.clone())
            .with_limit(PAGE)
            .with_sort(SortTarget::Key, SortOrder::Ascend);
        let mut answer = client.get(start.clone(), Some(options)).await?;
        let (more, page) = (answer.more(), answer.take_kvs());
        if let Some(last) = page.last() {
            start = [last.key(), b"\0"].concat();
        }
        all.extend(page.into_iter().map(etcd_client::KeyValue::into_key_value));
        if !more {
            return Ok(all);
        }
    }
}
