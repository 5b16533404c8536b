//! A line of coloured text that knows its width. Paints and cuts; never writes.

use anstyle::{AnsiColor, Style};

/// What a piece of text means, from which its colour follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Nothing special.
    Plain,
    /// A heading.
    Strong,
    /// Background information.
    Quiet,
    /// As it should be.
    Good,
    /// Under way, or an operator's doing.
    Notice,
    /// Broken.
    Bad,
}

/// A line in pieces. Every character is one column wide: the demo uses no others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Line(Vec<(Tone, String)>);

// === impl Tone ===

impl Tone {
    const fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Strong => Style::new().bold(),
            Self::Quiet => Style::new().dimmed(),
            Self::Good => AnsiColor::Green.on_default(),
            Self::Notice => AnsiColor::Yellow.on_default(),
            Self::Bad => AnsiColor::Red.on_default().bold(),
        }
    }
}

// === impl Line ===

impl Line {
    /// One piece.
    pub fn new(tone: Tone, text: impl Into<String>) -> Self {
        Self::default().with(tone, text)
    }

    /// With a further piece.
    pub fn with(mut self, tone: Tone, text: impl Into<String>) -> Self {
        self.0.push((tone, text.into()));
        self
    }

    /// With all pieces of another line, which begins at `column` where there is room.
    pub fn beside(mut self, column: usize, other: Self) -> Self {
        self.0.push((Tone::Plain, " ".repeat(column.saturating_sub(self.width()))));
        self.0.extend(other.0);
        self
    }

    /// Its width in columns.
    pub fn width(&self) -> usize {
        self.0.iter().map(|(_, text)| text.chars().count()).sum()
    }

    /// As text of at most `width` columns, with colours where wanted and no blanks at the end.
    pub fn paint(&self, width: usize, colour: bool) -> String {
        let (mut painted, mut room) = (String::new(), width);
        for (tone, text) in &self.0 {
            let text: String = text.chars().take(room).collect();
            room -= text.chars().count();
            if !colour || *tone == Tone::Plain || text.trim().is_empty() {
                painted.push_str(&text);
            } else {
                let style = tone.style();
                painted.push_str(&format!("{style}{text}{style:#}"));
            }
        }
        painted.truncate(painted.trim_end().len());
        painted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_by_columns_and_not_by_bytes() {
        let line = Line::new(Tone::Plain, "██░░").with(Tone::Bad, " 100 %");
        assert_eq!(line.width(), 10);
        assert_eq!(line.paint(80, false), "██░░ 100 %");
        assert_eq!(line.paint(6, false), "██░░ 1");
        assert_eq!(line.paint(3, false), "██░");
    }

    #[test]
    fn colours_are_closed_even_where_the_line_is_cut() {
        let painted = Line::new(Tone::Bad, "open").with(Tone::Plain, "   ").paint(2, true);
        assert_eq!(painted, "\u{1b}[1m\u{1b}[31mop\u{1b}[0m");
    }

    #[test]
    fn lines_stand_side_by_side() {
        let line = Line::new(Tone::Plain, "az-a").beside(6, Line::new(Tone::Good, "ok"));
        assert_eq!(line.paint(80, false), "az-a  ok");
        // No room: they follow each other, and nothing is lost.
        assert_eq!(
            Line::new(Tone::Plain, "az-a").beside(2, Line::new(Tone::Good, "ok")).paint(80, false),
            "az-aok"
        );
    }
}
