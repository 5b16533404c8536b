//! Whether the machine let the proxy run. A promise of half a second cannot be judged on a machine that keeps the proxy
//! waiting for a core: such a measurement is thrown away aloud, and made again. It is never passed for that reason, and one
//! that kept its promise on a busy machine counts.

use std::{
    fs,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use zonebreak_drill::world::World;

use super::{alone, turn};

/// Measurements before giving up. Each is a whole new world, so that none is judged on the remains of another.
const TRIES: u32 = 8;

/// Those of them that may run beside another world, which is the first to keep a machine busy. The later ones wait until they are
/// alone.
const TOGETHER: u32 = 2;

/// Between two looks of the watcher.
const BEAT: Duration = Duration::from_millis(5);

/// This process kept from running for so long at once: five requests at 200 a second leave in a bunch, and the retry budget
/// and the detector see another load than the one that the promise is about.
const STALL: Duration = Duration::from_millis(25);

/// A worker of the proxy kept waiting for a core for more than this share of the time.
const WAITED: f64 = 0.03;

/// The same at once: a long measurement averages out a stall that decides it.
const SLICE: Duration = Duration::from_millis(100);
const WAITED_AT_ONCE: Duration = Duration::from_millis(30);

/// A pause before the next measurement, longer each time: what keeps a machine busy comes to an end.
const PAUSE: Duration = Duration::from_secs(2);

/// A measurement that cannot be judged.
#[derive(Debug)]
pub struct Busy(String);

/// Watches the machine while something is measured.
#[derive(Debug)]
pub struct Calm {
    pid: u32,
    began: Instant,
    waited: Duration,
    mark: u64,
    slices: Arc<Slices>,
}

/// The longest that the proxy waited within one slice of the time, looked at until the measurement ends.
#[derive(Debug, Default)]
struct Slices {
    longest_us: AtomicU64,
    ended: AtomicBool,
}

/// Runs a measurement in its turn, again when the machine was too busy.
///
/// # Panics
/// When the measurement does, and when the machine never gave it a chance.
pub async fn judged(mut measurement: impl AsyncFnMut() -> Result<(), Busy>) {
    let mut place = turn().await;
    for attempt in 1..=TRIES {
        if attempt > TOGETHER {
            drop(place);
            place = alone().await;
        }
        let Err(Busy(why)) = measurement().await else { return };
        eprintln!("attempt {attempt} of {TRIES}: the machine was too busy to judge: {why}");
        tokio::time::sleep(attempt * PAUSE).await;
    }
    panic!("the machine was too busy to judge, {TRIES} times; see above");
}

// === impl Calm ===

impl Calm {
    /// A measurement that cannot begin: a zone was left before anything was broken.
    ///
    /// # Errors
    /// When it is so.
    pub fn untouched(left: u64) -> Result<(), Busy> {
        if left == 0 { Ok(()) } else { Err(Busy(format!("a healthy zone was left {left} times"))) }
    }

    /// Begins to watch. Call it right before the fault.
    pub fn begin(world: &mut World) -> Self {
        let pid = world.envoy.process().pid();
        let slices = Arc::<Slices>::default();
        let watched = Arc::clone(&slices);
        thread::spawn(move || watched.watch(pid));
        let mark = stalls().load(Ordering::Relaxed);
        Self { pid, began: Instant::now(), waited: waited(pid), mark, slices }
    }

    /// Holds a promise: nothing when it was kept.
    ///
    /// # Errors
    /// When it was missed on a busy machine.
    ///
    /// # Panics
    /// When it was missed on a calm one.
    pub fn promise(&self, kept: bool, what: impl FnOnce() -> String) -> Result<(), Busy> {
        if kept {
            return Ok(());
        }
        let what = what();
        match self.busy() {
            Some(why) => Err(Busy(format!("{what}; {why}"))),
            None => panic!("{what}"),
        }
    }

    /// Holds the promise that a zone is left in time; `after` is when it was.
    ///
    /// # Errors
    /// As [`promise`](Self::promise).
    pub fn left_within(&self, limit: Duration, after: Option<Duration>) -> Result<(), Busy> {
        eprintln!("left after {after:?}, promised {limit:?}");
        let kept = after.is_some_and(|after| after <= limit);
        self.promise(kept, || format!("left after {after:?}, promised within {limit:?}"))
    }

    /// Holds the promise that few requests are lost.
    ///
    /// # Errors
    /// As [`promise`](Self::promise).
    pub fn lost_at_most(&self, limit: u64, lost: u64) -> Result<(), Busy> {
        eprintln!("{lost} requests lost, promised at most {limit}");
        self.promise(lost <= limit, || format!("{lost} requests were lost, promised at most {limit}"))
    }

    /// What kept the proxy or this process from running, if anything did.
    fn busy(&self) -> Option<String> {
        let stalls = stalls().load(Ordering::Relaxed) - self.mark;
        if stalls > 0 {
            return Some(format!("the load generator was stalled {stalls} times for {STALL:?} or more"));
        }
        let longest = Duration::from_micros(self.slices.longest_us.load(Ordering::Relaxed));
        if longest > WAITED_AT_ONCE {
            return Some(format!("the proxy's workers waited {longest:?} for a core within {SLICE:?}"));
        }
        let waited = waited(self.pid).saturating_sub(self.waited);
        let share = waited.as_secs_f64() / self.began.elapsed().as_secs_f64();
        (share > WAITED)
            .then(|| format!("the proxy's workers waited {waited:?} for a core, {:.0} %", 100.0 * share))
    }
}

impl Drop for Calm {
    fn drop(&mut self) {
        self.slices.ended.store(true, Ordering::Relaxed);
    }
}

// === impl Slices ===

impl Slices {
    fn watch(&self, pid: u32) {
        let mut before = waited(pid);
        while !self.ended.load(Ordering::Relaxed) {
            thread::sleep(SLICE);
            let now = waited(pid);
            let us = u64::try_from(now.saturating_sub(before).as_micros()).unwrap_or(u64::MAX);
            self.longest_us.fetch_max(us, Ordering::Relaxed);
            before = now;
        }
    }
}

/// How often this process was stalled since it began, counted by a thread that does nothing but look at the clock.
fn stalls() -> &'static AtomicU64 {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    static WATCHER: OnceLock<()> = OnceLock::new();
    WATCHER.get_or_init(|| {
        thread::spawn(|| {
            loop {
                let before = Instant::now();
                thread::sleep(BEAT);
                if before.elapsed() > BEAT + STALL {
                    COUNT.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    });
    &COUNT
}

/// How long the worker threads of an Envoy have been ready to run without a core, since it started: the second field of
/// `/proc/PID/task/TID/schedstat` (kernel, Documentation/scheduler/sched-stats.rst). Zero where the kernel does not tell.
fn waited(pid: u32) -> Duration {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Duration::ZERO };
    let of_worker = |task: fs::DirEntry| {
        let name = fs::read_to_string(task.path().join("comm")).ok()?;
        let stat = fs::read_to_string(task.path().join("schedstat")).ok()?;
        let waited = stat.split_whitespace().nth(1)?.parse().ok()?;
        name.starts_with("wrk:").then(|| Duration::from_nanos(waited))
    };
    tasks.filter_map(Result::ok).filter_map(of_worker).sum()
}
