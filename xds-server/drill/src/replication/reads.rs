//! Reads of the topology snapshot that a server's streams are given ([`zonebreak_xds::Hub`]) while somebody replaces it all the
//! time, beside the same map behind a lock. Every way holds the same views; the locks are held for as long as it takes to put the
//! ready snapshots in and no longer, which is the best that can be said for them.

use std::{
    collections::HashMap,
    fmt::Write as _,
    hint::black_box,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::anyhow;
use zonebreak_xds::{ChangeId, Hub, Resource, Snapshot, TypeUrl, ViewKey};

use super::scenario::Effort;

/// Views, such as those of 1,000 services.
const VIEWS: usize = 1_000;

/// Reads between two looks at the clock, which costs as much as a read.
const BATCH: usize = 16;

/// Readers at the same time.
const READERS: usize = 2;

/// Between two publications of everything.
const PAUSE: Duration = Duration::from_millis(1);

type Views = HashMap<ViewKey, Arc<Snapshot>>;

/// A place to read snapshots from while they are replaced.
trait Store: Send + Sync + 'static {
    fn read(&self, view: &ViewKey) -> Option<Arc<Snapshot>>;
    fn publish(&self, all: &[(ViewKey, Arc<Snapshot>)]);
}

/// Measures one store for a while.
type Measure = fn(Duration) -> anyhow::Result<Seen>;

/// What the readers saw.
struct Seen {
    /// Nanoseconds a read, of each batch.
    batches: Vec<f64>,
    /// Publications while they read, and how long one took in milliseconds.
    publications: u64,
    publish_ms: f64,
}

impl Store for Arc<Hub> {
    fn read(&self, view: &ViewKey) -> Option<Arc<Snapshot>> {
        self.snapshot(view)
    }

    fn publish(&self, all: &[(ViewKey, Arc<Snapshot>)]) {
        Hub::publish(self, all.iter().cloned());
    }
}

impl Store for RwLock<Views> {
    fn read(&self, view: &ViewKey) -> Option<Arc<Snapshot>> {
        RwLock::read(self).unwrap_or_else(PoisonError::into_inner).get(view).cloned()
    }

    fn publish(&self, all: &[(ViewKey, Arc<Snapshot>)]) {
        self.write().unwrap_or_else(PoisonError::into_inner).extend(all.iter().cloned());
    }
}

impl Store for Mutex<Views> {
    fn read(&self, view: &ViewKey) -> Option<Arc<Snapshot>> {
        self.lock().unwrap_or_else(PoisonError::into_inner).get(view).cloned()
    }

    fn publish(&self, all: &[(ViewKey, Arc<Snapshot>)]) {
        self.lock().unwrap_or_else(PoisonError::into_inner).extend(all.iter().cloned());
    }
}

/// Measures every way for a tenth of a load's time each; a Markdown table.
pub(super) async fn reads(effort: &Effort, say: &impl Fn(String)) -> anyhow::Result<String> {
    let time = effort.time / 5;
    let mut text = format!(
        "| {READERS} readers, a writer of all {VIEWS} views every {} ms | a read, half of them | 99.99 % | worst | replaced |\n\
         |---|---|---|---|---|\n",
        PAUSE.as_millis()
    );
    let ways: [(&str, Measure); 3] = [
        ("**lock-free (the server's)**", |time| measure(Hub::new(), time)),
        ("`RwLock`", |time| measure(RwLock::new(Views::new()), time)),
        ("`Mutex`", |time| measure(Mutex::new(Views::new()), time)),
    ];
    for (title, way) in ways {
        // Its threads are its own: nothing else shall run on this runtime's meanwhile.
        let mut seen = tokio::task::spawn_blocking(move || way(time)).await??;
        seen.batches.sort_by(f64::total_cmp);
        let [half, most, worst] = [0.5, 0.9999, 1.0].map(|share| super::percentile(&seen.batches, share));
        let row = format!(
            "{half:.0} ns | {most:.0} ns | {:.2} ms | {} times, {:.2} ms each",
            worst * BATCH as f64 / 1e6,
            seen.publications,
            seen.publish_ms
        );
        say(format!("reads, {title}: {row}"));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {title} | {row} |");
    }
    Ok(text)
}

fn measure(store: impl Store, time: Duration) -> anyhow::Result<Seen> {
    // Two contents in turn, so that each publication is a change.
    let contents = [contents(1)?, contents(2)?];
    let views: Vec<ViewKey> = contents[0].iter().map(|(view, _)| view.clone()).collect();
    store.publish(&contents[0]);
    let (stop, published, spent) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let batches = thread::scope(|scope| {
        scope.spawn(|| {
            for content in contents.iter().cycle() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let begun = Instant::now();
                store.publish(content);
                spent.fetch_add(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(0), Ordering::Relaxed);
                published.fetch_add(1, Ordering::Relaxed);
                thread::sleep(PAUSE);
            }
        });
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(|| read(&store, &views, time))).collect();
        let batches: Vec<_> = readers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        stop.store(true, Ordering::Relaxed);
        batches
    });
    let mut all = Vec::new();
    for batch in batches {
        all.extend(batch.map_err(|_| anyhow!("failed to read: a reader panicked"))?);
    }
    let publications = published.into_inner();
    let publish_ms = spent.into_inner() as f64 / publications.max(1) as f64 / 1e6;
    Ok(Seen { batches: all, publications, publish_ms })
}

fn read(store: &impl Store, views: &[ViewKey], time: Duration) -> Vec<f64> {
    let (begun, mut batches) = (Instant::now(), Vec::new());
    let mut next = views.iter().cycle();
    while begun.elapsed() < time {
        let sent = Instant::now();
        for view in next.by_ref().take(BATCH) {
            black_box(store.read(view));
        }
        batches.push(sent.elapsed().as_nanos() as f64 / BATCH as f64);
    }
    batches
}

fn contents(change: u64) -> anyhow::Result<Vec<(ViewKey, Arc<Snapshot>)>> {
    let view = |at: usize| {
        let mut builder = Snapshot::builder(ChangeId(change));
        let content = format!("{at}, as of change {change}").into_bytes();
        builder.put(Resource::from_value("cluster", TypeUrl::CLUSTER, content))?;
        Ok((ViewKey::new(&format!("view-{at}")), Arc::new(builder.build())))
    };
    (0..VIEWS).map(view).collect()
}
