//! The decisions of Zonebreak, pure: no clock, no I/O, no randomness of their own; time and chance come in as arguments. So
//! the same code runs inside Envoy, on the server, in a property test and in a simulation of a million steps.

pub mod config;
pub mod names;
pub mod policy;
pub mod units;
