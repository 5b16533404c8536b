//! What goes wrong, and at what load. Describes; `trial.rs` carries it out.

use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use crate::lab::{Backends, Fault};

/// The zone that breaks, which is the proxy's own.
pub(super) const BROKEN: &str = "az-a";

/// All zones, the proxy's own first.
pub(super) const ZONES: [&str; 3] = ["az-a", "az-b", "az-c"];

/// Hosts in each zone.
pub(super) const HOSTS: usize = 4;

/// A fault that lasts for a while and then ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// The zone answers 503 to everything.
    Hard,
    /// The zone answers 503 to 30 %.
    Gray,
    /// The same with little to go by: 30 requests a second.
    GrayQuiet,
    /// The zone answers 300 ms later.
    Slow,
    /// Every zone answers 503 to 30 %: there is nowhere better to go, and the least one can do is nothing.
    Global,
}

// === impl Scenario ===

impl Scenario {
    /// As it stands in the table.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Hard => "hard: 100 % 503",
            Self::Gray => "gray: 30 % 503",
            Self::GrayQuiet => "gray at 30 rps",
            Self::Slow => "+300 ms",
            Self::Global => "all zones 30 % 503",
        }
    }

    /// As it is named on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Requests a second.
    pub const fn rate(self) -> f64 {
        match self {
            Self::GrayQuiet => 30.0,
            Self::Hard | Self::Gray | Self::Slow | Self::Global => 200.0,
        }
    }

    /// Breaks what is to be broken.
    pub(super) fn begin(self, backends: &Backends) {
        let zone = backends.zone(BROKEN);
        match self {
            Self::Hard => zone.set_fault(Fault::HARD),
            Self::Gray | Self::GrayQuiet => zone.set_fault(Fault::gray(0.3)),
            Self::Slow => zone.set_fault(Fault::Delay(Duration::from_millis(300))),
            Self::Global => backends.set_fault(Fault::gray(0.3)),
        }
    }
}
