//! Chance that is dealt out evenly: sixteen cards, one for each sixteenth of a coin's range, drawn blindly until all are gone.
//! Requests that nothing keeps in a zone get their coins from here. It never sees whose request it is, nor what becomes of it.
//!
//! Why not throw the coin anew each time? With 80 % in the own zone, 300 ms of 200 requests a second are 48 requests there on
//! average, and in one case of thirty 54 or more. Those are also the times in which the other zones get the fewest, so that it
//! takes longest to tell that they are better: when the zone is dead, more are lost for longer. A deck gives every 16 requests
//! their 12 or 13.
//!
//! Why not count (golden ratio, round robin)? What comes at the same place of a pattern, every thirteenth request being the slow
//! one, would meet the same zone many times in a row, and the zone would be blamed for it. The order of the cards is chance, anew
//! in each deck, so that a pattern meets the zones by their shares, whatever its length.

/// The cards of a deck.
#[derive(Debug, Clone, Copy, Default)]
pub struct Deck {
    /// Those that are left, a bit for each; none when it is to be shuffled anew.
    left: u16,
}

/// Bits of a coin below those that its card decides: 16 cards are 4 of 32.
const BELOW: u64 = 0x0fff_ffff;

// === impl Deck ===

impl Deck {
    /// The coin for a request, made of uniform bits: its lower half is uniform, too, and in each of the sixteen parts once in
    /// sixteen times.
    pub fn deal(&mut self, bits: u64) -> u64 {
        if self.left == 0 {
            self.left = u16::MAX;
        }
        // One of those left: the upper half of the bits, scaled (D. Lemire, "Fast random integer generation in an interval", 2019).
        let nth = bits.wrapping_shr(32).wrapping_mul(u64::from(self.left.count_ones())).wrapping_shr(32);
        let without_lowest = |left: u16, _| left & left.wrapping_sub(1);
        let card = (0..nth).fold(self.left, without_lowest).trailing_zeros();
        self.left &= !1_u16.wrapping_shl(card);
        (bits & !0xffff_ffff) | u64::from(card).wrapping_shl(28) | (bits & BELOW)
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::mix::mix;

    /// So many coins of a deck, their lower halves.
    fn dealt(seed: u64, coins: u64) -> Vec<u32> {
        let mut deck = Deck::default();
        (0..coins).map(|i| deck.deal(mix(seed.wrapping_add(i))) as u32).collect()
    }

    fn below(coins: impl Iterator<Item = u32>, share: f64) -> usize {
        coins.filter(|coin| f64::from(*coin) < share * 4_294_967_296.0).count()
    }

    #[test]
    fn every_sixteen_requests_are_spread_evenly() {
        for deck in dealt(1, 16_000).chunks(16) {
            let mut cards: Vec<_> = deck.iter().map(|coin| coin >> 28).collect();
            cards.sort_unstable();
            assert!(cards.iter().copied().eq(0..16), "{cards:?}");
        }
        // 80 % of any 60 in a row: 48, less what the decks at both ends and the card that is split may do.
        for start in dealt(2, 60_000).chunks(60) {
            let home = below(start.iter().copied(), 0.8);
            assert!((44..=52).contains(&home), "{home}");
        }
    }

    #[test]
    fn shares_are_exact_however_small() {
        let coins = dealt(3, 1_600_000);
        for share in [0.003, 0.01, 0.03, 0.5, 0.94] {
            let got = below(coins.iter().copied(), share) as f64 / coins.len() as f64;
            // Four standard deviations of coins thrown one by one, which is more than those of these.
            let off = 4.0 * (share * (1.0 - share) / coins.len() as f64).sqrt();
            assert!((got - share).abs() < off, "{share}: {got}");
        }
    }

    /// A request that is special and comes every so often meets the zones by their shares: within any stretch of it, too, as if
    /// coins were thrown. (Where they are counted through, a period of 89 meets the same zone 160 times in a row.)
    #[test]
    fn no_pattern_of_requests_meets_the_same_zone_again_and_again() {
        for period in 1..=160 {
            let coins = dealt(period as u64, 320 * 160);
            let special: Vec<_> = coins.iter().copied().step_by(period).take(320).collect();
            for stretch in special.chunks(40) {
                let home = below(stretch.iter().copied(), 0.8);
                // 32 of 40, five standard deviations of 2.5.
                assert!((20..=40).contains(&home), "every {period}th: {home} of 40");
            }
            let runs = special.windows(40).filter(|run| below(run.iter().copied(), 0.5) == 40).count();
            assert_eq!(runs, 0, "every {period}th: 40 times the same half");
        }
    }
}
