//! Carries what happens to the publisher and its publications to the hub, with one log line and the audit events of each
//! change. Decides nothing: see [`super::publisher`].

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use zonebreak_core::names::Zone;
use zonebreak_topology::{
    SourceStatus, Topology,
    gate::{self, Admitted, Gate, Limits},
};
use zonebreak_xds::Hub;

use super::{
    changes,
    lanes::{Lane, Lanes},
    nodes::Nodes,
    publisher::{Event, Publication, Publisher},
    quarantine::Quarantine,
    rollout::{Change, Rollout, named},
    saved::{self, Kept},
    state::{Applied, State, Word},
};
use crate::{
    resources::{Clash, Options},
    telemetry::audit::{self, Action, Severity},
};

/// The longest sleep towards a drain's end: a wall clock may be set while we sleep.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);

/// How often what is kept on disk is said to be true still, as long as it is: that is how a server which starts again knows that
/// a topology which did not change for days was in force a moment ago. A small part of [`gate::FRESH`].
pub const STILL_TRUE: Duration = Duration::from_secs(60);

/// Everything that the feed listens to.
#[derive(Debug)]
pub struct Inputs {
    /// The source's topology.
    pub topology: watch::Receiver<Option<Arc<Topology>>>,
    /// The source's condition.
    pub status: watch::Receiver<SourceStatus>,
    /// What the configuration says about resources.
    pub options: watch::Receiver<Arc<Options>>,
    /// Who chooses a view for each proxy, and is told which zones there are.
    pub nodes: Arc<Nodes>,
    /// Zones that proxies name.
    pub asked: mpsc::UnboundedReceiver<Zone>,
    /// How much may go at once.
    pub limits: watch::Receiver<Limits>,
    /// What operators confirm to this server alone.
    pub words: mpsc::UnboundedReceiver<Word>,
    /// What is to be kept on disk, where anything is; under which prefix.
    pub keep: Option<(watch::Sender<Option<Kept>>, String)>,
    /// How often what is kept is said to be true still: [`STILL_TRUE`].
    pub still_true: Duration,
    /// What an earlier run had in quarantine.
    pub withheld: Quarantine,
}

/// A topology that is served.
#[derive(Debug, Clone)]
struct Served {
    topology: Arc<Topology>,
    /// What the source said then.
    said: Arc<Topology>,
    /// When the first part of it was seen.
    seen_at: Timestamp,
}

/// Changes that wait to be served.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    /// When the first of them was seen.
    since: Timestamp,
    /// Whether one of them is urgent.
    urgent: bool,
}

/// Why a publication was made, for the log.
enum Cause {
    First,
    Keys {
        keys: Vec<String>,
        /// Whether it goes to a few first.
        careful: bool,
    },
    /// The configuration.
    Options,
    Asked(Zone),
    Time,
}

/// Runs until `stop`. Everything goes through `gate`, which may remember what was served before.
///
/// # Errors
/// When the source of the topology ends before that. A server that follows nothing any more must not go on looking well: it
/// ends, proxies keep what they have, and whoever keeps it running starts it again.
pub async fn run(
    state: Arc<State>,
    hub: Arc<Hub>,
    mut inputs: Inputs,
    gate: Gate,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut publisher = Publisher::new(inputs.options.borrow_and_update().clone());
    let mut feed = Feed::new(state, hub, gate, Rollout::new(std::mem::take(&mut inputs.withheld)));
    let mut still_true = tokio::time::interval(inputs.still_true);
    let mut due: Option<Timestamp> = None;
    let (mut status_runs, mut options_run, mut limits_run) = (true, true, true);
    loop {
        let (event, cause) = tokio::select! {
            biased;
            () = stop.cancelled() => {
                feed.keep(&inputs, true);
                return Ok(());
            }
            () = at(feed.rollout.due()) => {
                feed.look();
                feed.keep(&inputs, false);
                continue;
            }
            // Before whatever could make it wait longer.
            () = at(feed.flush_due()) => match feed.flush() {
                Some(flushed) => flushed,
                None => continue,
            },
            changed = inputs.topology.changed() => {
                if changed.is_err() {
                    tracing::error!("the source of the topology ended, which it never should: changes are not followed any more");
                    anyhow::bail!("the source of the topology ended, which it never should; an earlier message may say why");
                }
                let Some(said) = inputs.topology.borrow_and_update().clone() else { continue };
                feed.said = Some(said.clone());
                feed.admit(gate::Event::Said(said), None);
                continue;
            }
            Some(word) = inputs.words.recv() => {
                feed.admit(gate::Event::Confirmed(word.id, word.confirmation), Some(word.taken));
                continue;
            }
            changed = inputs.limits.changed(), if limits_run => {
                limits_run = changed.is_ok();
                let limits = *inputs.limits.borrow_and_update();
                feed.admit(gate::Event::Limits(limits), None);
                continue;
            }
            Some(zone) = inputs.asked.recv() => (Event::Asked(zone.clone()), Cause::Asked(zone)),
            changed = inputs.options.changed(), if options_run => {
                options_run = changed.is_ok();
                (Event::Options(inputs.options.borrow_and_update().clone()), Cause::Options)
            }
            changed = inputs.status.changed(), if status_runs => {
                status_runs = changed.is_ok();
                feed.source(&inputs.status.borrow_and_update());
                continue;
            }
            _ = still_true.tick() => {
                feed.keep(&inputs, true);
                continue;
            }
            () = sleep_until(due) => {
                if due.is_some_and(|due| Timestamp::now() < due) {
                    continue;
                }
                feed.expire();
                (Event::Due, Cause::Time)
            }
        };
        if let Event::Topology(topology) = &event {
            inputs.nodes.learn(topology);
        }
        let started = Instant::now();
        if let Some(publication) = publisher.step(Timestamp::now(), event) {
            due = publication.next_due;
            feed.roll_out(publication, cause, started);
            feed.keep(&inputs, false);
        }
        for taken in feed.told.drain(..) {
            // Who does not wait for it any more has gone away.
            _ = taken.send(());
        }
    }
}

/// Until `due`; for ever without one.
async fn at(due: Option<std::time::Instant>) {
    match due {
        None => std::future::pending().await,
        Some(due) => tokio::time::sleep_until(due.into()).await,
    }
}

/// Until `due`, in steps; for ever without one.
async fn sleep_until(due: Option<Timestamp>) {
    match due {
        None => std::future::pending().await,
        Some(due) => {
            let left = due.duration_since(Timestamp::now());
            let left = Duration::try_from(left).unwrap_or(Duration::ZERO);
            tokio::time::sleep(left.min(LONGEST_SLEEP)).await;
        }
    }
}

/// What the feed knows of the last publication.
struct Feed {
    state: Arc<State>,
    hub: Arc<Hub>,
    gate: Gate,
    lanes: Lanes,
    /// What the source says.
    said: Option<Arc<Topology>>,
    /// What of it is believed: served, or about to be.
    topology: Option<Arc<Topology>>,
    /// What is about to be served.
    waiting: Option<Waiting>,
    rollout: Rollout,
    /// What is served, be it to a few only.
    served: Option<Served>,
    /// What everybody has of it.
    everywhere: Option<Served>,
    /// Host names in it that two services claim.
    clashes: Vec<Clash>,
    /// Operators who wait for their word to be in force.
    told: Vec<oneshot::Sender<()>>,
    /// When drains were last held against the clock.
    looked_at: Timestamp,
    /// Whether auditors were told that the source does not answer.
    lost: bool,
}

// === impl Feed ===

impl Feed {
    fn new(state: Arc<State>, hub: Arc<Hub>, gate: Gate, rollout: Rollout) -> Self {
        Self {
            state,
            hub,
            gate,
            lanes: Lanes::default(),
            said: None,
            topology: None,
            waiting: None,
            rollout,
            served: None,
            everywhere: None,
            clashes: Vec::new(),
            told: Vec::new(),
            looked_at: Timestamp::now(),
            lost: false,
        }
    }

    /// Gives a publication to all, or to a few first.
    fn roll_out(&mut self, publication: Publication, cause: Cause, started: Instant) {
        let seen_at = match (&cause, &self.served) {
            (Cause::First | Cause::Keys { .. }, Some(served)) => served.seen_at,
            _ => Timestamp::now(),
        };
        let careful = matches!(cause, Cause::Options | Cause::Keys { careful: true, .. });
        let (cause, told) = (cause.to_string(), !matches!(cause, Cause::Asked(_)));
        let change = Change { publication, cause, seen_at, told, careful };
        let published = self.rollout.begin(&self.state, &self.hub, change);
        self.state.tries(self.rollout.trying());
        match published {
            Some(change) => self.published(change, started),
            None => self.tell(),
        }
    }

    /// Looks after a change that is on its way through the waves.
    fn look(&mut self) {
        let started = Instant::now();
        let published = self.rollout.look(&self.state, &self.hub);
        self.state.tries(self.rollout.trying());
        if let Some(change) = published {
            self.published(change, started);
        }
    }

    /// When to serve what waits: at its time, but endpoints not into the middle of a change on its way, unless that takes long.
    fn flush_due(&self) -> Option<std::time::Instant> {
        let (waiting, due) = (self.waiting?, self.lanes.due()?);
        Some(if waiting.urgent { due } else { self.rollout.room(due) })
    }

    /// Tells operators what everybody has, and what nobody has because it is held.
    fn tell(&self) {
        let Some(Served { topology, said, .. }) = self.everywhere.clone() else { return };
        let (held, clashes) = (self.gate.held(), self.clashes.clone());
        self.state.published(Applied { topology, said, held, clashes });
    }

    /// Notes that a change is with the hub: all that is served, or what went past a change on trial.
    fn published(&mut self, change: Change, started: Instant) {
        let Change { publication, cause, .. } = change;
        let Publication { change, revision, views, changed, clashes, failed, .. } = publication;
        let took = started.elapsed();
        self.everywhere = self.served.clone().map(|served| match &self.everywhere {
            // Nobody is to be told that a proxy has what only a few try.
            Some(had) if self.rollout.is_trying() && changes::careful(&had.topology, &served.topology) => {
                let part = changes::at_once(&had.topology, &served.topology);
                Served { topology: part.unwrap_or(had.topology.clone()), said: had.said.clone(), ..served }
            }
            _ => served,
        });
        self.clashes = clashes.into_iter().collect();
        self.tell();
        let streams = self.state.xds.metrics().streams().iter().map(|count| count.open).sum::<u64>();
        self.lanes.published(std::time::Instant::now(), took, usize::try_from(streams).unwrap_or(usize::MAX));
        self.state.metrics.publishing.window.set(self.lanes.window().as_secs_f64());
        self.state.metrics.publishing.changes.inc();
        self.state.metrics.publishing.build.observe(took.as_secs_f64());
        let (number, changed) = (views.len(), changed.iter().map(named).collect::<Vec<_>>().join(","));
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        tracing::info!(change, revision, cause, views = number, changed, took_us, "published");
        for (view, error) in failed {
            tracing::error!(%view, %error, "failed to build the view; it stays as it was");
        }
    }

    /// Takes what happened through the gate, and what comes of it to its lane. `told` hears of it once it is served.
    fn admit(&mut self, event: gate::Event, told: Option<oneshot::Sender<()>>) {
        let word = told.is_some();
        self.told.extend(told);
        let Some(Admitted { topology, held, released }) = self.gate.step(Timestamp::now(), event) else {
            return;
        };
        for held in &held {
            tracing::error!(
                id = %held.id, revision = held.revision, served = held.served,
                "held: {}; `zonebreak topology confirm {}` lets it through", held.describe(), held.id
            );
        }
        for (held, _) in &released {
            tracing::warn!(id = %held.id, before = held.before, after = held.after, "no longer held");
        }
        changes::gate_events(&held, &released).iter().for_each(audit::Event::record);
        self.audit(&topology);
        let old = self.served.as_ref().map(|served| &served.topology);
        let urgent = word || old.is_none_or(|old| changes::lane(old, &topology) == Lane::Urgent);
        if self.waiting.is_some() {
            self.state.metrics.publishing.merged.inc();
        }
        let waiting = self.waiting.get_or_insert(Waiting { since: Timestamp::now(), urgent });
        waiting.urgent |= urgent;
        self.lanes.arrived(std::time::Instant::now(), if urgent { Lane::Urgent } else { Lane::Bulk });
    }

    /// What waited is served now: what it is, and what made it another. When a part of it need not wait until the rest has been
    /// tried, it is that part, and the rest is due next.
    fn flush(&mut self) -> Option<(Event, Cause)> {
        self.lanes.taken();
        let (waiting, topology) = (self.waiting.take()?, self.topology.clone()?);
        let said = self.said.clone().unwrap_or_else(|| topology.clone());
        let Some(old) = self.served.clone() else {
            self.served = Some(Served { topology: topology.clone(), said, seen_at: waiting.since });
            return Some((Event::Topology(topology), Cause::First));
        };
        let (now, said, careful) = match changes::at_once(&old.topology, &topology) {
            Some(part) => {
                self.waiting = Some(waiting);
                self.lanes.arrived(std::time::Instant::now(), Lane::Urgent);
                (part, old.said.clone(), false)
            }
            None => {
                let careful = changes::careful(&old.topology, &topology);
                (topology, said, careful)
            }
        };
        let keys = changes::keys(&old.topology, &now);
        self.served = Some(Served { topology: now.clone(), said, seen_at: waiting.since });
        Some((Event::Topology(now), Cause::Keys { keys, careful }))
    }

    /// Hands what everybody has, and what is withheld from all, to whoever keeps it on disk, unless it is from there: what is
    /// another, or also what is the same and `still` true.
    fn keep(&self, inputs: &Inputs, still: bool) {
        let Some((news, prefix)) = &inputs.keep else { return };
        let (cluster, from_disk, connected) = {
            let status = inputs.status.borrow();
            (status.cluster, status.saved_at.is_some(), status.connected)
        };
        let everywhere = self.everywhere.as_ref().map(|served| &served.topology);
        let Some(topology) = everywhere.filter(|topology| !from_disk && !topology.is_empty()) else {
            return;
        };
        let withheld = self.rollout.withheld();
        let same = |kept: &Kept| {
            Arc::ptr_eq(&kept.saved.topology, topology) && Arc::ptr_eq(&kept.withheld, withheld)
        };
        if !news.borrow().as_ref().is_some_and(same) || still && connected {
            let saved = saved::worth_keeping(topology, prefix, cluster, Timestamp::now());
            news.send_replace(Some(Kept { saved, withheld: withheld.clone() }));
        }
    }

    /// Records what auditors want to know of a new topology.
    fn audit(&mut self, new: &Arc<Topology>) {
        self.expire();
        let old = self.topology.replace(new.clone());
        changes::events(old.as_deref(), new, self.looked_at).iter().for_each(audit::Event::record);
    }

    /// Records the drains that ended by their own time since the last look.
    fn expire(&mut self) {
        let now = Timestamp::now();
        let ended = self.topology.iter().flat_map(|topology| changes::expired(topology, self.looked_at, now));
        ended.for_each(|event| event.record());
        self.looked_at = now;
    }

    /// Records that the source was lost, once something was loaded from it, or is back.
    fn source(&mut self, status: &SourceStatus) {
        if status.connected && self.lost {
            audit::Event::own(Severity::Info, Action::SourceRestored, "the source of the topology answers")
                .record();
            self.lost = false;
        } else if !status.connected && !self.lost && self.topology.is_some() {
            let error = status.last_error.as_deref().unwrap_or("get an answer");
            let reason = format!("failed to {error}; the last good state is served");
            audit::Event::own(Severity::Critical, Action::SourceLost, reason).record();
            self.lost = true;
        }
    }
}

// === impl Cause ===

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::First => f.write_str("first topology"),
            Self::Keys { keys, .. } => f.write_str(&changes::cause(keys)),
            Self::Options => f.write_str("configuration"),
            Self::Asked(zone) => write!(f, "a proxy names zone {zone}"),
            Self::Time => f.write_str("a drain or a forced state ended by its own time"),
        }
    }
}

#[cfg(test)]
mod tests;
