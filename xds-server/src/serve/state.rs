//! What the running server holds, and the views of it that operators and probes get. Written by the feed and by reloads, read by
//! everybody; never waits for a lock.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::{Notify, mpsc, oneshot};
use zonebreak_topology::{Confirmation, HeldId, Source, Topology, gate::Held, strangers::strangers};
use zonebreak_xds::{LoadReport, Node, Server, StreamId, TrialAnswer};

use super::{
    checks::{Check, Condition, Verdict},
    history::History,
    ledger,
    matrix::Matrix,
    module::Module,
    replica::Replica,
    saved::Disk,
};
use crate::{
    config::{Config, Effective},
    model::{
        self, ChangeRow, Convergence, DiskRow, FilterRow, Fleet, HeldRow, LoadRow, ProblemRow, Proxy,
        QuarantineRow, SourceRow, Standing, Status, TrialRow,
    },
    resources::{self, Clash},
    telemetry::metrics::Metrics,
};

/// Changes on the one screen of status; `/changes` has them all.
const SHOWN: usize = 20;

/// Rows of the matrix there; `/load` has them all.
const WORST: usize = 50;

/// Everything that the admin and health ports show.
#[derive(Debug)]
pub struct State {
    started_at: Timestamp,
    source: Source,
    /// The xDS engine.
    pub xds: Server,
    /// Counters and gauges.
    pub metrics: Metrics,
    /// The last changes.
    pub history: History,
    matrix: Mutex<Matrix>,
    quarantine: ArcSwap<Vec<QuarantineRow>>,
    trial: ArcSwapOption<Trying>,
    /// Why each of these proxies is passed over in waves, by `node.id`.
    passed_over: ArcSwap<BTreeMap<String, String>>,
    running: ArcSwap<Running>,
    applied: ArcSwapOption<Applied>,
    first: Notify,
    listening: AtomicBool,
    disk: Option<Arc<Disk>>,
    replica: OnceLock<Arc<Replica>>,
    words: mpsc::UnboundedSender<Word>,
}

/// An operator's word to this server alone, for want of an etcd; answered once it has been taken.
#[derive(Debug)]
pub struct Word {
    /// What is confirmed.
    pub id: HeldId,
    /// How far.
    pub confirmation: Confirmation,
    /// Told once it is in force.
    pub taken: oneshot::Sender<()>,
}

/// A change that only a few have, and who those are.
#[derive(Debug)]
pub struct Trying {
    /// Its number.
    pub change: u64,
    /// Why it was made, in words.
    pub cause: String,
    /// When its waves began.
    pub since: Timestamp,
    /// Likewise, by the clock that streams are timed with.
    pub began: Instant,
    /// Which wave it is in, from 1.
    pub wave: usize,
    /// Those who have it.
    pub streams: BTreeSet<StreamId>,
    /// Proxies that went away before they answered, by `node.id`.
    pub gone: Vec<String>,
}

/// The configuration in force.
#[derive(Debug)]
pub struct Running {
    /// The values.
    pub effective: Effective,
    /// The module that proxies are given.
    pub module: Option<Arc<Module>>,
    /// When it was read.
    pub read_at: Timestamp,
}

/// The topology that the published views were built from.
#[derive(Debug, Clone)]
pub struct Applied {
    /// The topology.
    pub topology: Arc<Topology>,
    /// What the source says; another one than the topology while something is held.
    pub said: Arc<Topology>,
    /// What is held.
    pub held: Vec<Held>,
    /// Host names that two of its services claim.
    pub clashes: Vec<Clash>,
}

/// `GET /health`.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Whether proxies are served.
    pub ready: bool,
    /// The program's version.
    pub version: &'static str,
    /// When it started.
    pub started_at: Timestamp,
    /// When the configuration in force was read.
    pub config_reload_ts: Timestamp,
    /// Each part, and what is wrong with it.
    pub checks: Vec<Part>,
}

/// One part in a [`Summary`].
#[derive(Debug, Clone, Serialize)]
pub struct Part {
    /// Its name.
    pub name: &'static str,
    /// `ok`, `degraded` or `failed`.
    pub condition: &'static str,
    /// What is wrong.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub message: String,
}

// === impl State ===

impl State {
    /// A server that has loaded nothing yet.
    pub fn new(
        source: Source,
        xds: Server,
        metrics: Metrics,
        running: Running,
        disk: Option<Arc<Disk>>,
        words: mpsc::UnboundedSender<Word>,
    ) -> Arc<Self> {
        Arc::new(Self {
            started_at: running.read_at,
            source,
            xds,
            metrics,
            history: History::default(),
            matrix: Mutex::default(),
            quarantine: ArcSwap::default(),
            trial: ArcSwapOption::empty(),
            passed_over: ArcSwap::default(),
            running: ArcSwap::from_pointee(running),
            applied: ArcSwapOption::empty(),
            first: Notify::new(),
            listening: AtomicBool::new(false),
            disk,
            replica: OnceLock::new(),
            words,
        })
    }

    /// Has a replicator beside the server, from the start on.
    pub fn replicate(&self, replica: Arc<Replica>) {
        // Set once, while the server is put together.
        let _first = self.replica.set(replica);
    }

    /// The configuration in force.
    pub fn running(&self) -> Arc<Running> {
        self.running.load_full()
    }

    /// Puts another configuration in force.
    pub fn run_with(&self, running: Running) {
        self.running.store(Arc::new(running));
    }

    /// What the published views were built from; `None` before the first.
    pub fn applied(&self) -> Option<Arc<Applied>> {
        self.applied.load_full()
    }

    /// Notes what was published. After the hub has it, so that nobody is told of a revision that no stream could know.
    pub fn published(&self, applied: Applied) {
        self.applied.store(Some(Arc::new(applied)));
        self.first.notify_one();
    }

    /// Waits for the first publication; for one waiter.
    pub async fn first_publication(&self) {
        while self.applied().is_none() {
            self.first.notified().await;
        }
    }

    /// Notes that proxies can connect, or no longer.
    pub fn set_listening(&self, listening: bool) {
        self.listening.store(listening, Ordering::Relaxed);
    }

    /// Every connected proxy.
    pub fn proxies(&self) -> Vec<Proxy> {
        let mut proxies = ledger::proxies(&self.xds);
        let passed_over = self.passed_over.load();
        if !passed_over.is_empty() {
            // One that refuses nothing any more is a proxy like all others.
            for proxy in proxies.iter_mut().filter(|proxy| proxy.state == Standing::Nacked) {
                proxy.passed_over = passed_over.get(&proxy.id).cloned();
            }
        }
        proxies
    }

    /// Notes that these proxies, and no others, are passed over in waves.
    pub fn pass_over(&self, proxies: BTreeMap<String, String>) {
        self.passed_over.store(Arc::new(proxies));
    }

    /// Which those are, and why.
    pub fn passed_over(&self) -> Arc<BTreeMap<String, String>> {
        self.passed_over.load_full()
    }

    /// How far a revision has come.
    pub fn convergence(&self, revision: i64) -> Convergence {
        Convergence::of(revision, self.applied_revision().unwrap_or(i64::MIN), Fleet::of(&self.proxies()))
    }

    /// The revision that the views are of. A source that has seen later revisions without a change in them is at those: when
    /// the topology it last published is the one applied, nothing later is on its way.
    fn applied_revision(&self) -> Option<i64> {
        let applied = self.applied()?;
        // Read before the topology: the source publishes a topology before it says that it has seen its revision.
        let seen = self.source.status.borrow().revision;
        let latest =
            self.source.topology.borrow().as_ref().is_some_and(|latest| Arc::ptr_eq(latest, &applied.said));
        Some(if latest { seen.max(applied.said.revision) } else { applied.said.revision })
    }

    /// Values that were refused, and host names that two services claim.
    pub fn problems(&self) -> Vec<ProblemRow> {
        let Some(applied) = self.applied() else { return Vec::new() };
        let clash = |clash: &Clash| ProblemRow {
            key: format!("services/{}", clash.service),
            revision: applied.topology.revision,
            line: None,
            column: None,
            message: format!(
                "hosts: another service has {:?} on port {} already, so this one does not get it; name another host or port",
                clash.host, clash.port
            ),
            kept: false,
        };
        let mut problems = model::problems(&applied.topology);
        problems.extend(applied.clashes.iter().map(clash));
        problems
    }

    /// `GET /status`.
    pub fn status(&self) -> Status {
        let (running, now) = (self.running(), Timestamp::now());
        let topology = self.applied().map(|applied| applied.topology.clone()).unwrap_or_default();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: self.started_at,
            config_reload_ts: running.read_at,
            source: self.source_row(&running.effective.config),
            filter: running.module.as_deref().map(filter_row),
            zones: model::zones(&topology, now),
            shifts: model::shifts(&topology, now),
            services: model::services(&topology, now),
            proxies: Fleet::of(&self.proxies()),
            gates_expired: self.xds.metrics().gates_expired(),
            problems: self.problems(),
            strangers: strangers(&topology),
            held: self.held(),
            quarantine: self.quarantine().to_vec(),
            trial: self.trial(),
            load: self.load(WORST),
            changes: self.changes(SHOWN),
            disk: self.disk.as_ref().map(|disk| disk.row()),
        }
    }

    /// Resources that nobody gets until they change.
    pub fn quarantine(&self) -> Arc<Vec<QuarantineRow>> {
        self.quarantine.load_full()
    }

    /// Notes which those are.
    pub fn quarantined(&self, rows: Vec<QuarantineRow>) {
        self.metrics.publishing.quarantined.set(i64::try_from(rows.len()).unwrap_or(i64::MAX));
        self.quarantine.store(Arc::new(rows));
    }

    /// Notes which change is on trial, if any is.
    pub fn tries(&self, trying: Option<Trying>) {
        self.trial.store(trying.map(Arc::new));
    }

    /// The change on trial, and who has not said anything of it.
    pub fn trial(&self) -> Option<TrialRow> {
        let trying = self.trial.load_full()?;
        let heard = self.xds.trial(&trying.streams, trying.began);
        let waiting = heard.iter().filter(|trial| matches!(trial.answer, TrialAnswer::Waiting));
        let waiting_for: BTreeSet<String> = waiting.map(|trial| trial.node.clone()).collect();
        Some(TrialRow {
            change: trying.change,
            cause: trying.cause.clone(),
            since: trying.since,
            wave: trying.wave,
            streams: trying.streams.len(),
            waiting_for: waiting_for.into_iter().collect(),
            gone: trying.gone.clone(),
        })
    }

    /// Takes what a proxy reports of its requests.
    pub fn report(&self, node: &Node, report: &LoadReport) {
        let Some(applied) = self.applied() else { return };
        let zone = node.locality.as_ref().map_or("", |locality| locality.zone.as_str());
        let counted = self.matrix().add(Instant::now(), &applied.topology, zone, report);
        for counted in counted {
            self.metrics.load.requests(&counted);
        }
    }

    /// How requests fare from zone to zone, at most `number` rows, the surest failures first.
    pub fn load(&self, number: usize) -> Vec<LoadRow> {
        let mut rows = self.matrix().rows(Instant::now());
        rows.truncate(number);
        rows
    }

    fn matrix(&self) -> MutexGuard<'_, Matrix> {
        // Nothing in here can panic half-way, so a poisoned lock still guards a whole matrix.
        self.matrix.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last changes that reached a view, at most `number`, the newest first.
    pub fn changes(&self, number: usize) -> Vec<ChangeRow> {
        let mut rows = self.history.rows(&self.xds);
        rows.truncate(number);
        rows
    }

    /// What is held back: the source's loss of its data, and each loss of endpoints.
    pub fn held(&self) -> Vec<HeldRow> {
        let status = self.source.status.borrow().clone();
        let source = status.held.map(|why| HeldRow::of_source(&why, status.revision));
        let applied = self.applied();
        let losses = applied.iter().flat_map(|applied| applied.held.iter().map(HeldRow::of));
        source.into_iter().chain(losses).collect()
    }

    /// Where the topology comes from: `etcd` or `file`.
    pub fn source_kind(&self) -> &'static str {
        if self.running().effective.config.topology.file.is_some() { "file" } else { "etcd" }
    }

    /// Gives an operator's word to the gate, and waits until it is in force.
    ///
    /// # Errors
    /// When the server is on its way out.
    pub async fn confirm(&self, id: HeldId, confirmation: Confirmation) -> anyhow::Result<()> {
        let (taken, done) = oneshot::channel();
        self.words
            .send(Word { id, confirmation, taken })
            .map_err(|_| anyhow::anyhow!("the server is stopping"))?;
        Ok(done.await?)
    }

    fn source_row(&self, config: &Config) -> SourceRow {
        let status = self.source.status.borrow().clone();
        let (kind, location) = match &config.topology.file {
            Some(file) => ("file", file.display().to_string()),
            None => {
                let endpoints: Vec<&str> =
                    config.etcd.endpoints.iter().map(|endpoint| endpoint.as_str()).collect();
                ("etcd", endpoints.join(","))
            }
        };
        SourceRow {
            kind: kind.to_owned(),
            location,
            connected: status.connected,
            since: status.since,
            revision: status.revision,
            applied_revision: self.applied_revision(),
            error: status.last_error,
            held: status.held,
            saved_at: status.saved_at,
        }
    }

    /// Every part by name; see [`super::checks`] for what fails and what only degrades.
    pub fn checks(&self) -> Vec<Check> {
        let running = self.running();
        let source = self.source_row(&running.effective.config);
        let name = if source.kind == "etcd" { "etcd" } else { "topology-file" };
        let answers = match (source.connected, source.held) {
            (true, None) => Condition::Ok,
            (_, Some(held)) => Condition::Degraded(held),
            (false, None) => {
                let error = source.error.unwrap_or_else(|| "no answer yet".to_owned());
                let from = source.saved_at.map(|at| format!("; served is the state on disk, saved at {at}"));
                let from = from.unwrap_or_default();
                Condition::Degraded(format!("no answer since {}: failed to {error}{from}", source.since))
            }
        };
        let loaded = match self.applied() {
            Some(_) => Condition::Ok,
            None => Condition::Failed("no topology was loaded yet".to_owned()),
        };
        let listening = if self.listening.load(Ordering::Relaxed) {
            Condition::Ok
        } else {
            Condition::Failed("proxies cannot connect".to_owned())
        };
        let problems: Vec<String> =
            self.problems().iter().map(|problem| format!("{}: {}", problem.key, problem.message)).collect();
        let values = if problems.is_empty() {
            Condition::Ok
        } else {
            Condition::Degraded(format!("{} refused: {}", problems.len(), problems.join("; ")))
        };
        let held: Vec<String> = self.held().iter().map(|row| format!("{}: {}", row.id, row.reason)).collect();
        let guard = if held.is_empty() {
            Condition::Ok
        } else {
            let (number, all) = (held.len(), held.join("; "));
            Condition::Degraded(format!(
                "{number} held: {all}; `zonebreak topology confirm` lets them through"
            ))
        };
        let withheld: Vec<String> = self
            .quarantine()
            .iter()
            .map(|row| format!("{} {} was refused by {}: {}", row.kind, row.name, row.node, row.message))
            .collect();
        let rollout = if withheld.is_empty() {
            Condition::Ok
        } else {
            Condition::Degraded(format!(
                "{} in quarantine until they change: {}",
                withheld.len(),
                withheld.join("; ")
            ))
        };
        let disk = self.disk.as_ref().map(|disk| match disk.row() {
            DiskRow { file, error: Some(error), .. } => Condition::Degraded(format!("{file}: {error}")),
            _ => Condition::Ok,
        });
        let filter = match running.module {
            Some(_) => Condition::Ok,
            None => Condition::Degraded(
                "no filter.file is configured: proxies get zones and retries, no breaker".to_owned(),
            ),
        };
        let checks = [
            Check::new(name, answers),
            Check::new("topology", loaded),
            Check::new("xds", listening),
            Check::new("values", values),
            Check::new("guard", guard),
            Check::new("rollout", rollout),
            Check::new("filter", filter),
        ];
        let disk = disk.map(|disk| Check::new("state", disk));
        let replica = self.replica.get().map(|replica| replica.check());
        checks.into_iter().chain(disk).chain(replica).collect()
    }

    /// `GET /health`.
    pub fn summary(&self) -> Summary {
        let checks = self.checks();
        let ready = Verdict::of("readyz", &checks, &[], false).passed;
        let part = |check: Check| {
            let (condition, message) = match check.condition {
                Condition::Ok => ("ok", String::new()),
                Condition::Degraded(why) => ("degraded", why),
                Condition::Failed(why) => ("failed", why),
            };
            Part { name: check.name, condition, message }
        };
        Summary {
            ready,
            version: env!("CARGO_PKG_VERSION"),
            started_at: self.started_at,
            config_reload_ts: self.running().read_at,
            checks: checks.into_iter().map(part).collect(),
        }
    }
}

fn filter_row(module: &Module) -> FilterRow {
    FilterRow {
        file: module.file.display().to_string(),
        sha256: module.sha256.to_string(),
        delivery: match &module.delivery {
            resources::Module::Inline(_) => "bytes".to_owned(),
            resources::Module::Path { path, .. } => path.clone(),
        },
    }
}

/// The topology in the shape of a topology file.
pub fn document(topology: &Topology) -> serde_json::Value {
    let shifts = topology.shifts.iter().map(|(target, shift)| {
        let service = target.service.as_ref().map(|service| format!("/{service}")).unwrap_or_default();
        (format!("{}{service}", target.zone), shift)
    });
    serde_json::json!({
        "revision": topology.revision,
        "zones": &*topology.zones,
        "services": topology.services.iter().map(|(name, policy)| (name.as_str(), &**policy)).collect::<std::collections::BTreeMap<_, _>>(),
        "endpoints": topology.endpoints.iter().map(|(name, instances)| (name.as_str(), &**instances)).collect::<std::collections::BTreeMap<_, _>>(),
        "shifts": shifts.collect::<std::collections::BTreeMap<_, _>>(),
    })
}
