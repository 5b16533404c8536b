//! On what grounds a zone was judged: the numbers of the test, for the log line and for `explain`. Describes; judges nothing.

use std::fmt;

use crate::units::Tenths;

/// The counts and the score behind a decision.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Evidence {
    /// Length of the window, in ms.
    pub window_ms: u32,
    /// Attempts to the zone.
    pub n: u32,
    /// Those of them that were bad, in the sense of the cause.
    pub k: u32,
    /// Attempts to the zones that it was compared with; 0 when there were none.
    pub peer_n: u32,
    /// Those of them that were bad.
    pub peer_k: u32,
    /// The highest rate that the comparison still explains, 0 to 1; 0 where none was computed.
    pub bound: f32,
    /// The evidence found, in nats (`n * KL(k/n || bound)`); 0 where none was computed.
    pub score: f32,
    /// The evidence asked for, in nats.
    pub needed: f32,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let window = crate::units::Millis(u64::from(self.window_ms));
        write!(f, "{} of {} bad in {window}", self.k, self.n)?;
        match self.peer_n {
            0 => f.write_str(", no peers")?,
            peers => write!(f, ", peers {} of {peers}", self.peer_k)?,
        }
        if self.needed > 0.0 {
            let (bound, score) = (Tenths::from(self.bound * 100.0), Tenths::from(self.score));
            let needed = f64::from(self.needed).round_ties_even() as u64;
            write!(f, ", bound {bound} %, score {score} of {needed}")?;
        }
        Ok(())
    }
}
