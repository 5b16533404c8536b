//! What one worker remembers of one zone of one service: a fixed 430 bytes. It remembers; it judges nothing.

use std::num::NonZeroU64;

use crate::{
    detector::{Drift, Run, run::Tally},
    engine::{
        overdue::{Lasting, Overdue},
        types::{Answer, Attempt},
    },
    latency::Histogram,
    units::Percent,
    window::{Counts, Reading, Windows},
};

/// One zone.
#[derive(Debug, Clone, Default)]
pub(super) struct Cell {
    /// The recent past, of all workers.
    pub windows: Windows,
    /// When that was last wiped, on the service's clock, in ms; `None` when it goes back as far as that of the other zones.
    pub wiped: Option<NonZeroU64>,
    /// How far attempts have shifted between it and its peers.
    pub drift: Drift,
    /// The counters at the last tick; `None` before the first one.
    pub last: Option<Reading>,
    /// What was counted since its state began.
    pub since: Counts,
    /// Response times, of this worker.
    pub times: Histogram,
    /// What is slow.
    pub limit: Limit,
    /// Attempts without an answer, of this worker.
    pub overdue: Overdue,
    /// Good answers that have not ended, of this worker: those that came in time, and those that were slow to come.
    pub lasting: [Lasting; 2],
    /// Answers that a transition overtook, until they are reported.
    pub overtaken: u32,
    /// Failures in a row, in this worker.
    pub run: Run,
    /// All results, in this worker.
    pub tally: Tally,
    /// A trial request failed in this worker.
    pub failed_trial: bool,
    /// Sum of the weights of its endpoints.
    pub capacity: u32,
    /// Weight of its locality.
    pub weight: u32,
    /// The operator's drain.
    pub shift: Option<Box<Drain>>,
}

/// The longest time that is not slow, in units of 2^10 ns; the greatest number stands for no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Limit(u32);

/// A drain, as configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Drain {
    /// What the zone keeps.
    pub keep: Percent,
    /// Unix ms at which it ends.
    pub until: u64,
}

// === impl Limit ===

impl Default for Limit {
    fn default() -> Self {
        Self(u32::MAX)
    }
}

impl From<u64> for Limit {
    fn from(ns: u64) -> Self {
        Self(u32::try_from(ns.wrapping_shr(10)).unwrap_or(u32::MAX))
    }
}

impl Limit {
    /// In ns, if there is a limit.
    pub fn ns(self) -> Option<u64> {
        (self.0 < u32::MAX).then(|| u64::from(self.0).wrapping_shl(10))
    }
}

// === impl Cell ===

impl Cell {
    /// The answer to an attempt of this state begins.
    pub fn answer(&mut self, attempt: &Attempt, now_ns: u64) -> Answer {
        let took_ns = now_ns.saturating_sub(attempt.began_ns);
        Answer { took_ns, told: self.overdue.end(attempt.began_ns), lasting: false }
    }

    /// A good answer to an attempt of this state does not end with its headers. True when it was slow to come, and that is news.
    pub fn lasts(&mut self, answer: &mut Answer, began_ns: u64) -> bool {
        let slow = !answer.told && self.limit.ns().is_some_and(|limit| answer.took_ns > limit);
        (answer.told, answer.lasting) = (answer.told || slow, true);
        self.lasting_as(answer.told).begin(answer.at_ns(began_ns));
        slow
    }

    /// An answer that lasted ends. Whether it has been counted.
    pub fn lasted(&mut self, answer: &Answer, began_ns: u64) -> bool {
        answer.lasting && self.lasting_as(answer.told).end(answer.at_ns(began_ns))
    }

    fn lasting_as(&mut self, slow: bool) -> &mut Lasting {
        let [timely, late] = &mut self.lasting;
        if slow { late } else { timely }
    }

    /// Forgets what is under way: it is of a state, or a configuration, that is no more.
    pub fn overtake(&mut self) {
        self.overdue.forget();
        let answers: u32 = self.lasting.iter_mut().map(Lasting::forget).sum();
        self.overtaken = self.overtaken.saturating_add(answers);
    }

    /// Forgets what was counted in an earlier state; `wipe` (the time on the service's clock) forgets the windows too.
    pub fn enter(&mut self, wipe: Option<u64>) {
        self.since = Counts::default();
        self.run = Run::default();
        self.failed_trial = false;
        self.overtake();
        if let Some(now) = wipe {
            self.windows.clear();
            self.wiped = NonZeroU64::new(now.max(1));
        }
    }

    /// How far back the windows go, in ms.
    pub fn past_ms(&self, elapsed: u64) -> u64 {
        self.wiped.map_or(u64::MAX, |wiped| elapsed.saturating_sub(wiped.get()))
    }

    /// The drain in force at `now`.
    pub fn drain(&self, now: u64) -> Option<Drain> {
        self.shift.as_deref().copied().filter(|drain| now < drain.until)
    }

    /// Whether the control plane may still hold the zone in the last priority though its drain has ended.
    pub fn is_pinned(&self, now: u64) -> bool {
        self.shift.as_deref().is_some_and(|drain| drain.keep == Percent::ZERO && now >= drain.until)
    }
}
