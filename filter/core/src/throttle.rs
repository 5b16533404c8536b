//! How many requests to hold back from those who do not answer them. Pure; one for each service in each worker.
//!
//! # The rule
//!
//! Of the requests of the last 10 s, some were answered. With K = 2, a request is refused here with the probability
//!
//! ```text
//! p = max(0, (requests - K * accepts) / (requests + 1))
//! ```
//!
//! where `requests` counts those refused here as well. So nothing is refused while half of them are answered; and when less is,
//! those that are sent settle at twice what is answered, which leaves enough to notice a recovery. Source: "Handling
//! Overload", Site Reliability Engineering (Beyer et al., 2016), which takes two minutes where this takes 10 s, since the
//! load is moved for seconds.
//!
//! # What is counted
//!
//! Only what is moved out of a left zone: what the surviving zones did not ask for. A request counts when it ends, so that slow
//! answers are not taken for none. What a fixed bound refuses ([`crate::policy::SpillPolicy`]) never was a request to those
//! zones, and counts for nothing: else the two bounds would multiply.

/// Counts of the last 10 s, in seconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Throttle {
    seconds: [Second; SECONDS as usize],
    /// The second that was last counted in.
    newest: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Second {
    requests: u32,
    accepts: u32,
}

const SECONDS: u64 = 10;

/// Requests sent for each that is answered.
const K: f64 = 2.0;

/// The probability with which a request is refused.
pub fn refused(requests: u32, accepts: u32) -> f64 {
    let (requests, accepts) = (f64::from(requests), f64::from(accepts));
    ((requests - K * accepts) / (requests + 1.0)).max(0.0)
}

/// Seconds for `retry-after` where this fraction is refused: 1 to 10.
pub fn retry_after(refused: f64) -> u32 {
    (1.0 + 9.0 * refused.clamp(0.0, 1.0)).round() as u32
}

// === impl Throttle ===

impl Throttle {
    /// A moved request ended at `now` (Unix ms), or was refused by this.
    pub fn count(&mut self, now: u64, accepted: bool) {
        self.advance(now);
        if let Some(second) = self.seconds.get_mut(Self::place(self.newest)) {
            second.requests = second.requests.saturating_add(1);
            second.accepts = second.accepts.saturating_add(u32::from(accepted));
        }
    }

    /// The fraction of moved requests to refuse.
    pub fn refusing(&mut self, now: u64) -> f64 {
        self.advance(now);
        let sum = |of: fn(&Second) -> u32| self.seconds.iter().map(of).fold(0, u32::saturating_add);
        refused(sum(|second| second.requests), sum(|second| second.accepts))
    }

    fn place(second: u64) -> usize {
        second.checked_rem(SECONDS).unwrap_or_default() as usize
    }

    /// Wipes the seconds that went by, and all when the clock was set back.
    fn advance(&mut self, now: u64) {
        let now = now.checked_div(1000).unwrap_or_default();
        let gone = now.checked_sub(self.newest).unwrap_or(SECONDS).min(SECONDS);
        for ago in 0..gone {
            if let Some(second) = self.seconds.get_mut(Self::place(now.saturating_sub(ago))) {
                *second = Second::default();
            }
        }
        self.newest = now;
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::mix::{fraction, mix};
    use proptest::prelude::*;

    #[test]
    fn known_values() {
        assert_eq!(refused(0, 0), 0.0);
        assert_eq!(refused(100, 50), 0.0);
        assert!((refused(100, 10) - 80.0 / 101.0).abs() < 1e-12);
        assert_eq!((retry_after(0.0), retry_after(0.5), retry_after(1.0)), (1, 6, 10));
    }

    /// A zone that answers 30 of 200 a second is soon sent about 60, and all again once it answers all.
    #[test]
    fn what_is_sent_settles_at_twice_what_is_answered() {
        let (mut throttle, mut sent) = (Throttle::default(), [0_u32; 60]);
        for i in 0..200 * 60_u64 {
            let (now, second) = (1_000_000 + i * 5, (i / 200) as usize);
            let holds = fraction(mix(i)) < throttle.refusing(now);
            let room = if second < 30 { 30 } else { u32::MAX };
            sent[second] += u32::from(!holds);
            throttle.count(now, !holds && sent[second] <= room);
        }
        assert!(sent[20..30].iter().all(|sent| (40..=80).contains(sent)), "{sent:?}");
        assert!(sent[50..].iter().all(|sent| *sent >= 190), "{sent:?}");
    }

    #[test]
    fn what_is_past_is_forgotten_and_a_clock_set_back_harmless() {
        let mut throttle = Throttle::default();
        (0..50).for_each(|_| throttle.count(60_000, false));
        assert!(throttle.refusing(69_999) > 0.9);
        assert_eq!(throttle.refusing(70_000), 0.0);
        (0..50).for_each(|_| throttle.count(70_000, false));
        assert_eq!(throttle.refusing(5_000), 0.0);
    }

    proptest! {
        #[test]
        fn it_is_a_probability_and_grows_with_what_is_not_answered(requests: u32, accepts: u32, more: u16) {
            let p = refused(requests, accepts.min(requests));
            prop_assert!((0.0..1.0).contains(&p));
            prop_assert!(refused(requests, accepts.saturating_add(more.into())) <= p || accepts > requests);
            prop_assert!(p == 0.0 || f64::from(accepts) * K < f64::from(requests));
            prop_assert!((1..=10).contains(&retry_after(p)));
        }
    }
}
