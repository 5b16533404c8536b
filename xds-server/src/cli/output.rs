//! How data is printed on standard output: a table for people, JSON and YAML for programs. Words go to standard error and
//! are not made here.

use std::io::{self, Write as _};

use comfy_table::{Table, presets};
use serde::Serialize;

use crate::exit::{Exit, Failure};

/// The form of the data on standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// The same with more columns.
    Wide,
    /// JSON; field names are stable.
    Json,
    /// YAML; field names are stable.
    Yaml,
}

/// The `-o` flag.
#[derive(Debug, Clone, clap::Args)]
pub struct OutputArgs {
    /// Form of the data on standard output.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

// === impl OutputArgs ===

impl OutputArgs {
    /// Prints `data`; as text by `table`, which is told whether there is room for more columns.
    ///
    /// # Errors
    /// When standard output cannot be written to.
    pub fn print<T: Serialize>(&self, data: &T, table: impl FnOnce(bool) -> String) -> Result<(), Failure> {
        let text = match self.output {
            Format::Table => table(false),
            Format::Wide => table(true),
            Format::Json => serde_json::to_string_pretty(data).map_err(unprintable)?,
            Format::Yaml => serde_saphyr::to_string(data).map_err(unprintable)?,
        };
        print(&text)
    }

    /// Prints `data` when a program reads it, for commands whose words on standard error are all that people need.
    ///
    /// # Errors
    /// When standard output cannot be written to.
    pub fn print_for_programs<T: Serialize>(&self, data: &T) -> Result<(), Failure> {
        match self.output {
            Format::Table | Format::Wide => Ok(()),
            Format::Json | Format::Yaml => self.print(data, |_| String::new()),
        }
    }
}

fn unprintable(error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Unexpected, format_args!("failed to print the answer: {error}"))
}

/// Tells what looks like a mistake and is none for certain. On standard error, so that what programs read stays what it is.
pub fn warn<T: std::fmt::Display>(warnings: impl IntoIterator<Item = T>) {
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
}

/// Writes `text` and a line end to standard output. A reader that went away (`| head`) is no error.
pub fn print(text: &str) -> Result<(), Failure> {
    match writeln!(io::stdout(), "{}", text.trim_end()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(unprintable(error)),
        _ => Ok(()),
    }
}

/// A table without lines, as operators' tools print them: easy to read, and to cut by column.
pub fn columns<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_no_lines_and_no_trailing_blanks() {
        let text = columns(
            ["ZONE", "STATE"],
            [["az-a".to_owned(), "serving".to_owned()], ["b".to_owned(), String::new()]],
        );
        assert_eq!(text, "ZONE   STATE\naz-a   serving\nb\n");
    }
}
