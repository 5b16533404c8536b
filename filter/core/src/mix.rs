//! Scrambling of numbers and names, for jitter and coin flips that all workers can repeat. Not for secrets.

/// The splitmix64 finaliser: spreads whatever differs over all bits (S. Vigna, public domain reference code).
pub const fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z.wrapping_shr(30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z.wrapping_shr(27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z.wrapping_shr(31)
}

/// FNV-1a over bytes, continued from `hash` (start with [`FNV_START`]).
pub fn fnv1a(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// FNV-1a's offset basis.
pub const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

/// A fraction of one, from the upper 53 bits.
pub fn fraction(bits: u64) -> f64 {
    bits.wrapping_shr(11) as f64 / 9_007_199_254_740_992.0
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn known_values() {
        // Reference outputs: splitmix64 seeded with 0, and FNV-1a of "a" and "foobar".
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(fnv1a(FNV_START, b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(FNV_START, b"foobar"), 0x8594_4171_f739_67e8);
        assert!(fraction(u64::MAX) < 1.0 && fraction(0) == 0.0);
    }
}
