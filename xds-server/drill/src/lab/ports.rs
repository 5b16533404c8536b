//! Ports that nobody else has, for children that must be told theirs before they start. Reserves; never listens for long.
//!
//! The usual trick, to bind port 0 and hand the number over, loses races: the number comes from the ephemeral range, and
//! any outgoing connection may take it before the child does. Worse, Envoy listens with `SO_REUSEPORT`, so that two of them
//! on one port share its connections and no error tells. Hence:
//!
//! - ports come from below the ephemeral range, where the kernel picks none by itself;
//! - each is claimed by a socket in Linux's abstract namespace, which labs of other processes see as well and which the
//!   kernel takes back when the process ends, however it ends;
//! - and is bound once, to skip those of programs that know nothing of labs.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr as UnixAddr, UnixListener},
    },
};

use super::LabError;

/// First port that labs use: above the ports of common services.
const FIRST: u16 = 20_100;

/// Last one when the system does not tell its ephemeral range (Linux's own default starts at 32768).
const LAST: u16 = 32_767;

/// Candidates tried: far more than labs that run at once hold.
const TRIES: usize = 2_000;

/// A TCP port on 127.0.0.1, reserved against other labs until dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _claim: UnixListener,
}

// === impl Port ===

impl Port {
    /// Reserves a free port.
    pub fn reserve() -> Result<Self, LabError> {
        let last = last_port();
        for _ in 0..TRIES {
            if let Some(port) = Self::claim(fastrand::u16(FIRST..=last)) {
                return Ok(port);
            }
        }
        Err(LabError::NoPort { tried: TRIES, first: FIRST, last })
    }

    /// The number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// The port on the loopback address.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.number).into()
    }

    /// `http://127.0.0.1:PORT`, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    fn claim(number: u16) -> Option<Self> {
        let name = UnixAddr::from_abstract_name(format!("zonebreak-lab-port-{number}")).ok()?;
        let claim = UnixListener::bind_addr(&name).ok()?;
        // On every address, since a listener on any of them would get in the way.
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, number)).ok()?;
        Some(Self { number, _claim: claim })
    }
}

fn last_port() -> u16 {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let low = text.split_whitespace().next().and_then(|low| low.parse::<u16>().ok());
    // A machine whose ephemeral range starts lower than our first port leaves no gap; then the claim and the bind decide.
    low.and_then(|low| low.checked_sub(1)).filter(|&last| last > FIRST).unwrap_or(LAST)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ports_are_unique_free_and_come_back() {
        let ports: Vec<_> = (0..100).map(|_| Port::reserve().unwrap()).collect();
        let numbers: BTreeSet<_> = ports.iter().map(Port::number).collect();
        assert_eq!(numbers.len(), ports.len());
        let first = ports[0].number();
        assert!(Port::claim(first).is_none(), "a reserved port was given twice");
        TcpListener::bind(ports[0].address()).expect("the holder can listen on its port");
        drop(ports);
        // Another test of this process may have been given it meanwhile, but not every one of them.
        assert!(numbers.iter().any(|&number| Port::claim(number).is_some()));
    }

    #[test]
    fn a_port_in_use_is_not_given() {
        let held = Port::reserve().unwrap();
        let number = held.number();
        let _listener = TcpListener::bind(held.address()).unwrap();
        drop(held);
        assert!(Port::claim(number).is_none());
    }
}
