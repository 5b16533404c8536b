//! Detectors: which zone is worse than it should be, and on what evidence.
//!
//! - [`rates`]: the share of bad attempts, against the other zones (`peers`) or, where there are none, against a fixed bound;
//! - [`compare`]: the arithmetic of the first of these, over a window told in stretches;
//! - [`drift`]: how far attempts have shifted between zones, which that must allow for;
//! - [`run`]: failures in a row (`consecutive`);
//! - [`evidence`]: the numbers that go into the log line.

pub mod compare;
pub mod drift;
pub mod evidence;
pub mod rates;
pub mod run;

pub use drift::Drift;
pub use evidence::Evidence;
pub use rates::{Bar, Missing, Signal, WindowAssessment};
pub use run::Run;
