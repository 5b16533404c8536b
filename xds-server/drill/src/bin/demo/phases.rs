//! The script: what is broken, drained and killed, in which order and for how long. Watches and measures through the stage;
//! draws nothing and judges nothing.

use std::{
    process::Output,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde_json::{Value, json};
use zonebreak_drill::lab::Fault;

use super::{
    figures::Window,
    look::Breaker,
    promises::{Outage, Return, Story},
    stage::{Stage, failed_to},
};

/// How many there are.
pub const PHASES: usize = 7;

/// The proxy's own zone, which breaks first; one to drain; and one that breaks while the control plane is gone.
const OWN: &str = "az-a";
const DRAINED: &str = "az-b";
const REMOTE: &str = "az-c";

/// How long a zone stays open in the demo before it is tried again, and how long its share takes to grow back.
pub const OPEN: &str = "3s";
/// See [`OPEN`].
pub const RAMP: &str = "6s";

/// The steady state, a drain and its restore: long enough to read three lines.
const CALM: Duration = Duration::from_secs(6);

/// A broken zone: long enough to see that a first round of trial requests fails and that the zone stays left.
const BROKEN: Duration = Duration::from_secs(7);

/// Further time for the breaker to be open at the end of that, so that a recovery never meets a round of trials that began
/// before it.
const OPEN_AGAIN: Duration = Duration::from_secs(5);

/// A return takes what is left of the open time (6 s at most, at the second time), ten trials (3 s) and the ramp (6 s).
const BACK: Duration = Duration::from_secs(25);

/// The figures of a phase show the last two seconds; this long after the end of a change they show nothing else.
const SETTLE: Duration = Duration::from_secs(2);

/// The control plane is gone this long before a zone breaks, so that it is seen that its end alone harms nobody.
const HEADLESS: Duration = Duration::from_secs(3);

/// A zone that is left gets no request for this long (DESIGN, "Promises").
const QUIET: Duration = Duration::from_millis(500);

/// The policy: the defaults, with less waiting.
pub fn policy() -> Value {
    json!({"mode": "eventual", "breaker": {"open": OPEN, "ramp": RAMP, "half_open_max_requests": 10}})
}

/// Plays all phases.
pub async fn play(stage: &mut Stage<'_>) -> Result<Story> {
    let mut mistaken = 0;

    stage.begin("all is well; az-a is the proxy's own zone").await?;
    stage.hold(CALM).await?;
    mistaken += opened_but(stage, None);
    let steady = stage.end()?;

    stage.begin("az-a breaks: its backends answer 503").await?;
    let onset = stage.fault(OWN, Fault::HARD).await?;
    let left = broken(stage, OWN, onset).await?;
    mistaken += opened_but(stage, Some(OWN));
    let outage = Outage { zone: OWN.to_owned(), window: Window { from: onset, to: stage.end()?.to }, left };

    stage.begin("az-a recovers").await?;
    let healed = stage.fault(OWN, Fault::None).await?;
    let closed = returned(stage, OWN, healed).await?;
    mistaken += opened_but(stage, None);
    let back = Return { zone: OWN.to_owned(), window: Window { from: healed, to: stage.end()?.to }, closed };

    let drain = ["zone", "drain", DRAINED, "--for", "5m", "--reason", "demo"];
    stage.begin(&format!("$ zonebreak {}", drain.join(" "))).await?;
    let confirmed = command(stage, &drain).await?;
    stage.hold(CALM).await?;
    let by_breaker = stage.last().breaker(DRAINED) == Some(Breaker::Drained);
    let emptied = confirmed.filter(|_| by_breaker).and_then(|at| left_after(stage, DRAINED, at));
    mistaken += opened_but(stage, None);
    let drained = stage.end()?;

    let restore = ["zone", "restore", DRAINED];
    stage.begin(&format!("$ zonebreak {}", restore.join(" "))).await?;
    command(stage, &restore).await?;
    stage.hold(CALM).await?;
    mistaken += opened_but(stage, None);
    let drain = drained.through(stage.end()?);

    stage.begin(&format!("the control plane is killed; {} s later az-c breaks", HEADLESS.as_secs())).await?;
    let killed = Instant::now();
    stage.world.plane.kill();
    stage.hold(HEADLESS).await?;
    let onset = stage.fault(REMOTE, Fault::HARD).await?;
    let headless = Window { from: killed, to: onset };
    let left = broken(stage, REMOTE, onset).await?;
    mistaken += opened_but(stage, Some(REMOTE));
    let alone = Outage { zone: REMOTE.to_owned(), window: Window { from: onset, to: stage.end()?.to }, left };

    stage.begin("the control plane comes back, az-c recovers").await?;
    let healed = stage.fault(REMOTE, Fault::None).await?;
    stage.world.plane.restart().await.map_err(failed_to)?;
    let closed = returned(stage, REMOTE, healed).await?;
    mistaken += opened_but(stage, None);
    let behind =
        stage.last().fleet.filter(|fleet| fleet.proxies > 0).map(|fleet| fleet.proxies - fleet.acked);
    let comeback =
        Return { zone: REMOTE.to_owned(), window: Window { from: healed, to: stage.end()?.to }, closed };

    Ok(Story { steady, outage, back, drain, emptied, headless, alone, comeback, mistaken, behind })
}

/// Watches a broken zone, and says how long after `onset` it was left: by the word of its breaker, and by its backends, since
/// a load that stalls leaves a zone in peace as well.
async fn broken(stage: &mut Stage<'_>, zone: &str, onset: Instant) -> Result<Option<Duration>> {
    let (least, load) = (onset + BROKEN, stage.load());
    let mut opened = false;
    stage
        .watch(BROKEN + OPEN_AGAIN, |world, look, notes| {
            opened |= matches!(look.breaker(zone), Some(Breaker::Open | Breaker::HalfOpen));
            if opened && let Some(left) = world.backends.zone(zone).left_after(onset, QUIET, look.at) {
                *notes = vec![format!("{zone} left after {:.2} s", left.as_secs_f64())];
                // What it answers after that, it answers to trial requests.
                let trials = load.samples(onset + left, look.at).into_iter();
                let trials =
                    trials.filter(|sample| sample.outcome.failed() && sample.zone.as_deref() == Some(zone));
                match trials.count() {
                    0 => (),
                    count => notes.push(format!("{count} failed testing {zone} again")),
                }
            }
            look.at >= least && look.breaker(zone) == Some(Breaker::Open)
        })
        .await?;
    Ok(left_after(stage, zone, onset).filter(|_| opened))
}

/// Watches a zone come back, and says how long after `healed` it carried its full share and every proxy was in sync.
async fn returned(stage: &mut Stage<'_>, zone: &str, healed: Instant) -> Result<Option<Duration>> {
    let (mut trial, mut ramp, mut closed) = (None, None, None);
    stage
        .watch(BACK, |_, look, notes| {
            let since = look.at - healed;
            match look.breaker(zone) {
                Some(Breaker::HalfOpen) => _ = trial.get_or_insert(since),
                Some(Breaker::Ramp) => _ = ramp.get_or_insert(since),
                Some(Breaker::Closed) => _ = closed.get_or_insert(since),
                _ => (),
            }
            let said = [("trials after", trial), ("share grows after", ramp), ("full share after", closed)];
            *notes = said
                .into_iter()
                .filter_map(|(what, at)| at.map(|at| format!("{what} {:.1} s", at.as_secs_f64())))
                .collect();
            look.in_sync() && closed.is_some_and(|closed| since >= closed + SETTLE)
        })
        .await?;
    Ok(closed)
}

/// Runs `zonebreak ARGS`, shows what it said and says when it ended; `None` if it did not end well.
async fn command(stage: &mut Stage<'_>, args: &[&str]) -> Result<Option<Instant>> {
    let began = Instant::now();
    let output = stage.world.plane.cli(args).await.map_err(failed_to)?;
    let took = began.elapsed().as_secs_f64();
    stage.said(essence(&output));
    if output.status.success() {
        stage.note(format!("confirmed after {took:.2} s"));
        return Ok(Some(Instant::now()));
    }
    stage.note(format!("it ended with {} after {took:.2} s", output.status));
    Ok(None)
}

/// The first line that a command said and the last: what it did, and what came of it. Between them it tells its progress.
fn essence(output: &Output) -> Vec<String> {
    let (data, words) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let mut lines: Vec<_> = data.lines().chain(words.lines()).map(|line| line.trim().to_owned()).collect();
    lines.retain(|line| !line.is_empty());
    let last = if lines.len() > 1 { lines.pop() } else { None };
    lines.into_iter().take(1).chain(last).collect()
}

/// Time from `onset` until a zone got no more requests.
fn left_after(stage: &Stage<'_>, zone: &str, onset: Instant) -> Option<Duration> {
    stage.world.backends.zone(zone).left_after(onset, QUIET, Instant::now())
}

/// Times that breakers opened in this phase, but for the zone that is broken in it.
fn opened_but(stage: &Stage<'_>, broken: Option<&str>) -> u64 {
    stage.opened().iter().filter(|(zone, _)| Some(zone.as_str()) != broken).map(|(_, times)| times).sum()
}
