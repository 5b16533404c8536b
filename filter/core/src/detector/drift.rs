//! How far a service's attempts have lately shifted between a zone and its peers. Measures; what follows from it is
//! [`super::compare`]'s matter.
//!
//! In quiet times a zone's part of the attempts is the same at all times. When requests fail and are tried again elsewhere,
//! it is not: of three zones with 80, 10 and 10 % and one retry, the first has four attempts for each of its peers' while
//! all is well or slow, and one for one while all fails. Where a service then fails in ever other ways, or answers from
//! before meet failures of now, each zone has its own mixture of them even in the same tenth of a second, and two zones that are
//! equally ill look different. How different is bounded by the shift itself, and that can be measured: attempts are counted
//! anyway.

use crate::stats;

/// The range in which the odds "an attempt is the zone's, not a peer's" surely lay in the last minutes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drift {
    least: f32,
    most: f32,
}

/// Standard deviations that are put down to chance. There are ten looks a second.
const Z: f64 = 3.0;

/// A smaller shift than this is none.
const CALM: f64 = 1.3;

/// What a shift for sure is taken for: its square, since what is sure falls short of what was (it is seen through windows of half
/// a second and of two), and since two shifts can meet (retries of old attempts among new ones). Within bounds: four is what
/// one retry makes of 80 %, and no zone with peers to speak of shifts more than thirtyfold.
const ODDS: (f64, f64) = (4.0, 32.0);

// === impl Drift ===

impl Default for Drift {
    fn default() -> Self {
        Self { least: f32::INFINITY, most: 0.0 }
    }
}

impl Drift {
    /// Takes in the attempts of a short window.
    pub fn note(&mut self, own: u32, peers: u32) {
        let n = f64::from(own) + f64::from(peers);
        if n < 1.0 {
            return;
        }
        let most_odds = |k: u32| {
            let share = stats::wilson_upper(f64::from(k) / n, n, Z).min(0.999_999);
            share / (1.0 - share)
        };
        self.least = self.least.min(most_odds(own) as f32);
        self.most = self.most.max(1.0 / most_odds(peers) as f32);
    }

    /// A minute has gone by: half of the range is forgotten, on the scale of odds, so that a shift is held for as long as the
    /// longest window remembers it, and somewhat longer.
    pub fn fade(&mut self) {
        if self.most > self.least {
            let quarter = (self.most / self.least).sqrt().sqrt();
            self.least *= quarter;
            self.most /= quarter;
        }
    }

    /// How many times greater the odds may have been at one time than at another; 1 when nothing has shifted.
    pub fn odds(&self) -> f64 {
        let surely = f64::from(self.most) / f64::from(self.least);
        if surely > CALM { (surely * surely).clamp(ODDS.0, ODDS.1) } else { 1.0 }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_shift_is_seen_and_fades() {
        let mut drift = Drift::default();
        drift.note(320, 80);
        assert_eq!(drift.odds(), 1.0);
        // All fails and is tried again elsewhere.
        drift.note(400, 400);
        assert!(drift.odds() >= 4.0, "{drift:?}");
        drift.fade();
        assert!(drift.odds() >= 4.0, "{drift:?}");
        (0..5).for_each(|_| drift.fade());
        assert_eq!(drift.odds(), 1.0);
    }

    #[test]
    fn chance_is_no_shift() {
        let mut drift = Drift::default();
        for (own, peers) in [(16, 4), (10, 10), (18, 2), (3, 1), (0, 3), (170, 30), (150, 50)] {
            drift.note(own, peers);
        }
        assert_eq!(drift.odds(), 1.0, "{drift:?}");
    }

    proptest! {
        #[test]
        fn odds_are_always_a_number_that_can_be_used(
            seen in prop::collection::vec((any::<u32>(), any::<u32>()), 0..20), fades in 0_u32..8,
        ) {
            let mut drift = Drift::default();
            seen.into_iter().for_each(|(own, peers)| drift.note(own, peers));
            (0..fades).for_each(|_| drift.fade());
            prop_assert!((1.0..=ODDS.1).contains(&drift.odds()), "{drift:?}");
        }
    }
}
