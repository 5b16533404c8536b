//! The results as Markdown. Formats; measures nothing.

use std::fmt::Write as _;

use super::{Contender, Scenario};

/// One measurement.
#[derive(Debug, Clone)]
pub struct Row {
    /// What was measured.
    pub scenario: Scenario,
    /// Of whom.
    pub contender: Contender,
    /// Its one figure: seconds of a baseline or a backlog, milliseconds of a p99.
    pub value: f64,
    /// All of it, for people.
    pub words: String,
}

// === impl Scenario ===

impl Scenario {
    /// For tables.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Steady500 => "500 writes a second",
            Self::Steady2000 => "2,000 writes a second",
            Self::Full => "64 clients at full speed",
            Self::Backlog => "backlog",
            Self::Far2000 => "2,000 writes a second, 80 ms round trip, next to the destination",
            Self::FarBaseline => "baseline, 80 ms round trip, next to the source",
        }
    }
}

/// One row a scenario, one column a contender.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::from("| | etcdctl make-mirror | **Zonebreak** | ratio |\n|---|---|---|---|\n");
    let mut scenarios: Vec<Scenario> = Vec::new();
    for row in rows {
        if !scenarios.contains(&row.scenario) {
            scenarios.push(row.scenario);
        }
    }
    for scenario in scenarios {
        let of = |contender| rows.iter().find(|row| row.scenario == scenario && row.contender == contender);
        let (theirs, ours) = (of(Contender::MakeMirror), of(Contender::Zonebreak));
        let words = |row: Option<&Row>| row.map_or_else(|| "-".to_owned(), |row| row.words.clone());
        let ratio = match (theirs, ours) {
            (Some(theirs), Some(ours)) if ours.value > 0.0 => format!("{:.1}", theirs.value / ours.value),
            _ => "-".to_owned(),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {} | {} | {} | {ratio} |", scenario.title(), words(theirs), words(ours));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contender_that_could_not_take_part_leaves_a_dash() {
        let row = |contender, value| Row {
            scenario: Scenario::Baseline,
            contender,
            value,
            words: format!("{value} s"),
        };
        let both = table(&[row(Contender::MakeMirror, 50.0), row(Contender::Zonebreak, 2.0)]);
        assert!(both.ends_with("| baseline | 50 s | 2 s | 25.0 |\n"), "{both}");
        assert!(table(&[row(Contender::Zonebreak, 2.0)]).ends_with("| baseline | - | 2 s | - |\n"));
    }
}
