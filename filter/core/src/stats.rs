//! The two formulas that the detectors rest on. Pure mathematics: knows no zones, no time.

/// Upper end of the Wilson score interval: the highest success probability that a rate of `p` in `n` throws still makes
/// plausible at `z` standard deviations. 1 when there is nothing to go by.
///
/// Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference" (1927). Unlike the plain
/// normal interval it holds for `p = 0` and small `n`: after 0 of 67 at z = 3 the rate may still be 11.8 %.
pub fn wilson_upper(p: f64, n: f64, z: f64) -> f64 {
    if n <= 0.0 {
        return 1.0;
    }
    let (p, z2) = (p.clamp(0.0, 1.0), z * z);
    let centre = p + z2 / (2.0 * n);
    let spread = z * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    ((centre + spread) / (1.0 + z2 / n)).min(1.0)
}

/// `k` of `n` as a rate; 0 of nothing.
pub fn rate(k: u32, n: u32) -> f64 {
    if n == 0 { 0.0 } else { (f64::from(k) / f64::from(n)).min(1.0) }
}

/// Kullback-Leibler divergence between two coins, in nats: how much one throw of a coin of rate `p` speaks against the
/// claim that its rate is `q`.
///
/// By Chernoff's bound, the chance of seeing a rate of `p` or more in `n` throws of a `q` coin (`p > q`) is at most
/// `exp(-n * kl(p, q))`. So "score 9" means: at most one in 8,100. Infinite when `q` rules out what was seen.
pub fn kl(p: f64, q: f64) -> f64 {
    let term = |p: f64, q: f64| if p <= 0.0 { 0.0 } else { p * (p / q).ln() };
    (term(p, q) + term(1.0 - p, 1.0 - q)).max(0.0)
}

/// Score of `k` bad of `n` against the claim that the rate is at most `bound`, in nats; 0 when the rate is not above it.
pub fn score(k: u32, n: u32, bound: f64) -> f64 {
    let p = rate(k, n);
    if p <= bound { 0.0 } else { f64::from(n) * kl(p, bound) }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_values() {
        // R: binom::binom.wilson(0, 67, conf.level = 1 - 2 * pnorm(-3))$upper
        assert!((wilson_upper(0.0, 67.0, 3.0) - 9.0 / 76.0).abs() < 1e-9);
        // R: binom.wilson(10, 100, conf.level = 1 - 2 * pnorm(-1.959964))$upper
        assert!((wilson_upper(0.1, 100.0, 1.959_964) - 0.174_366).abs() < 1e-5);
        assert!((kl(0.5, 0.25) - (0.5 * 2.0_f64.ln() + 0.5 * (2.0_f64 / 3.0).ln())).abs() < 1e-12);
        assert_eq!(kl(0.3, 0.3), 0.0);
        assert!((kl(1.0, 0.1) - 10.0_f64.ln()).abs() < 1e-12);
        assert_eq!(wilson_upper(0.0, 0.0, 3.0), 1.0);
        assert_eq!(score(3, 10, 0.5), 0.0);
    }

    proptest! {
        #[test]
        fn the_bound_lies_above_the_rate_and_below_one(n in 1_u32..100_000, share in 0.0..=1.0_f64, z in 0.0..6.0_f64) {
            let n = f64::from(n);
            let upper = wilson_upper(share, n, z);
            prop_assert!(upper >= share - 1e-12 && upper <= 1.0);
            prop_assert!(wilson_upper(share, n, z + 0.5) >= upper);
        }

        #[test]
        fn scores_are_never_negative_nor_nan(k in 0_u32..2000, n in 0_u32..1000, bound in 0.0..=1.0_f64) {
            prop_assert!(score(k, n, bound) >= 0.0);
        }
    }
}
