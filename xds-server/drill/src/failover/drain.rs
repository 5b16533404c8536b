//! How exactly a zone is drained, and what that costs: requests by zone while an operator's drain is in force. Measures and
//! formats; judges nothing.

use std::fmt::Write as _;

use serde_json::json;

use crate::{
    closed::ClosedLoop,
    lab::LabError,
    world::{World, WorldOptions},
};

/// Kept connections.
const CONNECTIONS: usize = 8;

/// What the drained zone keeps, in percent: parts down to the finest step there is, and nothing.
const KEEPS: [f64; 5] = [70.0, 33.3, 12.5, 0.1, 0.0];

/// One drain.
#[derive(Debug, Clone, PartialEq)]
pub struct Drained {
    /// What the zone was to keep of its usual share, in percent.
    pub keep: f64,
    /// Share of the requests that is, in percent.
    pub wanted: f64,
    /// Share that it got.
    pub got: f64,
    /// Requests counted. All were answered with 200: any other answer ends the measurement.
    pub requests: usize,
}

/// Drains the proxy's own zone of an evenly shared service in steps, and counts `requests` at each.
pub async fn drains(requests: usize, mut progress: impl FnMut(String)) -> Result<Vec<Drained>, LabError> {
    let policy = json!({"mode": "eventual", "weights": {"az-a": 1, "az-b": 1, "az-c": 1}});
    let world = World::start(WorldOptions { policy, ..Default::default() }).await?;
    let zone = world.backends.zone("az-a");
    let mut load = ClosedLoop::connect(world.listener, CONNECTIONS).await?;
    let mut found = Vec::new();
    for keep in KEEPS {
        let text = keep.to_string();
        let drain = ["zone", "drain", "az-a", "--for", "1h", "--keep", &text, "--reason", "how exact it is"];
        world.run(&drain).await?;
        let before = zone.requests();
        let sent = load.send(requests).await?.len();
        let got = 100.0 * (zone.requests() - before) as f64 / sent as f64;
        progress(format!("keep {keep} %: {got:.2} % of {sent} requests"));
        found.push(Drained { keep, wanted: keep / 3.0, got, requests: sent });
        world.run(&["zone", "restore", "az-a"]).await?;
    }
    Ok(found)
}

/// As Markdown.
pub fn drain_table(drains: &[Drained]) -> String {
    let mut text = String::from(
        "| the zone keeps | wanted | got | off, points | standard error | requests | failed |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for d in drains {
        let wanted = d.wanted / 100.0;
        let error = 100.0 * (wanted * (1.0 - wanted) / d.requests as f64).sqrt();
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {} % | {:.2} % | {:.2} % | {:+.2} | {error:.2} | {} | 0 |",
            d.keep,
            d.wanted,
            d.got,
            d.got - d.wanted,
            d.requests,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_how_far_off_and_how_far_chance_may_be() {
        let text = drain_table(&[Drained { keep: 70.0, wanted: 23.333, got: 23.1, requests: 20_000 }]);
        let row = text.lines().nth(2).unwrap();
        assert_eq!(row, "| 70 % | 23.33 % | 23.10 % | -0.23 | 0.30 | 20000 | 0 |");
    }
}
