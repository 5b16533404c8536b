//! What the figures have to be, and whether they are. Judges; measures nothing.

/// What a measurement found, by what it is a figure of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    /// Of what.
    pub quantity: Quantity,
    /// How much, in the quantity's unit.
    pub value: f64,
}

/// What a figure is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantity {
    /// How long all of it took, in seconds.
    Seconds,
    /// The lag that half of all writes stayed below, in milliseconds.
    P50,
    /// The same of 99 in a hundred.
    P99,
    /// The largest lag.
    Max,
    /// From the last write's acknowledgement until everything had arrived, in seconds.
    Drain,
    /// The p99 of the source's own puts meanwhile, as a multiple of what it is without.
    Slowdown,
    /// Keys that are not at the destination what they are at the source.
    Wrong,
}

/// The most that a figure may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limit {
    /// Of what.
    pub quantity: Quantity,
    /// The most.
    pub most: f64,
}

// === impl Figure ===

impl Figure {
    pub(super) const fn new(quantity: Quantity, value: f64) -> Self {
        Self { quantity, value }
    }
}

// === impl Quantity ===

impl Quantity {
    /// A figure of it, for people.
    pub fn words(self, value: f64) -> String {
        match self {
            Self::Seconds => format!("{value:.2} s"),
            Self::P50 => format!("p50 {value:.1} ms"),
            Self::P99 => format!("p99 {value:.1} ms"),
            Self::Max => format!("max {value:.0} ms"),
            Self::Drain => format!("drained in {value:.2} s"),
            Self::Slowdown => format!("puts x{value:.1}"),
            Self::Wrong => format!("{value:.0} wrong keys"),
        }
    }
}

// === impl Limit ===

impl Limit {
    pub(super) const fn new(quantity: Quantity, most: f64) -> Self {
        Self { quantity, most }
    }

    /// Whether these figures keep to it. What was not measured, or is no number, does not.
    pub fn is_met(self, figures: &[Figure]) -> bool {
        figures.iter().any(|figure| figure.quantity == self.quantity && figure.value <= self.most)
    }

    /// For the column of targets.
    pub fn words(self) -> String {
        let most = self.most;
        match self.quantity {
            Quantity::Seconds => format!("{most} s"),
            Quantity::P50 => format!("p50 {most} ms"),
            Quantity::P99 => format!("p99 {most} ms"),
            Quantity::Max => format!("max {most} ms"),
            Quantity::Drain => format!("drained in {most} s"),
            Quantity::Slowdown => format!("puts x{most}"),
            Quantity::Wrong => format!("{most} wrong keys"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_that_is_missing_or_no_number_misses_its_target() {
        let limit = Limit::new(Quantity::P99, 15.0);
        let met = |figures: &[Figure]| limit.is_met(figures);
        assert!(met(&[Figure::new(Quantity::P99, 15.0)]));
        assert!(!met(&[Figure::new(Quantity::P99, 15.1)]));
        assert!(!met(&[Figure::new(Quantity::P50, 1.0)]));
        assert!(!met(&[Figure::new(Quantity::P99, f64::NAN)]) && !met(&[]));
    }
}
