//! The coin of a user: a number that every worker of every proxy draws alike from what tells the user apart. It hashes and
//! finds cookies; where a coin leads is [`crate::picker`]'s matter.
//!
//! The hash is FNV-1a over the service's name, a byte that no name holds, and the value, scrambled by splitmix64's finaliser,
//! which makes all 64 bits even. The service's name is in it so that the users that leave one service's zone are not the same
//! that leave every other's. It is no secret: who can choose the value can choose the zone.

use crate::mix::{FNV_START, fnv1a, mix};

/// The coin for a value at a service.
pub fn coin(service: &str, value: &[u8]) -> u64 {
    mix(fnv1a(fnv1a(fnv1a(FNV_START, service.as_bytes()), &[0xff]), value))
}

/// The value of a cookie in a `cookie` header (RFC 6265, section 4.2.1), if it is there and not empty.
pub fn cookie<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    header
        .split(';')
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim())
        .filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn cookies_are_found_by_their_whole_name() {
        let header = "theme=dark; xsession=1; session=abc=d ; empty=";
        assert_eq!(cookie(header, "session"), Some("abc=d"));
        assert_eq!(cookie(header, "theme"), Some("dark"));
        assert_eq!(cookie(header, "empty"), None);
        assert_eq!(cookie(header, "sess"), None);
        assert_eq!(cookie("", "session"), None);
    }

    /// Fixed for good: another number here would move every user of every fleet on the day of an upgrade.
    #[test]
    fn the_hash_stays_as_it_is() {
        assert_eq!(coin("order-svc", b"user-1"), 1_364_149_633_464_876_109);
    }

    #[test]
    fn users_are_spread_evenly_and_services_apart() {
        let n = 100_000;
        let in_half = |service: &str, i: u32| coin(service, i.to_string().as_bytes()) as u32 >= 1 << 31;
        let (mut one, mut both) = (0, 0);
        for i in 0..n {
            let first = in_half("order-svc", i);
            one += u32::from(first);
            both += u32::from(first && in_half("cart-svc", i));
        }
        // Five standard deviations.
        assert!(one.abs_diff(n / 2) < 800 && both.abs_diff(n / 4) < 700, "{one}, {both}");
    }
}
