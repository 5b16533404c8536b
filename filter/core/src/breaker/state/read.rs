//! Reads a transition back from the line that tells of it, for `zonebreak explain`. The filter never does, so the linker leaves
//! this out of the module. A property test holds it to what the line's writer writes.

use std::str::FromStr;

use super::{Cause, State, Transition};
use crate::{
    detector::Evidence,
    names::{ServiceName, Zone},
    units::Millis,
};

/// Why a line tells of no transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTransition {
    /// It is some other line.
    #[error("not a transition: there is no `service zone state -> state (cause)` in it")]
    None,
    /// It begins as one and does not go on as one.
    #[error("a transition that breaks off or was changed: {0} is expected")]
    Malformed(&'static str),
}

/// What is left of a line while it is read.
struct Rest<'a>(&'a str);

// === impl Transition ===

/// Finds the transition in a line of Envoy's log, whatever stands before and after it.
impl FromStr for Transition {
    type Err = InvalidTransition;

    fn from_str(line: &str) -> Result<Self, InvalidTransition> {
        let (before, after) = line.split_once(" -> ").ok_or(InvalidTransition::None)?;
        let mut before = before.rsplit([' ', '"', '\t']);
        let from = before.next().and_then(State::named).ok_or(InvalidTransition::None)?;
        let (zone, service) = (before.next(), before.next());
        let zone = zone.and_then(|zone| Zone::new(zone).ok()).ok_or(InvalidTransition::None)?;
        let service = service.and_then(|name| ServiceName::new(name).ok()).ok_or(InvalidTransition::None)?;
        let (to, after) = after.split_once(" (").ok_or(InvalidTransition::None)?;
        let to = State::named(to).ok_or(InvalidTransition::None)?;
        let (cause, after) = after.split_once(')').ok_or(InvalidTransition::None)?;
        let cause =
            Cause::ALL.into_iter().find(|one| one.as_str() == cause).ok_or(InvalidTransition::None)?;

        let mut rest = Rest(after);
        let evidence = if rest.skip(": ") { Some(rest.evidence()?) } else { None };
        rest.demand("; ", "`; epoch`")?;
        let mut open_ms = 0;
        if rest.skip("open for ") {
            let seconds: f64 = rest.number("the time that it stays open")?;
            open_ms = (seconds * 1000.0).round() as u64;
            rest.demand("s, ", "`s, epoch`")?;
        }
        rest.demand("epoch ", "`epoch`")?;
        let epoch = rest.number("the number of the epoch")?;
        let shadow = rest.skip(", shadow");
        Ok(Self { service, zone, from, to, cause, evidence, epoch, open_ms, shadow })
    }
}

// === impl State ===

impl State {
    fn named(name: &str) -> Option<Self> {
        let own = [Self::Closed, Self::Open, Self::HalfOpen, Self::Ramp];
        let operators = [Self::ForcedOpen, Self::ForcedClosed, Self::Disabled];
        own.into_iter().chain(operators).find(|state| state.as_str() == name)
    }
}

// === impl Rest ===

impl<'a> Rest<'a> {
    fn skip(&mut self, text: &str) -> bool {
        let rest = self.0.strip_prefix(text);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn demand(&mut self, text: &str, what: &'static str) -> Result<(), InvalidTransition> {
        if self.skip(text) { Ok(()) } else { Err(InvalidTransition::Malformed(what)) }
    }

    fn until(&mut self, end: impl Fn(char) -> bool) -> &'a str {
        let (taken, rest) = self.0.split_at(self.0.find(end).unwrap_or(self.0.len()));
        self.0 = rest;
        taken
    }

    fn number<T: FromStr>(&mut self, what: &'static str) -> Result<T, InvalidTransition> {
        let text = self.until(|c| !c.is_ascii_digit() && c != '.');
        text.trim_end_matches('.').parse().map_err(|_| InvalidTransition::Malformed(what))
    }

    fn evidence(&mut self) -> Result<Evidence, InvalidTransition> {
        let k = self.number("the number of bad attempts")?;
        self.demand(" of ", "`of`")?;
        let n = self.number("the number of attempts")?;
        self.demand(" bad in ", "`bad in`")?;
        let window: Millis = self
            .until(|c| !c.is_ascii_alphanumeric())
            .parse()
            .map_err(|_| InvalidTransition::Malformed("the length of the window"))?;
        let window_ms = u32::try_from(window.0).unwrap_or(u32::MAX);
        let mut evidence = Evidence { window_ms, n, k, ..Evidence::default() };
        if !self.skip(", no peers") {
            self.demand(", peers ", "`peers` or `no peers`")?;
            evidence.peer_k = self.number("the number of the peers' bad attempts")?;
            self.demand(" of ", "`of`")?;
            evidence.peer_n = self.number("the number of the peers' attempts")?;
        }
        if self.skip(", bound ") {
            let percent: f32 = self.number("the bound")?;
            evidence.bound = percent / 100.0;
            self.demand(" %, score ", "`score`")?;
            evidence.score = self.number("the score")?;
            self.demand(" of ", "`of`")?;
            evidence.needed = self.number("the score needed")?;
        }
        Ok(evidence)
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use proptest::prelude::*;

    const LINE: &str = "[2026-11-25 20:14:03.217][24][warning][wasm] [source/context.cc:1195] wasm log zonebreak: \
        order-svc az-a closed -> open (failures): 14 of 14 bad in 200ms, peers 0 of 26, bound 25.7 %, \
        score 19.0 of 9; open for 5.2s, epoch 3";

    #[test]
    fn a_line_of_envoys_log_is_read() {
        let read: Transition = LINE.parse().unwrap();
        assert!(LINE.ends_with(&read.to_string()), "{read}");
        let json = format!("{{\"level\":\"warning\",\"message\":\"{read}\"}}");
        assert_eq!(json.parse(), Ok(read));
    }

    #[test]
    fn other_lines_are_told_from_damaged_ones() {
        for other in ["", "a -> b", "GET / -> 200", "order-svc az-a closed -> gone (failures)"] {
            assert_eq!(other.parse::<Transition>(), Err(InvalidTransition::None), "{other}");
        }
        let cut = LINE.split_once(", score").unwrap().0;
        assert_eq!(cut.parse::<Transition>(), Err(InvalidTransition::Malformed("`score`")));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            (from, to) in (0_u8..4, 0_u8..4),
            cause in 0_u8..12,
            numbers in prop::option::of((1_u32..100_000, any::<u32>(), any::<u32>(), 0_u32..3, any::<u32>())),
            weighed in prop::option::of((0_u32..1000, 0_u32..100_000)),
            (epoch, open_ms, shadow) in (any::<u64>(), 0_u64..600_000, any::<bool>()),
        ) {
            let (bound, score, needed) =
                weighed.map_or((0.0, 0.0, 0.0), |(bound, score)| (bound as f32 / 1000.0, score as f32 / 10.0, 9.0));
            let transition = Transition {
                service: ServiceName::new("order-svc.v1").unwrap(),
                zone: Zone::new("az-a").unwrap(),
                from: State::own(from).unwrap(),
                to: State::own(to).unwrap(),
                cause: Cause::from_code(cause).unwrap(),
                evidence: numbers.map(|(window_ms, n, k, peer_n, peer_k)| {
                    Evidence { window_ms, n, k, peer_n, peer_k: peer_k.min(peer_n), bound, score, needed }
                }),
                epoch,
                open_ms,
                shadow,
            };
            let line = transition.to_string();
            let read: Transition = line.parse().unwrap();
            prop_assert_eq!(read.to_string(), line);
            prop_assert_eq!((read.cause, read.epoch, read.shadow), (cause_of(cause), epoch, shadow));
        }
    }

    fn cause_of(code: u8) -> Cause {
        Cause::from_code(code).unwrap()
    }
}
