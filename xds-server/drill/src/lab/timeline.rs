//! When something happened, in buckets of 10 ms over the last ten minutes. Counts; never judges.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Width of a bucket: fine against the half second that a zone may take to be left.
const BUCKET: Duration = Duration::from_millis(10);

/// Non-empty buckets kept: at least ten minutes, and a bound for a lab that runs all day.
const KEPT: usize = 60_000;

/// A history of events that any number of tasks add to.
#[derive(Debug)]
pub struct Timeline {
    start: Instant,
    /// Number of the bucket and events in it, in order.
    buckets: Mutex<VecDeque<(u64, u32)>>,
}

// === impl Timeline ===

impl Default for Timeline {
    fn default() -> Self {
        Self { start: Instant::now(), buckets: Mutex::default() }
    }
}

impl Timeline {
    /// Adds one event.
    pub fn record(&self, at: Instant) {
        let bucket = self.bucket(at);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        // Tasks race by microseconds at a bucket's edge; a straggler counts into the newest.
        match buckets.back_mut() {
            Some((last, count)) if *last >= bucket => *count += 1,
            _ => buckets.push_back((bucket, 1)),
        }
        if buckets.len() > KEPT {
            buckets.pop_front();
        }
    }

    /// Events from `from` (included) to `to` (excluded), to the bucket.
    pub fn count(&self, from: Instant, to: Instant) -> u64 {
        let (from, to) = (self.bucket(from), self.bucket(to));
        let buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        buckets
            .iter()
            .filter(|(bucket, _)| (from..to).contains(bucket))
            .map(|&(_, count)| u64::from(count))
            .sum()
    }

    /// Time from `onset` to the start of the first stretch of `window` without an event that ends by `until`; `None` when
    /// there was none.
    pub fn quiet_after(&self, onset: Instant, window: Duration, until: Instant) -> Option<Duration> {
        let mut last = onset;
        let buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        for &(bucket, _) in buckets.iter() {
            let (begin, end) = (self.time(bucket), self.time(bucket + 1));
            if end <= onset {
                continue;
            }
            if begin.min(until).saturating_duration_since(last) >= window {
                return Some(last - onset);
            }
            last = end;
        }
        (until.saturating_duration_since(last) >= window).then(|| last - onset)
    }

    fn bucket(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.start).as_nanos() / BUCKET.as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX)
    }

    fn time(&self, bucket: u64) -> Instant {
        self.start + Duration::from_millis(bucket.saturating_mul(10))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn the_first_quiet_stretch_is_found() {
        let timeline = Timeline::default();
        let start = timeline.start;
        // Every 20 ms until 1 s, one straggler at 1.3 s, then a probe a second.
        for at in (0..1_000).step_by(20).chain([1_300, 2_300, 3_300]) {
            timeline.record(start + ms(at));
        }
        let until = start + ms(5_000);
        assert_eq!(timeline.quiet_after(start, ms(500), until), Some(ms(1_310)));
        assert_eq!(timeline.quiet_after(start + ms(500), ms(250), until), Some(ms(490)));
        assert_eq!(timeline.quiet_after(start, ms(1_600), until), Some(ms(3_310)));
        assert_eq!(timeline.quiet_after(start, ms(1_800), until), None);
        // A stretch must lie before `until`.
        assert_eq!(timeline.quiet_after(start, ms(500), start + ms(1_700)), None);
        assert_eq!(timeline.quiet_after(start + ms(4_000), ms(500), until), Some(ms(0)));
    }

    #[test]
    fn events_are_counted_by_interval_and_the_history_is_bounded() {
        let timeline = Timeline::default();
        let start = timeline.start;
        for at in [0, 5, 10, 15, 20] {
            timeline.record(start + ms(at));
        }
        assert_eq!(timeline.count(start, start + ms(20)), 4);
        assert_eq!(timeline.count(start + ms(10), start + ms(1_000)), 3);
        for bucket in 0..70_000 {
            timeline.record(start + ms(bucket * 10));
        }
        assert_eq!(timeline.buckets.lock().unwrap().len(), KEPT);
    }
}
