//! The keys of the schema, without the prefix: `services/order-svc`, `endpoints/order-svc/10.0.0.1:8080`. Reads and prints;
//! never looks at a value.

use std::fmt;

use zonebreak_core::names::{ServiceName, Zone};

use crate::model::{HeldId, InstanceId, ShiftTarget};

/// Top-level names that other parts of Zonebreak keep under the same prefix; they are none of the topology's business.
const NEIGHBOURS: [&str; 2] = ["replication", "changes"];

/// The kinds of key, by the name that opens them; in a file, the top-level names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `zones/<zone>`
    Zones,
    /// `services/<service>`
    Services,
    /// `endpoints/<service>/<instance>`
    Endpoints,
    /// `shifts/<zone>[/<service>]`
    Shifts,
    /// `health/<service>/<instance>`
    Health,
    /// `forced/<service>/<instance>`
    Forced,
    /// `confirmed/endpoints/<service>`, `confirmed/services`, `confirmed/zones` or `confirmed/source`
    Confirmed,
}

/// One key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// What is known of a zone.
    Zone(Zone),
    /// The policy of a service.
    Service(ServiceName),
    /// An instance of a service.
    Endpoint(ServiceName, InstanceId),
    /// A drain.
    Shift(ShiftTarget),
    /// What probes say about an instance.
    Health(ServiceName, InstanceId),
    /// What operators say about an instance.
    Forced(ServiceName, InstanceId),
    /// What operators say about a change that is held back.
    Confirmed(HeldId),
}

/// Why a key was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// It opens with no name of the schema.
    #[error(
        "{0:?} is no kind of key; known are zones, services, endpoints, shifts, health, forced and confirmed"
    )]
    Kind(String),
    /// Too few or too many segments.
    #[error("a key of this kind is written {shape}")]
    Shape {
        /// How it is written.
        shape: &'static str,
    },
    /// A segment is no name of its kind.
    #[error("{0}")]
    Name(String),
}

// === impl Kind ===

impl Kind {
    /// Every kind, in the order in which a file is best read.
    pub const ALL: [Self; 7] = [
        Self::Zones,
        Self::Services,
        Self::Endpoints,
        Self::Shifts,
        Self::Health,
        Self::Forced,
        Self::Confirmed,
    ];

    /// The name that opens its keys.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Zones => "zones",
            Self::Services => "services",
            Self::Endpoints => "endpoints",
            Self::Shifts => "shifts",
            Self::Health => "health",
            Self::Forced => "forced",
            Self::Confirmed => "confirmed",
        }
    }

    /// How its keys are written.
    pub const fn shape(self) -> &'static str {
        match self {
            Self::Zones => "zones/<zone>",
            Self::Services => "services/<service>",
            Self::Endpoints => "endpoints/<service>/<instance>",
            Self::Shifts => "shifts/<zone> or shifts/<zone>/<service>",
            Self::Health => "health/<service>/<instance>",
            Self::Forced => "forced/<service>/<instance>",
            Self::Confirmed => {
                "confirmed/endpoints/<service>, confirmed/services, confirmed/zones or confirmed/source"
            }
        }
    }

    /// The kind of that name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

// === impl Key ===

impl Key {
    /// Reads a key. `None` for keys of other parts of Zonebreak.
    pub fn parse(text: &str) -> Result<Option<Self>, InvalidKey> {
        let (head, rest) = text.split_once('/').unwrap_or((text, ""));
        if NEIGHBOURS.contains(&head) {
            return Ok(None);
        }
        let kind = Kind::of(head).ok_or_else(|| InvalidKey::Kind(head.to_owned()))?;
        let segments: Vec<&str> = if rest.is_empty() { Vec::new() } else { rest.split('/').collect() };
        Self::from_parts(kind, &segments).map(Some)
    }

    /// Reads the segments that follow the kind.
    pub fn from_parts(kind: Kind, segments: &[&str]) -> Result<Self, InvalidKey> {
        let zone = |name: &str| Zone::new(name).map_err(|e| InvalidKey::Name(e.to_string()));
        let service = |name: &str| ServiceName::new(name).map_err(|e| InvalidKey::Name(e.to_string()));
        let instance = |name: &str| InstanceId::new(name).map_err(|e| InvalidKey::Name(e.to_string()));
        Ok(match (kind, segments) {
            (Kind::Zones, [z]) => Self::Zone(zone(z)?),
            (Kind::Services, [s]) => Self::Service(service(s)?),
            (Kind::Endpoints, [s, i]) => Self::Endpoint(service(s)?, instance(i)?),
            (Kind::Shifts, [z]) => Self::Shift(ShiftTarget { zone: zone(z)?, service: None }),
            (Kind::Shifts, [z, s]) => Self::Shift(ShiftTarget { zone: zone(z)?, service: Some(service(s)?) }),
            (Kind::Health, [s, i]) => Self::Health(service(s)?, instance(i)?),
            (Kind::Forced, [s, i]) => Self::Forced(service(s)?, instance(i)?),
            (Kind::Confirmed, ["source"]) => Self::Confirmed(HeldId::Source),
            (Kind::Confirmed, ["services"]) => Self::Confirmed(HeldId::Policies),
            (Kind::Confirmed, ["zones"]) => Self::Confirmed(HeldId::Zones),
            (Kind::Confirmed, ["endpoints", s]) => Self::Confirmed(HeldId::Endpoints(service(s)?)),
            _ => return Err(InvalidKey::Shape { shape: kind.shape() }),
        })
    }

    /// Its kind.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Zone(_) => Kind::Zones,
            Self::Service(_) => Kind::Services,
            Self::Endpoint(..) => Kind::Endpoints,
            Self::Shift(_) => Kind::Shifts,
            Self::Health(..) => Kind::Health,
            Self::Forced(..) => Kind::Forced,
            Self::Confirmed(_) => Kind::Confirmed,
        }
    }

    /// The path of its value in a file: the names to go down by.
    pub fn path(&self) -> Vec<String> {
        let mut path = vec![self.kind().name().to_owned()];
        match self {
            Self::Zone(zone) => path.push(zone.to_string()),
            Self::Service(service) => path.push(service.to_string()),
            Self::Endpoint(s, i) | Self::Health(s, i) | Self::Forced(s, i) => {
                path.extend([s.to_string(), i.to_string()]);
            }
            Self::Shift(ShiftTarget { zone, service: None }) => path.push(zone.to_string()),
            Self::Shift(ShiftTarget { zone, service: Some(s) }) => path.push(format!("{zone}/{s}")),
            Self::Confirmed(held) => path.push(held.to_string()),
        }
        path
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path().join("/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_and_print_the_same() {
        for text in [
            "zones/az-a",
            "services/order-svc",
            "endpoints/order-svc/10.0.0.1:8080",
            "shifts/az-b",
            "shifts/az-b/order-svc",
            "health/order-svc/a",
            "forced/order-svc/a",
            "confirmed/endpoints/order-svc",
            "confirmed/services",
            "confirmed/zones",
            "confirmed/source",
        ] {
            if let Some(id) = text.strip_prefix("confirmed/") {
                assert_eq!(HeldId::parse(id).unwrap().to_string(), id);
            }
            assert_eq!(Key::parse(text).unwrap().unwrap().to_string(), text);
        }
    }

    #[test]
    fn strangers_are_told_from_mistakes() {
        assert_eq!(Key::parse("replication/eu-to-us"), Ok(None));
        assert_eq!(Key::parse("changes/17"), Ok(None));
        for (bad, says) in [
            ("servces/a", "\"servces\" is no kind of key"),
            ("", "is no kind of key"),
            ("endpoints/a", "endpoints/<service>/<instance>"),
            ("endpoints/a/b/c", "endpoints/<service>/<instance>"),
            ("zones/a/b", "zones/<zone>"),
            ("zones", "zones/<zone>"),
            ("confirmed/order-svc", "confirmed/endpoints/<service>"),
            ("services/a b", "a service name holds"),
        ] {
            let error = Key::parse(bad).unwrap_err().to_string();
            assert!(error.contains(says), "{bad}: {error}");
        }
    }
}
