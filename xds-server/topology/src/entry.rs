//! One value of the schema, read strictly: an unknown field is an error, and an error says where. Reads; keeps nothing.

mod sample;

use std::sync::Arc;

use serde::{Deserialize, Deserializer};
use serde_path_to_error::Track;
use zonebreak_core::policy::ServicePolicy;

use crate::{
    advice::{self, Path},
    foreign,
    key::{Key, Kind},
    locate,
    model::{Confirmation, Endpoint, Forced, Health, InvalidValue, Problem, Shift, ZoneSpec},
};

/// A value, by kind of its key.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    /// Of `zones/`.
    Zone(ZoneSpec),
    /// Of `services/`.
    Service(Arc<ServicePolicy>),
    /// Of `endpoints/`.
    Endpoint(Endpoint),
    /// Of `shifts/`.
    Shift(Shift),
    /// Of `health/`.
    Health(Health),
    /// Of `forced/`.
    Forced(Forced),
    /// Of `confirmed/`.
    Confirmed(Confirmation),
}

// === impl Entry ===

impl Entry {
    /// Reads the JSON value of a key in etcd. Endpoints may also come in the forms that other programs write: etcd's own Go
    /// naming package, and Consul's.
    pub fn decode(key: &Key, json: &[u8]) -> Result<Self, Problem> {
        let problem = |message: String| Problem::new(key.to_string(), message);
        if key.kind() == Kind::Endpoints
            && let Some(endpoint) = foreign::read(json)
        {
            let endpoint = endpoint.map_err(problem)?;
            let entry = Self::Endpoint(endpoint);
            return entry.validate().map(|()| entry).map_err(|invalid| problem(invalid.to_string()));
        }
        let mut reader = serde_json::Deserializer::from_slice(json);
        let mut track = Track::new();
        let tracked = serde_path_to_error::Deserializer::new(&mut reader, &mut track);
        let read = Self::read(key.kind(), tracked).and_then(|entry| reader.end().map(|()| entry));
        let entry = read.map_err(|e| {
            let at = (e.line() > 0).then(|| (clamp(e.line()), clamp(e.column())));
            problem(Self::advise(key.kind(), &without_position(&e), &track.path())).at(at)
        })?;
        entry.validate().map(|()| entry).map_err(|invalid| {
            let text = std::str::from_utf8(json).unwrap_or_default();
            let path: Vec<&str> = invalid.field.split('.').collect();
            let message = invalid.to_string();
            problem(message).at(locate::value(text, &path))
        })
    }

    /// Reads a value of that kind from any format.
    pub fn read<'de, D: Deserializer<'de>>(kind: Kind, deserializer: D) -> Result<Self, D::Error> {
        Ok(match kind {
            Kind::Zones => Self::Zone(ZoneSpec::deserialize(deserializer)?),
            Kind::Services => Self::Service(Arc::new(ServicePolicy::deserialize(deserializer)?)),
            Kind::Endpoints => Self::Endpoint(Endpoint::deserialize(deserializer)?),
            Kind::Shifts => Self::Shift(Shift::deserialize(deserializer)?),
            Kind::Health => Self::Health(Health::deserialize(deserializer)?),
            Kind::Forced => Self::Forced(Forced::deserialize(deserializer)?),
            Kind::Confirmed => Self::Confirmed(Confirmation::deserialize(deserializer)?),
        })
    }

    /// What a reader says about the field at `path` of a value of that kind, with advice.
    pub(crate) fn advise(kind: Kind, message: &str, path: &Path) -> String {
        advice::advise(message, path, &Self::sample(kind))
    }

    /// A value of that kind in which every field is as it may be written.
    pub fn sample(kind: Kind) -> serde_json::Value {
        sample::of(kind)
    }

    /// Checks what types alone cannot.
    pub fn validate(&self) -> Result<(), InvalidValue> {
        match self {
            Self::Zone(zone) => zone.validate(),
            Self::Service(policy) => {
                policy.validate().map_err(|invalid| InvalidValue { field: invalid.field, why: invalid.why })
            }
            Self::Endpoint(endpoint) => endpoint.validate(),
            Self::Shift(shift) => shift.validate(),
            Self::Health(_) => Ok(()),
            Self::Forced(forced) => forced.validate(),
            Self::Confirmed(confirmation) => confirmation.validate(),
        }
    }

    /// The value as JSON, every field spelled out.
    pub fn to_json(&self) -> Result<serde_json::Value, serde_json::Error> {
        match self {
            Self::Zone(zone) => serde_json::to_value(zone),
            Self::Service(policy) => serde_json::to_value(&**policy),
            Self::Endpoint(endpoint) => serde_json::to_value(endpoint),
            Self::Shift(shift) => serde_json::to_value(shift),
            Self::Health(health) => serde_json::to_value(health),
            Self::Forced(forced) => serde_json::to_value(forced),
            Self::Confirmed(confirmation) => serde_json::to_value(confirmation),
        }
    }
}

fn clamp(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// The parser's words without its "at line 1 column 2", which a [`Problem`] says in its own place.
fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let tail = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&tail).map_or_else(|| text.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(key: &str, json: &str) -> Problem {
        Entry::decode(&Key::parse(key).unwrap().unwrap(), json.as_bytes()).unwrap_err()
    }

    #[test]
    fn a_refused_value_says_where() {
        let p = problem("services/s", "{\n  \"mode\": \"fast\"\n}");
        assert_eq!((p.line, p.column), (Some(2), Some(16)), "{p}");
        assert!(p.message.starts_with("mode: unknown variant `fast`"), "{p}");
        let p = problem("services/s", "{\n  \"retry\": {\n    \"attempts\": 9}}");
        assert_eq!((p.line, p.column), (Some(3), Some(17)), "{p}");
        assert!(
            p.to_string().starts_with("services/s line 3 column 17: retry.attempts: must be 0 to 3"),
            "{p}"
        );
        let p = problem("zones/z", "{} trailing");
        assert_eq!(p.message, "trailing characters");
        let p = problem("zones/z", "");
        assert!(p.message.starts_with("EOF"), "{p}");
        let p = problem("zones/z", r#"{"regoin": "x"}"#);
        assert!(p.message.contains("unknown field `regoin`, expected one of"), "{p}");
    }
}
