//! What is to be registered. Validates; touches no etcd.

use std::{collections::BTreeMap, time::Duration};

use zonebreak_core::{
    names::{ServiceName, Zone},
    units::Millis,
};

use crate::{
    etcd::EtcdError,
    foreign,
    model::{Endpoint, InstanceId, InvalidValue},
};

/// The shortest lease. etcd grants none below its own minimum, which is 2 s with the default election timeout.
const SHORTEST_TTL: Millis = Millis::secs(2);

/// The longest: a dead endpoint would be served for as long.
const LONGEST_TTL: Millis = Millis::secs(600);

/// An endpoint to register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisterOptions {
    /// The service that it is an instance of.
    pub service: ServiceName,
    /// Its name within the service; the address when absent.
    pub instance: Option<InstanceId>,
    /// The zone that it runs in.
    pub zone: Zone,
    /// The region of that zone; may be empty.
    pub region: String,
    /// Where it is reached: `host:port`, with an IPv6 address in brackets.
    pub address: String,
    /// Share of its zone's load, 1 to 1000.
    pub weight: u32,
    /// Free text for people and tools.
    pub labels: BTreeMap<String, String>,
    /// How long the registration outlives its registrant: whole seconds, 2 s to 10 min. 10 s is a good choice.
    pub ttl: Millis,
}

/// Why a registration cannot be. Each finishes the sentence "failed to ...".
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// The options make no sense.
    #[error("register this endpoint: {0}")]
    Invalid(#[from] InvalidValue),
    /// etcd's settings make no sense, or it refuses the user.
    #[error("{0}")]
    Etcd(#[from] EtcdError),
}

// === impl RegisterOptions ===

impl RegisterOptions {
    /// The default lease.
    pub const DEFAULT_TTL: Millis = Millis::secs(10);

    /// The endpoint and its name.
    pub fn endpoint(&self) -> Result<(InstanceId, Endpoint), InvalidValue> {
        let (host, port) = foreign::split(&self.address).ok_or_else(|| {
            let why =
                format!("must be host:port, as in 10.0.0.1:8080 or [fd00::1]:8080, not {:?}", self.address);
            InvalidValue::new("address", why)
        })?;
        let endpoint = Endpoint {
            address: host.to_owned(),
            port,
            region: self.region.clone(),
            zone: self.zone.clone(),
            weight: self.weight,
            labels: self.labels.clone(),
        };
        endpoint.validate()?;
        let instance = match &self.instance {
            Some(instance) => instance.clone(),
            None => {
                InstanceId::new(&self.address).map_err(|e| InvalidValue::new("address", e.to_string()))?
            }
        };
        Ok((instance, endpoint))
    }

    /// The lease asked for.
    pub fn lease(&self) -> Result<Duration, InvalidValue> {
        let Millis(ttl) = self.ttl;
        if !(SHORTEST_TTL..=LONGEST_TTL).contains(&self.ttl) || !ttl.is_multiple_of(1000) {
            let why = format!("must be whole seconds from {SHORTEST_TTL} to {LONGEST_TTL}, not {}", self.ttl);
            return Err(InvalidValue::new("ttl", why));
        }
        Ok(Duration::from_millis(ttl))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> RegisterOptions {
        RegisterOptions {
            service: ServiceName::new("order-svc").unwrap(),
            instance: None,
            zone: Zone::new("az-a").unwrap(),
            region: "eu".into(),
            address: "10.0.0.1:8080".into(),
            weight: 1,
            labels: BTreeMap::new(),
            ttl: RegisterOptions::DEFAULT_TTL,
        }
    }

    #[test]
    fn the_instance_is_named_by_its_address() {
        let (instance, endpoint) = options().endpoint().unwrap();
        assert_eq!(instance.as_str(), "10.0.0.1:8080");
        assert_eq!((endpoint.address.as_str(), endpoint.port), ("10.0.0.1", 8080));
        let v6 = RegisterOptions { address: "[fd00::1]:80".into(), ..options() };
        assert_eq!(v6.endpoint().unwrap().1.address, "fd00::1");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let of =
            |o: RegisterOptions| o.endpoint().map(|_| ()).and_then(|()| o.lease().map(|_| ())).unwrap_err();
        assert_eq!(of(RegisterOptions { address: "10.0.0.1".into(), ..options() }).field, "address");
        assert_eq!(of(RegisterOptions { address: "fd00::1:80".into(), ..options() }).field, "address");
        assert_eq!(of(RegisterOptions { weight: 0, ..options() }).field, "weight");
        assert_eq!(of(RegisterOptions { ttl: Millis::secs(1), ..options() }).field, "ttl");
        assert_eq!(of(RegisterOptions { ttl: Millis(2500), ..options() }).field, "ttl");
    }
}
