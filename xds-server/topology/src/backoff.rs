//! How long to wait before the next try: twice as long each time, up to a cap, with jitter. Pure; chance comes in as an
//! argument and waiting is the caller's.

use std::{hash::BuildHasher, time::Duration};

/// The first wait. Long enough for a connection refused to be worth a second try, short against any lease.
const FIRST: Duration = Duration::from_millis(100);

/// Waits between tries.
#[derive(Debug, Clone)]
pub struct Backoff {
    cap: Duration,
    tries: u32,
}

// === impl Backoff ===

impl Backoff {
    /// Waits of at most `cap`.
    pub const fn new(cap: Duration) -> Self {
        Self { cap, tries: 0 }
    }

    /// The wait after one more failure: between half and all of `100 ms * 2^failures`, capped. `coin` is uniform over `u64`;
    /// it keeps a thousand clients from coming back at the same moment.
    pub fn fail(&mut self, coin: u64) -> Duration {
        let most = FIRST.saturating_mul(2_u32.saturating_pow(self.tries)).min(self.cap);
        self.tries = self.tries.saturating_add(1);
        // The top 32 bits of the coin, as a fraction of one.
        let fraction = f64::from(u32::try_from(coin >> 32).unwrap_or(u32::MAX)) / f64::from(u32::MAX);
        most.mul_f64(0.5 + 0.5 * fraction)
    }

    /// Something worked: the next failure waits as the first did.
    pub const fn succeed(&mut self) {
        self.tries = 0;
    }
}

/// A coin for [`Backoff::fail`], from the randomness that hash maps are seeded with.
pub fn coin() -> u64 {
    std::hash::RandomState::new().hash_one(0_u8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_start_over() {
        let mut backoff = Backoff::new(Duration::from_secs(1));
        let waits: Vec<u128> = (0..6).map(|_| backoff.fail(u64::MAX).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1000, 1000]);
        backoff.succeed();
        assert_eq!(backoff.fail(0).as_millis(), 50);
    }

    proptest! {
        #[test]
        fn a_wait_is_never_zero_and_never_over_the_cap(tries in 0_u32..200, coin: u64) {
            let mut backoff = Backoff { cap: Duration::from_secs(5), tries };
            let wait = backoff.fail(coin);
            prop_assert!(wait >= FIRST / 2 && wait <= Duration::from_secs(5));
        }
    }
}
