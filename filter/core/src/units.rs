//! The units that operators write: percentages in steps of 0.1, and durations such as `30s`. Parses and prints; no clock.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A share of requests in steps of 0.1 %: 0 to 100 %, held as 0 to 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Percent(u16);

/// A time span of whole milliseconds; written `250ms`, `30s`, `5m` or `2h`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Millis(pub u64);

/// A number printed to one decimal, as `{:.1}` prints it, without the code that prints floats: the module has no other use for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tenths(u64);

/// Why a percentage or a duration was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUnit {
    /// Outside 0 to 100, or not a number.
    #[error("a percentage lies between 0 and 100, not {0}")]
    Percent(String),
    /// Next to nothing or next to everything, which are not the same.
    #[error("a percentage goes in steps of 0.1, and {0} would be {1}")]
    Step(String, Percent),
    /// Not a whole number followed by ms, s, m or h.
    #[error("a duration is a whole number with a unit, such as 250ms, 30s, 5m or 2h, not {0:?}")]
    Duration(String),
}

// === impl Percent ===

impl Percent {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// Everything.
    pub const FULL: Self = Self(1000);

    /// The share nearest to `percent`, in steps of 0.1.
    pub fn new(percent: f64) -> Result<Self, InvalidUnit> {
        if (0.0..=100.0).contains(&percent) {
            // In range by the check above, so the conversion cannot lose anything but the fraction.
            Ok(Self((percent * 10.0).round() as u16))
        } else {
            Err(InvalidUnit::Percent(Self::as_given(percent)))
        }
    }

    /// As JSON writes it, whose parser brings the code for that along; JSON has no word for what is no number.
    fn as_given(percent: f64) -> String {
        let text = serde_json::Number::from_f64(percent).map(|number| number.to_string());
        text.as_deref().map_or("no number", |text| text.strip_suffix(".0").unwrap_or(text)).to_owned()
    }

    /// Tenths of a percent, 0 to 1000.
    pub const fn permille(self) -> u16 {
        self.0
    }

    /// What is left of the whole: `100 % - self`.
    pub const fn rest(self) -> Self {
        Self(1000_u16.saturating_sub(self.0))
    }

    /// As a fraction of one.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / 1000.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.checked_rem(10) {
            Some(0) => write!(f, "{} %", self.0.checked_div(10).unwrap_or_default()),
            _ => write!(f, "{} %", Tenths(self.0.into())),
        }
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_multiple_of(10) {
            serializer.serialize_u16(self.0.checked_div(10).unwrap_or_default())
        } else {
            serializer.serialize_f64(f64::from(self.0) / 10.0)
        }
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = f64::deserialize(deserializer)?;
        let percent = Self::new(number).map_err(D::Error::custom)?;
        // Nothing and everything mean more than a share next to them.
        let is_end = percent == Self::ZERO || percent == Self::FULL;
        match is_end && (number - percent.fraction() * 100.0).abs() > f64::EPSILON {
            true => Err(D::Error::custom(InvalidUnit::Step(Self::as_given(number), percent))),
            false => Ok(percent),
        }
    }
}

// === impl Tenths ===

impl Tenths {
    /// From thousandths, rounded to the nearest, up where there are two.
    pub const fn of_thousandths(number: u64) -> Self {
        match number.saturating_add(50).checked_div(100) {
            Some(tenths) => Self(tenths),
            None => Self(0),
        }
    }
}

impl From<f32> for Tenths {
    /// Rounded to the nearest, to the even one where there are two; what is below 0 or no number is 0.
    fn from(number: f32) -> Self {
        // Exact: an f64 holds ten times an f32.
        Self((f64::from(number) * 10.0).round_ties_even() as u64)
    }
}

impl fmt::Display for Tenths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |number: Option<u64>| number.unwrap_or_default();
        write!(f, "{}.{}", of(self.0.checked_div(10)), of(self.0.checked_rem(10)))
    }
}

// === impl Millis ===

impl Millis {
    /// From whole seconds.
    pub const fn secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1000))
    }
}

impl FromStr for Millis {
    type Err = InvalidUnit;

    fn from_str(text: &str) -> Result<Self, InvalidUnit> {
        let bad = || InvalidUnit::Duration(text.to_owned());
        let at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let (number, unit) = text.split_at(at);
        let factor = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(bad()),
        };
        number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).map(Self).ok_or_else(bad)
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, factor) in [("h", 3_600_000_u64), ("m", 60_000), ("s", 1000)] {
            if self.0 > 0 && self.0.is_multiple_of(factor) {
                return write!(f, "{}{unit}", self.0.checked_div(factor).unwrap_or_default());
            }
        }
        write!(f, "{}ms", self.0)
    }
}

impl fmt::Debug for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Millis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Millis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_read_and_print_the_same() {
        for text in ["0ms", "250ms", "30s", "5m", "2h"] {
            assert_eq!(text.parse::<Millis>().unwrap().to_string(), text);
        }
        assert_eq!("90s".parse::<Millis>().unwrap(), Millis(90_000));
        for bad in ["", "30", "s", "-1s", "1.5s", "3 s", "99999999999999999h"] {
            assert_eq!(bad.parse::<Millis>(), Err(InvalidUnit::Duration(bad.into())));
        }
    }

    #[test]
    fn percentages_keep_tenths() {
        assert_eq!(serde_json::from_str::<Percent>("12.34").unwrap().permille(), 123);
        assert_eq!(serde_json::to_string(&Percent::new(5.0).unwrap()).unwrap(), "5");
        assert_eq!(serde_json::to_string(&Percent::new(0.5).unwrap()).unwrap(), "0.5");
        for bad in ["-1", "100.5", "1e9"] {
            assert!(serde_json::from_str::<Percent>(bad).is_err(), "{bad}");
        }
        for (near_an_end, end) in [("0.04", "0 %"), ("99.96", "100 %")] {
            let error = serde_json::from_str::<Percent>(near_an_end).unwrap_err().to_string();
            let told = format!("a percentage goes in steps of 0.1, and {near_an_end} would be {end}");
            assert!(error.starts_with(&told), "{error}");
        }
        for end in ["0", "0.0", "100", "100.0", "0.1", "99.9"] {
            assert!(serde_json::from_str::<Percent>(end).is_ok(), "{end}");
        }
    }

    proptest! {
        #[test]
        fn tenths_print_as_floats_do(quarters in 0_u32..400_000, number in 0_f32..1e9) {
            for number in [quarters as f32 / 4.0, number] {
                prop_assert_eq!(Tenths::from(number).to_string(), format!("{number:.1}"));
            }
        }

        #[test]
        fn percentages_print_as_floats_do(permille in 0_u16..=1000) {
            prop_assert_eq!(Percent(permille).to_string(), format!("{} %", f64::from(permille) / 10.0));
        }

        #[test]
        fn thousandths_are_rounded_to_the_nearest(number in 0_u64..1 << 50) {
            let Tenths(tenths) = Tenths::of_thousandths(number);
            prop_assert!((tenths * 100).abs_diff(number) <= 50);
        }
    }
}
