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
    saved::Saved,
};
use zonebreak_xds::Hub;

use super::{
    changes,
    lanes::{Lane, Lanes},
    nodes::Nodes,
    publisher::{Event, Publication, Publisher},
    rollout::{Change, Rollout, named},
    saved,
    state::{Applied, State, Word},
};
use crate::{
    resources::Options,
    telemetry::audit::{self, Action, Severity},
};

/// The longest sleep towards a drain's end: a wall clock may be set while we sleep.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);

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
    pub keep: Option<(watch::Sender<Option<Saved>>, String)>,
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
    let mut feed = Feed::new(state, hub, gate);
    let mut due: Option<Timestamp> = None;
    let (mut status_runs, mut options_run, mut limits_run) = (true, true, true);
    loop {
        let (event, cause) = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = at(feed.rollout.due()) => {
                feed.look();
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
            feed.keep(&inputs);
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
    /// What is served.
    served: Option<Served>,
    /// Operators who wait for their word to be in force.
    told: Vec<oneshot::Sender<()>>,
    /// When drains were last held against the clock.
    looked_at: Timestamp,
    /// Whether auditors were told that the source does not answer.
    lost: bool,
}

// === impl Feed ===

impl Feed {
    fn new(state: Arc<State>, hub: Arc<Hub>, gate: Gate) -> Self {
        Self {
            state,
            hub,
            gate,
            lanes: Lanes::default(),
            said: None,
            topology: None,
            waiting: None,
            rollout: Rollout::default(),
            served: None,
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
        if let Some(change) = published {
            self.published(change, started);
        }
    }

    /// Looks after a change that is on its way through the waves.
    fn look(&mut self) {
        let started = Instant::now();
        if let Some(change) = self.rollout.look(&self.state, &self.hub) {
            self.published(change, started);
        }
    }

    /// When to serve what waits: at its time, but endpoints not into the middle of a change on its way, unless that takes long.
    fn flush_due(&self) -> Option<std::time::Instant> {
        let due = self.lanes.due()?;
        let urgent = self.waiting.is_some_and(|waiting| waiting.urgent);
        Some(if urgent { due } else { self.rollout.room(due) })
    }

    /// Notes that a change is with the hub.
    fn published(&mut self, change: Change, started: Instant) {
        let Change { publication, cause, .. } = change;
        let Publication { change, revision, views, changed, clashes, failed, .. } = publication;
        let took = started.elapsed();
        if let Some(Served { topology, said, .. }) = self.served.clone() {
            let (held, clashes) = (self.gate.held(), clashes.into_iter().collect());
            self.state.published(Applied { topology, said, held, clashes });
        }
        let streams = self.state.xds.metrics().streams().iter().map(|count| count.open).sum::<u64>();
        self.lanes.published(std::time::Instant::now(), took, usize::try_from(streams).unwrap_or(usize::MAX));
        self.state.metrics.window.set(self.lanes.window().as_secs_f64());
        self.state.metrics.changes.inc();
        self.state.metrics.build.observe(took.as_secs_f64());
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
                id = %held.id(), revision = held.revision, served = held.served,
                "held: {}; `zonebreak topology confirm {}` lets it through", held.describe(), held.id()
            );
        }
        for (held, _) in &released {
            tracing::warn!(id = %held.id(), before = held.before, after = held.after, "no longer held");
        }
        changes::gate_events(&held, &released).iter().for_each(audit::Event::record);
        self.audit(&topology);
        let old = self.served.as_ref().map(|served| &served.topology);
        let urgent = word || old.is_none_or(|old| changes::lane(old, &topology) == Lane::Urgent);
        if self.waiting.is_some() {
            self.state.metrics.merged.inc();
        }
        let waiting = self.waiting.get_or_insert(Waiting { since: Timestamp::now(), urgent });
        waiting.urgent |= urgent;
        self.lanes.arrived(std::time::Instant::now(), if urgent { Lane::Urgent } else { Lane::Bulk });
    }

    /// What waited is served now: what it is, and what made it another.
    fn flush(&mut self) -> Option<(Event, Cause)> {
        let (seen_at, topology) = (self.waiting.take()?.since, self.topology.clone()?);
        let said = self.said.clone().unwrap_or_else(|| topology.clone());
        let old = self.served.replace(Served { topology: topology.clone(), said, seen_at });
        let cause = old.map_or(Cause::First, |old| Cause::Keys {
            keys: changes::keys(&old.topology, &topology),
            careful: changes::careful(&old.topology, &topology),
        });
        Some((Event::Topology(topology), cause))
    }

    /// Hands what is served to whoever keeps it on disk, unless it is from there.
    fn keep(&self, inputs: &Inputs) {
        let Some((news, prefix)) = &inputs.keep else { return };
        let (cluster, from_disk) = {
            let status = inputs.status.borrow();
            (status.cluster, status.saved_at.is_some())
        };
        let served = self.served.as_ref().map(|served| &served.topology);
        let Some(topology) = served.filter(|topology| !from_disk && !topology.is_empty()) else {
            return;
        };
        let kept = news.borrow().as_ref().is_some_and(|kept| Arc::ptr_eq(&kept.topology, topology));
        if !kept {
            news.send_replace(Some(saved::worth_keeping(topology, prefix, cluster, Timestamp::now())));
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
mod tests {
    use zonebreak_topology::Source;
    use zonebreak_xds::{Server, ServerOptions, ViewKey};

    use super::*;
    use crate::{
        config::{Layers, Requirement},
        serve::{apply, state::Running},
        telemetry::metrics::Metrics,
    };

    #[tokio::test]
    async fn a_source_that_ends_ends_the_server_and_one_that_is_told_to_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("zonebreak.yaml");
        std::fs::write(&file, "topology: {file: t.yaml}\n").unwrap();
        let layers = Layers { file: Some(file), ..Layers::default() };
        for told in [false, true] {
            let effective = layers.load(Requirement::Source).unwrap();
            let (topology, topologies) = watch::channel(Some(Arc::new(Topology::default())));
            let status =
                SourceStatus { connected: true, revision: 1, ..SourceStatus::unconnected(Timestamp::now()) };
            let (status, statuses) = watch::channel(status);
            let (_options, options) = watch::channel(Arc::new(apply::options(&effective.config, None)));
            let (news, asked) = mpsc::unbounded_channel();
            let (said, words) = mpsc::unbounded_channel();
            let inputs = Inputs {
                topology: topologies.clone(),
                status: statuses.clone(),
                options,
                nodes: Arc::new(Nodes::new(news)),
                asked,
                limits: watch::channel(Limits::default()).1,
                words,
                keep: None,
            };
            let hub = Hub::new();
            let xds = Server::new(hub.clone(), |_: &_| ViewKey::new(""), ServerOptions::default());
            let metrics = Metrics::new(&xds, false).unwrap();
            let running = Running { effective, module: None, read_at: Timestamp::now() };
            let source = Source { topology: topologies, status: statuses };
            let (state, stop) =
                (State::new(source, xds, metrics, running, None, said), CancellationToken::new());
            if told {
                stop.cancel();
            }
            drop((topology, status));
            let ended = tokio::time::timeout(
                LONGEST_SLEEP,
                run(state, hub, inputs, Gate::new(Limits::default()), stop),
            )
            .await
            .unwrap();
            assert_eq!(ended.is_ok(), told, "{ended:?}");
        }
    }
}
