//! To whom a careful change goes first: one proxy, then a few, then all; each wave when the one before has acknowledged it. A pure
//! state machine; the clock, the streams and what they said come in as arguments.
//!
//! ```text
//! begin ─> Try(first) ──all ACKed, or time is up──> Try(some of each view) ──likewise──> All
//!               └───────────── one refused ─────────────────┴───> Halt
//! ```
//!
//! Careful are changes of policies, zones and of the configuration: they make clusters, listeners, routes and filter
//! configurations, and those are what a proxy can refuse. Endpoints, health and drains move in forms that every proxy has taken
//! before, and somebody waits for them: they go to all.
//!
//! A proxy that does not answer does not hold up the fleet: after the timeout the next wave goes. And where there is but one
//! proxy, it is all.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use zonebreak_core::units::Percent;
use zonebreak_xds::{Refusal, StreamId, TrialStatus, ViewKey};

/// How waves are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Streams in the first wave; 0 switches waves off.
    pub first: usize,
    /// Share of the streams in the second.
    pub second: Percent,
    /// How long a wave may take to answer.
    pub timeout: Duration,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Publish it.
    All,
    /// Give it to these, and look again soon.
    Try(BTreeSet<StreamId>),
    /// Look again soon.
    Wait,
    /// Withhold what these refused, and publish the rest.
    Halt(Vec<Refusal>),
}

/// A change on its way through the waves.
#[derive(Debug)]
pub struct Waves {
    sizes: Sizes,
    /// From 1.
    wave: usize,
    streams: BTreeSet<StreamId>,
    since: Instant,
    began: Instant,
    /// Whether a wave was given up waiting for.
    late: bool,
}

// === impl Waves ===

impl Waves {
    /// The first wave among those who follow the changed views; `None` when it may as well go to all.
    pub fn begin(now: Instant, sizes: Sizes, followers: &[(StreamId, ViewKey)]) -> Option<Self> {
        if sizes.first == 0 || followers.len() <= sizes.first {
            return None;
        }
        let streams = followers.iter().take(sizes.first).map(|(stream, _)| *stream).collect();
        Some(Self { sizes, wave: 1, streams, since: now, began: now, late: false })
    }

    /// What to do at `now`, when those who were given it stand like this and these follow the views.
    pub fn look(&mut self, now: Instant, status: &TrialStatus, followers: &[(StreamId, ViewKey)]) -> Next {
        if !status.refusals.is_empty() {
            return Next::Halt(status.refusals.clone());
        }
        let late = now.saturating_duration_since(self.since) >= self.sizes.timeout;
        if status.waiting > 0 && !late {
            return Next::Wait;
        }
        self.late |= status.waiting > 0;
        if self.wave > 1 {
            return Next::All;
        }
        let more = self.second(followers);
        if more.len() <= self.streams.len() || more.len() >= followers.len() {
            return Next::All;
        }
        (self.wave, self.since, self.streams) = (2, now, more.clone());
        Next::Try(more)
    }

    /// Those who have it.
    pub fn streams(&self) -> &BTreeSet<StreamId> {
        &self.streams
    }

    /// Which wave it is in, from 1.
    pub fn wave(&self) -> usize {
        self.wave
    }

    /// Since when it is on its way.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Whether somebody was not waited for any longer.
    pub fn late(&self) -> bool {
        self.late
    }

    /// The first wave, one of each view, and as many more as it takes.
    fn second(&self, followers: &[(StreamId, ViewKey)]) -> BTreeSet<StreamId> {
        let wanted = (followers.len() as f64 * self.sizes.second.fraction()).ceil() as usize;
        let mut streams = self.streams.clone();
        let mut views = BTreeSet::new();
        streams.extend(followers.iter().filter(|(_, view)| views.insert(view)).map(|(stream, _)| *stream));
        let more = wanted.saturating_sub(streams.len());
        let others: Vec<StreamId> =
            followers.iter().map(|(stream, _)| *stream).filter(|stream| !streams.contains(stream)).collect();
        streams.extend(others.into_iter().take(more));
        streams
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use zonebreak_xds::TypeUrl;

    use super::*;

    fn sizes(first: usize) -> Sizes {
        Sizes { first, second: Percent::new(5.0).unwrap(), timeout: Duration::from_secs(1) }
    }

    fn followers(number: u64, views: u64) -> Vec<(StreamId, ViewKey)> {
        (0..number).map(|n| (StreamId(n), ViewKey::new(&format!("az-{}", n % views)))).collect()
    }

    fn waiting(waiting: usize) -> TrialStatus {
        TrialStatus { waiting, refusals: Vec::new() }
    }

    fn refused() -> TrialStatus {
        let (type_url, message) = (TypeUrl::CLUSTER, Arc::from("no"));
        let refusal = Refusal { node: "n".into(), type_url, message, resources: vec![Arc::from("c")] };
        TrialStatus { waiting: 0, refusals: vec![refusal] }
    }

    #[test]
    fn one_then_five_percent_with_each_view_then_all() {
        let (all, now) = (followers(100, 3), Instant::now());
        let mut waves = Waves::begin(now, sizes(1), &all).unwrap();
        assert_eq!(waves.streams().len(), 1);
        assert_eq!(waves.look(now, &waiting(1), &all), Next::Wait);
        let Next::Try(some) = waves.look(now, &waiting(0), &all) else { panic!() };
        assert_eq!(some.len(), 5);
        let views: BTreeSet<&ViewKey> =
            all.iter().filter(|(stream, _)| some.contains(stream)).map(|(_, view)| view).collect();
        assert_eq!(views.len(), 3, "a view that nobody tried is not tried");
        assert_eq!(waves.look(now, &waiting(2), &all), Next::Wait);
        assert_eq!(waves.look(now, &waiting(0), &all), Next::All);
        assert!(!waves.late());
    }

    #[test]
    fn small_fleets_need_fewer_waves_and_one_proxy_none() {
        let now = Instant::now();
        assert!(Waves::begin(now, sizes(1), &followers(1, 1)).is_none());
        assert!(Waves::begin(now, sizes(1), &[]).is_none());
        assert!(Waves::begin(now, sizes(0), &followers(100, 3)).is_none(), "switched off");
        let all = followers(3, 3);
        let mut waves = Waves::begin(now, sizes(1), &all).unwrap();
        assert_eq!(waves.look(now, &waiting(0), &all), Next::All, "one of each view is all there are");
    }

    #[test]
    fn a_refusal_halts_in_either_wave_and_silence_does_not() {
        let (all, start) = (followers(100, 1), Instant::now());
        let mut waves = Waves::begin(start, sizes(1), &all).unwrap();
        assert!(matches!(waves.look(start, &refused(), &all), Next::Halt(_)));
        let mut waves = Waves::begin(start, sizes(1), &all).unwrap();
        let late = start + Duration::from_secs(1);
        assert!(matches!(waves.look(late, &waiting(1), &all), Next::Try(_)));
        assert!(waves.late());
        assert!(matches!(waves.look(late, &refused(), &all), Next::Halt(_)));
    }

    proptest! {
        /// Whatever the fleet and whatever it says, everybody has it or it is halted within two timeouts, and nobody who
        /// does not follow a view is given it.
        #[test]
        fn it_ends_in_time(number in 2..500_u64, views in 1..9_u64, first in 1..20_usize, answers in prop::collection::vec(0..3_usize, 50)) {
            let (all, start) = (followers(number, views), Instant::now());
            let Some(mut waves) = Waves::begin(start, sizes(first), &all) else { return Ok(()) };
            let mut now = start;
            for answer in answers {
                match waves.look(now, &waiting(answer), &all) {
                    Next::All | Next::Halt(_) => return Ok(()),
                    Next::Try(streams) => prop_assert!(streams.iter().all(|stream| stream.0 < number)),
                    Next::Wait => {}
                }
                now += Duration::from_millis(100);
            }
            prop_assert!(false, "still in wave {} after {:?}", waves.wave(), now - start);
        }
    }
}
