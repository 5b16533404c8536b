//! The decisions of Zonebreak, pure: no clock, no I/O, no randomness of their own; time and chance come in as arguments. So
//! the same code runs inside Envoy, on the server, in a property test and in a simulation of a million steps.
//!
//! The filter calls one type, [`engine::Engine`]; the control plane uses [`config`], [`policy`] and [`subset`].

#![cfg_attr(
    test,
    expect(clippy::arithmetic_side_effects, reason = "a test that overflows fails, as it should")
)]

pub mod breaker;
pub mod classify;
pub mod config;
pub mod deck;
pub mod detector;
pub mod engine;
pub mod instant;
pub mod latency;
pub mod mix;
pub mod names;
mod objects;
pub mod picker;
pub mod policy;
pub mod shares;
pub mod stats;
pub mod sticky;
pub mod subset;
pub mod throttle;

pub mod units;
pub mod window;
mod words;
