//! Why a breaker tripped, or did not: recorded counters go through the real detector and breaker of `zonebreak-core`, and what
//! those saw is told in words. Everything here but [`record`] is pure: text in, explanation out.
//!
//! | module | what it is for |
//! |---|---|
//! | [`recording`] | the format of a recording |
//! | [`stats`] | Envoy's own text forms of the filter's counters |
//! | [`record`] | makes a recording of a running Envoy |
//! | [`replay`] | the counters of one service through the breaker |
//! | [`follow`] | what the filter itself did meanwhile, as its gauges tell |
//! | [`model`] | the explanation, as programs read it |
//! | [`words`] | numbers as sentences |

pub mod follow;
pub mod model;
pub mod record;
pub mod recording;
pub mod replay;
pub mod stats;
pub mod words;
