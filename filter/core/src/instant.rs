//! A point in time that operators write: RFC 3339, or a Unix time in ms. Reads and prints; it holds no clock.

use std::{fmt, str::FromStr};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, Unexpected, Visitor},
};

/// A point in time, as Unix time in ms. Printed in RFC 3339, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub u64);

/// Not a point in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a time is written 2026-11-25T22:00:00Z (RFC 3339) or as a Unix time in ms, not {0:?}")]
pub struct InvalidInstant(String);

const DAY_MS: u64 = 86_400_000;

/// Days from 0000-03-01 to 1970-01-01.
const EPOCH_DAYS: u64 = 719_468;
/// Days in 400 years.
const ERA_DAYS: u64 = 146_097;

// === impl Instant ===

impl FromStr for Instant {
    type Err = InvalidInstant;

    fn from_str(text: &str) -> Result<Self, InvalidInstant> {
        parse(text).map(Self).ok_or_else(|| InvalidInstant(text.to_owned()))
    }
}

/// RFC 3339, section 5.6; before 1970 is none.
fn parse(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut number = |digits: usize, then: &str| -> Option<u64> {
        let (number, after) = rest.split_at_checked(digits)?;
        rest = if then.is_empty() {
            after
        } else {
            after.strip_prefix(|c: char| then.chars().any(|one| one == c))?
        };
        number.bytes().all(|b| b.is_ascii_digit()).then(|| number.parse().ok())?
    };
    let (year, month, day) = (number(4, "-")?, number(2, "-")?, number(2, "Tt ")?);
    let (hour, minute, second) = (number(2, ":")?, number(2, ":")?, number(2, "")?);
    // A leap second is taken for the one after it.
    let fits = (1..=12).contains(&month)
        && (1..=days_in(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    if !fits {
        return None;
    }
    let mut ms = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let end = fraction.find(|c: char| !c.is_ascii_digit())?;
        let (digits, after) = fraction.split_at_checked(end).filter(|(digits, _)| !digits.is_empty())?;
        ms = digits.bytes().chain(*b"000").take(3).fold(0_u64, |ms, digit| {
            ms.saturating_mul(10).saturating_add(u64::from(digit.saturating_sub(b'0')))
        });
        rest = after;
    }
    let seconds = hour.checked_mul(3600)?.checked_add(minute.checked_mul(60)?)?.checked_add(second)?;
    let days = days_from_epoch(year, month, day)?;
    let local = days.checked_mul(DAY_MS)?.checked_add(seconds.checked_mul(1000)?)?.checked_add(ms)?;
    let offset = |text: &str| -> Option<u64> {
        let (hours, minutes) = text.split_once(':').filter(|(h, m)| h.len() == 2 && m.len() == 2)?;
        let of = |text: &str, below: u64| {
            let digits = text.bytes().all(|b| b.is_ascii_digit());
            text.parse::<u64>().ok().filter(|n| digits && *n < below)
        };
        of(hours, 24)?.checked_mul(60)?.checked_add(of(minutes, 60)?)?.checked_mul(60_000)
    };
    match rest.split_at_checked(1)? {
        ("Z" | "z", "") => Some(local),
        ("+", ahead) => local.checked_sub(offset(ahead)?),
        ("-", behind) => local.checked_add(offset(behind)?),
        _ => None,
    }
}

fn days_in(year: u64, month: u64) -> u64 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 => 28_u64.saturating_add(u64::from(leap)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the Gregorian calendar. Years begin in March, so that the leap day is the last of its year.
fn days_from_epoch(year: u64, month: u64, day: u64) -> Option<u64> {
    let year = year.checked_sub(u64::from(month <= 2))?;
    let from_march = month.checked_add(9)?.checked_rem(12)?;
    let of_year =
        from_march.checked_mul(153)?.checked_add(2)?.checked_div(5)?.checked_add(day)?.checked_sub(1)?;
    let leaps =
        year.checked_div(4)?.checked_sub(year.checked_div(100)?)?.checked_add(year.checked_div(400)?)?;
    year.checked_mul(365)?.checked_add(leaps)?.checked_add(of_year)?.checked_sub(EPOCH_DAYS)
}

/// Year, month and day, `days` after 1970-01-01: the inverse.
fn date_of(days: u64) -> Option<(u64, u64, u64)> {
    let days = days.checked_add(EPOCH_DAYS)?;
    // The year by its mean length, from below; then up to where it fits.
    let mut year = days.checked_mul(400)?.checked_div(ERA_DAYS)?.saturating_sub(1);
    let days = days.checked_sub(EPOCH_DAYS)?;
    while days_from_epoch(year.checked_add(1)?, 3, 1).is_some_and(|first| first <= days) {
        year = year.checked_add(1)?;
    }
    let of_year = match days_from_epoch(year, 3, 1) {
        Some(first) => days.checked_sub(first)?,
        // 1970 began in January.
        None => days.checked_add(306)?,
    };
    let from_march = of_year.checked_mul(5)?.checked_add(2)?.checked_div(153)?;
    let before = from_march.checked_mul(153)?.checked_add(2)?.checked_div(5)?;
    let month = from_march.checked_add(2)?.checked_rem(12)?.checked_add(1)?;
    let year = year.checked_add(u64::from(month <= 2))?;
    Some((year, month, of_year.checked_sub(before)?.checked_add(1)?))
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part =
            |unit: u64, of: u64| self.0.checked_div(unit).and_then(|n| n.checked_rem(of)).unwrap_or_default();
        match date_of(self.0.checked_div(DAY_MS).unwrap_or_default()) {
            Some((year @ ..=9999, month, day)) => {
                let (hour, minute, second) = (part(3_600_000, 24), part(60_000, 60), part(1000, 60));
                write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
                match part(1, 1000) {
                    0 => f.write_str("Z"),
                    ms => write!(f, ".{ms:03}Z"),
                }
            }
            // Later than RFC 3339 can say.
            _ => write!(f, "{}", self.0),
        }
    }
}

impl Serialize for Instant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match date_of(self.0.checked_div(DAY_MS).unwrap_or_default()) {
            Some((..=9999, _, _)) => serializer.collect_str(self),
            _ => serializer.serialize_u64(self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Instant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Instant;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time such as 2026-11-25T22:00:00Z, or a Unix time in ms")
            }

            fn visit_u64<E: Error>(self, ms: u64) -> Result<Instant, E> {
                Ok(Instant(ms))
            }

            fn visit_i64<E: Error>(self, ms: i64) -> Result<Instant, E> {
                u64::try_from(ms).map(Instant).map_err(|_| E::invalid_value(Unexpected::Signed(ms), &self))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Instant, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Option<u64> {
        text.parse::<Instant>().ok().map(|at| at.0)
    }

    #[test]
    fn known_times() {
        // By `date -u -d TEXT +%s%3N`.
        for (text, ms) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T23:59:59.999Z", 951_868_799_999),
            ("2026-11-25T22:00:00Z", 1_795_644_000_000),
            ("2026-11-25T23:30:00.5+01:30", 1_795_644_000_500),
            ("2026-11-25t17:00:00-05:00", 1_795_644_000_000),
            ("2100-03-01T00:00:00Z", 4_107_542_400_000),
        ] {
            assert_eq!(read(text), Some(ms), "{text}");
        }
        assert_eq!(Instant(1_795_644_000_500).to_string(), "2026-11-25T22:00:00.500Z");
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for bad in [
            "",
            "soon",
            "2026-11-25",
            "2026-11-25T22:00:00",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-11-25T24:00:00Z",
            "2026-11-25T22:60:00Z",
            "2026-11-25T22:00:00.Z",
            "2026-11-25T22:00:00+1:00",
            "2026-11-25T22:00:00+24:00",
            "+026-11-25T22:00:00Z",
            "1969-12-31T23:59:59Z",
            "2026-11-25T22:00:00ZZ",
            "2026-11-25T22:00:00é",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert_eq!(serde_json::from_str::<Instant>("1795644000000").unwrap(), Instant(1_795_644_000_000));
        let error = serde_json::from_str::<Instant>("\"tomorrow\"").unwrap_err().to_string();
        assert!(error.contains("2026-11-25T22:00:00Z (RFC 3339)"), "{error}");
        assert!(serde_json::from_str::<Instant>("-1").is_err());
    }

    proptest! {
        #[test]
        fn a_time_reads_as_printed(ms in 0_u64..253_402_300_800_000) {
            prop_assert_eq!(read(&Instant(ms).to_string()), Some(ms));
        }

        #[test]
        fn any_number_comes_back(ms: u64) {
            let text = serde_json::to_string(&Instant(ms)).unwrap();
            prop_assert_eq!(serde_json::from_str::<Instant>(&text).unwrap(), Instant(ms));
        }

        #[test]
        fn garbage_never_panics(text in "\\PC{0,30}") {
            let _ = read(&text);
        }
    }
}
