//! The results as Markdown, and where they go in a page. Formats; measures nothing.

use std::fmt::Write as _;

use anyhow::Context as _;

use super::targets::{Figure, Limit};

/// Where the tables of a page begin and end.
const MARKS: (&str, &str) =
    ("<!-- figures: written by scripts/bench-replication -->", "<!-- end of figures -->");

/// One measurement of one contender.
#[derive(Debug, Clone)]
pub struct Cell {
    /// The figure that contenders are compared by: seconds, or milliseconds of a p99.
    pub value: f64,
    /// All of it, for people.
    pub words: String,
    /// What targets are held against.
    pub figures: Vec<Figure>,
}

/// One measurement of everybody.
#[derive(Debug, Clone)]
pub struct Row {
    /// What was measured.
    pub title: String,
    /// What it has to be.
    pub limits: Vec<Limit>,
    /// What there was before us, one a server; fewer where it took part on the first alone, none where it cannot.
    pub peers: Vec<Cell>,
    /// Ours, one a server.
    pub ours: Vec<Cell>,
}

/// Columns of those there were before us where there are any, a column of ours for each server.
pub fn table(peer: &str, versions: &[&str], judged: bool, rows: &[Row]) -> String {
    let peers = rows.iter().map(|row| row.peers.len()).max().unwrap_or(0);
    let mut heads = vec![String::new()];
    heads.extend(versions.iter().take(peers).map(|version| format!("{peer}, etcd {version}")));
    heads.extend(versions.iter().map(|version| format!("**Zonebreak**, etcd {version}")));
    if peers > 0 {
        heads.push("ratio".to_owned());
    }
    if judged {
        heads.extend(["target".to_owned(), "reached".to_owned()]);
    }
    let mut text = format!("| {} |\n|{}\n", heads.join(" | "), "---|".repeat(heads.len()));
    for row in rows {
        let words = |cell: Option<&Cell>| cell.map_or_else(|| "-".to_owned(), |cell| cell.words.clone());
        let mut cells = vec![row.title.clone()];
        cells.extend((0..peers).map(|at| words(row.peers.get(at))));
        cells.extend((0..versions.len()).map(|at| words(row.ours.get(at))));
        if peers > 0 {
            cells.push(row.ratio());
        }
        if judged {
            let limits: Vec<String> = row.limits.iter().map(|limit| limit.words()).collect();
            cells.extend([if limits.is_empty() { "-".to_owned() } else { limits.join(", ") }, row.verdict()]);
        }
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text
}

/// The page with these tables in the place of those that it has.
///
/// # Errors
/// When it has no place for them.
pub fn put_into(page: &str, tables: &str) -> anyhow::Result<String> {
    let (before, rest) =
        page.split_once(MARKS.0).with_context(|| format!("failed to find {:?} in the page", MARKS.0))?;
    let (_, after) =
        rest.split_once(MARKS.1).with_context(|| format!("failed to find {:?} in the page", MARKS.1))?;
    Ok(format!("{before}{}\n\n{}\n\n{}{after}", MARKS.0, tables.trim(), MARKS.1))
}

// === impl Row ===

impl Row {
    /// What a target was missed by, of which server's figures; `-` where there is no target.
    fn verdict(&self) -> String {
        if self.limits.is_empty() {
            return "-".to_owned();
        }
        let of = |limit: &Limit| {
            let missed = self.ours.iter().filter(|cell| !limit.is_met(&cell.figures));
            let found = missed.filter_map(|cell| {
                cell.figures
                    .iter()
                    .find(|figure| figure.quantity == limit.quantity)
                    .map(|figure| figure.value)
            });
            let worst = found.fold(f64::NAN, f64::max);
            let all = self.ours.iter().all(|cell| limit.is_met(&cell.figures));
            (!all).then(|| match worst {
                worst if worst.is_nan() => format!("**no**: {} not seen", limit.words()),
                worst => format!("**no**: {}", limit.quantity.words(worst)),
            })
        };
        let missed: Vec<String> = self.limits.iter().filter_map(of).collect();
        if missed.is_empty() && !self.ours.is_empty() { "yes".to_owned() } else { missed.join(", ") }
    }

    fn ratio(&self) -> String {
        match (self.peers.first(), self.ours.first()) {
            (Some(peer), Some(ours)) if ours.value > 0.0 => format!("{:.1}", peer.value / ours.value),
            _ => "-".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replication::targets::Quantity;

    fn cell(seconds: f64) -> Cell {
        let figures = vec![Figure::new(Quantity::Seconds, seconds)];
        Cell { value: seconds, words: format!("{seconds} s"), figures }
    }

    fn row(peers: &[f64], ours: &[f64]) -> Row {
        Row {
            title: "baseline".to_owned(),
            limits: vec![Limit::new(Quantity::Seconds, 3.0)],
            peers: peers.iter().copied().map(cell).collect(),
            ours: ours.iter().copied().map(cell).collect(),
        }
    }

    #[test]
    fn a_row_names_ratio_target_and_by_what_it_was_missed() {
        let text = table("mirror", &["3.5", "3.6"], true, &[row(&[50.0], &[2.0, 2.5])]);
        assert!(text.ends_with("| baseline | 50 s | 2 s | 2.5 s | 25.0 | 3 s | yes |\n"), "{text}");
        let text = table("mirror", &["3.5", "3.6"], true, &[row(&[50.0], &[2.0, 3.5])]);
        assert!(text.ends_with("| 25.0 | 3 s | **no**: 3.50 s |\n"), "{text}");
        let text = table("mirror", &["3.5"], false, &[row(&[50.0], &[4.0])]);
        assert!(text.ends_with("| baseline | 50 s | 4 s | 12.5 |\n"), "{text}");
        let text = table("mirror", &["3.5", "3.6"], false, &[row(&[50.0, 60.0], &[4.0, 5.0])]);
        assert!(
            text.starts_with("|  | mirror, etcd 3.5 | mirror, etcd 3.6 | **Zonebreak**, etcd 3.5 |"),
            "{text}"
        );
        assert!(text.ends_with("| baseline | 50 s | 60 s | 4 s | 5 s | 12.5 |\n"), "{text}");
    }

    #[test]
    fn who_could_not_take_part_leaves_a_dash_or_no_column() {
        let text = table("mirror", &["3.5"], true, &[row(&[], &[2.0])]);
        assert!(text.ends_with("| baseline | 2 s | 3 s | yes |\n"), "{text}");
        let text = table("mirror", &["3.5", "3.6"], true, &[row(&[], &[2.0]), row(&[9.0], &[3.0, 1.0])]);
        assert!(text.contains("| baseline | - | 2 s | - | - | 3 s | yes |\n"), "{text}");
    }

    #[test]
    fn tables_take_the_place_of_older_ones_and_nothing_else_of_a_page() {
        let page = format!("# Title\n\n{}\n\nold\n\n{}\n\nwords\n", MARKS.0, MARKS.1);
        let text = put_into(&page, "new\n").unwrap();
        assert_eq!(text, page.replace("old", "new"));
        assert!(put_into("# Title\n", "new").unwrap_err().to_string().contains("figures"));
    }
}
