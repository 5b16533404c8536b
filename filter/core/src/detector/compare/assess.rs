//! What a comparison went by, told whether or not it found anything: for `zonebreak explain`. It repeats the steps of
//! [`super::worse`] one by one to say which of them fails, and a property test holds the two together. The filter never calls
//! it, so the linker leaves it out of the module.

use super::{Beside, Finding, GAIN, LEAST_BAD, LEAST_GAP, Odds, PEERS, Past, Stretch};
use crate::{
    detector::{Bar, Missing},
    stats,
};

/// The bound and the score of a zone beside its peers, and the first condition that does not hold.
pub fn weigh(
    stretches: impl Iterator<Item = Stretch>,
    past: (u32, u32),
    bar: Bar,
    odds: Odds,
) -> (Finding, Option<Missing>) {
    let stretches: Vec<Stretch> = stretches.collect();
    let pooled = Beside::pooled(&stretches);
    let standardised = Beside::standardised(&stretches, 1.0);
    let past = pooled.remembered(past);
    let (missing, finding) = (pooled.missing(bar, past), standardised.score(bar.z, 1.0, past));
    if missing.is_some() {
        // Either score may fall short: the lower one says how far it is from a trip.
        let whole = pooled.score(bar.z, 1.0, past);
        return (if whole.score < finding.score { whole } else { finding }, missing);
    }
    let begun = Beside::standardised(&stretches, odds.once).score(odds.z, odds.throughout, Past::NONE);
    let timed = standardised.missing(bar, past).is_some() || begun.score < bar.score * odds.rest;
    (finding, timed.then_some(Missing::Timing))
}

// === impl Beside ===

impl Beside {
    /// The first condition that does not hold, as [`Self::finding`] asks them.
    fn missing(&self, bar: Bar, past: Past) -> Option<Missing> {
        let rate = stats::rate(self.k, self.n);
        if self.k < LEAST_BAD {
            Some(Missing::Bad { needed: LEAST_BAD })
        } else if self.weight < f64::from(PEERS) {
            Some(Missing::Peers { needed: PEERS })
        } else if rate - self.peer_rate < LEAST_GAP || self.peer_rate > GAIN * rate {
            Some(Missing::Gap)
        } else if self.score(bar.z, 1.0, past).score < bar.score {
            Some(Missing::Score)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::detector::compare::worse;
    use proptest::prelude::*;

    proptest! {
        /// What is told is what was decided, and by the same numbers.
        #[test]
        fn it_tells_what_is_decided(
            stretches in prop::collection::vec((0_u32..60, 0_u32..60, 0_u32..60, 0_u32..60), 1..14),
            past in (0_u32..300, 0_u32..3_000),
            shifted in 1.0..32.0_f64,
            fast in any::<bool>(),
            in_trouble in any::<bool>(),
        ) {
            let bar = Bar { z: if fast { 2.0 } else { 3.0 }, score: 9.0, alone: 0.1 };
            let (past, odds) = ((past.0.min(past.1), past.1), Odds::new(4.0, shifted));
            let odds = if in_trouble { odds.in_trouble(bar) } else { odds };
            let stretches: Vec<_> = stretches
                .into_iter()
                .map(|(n, k, peer_n, peer_k)| Stretch { n, k: k.min(n), peer_n, peer_k: peer_k.min(peer_n) })
                .collect();
            let (finding, missing) = weigh(stretches.iter().copied(), past, bar, odds);
            match worse(stretches.into_iter(), past, bar, odds) {
                Some(found) => prop_assert_eq!((finding, missing), (found, None)),
                None => prop_assert!(missing.is_some()),
            }
        }
    }
}
