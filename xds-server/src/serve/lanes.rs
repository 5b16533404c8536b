//! When a change of the topology is published: at once, or together with those that follow it. A pure state machine.
//!
//! # The lanes
//!
//! - *Urgent*: drains, health, operators' words, policies, zones. They are rare, and somebody waits for them.
//! - *Bulk*: endpoints that come and go. A rollout brings thousands within seconds, and every publication costs each proxy a
//!   message.
//!
//! # How long bulk waits
//!
//! ```text
//! last publication ──────── window ────────┤            an endpoint that comes here waits for the window's end,
//!                                          └─ idle ──>  one that comes here for MIN, so that its neighbours come along
//! ```
//!
//! The window follows the load: what a publication costs, so that publishing takes at most half of the time, and never more than
//! [`MAX`]. A small fleet that is quiet waits 1 ms; a thousand proxies under a rollout are told every 20 ms. An urgent change
//! takes what is waiting with it. Nothing waits longer than [`MAX`], whatever comes after it.

use std::time::{Duration, Instant};

/// What an endpoint waits for its neighbours when nothing else is going on: a registrar that writes several keys has them in
/// etcd within about this.
pub const MIN: Duration = Duration::from_millis(1);

/// The longest that anything waits.
pub const MAX: Duration = Duration::from_millis(100);

/// What one message costs the server, measured: 12 us on a shared connection, 30 us on one of its own.
const PER_STREAM: Duration = Duration::from_micros(20);

/// How urgent a change is; the order is the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Endpoints.
    Bulk,
    /// All else.
    Urgent,
}

/// The state between changes.
#[derive(Debug, Default)]
pub struct Lanes {
    window: Duration,
    published: Option<Instant>,
    /// When what waits is to be published, at the latest.
    due: Option<Instant>,
}

// === impl Lanes ===

impl Lanes {
    /// A change arrived at `now`; [`Lanes::due`] says when to publish.
    pub fn arrived(&mut self, now: Instant, lane: Lane) {
        if lane == Lane::Urgent {
            self.due = Some(self.due.map_or(now, |due| due.min(now)));
        } else if self.due.is_none() {
            let quiet = self.published.map_or(now, |at| at + self.window());
            self.due = Some(quiet.max(now + MIN).min(now + MAX));
        }
    }

    /// When to publish what waits; `None` when nothing does.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// What waited is on its way out: nothing is due until something else arrives.
    pub fn taken(&mut self) {
        self.due = None;
    }

    /// Something was published at `now`, which took so long and goes to so many streams. What waits is due as before.
    pub fn published(&mut self, now: Instant, took: Duration, streams: usize) {
        let messages = PER_STREAM.saturating_mul(u32::try_from(streams).unwrap_or(u32::MAX));
        let cost = took.saturating_add(messages);
        // The mean with the old one: one slow moment does not count for long, and one quick one does not hide the load.
        self.window = (self.window / 2).saturating_add(cost / 2).clamp(MIN, MAX);
        self.published = Some(now);
    }

    /// The pause between two publications of bulk.
    pub fn window(&self) -> Duration {
        self.window.clamp(MIN, MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_lonely_endpoint_waits_a_moment_and_a_drain_not_at_all() {
        let (mut lanes, now) = (Lanes::default(), Instant::now());
        lanes.arrived(now, Lane::Bulk);
        assert_eq!(lanes.due(), Some(now + MIN));
        lanes.arrived(now, Lane::Urgent);
        assert_eq!(lanes.due(), Some(now), "and takes what waits along");
        lanes.arrived(now, Lane::Bulk);
        assert_eq!(lanes.due(), Some(now));
    }

    #[test]
    fn the_window_follows_the_load_and_goes_back_with_it() {
        let (mut lanes, mut now) = (Lanes::default(), Instant::now());
        for _ in 0..10 {
            lanes.published(now, Duration::from_millis(1), 1000);
        }
        assert!((20..=22).contains(&lanes.window().as_millis()), "{:?}", lanes.window());
        now += Duration::from_millis(10);
        lanes.arrived(now, Lane::Bulk);
        let waits = lanes.due().unwrap() - now;
        assert!((10..=12).contains(&waits.as_millis()), "what is left of the window: {waits:?}");
        for _ in 0..10 {
            lanes.published(now, Duration::from_micros(50), 1);
        }
        assert_eq!(lanes.window(), MIN);
        lanes.published(now, Duration::from_secs(3), 100_000);
        assert_eq!(lanes.window(), MAX);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Arrive(bool),
        Wait(u64),
        Take,
        Publish { micros: u64, streams: usize },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            any::<bool>().prop_map(Step::Arrive),
            (0..200_u64).prop_map(Step::Wait),
            Just(Step::Take),
            (0..50_000_u64, 0..20_000_usize).prop_map(|(micros, streams)| Step::Publish { micros, streams }),
        ]
    }

    proptest! {
        /// Bounded delay, no starvation, priority: whatever arrives is due within MAX of its arrival, what waits is never put
        /// off by what comes later, and an urgent change is due at once.
        #[test]
        fn nothing_waits_too_long_and_nothing_puts_off_what_waits(steps in prop::collection::vec(step(), 1..200)) {
            let (mut lanes, mut now) = (Lanes::default(), Instant::now());
            let mut oldest: Option<Instant> = None;
            for step in steps {
                match step {
                    Step::Wait(millis) => now += Duration::from_millis(millis),
                    Step::Arrive(urgent) => {
                        let before = lanes.due();
                        lanes.arrived(now, if urgent { Lane::Urgent } else { Lane::Bulk });
                        oldest.get_or_insert(now);
                        let due = lanes.due().unwrap();
                        prop_assert!(!urgent || due <= now);
                        prop_assert!(before.is_none_or(|before| due <= before.max(now)));
                    }
                    Step::Take => {
                        lanes.taken();
                        oldest = None;
                    }
                    Step::Publish { micros, streams } => {
                        let due = lanes.due();
                        lanes.published(now, Duration::from_micros(micros), streams);
                        prop_assert_eq!(lanes.due(), due, "what waits for its turn still does");
                    }
                }
                prop_assert_eq!(lanes.due().is_some(), oldest.is_some());
                if let (Some(due), Some(oldest)) = (lanes.due(), oldest) {
                    prop_assert!(due <= oldest + MAX);
                }
                prop_assert!((MIN..=MAX).contains(&lanes.window()));
            }
        }
    }
}
