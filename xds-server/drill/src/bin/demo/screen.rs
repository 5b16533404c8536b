//! Standard output as the demo uses it: lines that stay, and one block at the bottom that is redrawn in place while a phase
//! runs. Where standard output is no terminal, or a dumb or tiny one, the block is printed once, when it is final. Knows
//! nothing of what it shows.

use std::{
    env,
    io::{self, IsTerminal, Write},
};

use anstream::{AutoStream, ColorChoice};
use terminal_size::{Height, Width};

use super::text::Line;

/// Width where nobody says.
const USUAL_WIDTH: usize = 100;

/// No line is longer: a table that is spread out is hard to read.
const WIDEST: usize = 120;

/// Rows below which a block that is redrawn might scroll away under its own feet.
const LEAST_ROWS: usize = 14;

/// What the output can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ability {
    /// Text can be overwritten.
    pub in_place: bool,
    /// Colours are wanted.
    pub colour: bool,
    /// Characters beyond ASCII are shown.
    pub unicode: bool,
}

/// The output. Shows the cursor again when dropped.
#[derive(Debug)]
pub struct Screen<W: Write> {
    out: W,
    ability: Ability,
    /// Lines of the block that stands at the bottom.
    drawn: usize,
}

// === impl Ability ===

impl Ability {
    /// Of standard output.
    pub fn of_stdout() -> Self {
        let dumb = env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        let rows = terminal_size::terminal_size().map_or(0, |(_, Height(rows))| usize::from(rows));
        Self {
            in_place: io::stdout().is_terminal() && !dumb && rows >= LEAST_ROWS,
            // Asks for NO_COLOR, TERM, CLICOLOR and whether it is a terminal.
            colour: AutoStream::choice(&io::stdout()) != ColorChoice::Never,
            unicode: locale_is_utf8(|name| env::var(name).ok()),
        }
    }
}

/// Whether the locale says UTF-8 (POSIX, "Internationalization Variables": the first that is set counts).
fn locale_is_utf8(variable: impl Fn(&str) -> Option<String>) -> bool {
    let named =
        ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(variable).find(|value| !value.is_empty());
    named.is_some_and(|value| {
        let value = value.to_lowercase();
        value.contains("utf-8") || value.contains("utf8")
    })
}

/// Columns of the terminal; a usual number where there is none.
pub fn width() -> usize {
    // The last column stays free: some terminals wrap when it is written.
    let columns =
        terminal_size::terminal_size().map(|(Width(columns), _)| usize::from(columns).saturating_sub(1));
    columns.filter(|&columns| columns > 0).unwrap_or(USUAL_WIDTH).min(WIDEST)
}

// === impl Screen ===

impl<W: Write> Screen<W> {
    /// Nothing is written yet.
    pub const fn new(out: W, ability: Ability) -> Self {
        Self { out, ability, drawn: 0 }
    }

    /// What it can do.
    pub const fn ability(&self) -> Ability {
        self.ability
    }

    /// Prints lines that stay, in the place of the block at the bottom.
    pub fn print(&mut self, lines: &[Line]) -> io::Result<()> {
        // What stays may wrap: nothing is lost then.
        let text = self.frame(lines, usize::MAX);
        let show = if self.drawn > 0 { "\x1b[?25h" } else { "" };
        self.drawn = 0;
        write!(self.out, "{text}{show}")?;
        self.out.flush()
    }

    /// Draws the block at the bottom anew; nothing where it cannot be redrawn.
    pub fn draw(&mut self, lines: &[Line]) -> io::Result<()> {
        if !self.ability.in_place {
            return Ok(());
        }
        let text = self.frame(lines, width());
        self.drawn = lines.len();
        // The cursor would jump about.
        write!(self.out, "\x1b[?25l{text}")?;
        self.out.flush()
    }

    /// The lines, written over the block that stands there.
    fn frame(&self, lines: &[Line], width: usize) -> String {
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A", self.drawn));
        }
        for line in lines {
            text.push_str(&line.paint(width, self.ability.colour));
            text.push_str(if self.ability.in_place { "\x1b[K\n" } else { "\n" });
        }
        if self.drawn > lines.len() {
            text.push_str("\x1b[J");
        }
        text
    }
}

impl<W: Write> Drop for Screen<W> {
    fn drop(&mut self) {
        if self.drawn > 0 {
            // Nothing can be done about a terminal that is gone.
            let _ = write!(self.out, "\x1b[?25h").and_then(|()| self.out.flush());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::text::Tone, *};

    fn shown(in_place: bool) -> String {
        let mut out = Vec::new();
        let mut screen = Screen::new(&mut out, Ability { in_place, colour: false, unicode: true });
        let line = |text: &str| Line::new(Tone::Plain, text);
        screen.print(&[line("head")]).unwrap();
        screen.draw(&[line("one"), line("two")]).unwrap();
        screen.draw(&[line("three")]).unwrap();
        screen.print(&[line("final")]).unwrap();
        drop(screen);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_block_is_written_over_itself_and_the_cursor_comes_back() {
        let head = "head\x1b[K\n";
        let (first, second) = ("\x1b[?25lone\x1b[K\ntwo\x1b[K\n", "\x1b[?25l\x1b[2Athree\x1b[K\n\x1b[J");
        let end = "\x1b[1Afinal\x1b[K\n\x1b[?25h";
        assert_eq!(shown(true), format!("{head}{first}{second}{end}"));
    }

    #[test]
    fn a_pipe_gets_plain_lines_once() {
        assert_eq!(shown(false), "head\nfinal\n");
    }

    #[test]
    fn a_screen_that_is_dropped_in_the_middle_shows_the_cursor() {
        let mut out = Vec::new();
        let mut screen = Screen::new(&mut out, Ability { in_place: true, colour: false, unicode: true });
        screen.draw(&[Line::new(Tone::Plain, "one")]).unwrap();
        drop(screen);
        assert!(out.ends_with(b"\x1b[?25h"));
    }

    #[test]
    fn the_first_locale_variable_that_is_set_counts() {
        let of = |set: &[(&str, &str)]| {
            locale_is_utf8(|name| set.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
        };
        assert!(of(&[("LANG", "C.UTF-8")]));
        assert!(of(&[("LC_ALL", ""), ("LC_CTYPE", "de_DE.utf8"), ("LANG", "C")]));
        assert!(!of(&[("LC_ALL", "C"), ("LANG", "en_US.UTF-8")]));
        assert!(!of(&[]));
    }
}
