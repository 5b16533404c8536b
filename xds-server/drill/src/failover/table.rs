//! The results as Markdown. Formats; measures nothing.

use std::fmt::Write as _;

use super::{Contender, Scenario, Trial};

/// One row a contender, one column a scenario, in the order in which they are declared; only what was run.
pub fn table(trials: &[Trial]) -> String {
    let mut contenders: Vec<Contender> = trials.iter().map(|trial| trial.contender).collect();
    let mut scenarios: Vec<Scenario> = trials.iter().map(|trial| trial.scenario).collect();
    contenders.sort_unstable();
    contenders.dedup();
    scenarios.sort_unstable();
    scenarios.dedup();

    let mut text = String::from("| |");
    for scenario in &scenarios {
        // Writing to a string cannot fail.
        let _ = write!(text, " {} |", scenario.title());
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(scenarios.len()));
    for contender in contenders {
        let _ = write!(text, "\n| {} |", contender.title());
        for &scenario in &scenarios {
            let found =
                trials.iter().find(|trial| trial.contender == contender && trial.scenario == scenario);
            let _ = write!(text, " {} |", found.map_or_else(|| "-".to_owned(), cell));
        }
    }
    text.push('\n');
    text
}

/// `0.31 % lost, left in 0.4 s, 0 on return (42 % back)`.
fn cell(trial: &Trial) -> String {
    let v = &trial.verdict;
    let mut parts = vec![match trial.scenario {
        Scenario::Slow => format!("{} slow", percent(v.slow_percent)),
        _ => format!("{} lost", percent(v.error_percent)),
    }];
    if trial.scenario == Scenario::Slow && v.error_percent > 0.0 {
        parts.push(format!("{} lost", percent(v.error_percent)));
    }
    parts.push(match (trial.scenario, v.left_after) {
        // With all zones alike, to stay is right.
        (Scenario::Global, None) => "stays".to_owned(),
        (_, None) => "never left".to_owned(),
        (_, Some(seconds)) => format!("left in {seconds:.1} s"),
    });
    if v.relapses > 0 {
        parts.push(format!("{} relapses", v.relapses));
    }
    // Without errors on return is easy where nobody has returned yet.
    let back = if v.share_back_percent < 90.0 {
        format!(" ({:.0} % back)", v.share_back_percent)
    } else {
        String::new()
    };
    parts.push(format!("{} on return{back}", v.errors_on_return));
    parts.join(", ")
}

/// Two digits that matter: 99.9 %, 8.6 %, 0.31 %.
fn percent(value: f64) -> String {
    match value {
        0.0 => "0 %".to_owned(),
        small if small < 2.0 => format!("{small:.2} %"),
        large => format!("{large:.1} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failover::Verdict;

    #[test]
    fn only_what_was_run_stands_in_the_table_and_in_order() {
        let trial = |contender, scenario, error_percent, left_after| Trial {
            contender,
            scenario,
            verdict: Verdict {
                requests: 6000,
                error_percent,
                slow_percent: 33.4,
                left_after,
                relapses: 2,
                errors_on_return: 0,
                share_back_percent: if left_after.is_some() { 42.0 } else { 100.0 },
                load_late_ms: 2.0,
            },
        };
        let text = table(&[
            trial(Contender::OursEven, Scenario::Hard, 0.314, Some(0.42)),
            trial(Contender::RoundRobin, Scenario::Slow, 0.0, None),
            trial(Contender::RoundRobin, Scenario::Hard, 33.35, None),
        ]);
        assert_eq!(
            text,
            "| | hard: 100 % 503 | +300 ms |\n|---|---|---|\n\
             | round robin | 33.4 % lost, never left, 2 relapses, 0 on return | 33.4 % slow, never left, 2 relapses, 0 on return |\n\
             | **Zonebreak, even** | 0.31 % lost, left in 0.4 s, 2 relapses, 0 on return (42 % back) | - |\n"
        );
    }
}
