//! What happened in a mesh, as seen from outside the filter: the truth that its own figures are held against.

use std::{ops::Range, time::Duration};

/// How a request ended for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// An answer below 500.
    Answered,
    /// A 5xx from a zone, or for want of one.
    Failed,
    /// The answer's body was cut.
    Cut,
    /// The filter answered in the service's stead.
    Refused,
    /// The client went away.
    Left,
    /// 503 because the filter's VM had crashed.
    Crashed,
}

/// Requests by how they ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ends {
    counts: [u64; 6],
}

/// Attempts in a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attempts {
    /// That began in the time asked for.
    pub begun: u64,
    /// That ended with an answer below 500.
    pub ok: u64,
    /// That failed: 5xx, no connection, reset, cut or timed out.
    pub failed: u64,
    /// Of those, the ones without a connection.
    pub refused: u64,
    /// Whose client went away.
    pub left: u64,
}

/// What happened, in steps of [`Record::STEP`].
#[derive(Debug, Clone, Default)]
pub struct Record {
    zones: usize,
    ends: Vec<Ends>,
    attempts: Vec<Attempts>,
    /// Requests that reached a zone with the filter's internal header still on.
    pub leaked: u64,
    /// Requests that the filter paused and never let go on.
    pub stuck: u64,
    /// Further attempts.
    pub retries: u64,
}

// === impl Record ===

impl Record {
    /// The resolution in time.
    pub const STEP: Duration = Duration::from_millis(100);

    pub(super) fn new(zones: usize) -> Self {
        Self { zones, ..Self::default() }
    }

    fn step(time: Duration) -> usize {
        (time.as_nanos() / Self::STEP.as_nanos()) as usize
    }

    pub(super) fn end(&mut self, at: Duration, end: End) {
        let step = Self::step(at);
        if self.ends.len() <= step {
            self.ends.resize(step + 1, Ends::default());
        }
        self.ends[step].counts[end as usize] += 1;
    }

    pub(super) fn attempt(&mut self, at: Duration, zone: usize) -> &mut Attempts {
        let place = Self::step(at) * self.zones + zone;
        if self.attempts.len() <= place {
            self.attempts.resize(place + self.zones, Attempts::default());
        }
        &mut self.attempts[place]
    }

    /// How the requests of a time ended.
    pub fn ends(&self, time: Range<Duration>) -> Ends {
        let steps = Self::step(time.start)..Self::step(time.end).min(self.ends.len());
        let mut sum = Ends::default();
        for ends in self.ends.get(steps).unwrap_or_default() {
            for (sum, count) in sum.counts.iter_mut().zip(ends.counts) {
                *sum += count;
            }
        }
        sum
    }

    /// The attempts of a time in one zone, by its index.
    pub fn attempts(&self, zone: usize, time: Range<Duration>) -> Attempts {
        let steps = Self::step(time.start)..Self::step(time.end);
        let mut sum = Attempts::default();
        for attempts in steps.filter_map(|step| self.attempts.get(step * self.zones + zone)) {
            sum.begun += attempts.begun;
            sum.ok += attempts.ok;
            sum.failed += attempts.failed;
            sum.refused += attempts.refused;
            sum.left += attempts.left;
        }
        sum
    }

    /// The part of a time's attempts that went to one zone, 0 to 1; 0 when there were none.
    pub fn share(&self, zone: usize, time: Range<Duration>) -> f64 {
        let begun = |zone| self.attempts(zone, time.clone()).begun;
        let all: u64 = (0..self.zones).map(begun).sum();
        begun(zone) as f64 / all.max(1) as f64
    }

    /// When the last attempt of a time began in one zone, rounded down to a step.
    pub fn last_attempt(&self, zone: usize, time: Range<Duration>) -> Option<Duration> {
        let steps = Self::step(time.start)..Self::step(time.end);
        let any = |step: &usize| self.attempts.get(step * self.zones + zone).is_some_and(|a| a.begun > 0);
        steps.rev().find(any).map(|step| Self::STEP * step as u32)
    }
}

// === impl Ends ===

impl Ends {
    /// Requests that ended so.
    pub fn of(&self, end: End) -> u64 {
        self.counts[end as usize]
    }

    /// All requests.
    pub fn all(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Requests that were lost to their clients, as a part of those whose clients waited.
    pub fn lost(&self) -> f64 {
        let waited = self.all() - self.of(End::Left);
        (waited - self.of(End::Answered)) as f64 / waited.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(secs: f64) -> Duration {
        Duration::from_secs_f64(secs)
    }

    #[test]
    fn sums_are_those_of_the_time_asked_for() {
        let mut record = Record::new(2);
        for (at, zone) in [(0.05, 0), (0.15, 1), (0.95, 0), (1.05, 1)] {
            record.attempt(secs(at), zone).begun += 1;
        }
        let first = secs(0.0)..secs(1.0);
        assert_eq!(record.attempts(0, first.clone()).begun, 2);
        assert_eq!(record.attempts(1, first.clone()).begun, 1);
        assert_eq!(record.last_attempt(1, first.clone()), Some(secs(0.1)));
        assert_eq!(record.last_attempt(1, secs(0.2)..secs(1.0)), None);
        assert!((record.share(0, first) - 2.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn a_client_that_left_is_not_lost() {
        let mut record = Record::new(1);
        for end in [End::Answered, End::Failed, End::Left, End::Answered, End::Refused] {
            record.end(secs(0.3), end);
        }
        let ends = record.ends(secs(0.0)..secs(5.0));
        assert_eq!((ends.all(), ends.of(End::Left)), (5, 1));
        assert!((ends.lost() - 0.5).abs() < 1e-9);
        assert_eq!(record.ends(secs(1.0)..secs(2.0)).all(), 0);
    }
}
