//! The results as Markdown. Formats; measures nothing.

use std::fmt::Write as _;

use super::{Figures, Setup};

/// One row a setup and concurrency: absolute figures, and what they are above the same proxy without a filter.
pub fn table(figures: &[Figures]) -> String {
    let mut text = String::from(
        "| | workers | CPU us/request (range) | above no filter | ratio | p50 us | \
         RssAnon MB: start | warm | end | above no filter (warm) |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for f in figures {
        let base = figures.iter().find(|it| it.setup == Setup::None && it.concurrency == f.concurrency);
        let above = |of: fn(&Figures) -> f64, digits: usize| match base {
            Some(base) if f.setup != Setup::None => format!("{:+.digits$}", of(f) - of(base)),
            _ => "-".to_owned(),
        };
        let ratio = base.map_or_else(|| "-".to_owned(), |base| format!("{:.2}", f.cpu_us / base.cpu_us));
        let (low, high) = f.cpu_us_range;
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {:.0} ({low:.0} to {high:.0}) | {} | {ratio} | {:.0} | {:.1} | {:.1} | {:.1} | {} |",
            f.setup.title(),
            f.concurrency,
            f.cpu_us,
            above(|it| it.cpu_us, 0),
            f.p50_us,
            f.start_mb,
            f.warm_mb,
            f.end_mb,
            above(|it| it.warm_mb, 1),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_set_against_no_filter_of_its_own_concurrency() {
        let figures = |setup, concurrency, cpu_us, warm_mb| Figures {
            setup,
            concurrency,
            cpu_us,
            cpu_us_range: (cpu_us - 2.0, cpu_us + 2.0),
            p50_us: 300.0,
            start_mb: 13.0,
            warm_mb,
            end_mb: 14.0,
        };
        let text = table(&[
            figures(Setup::None, 1, 80.0, 14.2),
            figures(Setup::Ours, 1, 112.0, 27.5),
            figures(Setup::Ours, 2, 120.0, 28.0),
        ]);
        let lines: Vec<_> = text.lines().skip(2).collect();
        assert_eq!(lines[0], "| no filter | 1 | 80 (78 to 82) | - | 1.00 | 300 | 13.0 | 14.2 | 14.0 | - |");
        assert_eq!(
            lines[1],
            "| **Zonebreak** | 1 | 112 (110 to 114) | +32 | 1.40 | 300 | 13.0 | 27.5 | 14.0 | +13.3 |"
        );
        assert_eq!(
            lines[2],
            "| **Zonebreak** | 2 | 120 (118 to 122) | - | - | 300 | 13.0 | 28.0 | 14.0 | - |"
        );
    }
}
