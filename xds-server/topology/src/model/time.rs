//! Moments as operators write them. Reads; asks no clock.

use jiff::Timestamp;
use serde::{Deserialize as _, Deserializer, de::Error as _};

/// A moment by RFC 3339, in any time zone.
pub(super) fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| {
        D::Error::custom(format!("a time is written 2026-01-05T10:00:00Z (RFC 3339), not {text:?}"))
    })
}
