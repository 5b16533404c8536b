//! The bytes in which the workers of a proxy share a service's state. Compact, checked, and by name of zone, so that a worker
//! that has not heard of a new zone yet reads what it knows. It writes and reads; it judges nothing.
//!
//! Layout, integers little-endian: version `u8`, epoch `u64`, seed `u64`, number of zones `u8`; for each zone the length of its
//! name `u8`, its name, state `u8`, cause `u8`, reopens `u8`, before `u16`, since `u64`, until `u64`, epoch `u64`, has evidence
//! `u8`, and if so window, n, k, peer n, peer k `u32`, bound, score, needed `f32`; last the FNV-1a of all that, folded to `u32`.
//! Zones that were never touched are left out.

use crate::{
    breaker::{Cause, ServiceState, State, ZoneState},
    config::MAX_ZONES,
    detector::Evidence,
    mix,
    names::Zone,
};

/// The version of these bytes, first among them: what reads one reads no other.
pub const STATE_VERSION: u8 = 1;

/// Why bytes are no state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidState {
    /// They end too early, go on too long, or hold what no state has.
    #[error(
        "failed to read a shared breaker state: malformed at byte {at}; it is ignored and the worker's own state stays"
    )]
    Malformed {
        /// Where reading stopped.
        at: usize,
    },
    /// They were damaged, or are something else altogether.
    #[error(
        "failed to read a shared breaker state: the checksum differs; it is ignored and the worker's own state stays"
    )]
    Checksum,
    /// Another version of the filter wrote them.
    #[error(
        "failed to read a shared breaker state of version {found}: this filter knows version {STATE_VERSION}"
    )]
    Version {
        /// The version found.
        found: u8,
    },
}

/// A state as read: zones by name.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded<'a> {
    /// See [`ServiceState::epoch`].
    pub epoch: u64,
    /// See [`ServiceState::seed`].
    pub seed: u64,
    /// At most eight.
    pub zones: Vec<(&'a str, ZoneState)>,
}

/// Writes a state; `zones` names its zones in their order.
pub fn encode(state: &ServiceState, zones: &[Zone]) -> Vec<u8> {
    let touched: Vec<_> = zones.iter().zip(&state.zones).filter(|(_, zone)| zone.epoch > 0).collect();
    let mut out = vec![STATE_VERSION];
    out.extend(state.epoch.to_le_bytes());
    out.extend(state.seed.to_le_bytes());
    out.push(touched.len() as u8);
    for (name, zone) in touched {
        out.push(name.len() as u8);
        out.extend(name.as_bytes());
        out.extend([zone.state.code(), zone.cause.code(), zone.reopens]);
        out.extend(zone.before.to_le_bytes());
        for number in [zone.since, zone.until, zone.epoch] {
            out.extend(number.to_le_bytes());
        }
        out.push(u8::from(zone.evidence.is_some()));
        if let Some(e) = &zone.evidence {
            for number in [e.window_ms, e.n, e.k, e.peer_n, e.peer_k] {
                out.extend(number.to_le_bytes());
            }
            for number in [e.bound, e.score, e.needed] {
                out.extend(number.to_le_bytes());
            }
        }
    }
    out.extend(checksum(&out).to_le_bytes());
    out
}

/// Reads a state.
pub fn decode(bytes: &[u8]) -> Result<Decoded<'_>, InvalidState> {
    let Some((body, sum)) = bytes.split_last_chunk::<4>() else {
        return Err(InvalidState::Malformed { at: bytes.len() });
    };
    if checksum(body) != u32::from_le_bytes(*sum) {
        return Err(InvalidState::Checksum);
    }
    let mut reader = Reader { rest: body, len: body.len() };
    match reader.byte()? {
        STATE_VERSION => {}
        found => return Err(InvalidState::Version { found }),
    }
    let (epoch, seed, count) = (reader.u64()?, reader.u64()?, reader.byte()?);
    if usize::from(count) > MAX_ZONES {
        return Err(reader.malformed());
    }
    let zones = (0..count).map(|_| reader.zone(epoch)).collect::<Result<_, _>>()?;
    if !reader.rest.is_empty() {
        return Err(reader.malformed());
    }
    Ok(Decoded { epoch, seed, zones })
}

fn checksum(bytes: &[u8]) -> u32 {
    let hash = mix::fnv1a(mix::FNV_START, bytes);
    (hash ^ hash.wrapping_shr(32)) as u32
}

struct Reader<'a> {
    rest: &'a [u8],
    len: usize,
}

// === impl Reader ===

impl<'a> Reader<'a> {
    fn malformed(&self) -> InvalidState {
        InvalidState::Malformed { at: self.len.saturating_sub(self.rest.len()) }
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], InvalidState> {
        let (taken, rest) = self.rest.split_at_checked(n).ok_or_else(|| self.malformed())?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], InvalidState> {
        let malformed = self.malformed();
        self.take(N)?.try_into().map_err(|_| malformed)
    }

    fn byte(&mut self) -> Result<u8, InvalidState> {
        self.array().map(u8::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, InvalidState> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, InvalidState> {
        self.array().map(u64::from_le_bytes)
    }

    fn f32(&mut self) -> Result<f32, InvalidState> {
        let number = f32::from_le_bytes(self.array()?);
        if number.is_finite() { Ok(number) } else { Err(self.malformed()) }
    }

    fn zone(&mut self, newest: u64) -> Result<(&'a str, ZoneState), InvalidState> {
        let len = self.byte()?;
        let name = self.take(usize::from(len))?;
        let name = std::str::from_utf8(name).map_err(|_| self.malformed())?;
        let code = self.byte()?;
        let state = State::own(code).ok_or_else(|| self.malformed())?;
        let code = self.byte()?;
        let cause = Cause::from_code(code).ok_or_else(|| self.malformed())?;
        let reopens = self.byte()?;
        let before = self.array().map(u16::from_le_bytes)?;
        let (since, until, epoch) = (self.u64()?, self.u64()?, self.u64()?);
        if epoch > newest {
            return Err(self.malformed());
        }
        let evidence = match self.byte()? {
            0 => None,
            1 => Some(Box::new(Evidence {
                window_ms: self.u32()?,
                n: self.u32()?,
                k: self.u32()?,
                peer_n: self.u32()?,
                peer_k: self.u32()?,
                bound: self.f32()?,
                score: self.f32()?,
                needed: self.f32()?,
            })),
            _ => return Err(self.malformed()),
        };
        Ok((name, ZoneState { state, since, until, reopens, epoch, before, cause, evidence }))
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use proptest::prelude::*;

    fn zone_names() -> Vec<Zone> {
        ["az-a", "az-b", "az-c"].iter().map(|name| Zone::new(name).unwrap()).collect()
    }

    fn sample() -> ServiceState {
        let evidence = Evidence {
            window_ms: 500,
            n: 33,
            k: 16,
            peer_n: 67,
            peer_k: 1,
            bound: 0.12,
            score: 13.8,
            needed: 9.0,
        };
        let open = ZoneState {
            state: State::Open,
            since: 1_000,
            until: 6_000,
            reopens: 2,
            epoch: 7,
            before: 480,
            cause: Cause::Connect,
            evidence: Some(Box::new(evidence)),
        };
        ServiceState { epoch: 9, seed: 42, zones: vec![ZoneState::default(), open, ZoneState::default()] }
    }

    #[test]
    fn a_state_reads_as_written() {
        let state = sample();
        let bytes = encode(&state, &zone_names());
        let decoded = decode(&bytes).unwrap();
        assert_eq!((decoded.epoch, decoded.seed), (9, 42));
        assert_eq!(decoded.zones, [("az-b", state.zones[1].clone())]);
        assert!(bytes.len() < 120);
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = encode(&sample(), &zone_names());
        bytes[0] = 9;
        let body = bytes.len() - 4;
        let sum = checksum(&bytes[..body]).to_le_bytes();
        bytes[body..].copy_from_slice(&sum);
        assert_eq!(decode(&bytes), Err(InvalidState::Version { found: 9 }));
    }

    proptest! {
        #[test]
        fn garbage_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(decode(&bytes).is_err());
        }

        /// Even with a checksum that fits, damage never panics, and what is accepted has sane fields.
        #[test]
        fn damage_is_refused_or_harmless(at in 0_usize..100, with in any::<u8>(), cut in 0_usize..120) {
            let mut bytes = encode(&sample(), &zone_names());
            bytes.truncate(bytes.len() - 4);
            let len = bytes.len();
            bytes[at % len] = with;
            bytes.truncate(len.min(cut + 1));
            bytes.extend(checksum(&bytes).to_le_bytes());
            if let Ok(decoded) = decode(&bytes) {
                prop_assert!(decoded.zones.iter().all(|(_, zone)| zone.epoch <= decoded.epoch));
            }
        }
    }
}
