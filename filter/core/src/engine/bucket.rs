//! A token bucket: so many a second, and no more than a second's worth at once. Time comes in as an argument.

/// Grants of one kind in one worker.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    rate: u32,
    /// Thousandths of a grant.
    level: u64,
    last: Option<u64>,
}

// === impl Bucket ===

impl Bucket {
    /// Full, with `rate` grants a second.
    pub fn new(rate: u32) -> Self {
        Self { rate, level: u64::from(rate).saturating_mul(1000), last: None }
    }

    /// Grants a second.
    pub const fn rate(&self) -> u32 {
        self.rate
    }

    /// Takes a grant at `now` (Unix ms), if there is one.
    pub fn take(&mut self, now: u64) -> bool {
        let gone = now.saturating_sub(self.last.unwrap_or(now));
        self.last = Some(now);
        let rate = u64::from(self.rate);
        self.level = self.level.saturating_add(gone.saturating_mul(rate)).min(rate.saturating_mul(1000));
        let left = self.level.checked_sub(1000);
        self.level = left.unwrap_or(self.level);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn it_grants_its_rate_and_a_second_at_once() {
        let mut bucket = Bucket::new(50);
        let burst = (0..200).filter(|_| bucket.take(1_000_000)).count();
        assert_eq!(burst, 50);
        let steady = (1..=10_000_u64).filter(|ms| bucket.take(1_000_000 + ms)).count();
        assert_eq!(steady, 500);
        assert!(bucket.take(5_000_000));
        assert!((0..60).filter(|_| bucket.take(1)).count() <= 50, "a clock set back grants nothing");
        assert!(!Bucket::new(0).take(1_000));
    }
}
