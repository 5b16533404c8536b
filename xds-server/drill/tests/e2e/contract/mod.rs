//! What Zonebreak takes for granted of Envoy, looked at on a real one: if an Envoy of another version does otherwise, this is where
//! it shows. And what Envoy does about a filter that panics, which ours cannot: a build for this test alone does.

mod attempts;
mod bench;
mod http2;
mod no_attempt;
mod panics;
mod streams;
mod subsets;
mod workers;
