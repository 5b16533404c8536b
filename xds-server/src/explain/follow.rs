//! What the filter itself did while it was recorded, as its state gauges tell: so that a replay can keep step with it, and say
//! where it does not see why. Knows readings; knows no engine.

use zonebreak_core::{breaker::State, config::Shift, names::Zone, units::Percent};

use super::recording::{Reading, Series};

/// How far apart the filter and the replay may be in time and still mean the same move: the gauge is set at the filter's tick,
/// read at the recorder's, and the two look at windows that are not cut at the same places.
const APART_MS: u64 = 1_500;

/// The filter moved a zone from one state to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// When it was last seen in the old state, in Unix ms.
    pub before: u64,
    /// When it was first seen in the new state, in Unix ms.
    pub at: u64,
    /// Index of the zone.
    pub zone: usize,
    /// Its new state.
    pub to: State,
}

/// All changes in a recording.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Changes {
    changes: Vec<(Change, bool)>,
}

/// The state of a zone by its gauge; `None` when the recording does not tell.
pub fn state(reading: Option<&Reading>) -> Option<State> {
    let all = [
        State::Closed,
        State::Open,
        State::HalfOpen,
        State::Ramp,
        State::ForcedOpen,
        State::ForcedClosed,
        State::Disabled,
    ];
    all.get(usize::from(reading?.state?)).copied()
}

/// The state of a zone if it is the breaker's own doing, and not the operator's.
pub fn own_state(reading: Option<&Reading>) -> Option<State> {
    state(reading)
        .filter(|state| matches!(state, State::Closed | State::Open | State::HalfOpen | State::Ramp))
}

/// The drains that gauges tell of: without end, as their end will be seen.
pub fn shifts(zones: &[Zone], readings: &[Option<Reading>]) -> Vec<Shift> {
    let drained = zones.iter().zip(readings).filter_map(|(zone, reading)| {
        let keep_percent = match state(reading.as_ref())? {
            State::ForcedOpen => {
                Percent::new(f64::from(reading.as_ref()?.keep.unwrap_or_default().min(999)) / 10.0)
            }
            State::ForcedClosed => Ok(Percent::FULL),
            _ => return None,
        };
        Some(Shift { zone: zone.clone(), keep_percent: keep_percent.ok()?, expires_at_ms: u64::MAX })
    });
    drained.collect()
}

// === impl Changes ===

impl Changes {
    /// All of them, in order of time.
    pub fn of(series: &Series) -> Self {
        let mut changes = Vec::new();
        let mut last = vec![None; series.zones.len()];
        for (at, readings) in &series.points {
            for (zone, (last, reading)) in last.iter_mut().zip(readings).enumerate() {
                let Some(to) = own_state(reading.as_ref()) else { continue };
                if let Some((before, from)) = last.replace((*at, to))
                    && from != to
                {
                    changes.push((Change { before, at: *at, zone, to }, false));
                }
            }
        }
        Self { changes }
    }

    /// When the filter made this move, if it did about that time; each of its moves is found once.
    pub fn find(&mut self, at: u64, zone: usize, to: State) -> Option<u64> {
        let about =
            |change: &Change| change.before.saturating_sub(APART_MS)..=change.at.saturating_add(APART_MS);
        let near = |change: &Change| change.zone == zone && change.to == to && about(change).contains(&at);
        let found = self
            .changes
            .iter_mut()
            .filter(|(change, found)| !found && near(change))
            .min_by_key(|(change, _)| change.at.abs_diff(at))?;
        found.1 = true;
        Some(found.0.at)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}
