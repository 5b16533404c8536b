//! Who is tried, by name.

use zonebreak_core::policy::Sensitivity;

use crate::{
    ours::Ours,
    rivals::{Absolute, Consecutive, Cusum, Percentage, Plain, Rule},
    traffic::{Tick, ZONES},
};

/// Looks at each tick, and names a zone that it would leave.
pub trait Detector {
    fn watch(&mut self, tick: &Tick) -> Option<usize>;
}

/// A detector by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contender {
    Gobreaker,
    Resilience4j,
    Absolute,
    TwoProportions,
    Cusum,
    PlainFast,
    PlainNormal,
    OursFast,
    OursNormal,
    OursSafe,
}

// === impl Contender ===

impl Contender {
    pub const ALL: [Self; 10] = [
        Self::Gobreaker,
        Self::Resilience4j,
        Self::Absolute,
        Self::TwoProportions,
        Self::Cusum,
        Self::PlainFast,
        Self::PlainNormal,
        Self::OursFast,
        Self::OursNormal,
        Self::OursSafe,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Gobreaker => "gobreaker: more than 5 in a row",
            Self::Resilience4j => "resilience4j: 50 % of 100 calls",
            Self::Absolute => "absolute: 20 % in 10 s",
            Self::TwoProportions => "two proportions, z >= 4.5",
            Self::Cusum => "peer CUSUM, h = 8",
            Self::PlainFast => "KL 9, Wilson z = 2, plain",
            Self::PlainNormal => "KL 9, Wilson z = 3, plain",
            Self::OursFast => "**ours, fast**",
            Self::OursNormal => "**ours, normal**",
            Self::OursSafe => "**ours, safe**",
        }
    }

    pub fn build(self, weights: [u32; ZONES]) -> Box<dyn Detector> {
        match self {
            Self::Gobreaker => Box::new(Consecutive::default()),
            Self::Resilience4j => Box::new(Percentage::default()),
            Self::Absolute => Box::new(Absolute::default()),
            Self::TwoProportions => Box::new(Plain::new(Rule::TwoProportions { z: 4.5 })),
            Self::Cusum => Box::new(Cusum::default()),
            Self::PlainFast => Box::new(Plain::new(Rule::Divergence { z: 2.0, score: 9.0 })),
            Self::PlainNormal => Box::new(Plain::new(Rule::Divergence { z: 3.0, score: 9.0 })),
            Self::OursFast => Box::new(Ours::new(weights, Sensitivity::Fast)),
            Self::OursNormal => Box::new(Ours::new(weights, Sensitivity::Normal)),
            Self::OursSafe => Box::new(Ours::new(weights, Sensitivity::Safe)),
        }
    }
}
