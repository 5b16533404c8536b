//! Bytes as a configuration and what happens under it: requests, answers, ticks, new policies, crashes, clocks and counters that jump,
//! shared data that is damaged. Reads bytes; what it means and what must hold is in [`super::proxy`].

use std::collections::BTreeSet;

use arbitrary::{Result, Unstructured};
use zonebreak_core::engine::Outcome;

use super::{
    proxy::{Proxy, WORKERS},
    script,
};

/// Events that one input may bring: as many as a fuzzer gets through in some ms.
const MOST_EVENTS: usize = 1_500;

/// Plays the bytes to their end.
pub fn run(bytes: &[u8]) {
    moves(bytes);
}

/// The same, and says where transitions led and why.
pub fn moves(bytes: &[u8]) -> BTreeSet<String> {
    let mut proxy = Proxy::new();
    // The end of the bytes is the end of the story, wherever it is.
    let _ = play(&mut Unstructured::new(bytes), &mut proxy);
    proxy.moves
}

fn play(bytes: &mut Unstructured<'_>, proxy: &mut Proxy) -> Result<()> {
    proxy.configure(script::configuration(bytes, proxy.now().0)?);
    for _ in 0..MOST_EVENTS {
        if bytes.is_empty() {
            break;
        }
        event(bytes, proxy)?;
        proxy.check();
    }
    Ok(())
}

fn event(bytes: &mut Unstructured<'_>, proxy: &mut Proxy) -> Result<()> {
    let worker = bytes.choose_index(WORKERS)?;
    let place = bytes.arbitrary::<u8>()?;
    match bytes.int_in_range(0..=31_u8)? {
        0 => {
            let config = script::configuration(bytes, proxy.now().0)?;
            proxy.configure(config);
        }
        1 => proxy.crash(worker),
        2 => proxy.set_clock(*bytes.choose(&[0, 1, 1_000_000, u64::MAX])?),
        3 => proxy.shift_clock(bytes.arbitrary::<i32>()?),
        4 => proxy.lose_counters(),
        5 => {
            let (at, with) = (bytes.arbitrary()?, bytes.arbitrary()?);
            proxy.damage(worker, place, at, with);
        }
        6..=9 => proxy.decide(worker, place, bytes.arbitrary()?),
        10..=14 => proxy.begin(worker, place),
        15..=16 => proxy.answered(bytes.arbitrary()?),
        17..=22 => {
            let outcomes =
                [Outcome::Ok, Outcome::Failed, Outcome::ConnectFailed, Outcome::Answered, Outcome::Neutral];
            let outcome = *bytes.choose(&outcomes)?;
            proxy.finish(bytes.arbitrary()?, outcome);
        }
        // Others' attempts: what the counters show beyond those of the workers here.
        23..=25 => {
            let (well, badly) = (bytes.arbitrary::<u8>()?, bytes.arbitrary::<u8>()?);
            proxy.count(place, well, badly, bytes.arbitrary()?);
        }
        26 => proxy.pass(bytes.int_in_range(0..=70_000)?),
        _ => proxy.tick(bytes.int_in_range(80..=140)?),
    }
    Ok(())
}
