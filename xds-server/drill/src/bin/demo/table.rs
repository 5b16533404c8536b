//! The table of the demo: its header, one block for each phase, the promises. Makes lines from figures; measures and prints
//! nothing.

use serde::Serialize;

use super::{
    look::{Breaker, Fleet},
    phases::PHASES,
    promises::{Promise, Verdict},
    text::{Line, Tone},
};

/// Columns of a zone's figures; what is said beside them begins after.
const FACTS_AT: usize = 49;

/// Narrower than this and what is said stands below the figures instead.
const LEAST_WIDTH: usize = 76;

/// Characters of a bar that stands for all of the traffic.
const BAR: usize = 10;

/// Columns for the words of a promise.
pub const PROMISE: usize = 51;

/// One phase, as it is now or as it ended.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// From 1.
    pub number: usize,
    /// What happens in it.
    pub title: String,
    /// What a command said that was run in it.
    pub output: Vec<String>,
    /// How long it has run.
    pub seconds: f64,
    /// Requests that came to an end in it.
    pub requests: u64,
    /// Those of them that a caller saw fail.
    pub failed: u64,
    /// Those that Envoy tried a second time.
    pub retried: u64,
    /// Those that it would have, but for too many retries at once.
    pub over_budget: u64,
    /// Zone by zone.
    pub zones: Vec<Cell>,
    /// What else there is to say.
    pub notes: Vec<String>,
    /// Proxies that have acknowledged everything; `None` while there is no control plane.
    pub proxies: Option<Fleet>,
}

/// One zone in one phase.
#[derive(Debug, Clone, Serialize)]
pub struct Cell {
    /// Its name.
    pub zone: String,
    /// Share of the requests that reached any backend in the last two seconds.
    pub share_percent: f64,
    /// Attempts that failed there in this phase; `None` where there were none.
    pub error_percent: Option<f64>,
    /// Its breaker.
    pub breaker: Breaker,
}

/// How to draw.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// Columns that there are.
    pub width: usize,
    /// Characters beyond ASCII are shown.
    pub unicode: bool,
}

/// What the columns mean.
pub fn legend() -> Vec<Line> {
    let entry =
        |name: &str, text: &str| Line::new(Tone::Strong, format!("  {name:<9}")).with(Tone::Quiet, text);
    let more = |text: &str| Line::new(Tone::Quiet, format!("{:11}{text}", ""));
    vec![
        entry("traffic", "share of the requests that reach the zone, over the last 2 s"),
        entry("errors", "share of them that fail; each is tried once more in another zone"),
        entry("breaker", "the filter's word on the zone: closed = in use, open = left,"),
        more("trial = a few requests test it, ramp = its share grows back,"),
        more("drained = left on an operator's word"),
        entry("callers", "what those who send the requests see"),
    ]
}

/// The names of the columns.
pub fn header(layout: Layout) -> Line {
    let columns = Line::new(
        Tone::Strong,
        format!("    {:<6}{:<21}{:>7}  {:<7}", "zone", "traffic", "errors", "breaker"),
    );
    if layout.facts_beside() { columns.beside(FACTS_AT, Line::new(Tone::Strong, "callers")) } else { columns }
}

/// What is promised, and what came of it.
pub fn summary(promises: &[Promise]) -> Vec<Line> {
    let head = Line::new(
        Tone::Strong,
        format!("        {:<PROMISE$}{:>10}{:>10}", "promise", "at most", "measured"),
    );
    let line = |promise: &Promise| {
        let (tone, word) = match promise.verdict {
            Verdict::Kept => (Tone::Good, "ok"),
            Verdict::Missed => (Tone::Bad, "MISSED"),
            Verdict::Unsure => (Tone::Notice, "unsure"),
        };
        let figures = format!(" {:<PROMISE$}{:>10}{:>10}", promise.what, promise.promised(), promise.found());
        Line::new(tone, format!(" {word:<6}"))
            .with(if tone == Tone::Good { Tone::Plain } else { tone }, figures)
    };
    std::iter::once(head).chain(promises.iter().map(line)).collect()
}

// === impl Layout ===

impl Layout {
    const fn facts_beside(self) -> bool {
        self.width >= LEAST_WIDTH
    }

    fn bar(self, percent: f64) -> String {
        let (full, empty) = if self.unicode { ('█', '░') } else { ('#', '.') };
        let filled = (percent / 100.0 * BAR as f64).round().clamp(0.0, BAR as f64) as usize;
        // A zone that gets anything at all does not look left.
        let filled = if percent > 0.0 { filled.max(1) } else { 0 };
        std::iter::repeat_n(full, filled).chain(std::iter::repeat_n(empty, BAR - filled)).collect()
    }
}

// === impl Row ===

impl Row {
    /// The block.
    pub fn lines(&self, layout: Layout) -> Vec<Line> {
        let title = Line::new(Tone::Strong, format!(" {}/{PHASES}  {}", self.number, self.title))
            .with(Tone::Quiet, format!("  ({:.0} s)", self.seconds));
        let said = self.output.iter().map(|line| Line::new(Tone::Quiet, format!("      {line}")));
        let (zones, facts) = (self.zones.iter().map(|cell| cell.line(layout)), self.facts());
        let mut lines: Vec<_> = std::iter::once(title).chain(said).collect();
        if layout.facts_beside() {
            let mut facts = facts.into_iter();
            lines.extend(zones.map(|zone| zone.beside(FACTS_AT, facts.next().unwrap_or_default())));
            lines.extend(facts.map(|fact| Line::default().beside(FACTS_AT, fact)));
        } else {
            lines.extend(zones);
            lines.extend(facts.into_iter().map(|fact| Line::default().beside(4, fact)));
        }
        lines.push(Line::default());
        lines
    }

    fn facts(&self) -> Vec<Line> {
        let tone = if self.failed == 0 { Tone::Good } else { Tone::Bad };
        let requests = format!("{} requests, ", thousands(self.requests));
        let mut facts =
            vec![Line::new(Tone::Plain, requests).with(tone, format!("{} failed", thousands(self.failed)))];
        if self.retried > 0 {
            facts.push(Line::new(Tone::Plain, format!("{} tried again elsewhere", thousands(self.retried))));
        }
        if self.over_budget > 0 {
            facts
                .push(Line::new(Tone::Bad, format!("{} over the retry budget", thousands(self.over_budget))));
        }
        facts.extend(self.notes.iter().map(|note| Line::new(Tone::Plain, note)));
        facts.push(match self.proxies {
            Some(Fleet { acked, proxies }) => {
                let tone = if acked == proxies { Tone::Quiet } else { Tone::Notice };
                Line::new(tone, format!("acknowledged by {acked} of {proxies} proxies"))
            }
            None => Line::new(Tone::Notice, "no control plane"),
        });
        facts
    }
}

// === impl Cell ===

impl Cell {
    fn line(&self, layout: Layout) -> Line {
        let bar = if self.share_percent > 0.0 { Tone::Plain } else { Tone::Quiet };
        let (errors, failing) = match self.error_percent {
            None => ("-".to_owned(), Tone::Quiet),
            Some(percent) => (format!("{percent:.1} %"), if percent > 0.0 { Tone::Bad } else { Tone::Plain }),
        };
        let breaker = match self.breaker {
            Breaker::Closed | Breaker::Held => Tone::Good,
            Breaker::Open => Tone::Bad,
            Breaker::HalfOpen | Breaker::Ramp | Breaker::Drained | Breaker::Disabled => Tone::Notice,
        };
        Line::new(Tone::Plain, format!("    {:<6}", self.zone))
            .with(bar, layout.bar(self.share_percent))
            .with(Tone::Plain, format!(" {:>7} ", format!("{:.1} %", self.share_percent)))
            .with(failing, format!("{errors:>9}  "))
            .with(breaker, self.breaker.word())
    }
}

/// A number with commas, as people read it.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        let cell = |zone: &str, share_percent, error_percent, breaker| Cell {
            zone: zone.to_owned(),
            share_percent,
            error_percent,
            breaker,
        };
        Row {
            number: 2,
            title: "az-a breaks".to_owned(),
            output: vec!["said so".to_owned()],
            seconds: 7.04,
            requests: 1407,
            failed: 2,
            retried: 41,
            over_budget: 0,
            zones: vec![
                cell("az-a", 0.0, Some(100.0), Breaker::Open),
                cell("az-b", 50.2, Some(0.0), Breaker::Closed),
                cell("az-c", 0.4, None, Breaker::HalfOpen),
            ],
            notes: vec!["az-a left after 0.21 s".to_owned()],
            proxies: Some(Fleet { acked: 1, proxies: 1 }),
        }
    }

    fn drawn(width: usize, unicode: bool) -> Vec<String> {
        let layout = Layout { width, unicode };
        let lines = std::iter::once(header(layout)).chain(row().lines(layout));
        lines.map(|line| line.paint(width, false)).collect()
    }

    #[test]
    fn a_block_in_a_usual_terminal() {
        let expected = [
            "    zone  traffic               errors  breaker  callers",
            " 2/7  az-a breaks  (7 s)",
            "      said so",
            "    az-a  ░░░░░░░░░░   0.0 %   100.0 %  open     1,407 requests, 2 failed",
            "    az-b  █████░░░░░  50.2 %     0.0 %  closed   41 tried again elsewhere",
            "    az-c  █░░░░░░░░░   0.4 %         -  trial    az-a left after 0.21 s",
            "                                                 acknowledged by 1 of 1 proxies",
            "",
        ];
        assert_eq!(drawn(79, true), expected);
    }

    #[test]
    fn a_narrow_ascii_terminal_loses_nothing() {
        let expected = [
            "    zone  traffic               errors  breaker",
            " 2/7  az-a breaks  (7 s)",
            "      said so",
            "    az-a  ..........   0.0 %   100.0 %  open",
            "    az-b  #####.....  50.2 %     0.0 %  closed",
            "    az-c  #.........   0.4 %         -  trial",
            "    1,407 requests, 2 failed",
            "    41 tried again elsewhere",
            "    az-a left after 0.21 s",
            "    acknowledged by 1 of 1 proxies",
            "",
        ];
        assert_eq!(drawn(50, false), expected);
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
    }
}
