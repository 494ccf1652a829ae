//! How commands print: data on standard output, words on standard error.
//!
//! Three forms of data. `table` is for eyes and may change with any version; `json` (one indented document) and `jsonl`
//! (one object per line) are for programs and stay as they are, see [`super::json`].
//!
//! What a registry holds was written by whoever registered, so a table shows control characters escaped: a serve route
//! must not be able to clear the reader's screen or forge a row. JSON escapes them by its own rules.
//!
//! Writing goes through a locked, buffered handle instead of `println!`, which panics when a reader such as `head` has
//! closed the pipe.

use std::{
    borrow::Cow,
    io::{self, BufWriter, Write},
};

use serde_json::Value;

/// Form of the data on standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// Aligned columns for people; may change with any version.
    #[default]
    Table,
    /// One JSON document, in the protocol's JSON form; stable.
    Json,
    /// One JSON object per line; stable.
    Jsonl,
}

/// The flag `-o`, shared by all commands that print data.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct OutputArgs {
    /// How to print: a table for people, or JSON for programs (stable)
    #[arg(
        short = 'o',
        long = "output",
        value_name = "FORMAT",
        value_enum,
        default_value_t,
        hide_possible_values = false
    )]
    pub output: Format,
}

/// Rows under a header, as aligned columns without borders.
#[derive(Debug)]
pub struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// A table with these column names.
    #[must_use]
    pub fn new(header: [&str; N]) -> Self {
        Self { rows: vec![header.map(str::to_owned)] }
    }

    /// Adds a row. Empty cells are shown as `-`, so that columns can be counted.
    pub fn row(&mut self, cells: [String; N]) {
        let shown = |cell: String| if cell.is_empty() { "-".to_owned() } else { escape(&cell).into_owned() };
        self.rows.push(cells.map(shown));
    }

    /// Writes header and rows, two blanks between columns, none at the end of a line.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let mut widths = [0; N];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(widths) {
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Writes to standard output and flushes it.
///
/// # Errors
///
/// Those of `write` and of standard output; a closed pipe is `BrokenPipe`, which [`super::exit`] takes for success.
pub fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    write(&mut out)?;
    out.flush()
}

/// Prints one value: indented as `json`, on one line as `jsonl`.
///
/// # Errors
///
/// As [`print()`].
pub fn print_json(value: &Value, format: Format) -> io::Result<()> {
    print(|out| if format == Format::Jsonl { writeln!(out, "{value}") } else { writeln!(out, "{value:#}") })
}

/// Prints a table.
///
/// # Errors
///
/// As [`print()`].
pub fn print_table<const N: usize>(table: &Table<N>) -> io::Result<()> {
    print(|mut out| table.write(&mut out))
}

/// Says something to a person, on standard error, with the program's name before it. There is nowhere left to report
/// a failure to, so it is dropped.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "musterd: {text}");
}

/// A further line of a note, without the program's name.
pub fn note_continued(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Replaces what could drive a terminal or break a row: control characters, and the marks that reorder text.
#[must_use]
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_hostile) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_hostile(c) {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

fn is_hostile(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_characters_and_lines_have_no_trailing_blanks() {
        let mut table = Table::new(["NAME", "NODE", "LEASE"]);
        table.row(["größe".into(), "n1".into(), "7".into()]);
        table.row(["a".into(), String::new(), "123456".into()]);
        let mut out = Vec::new();
        table.write(&mut out).expect("a vector takes everything");
        let expected = "NAME   NODE  LEASE\ngröße  n1    7\na      -     123456\n";
        assert_eq!(String::from_utf8(out).expect("text"), expected);
    }

    #[test]
    fn hostile_characters_are_escaped_and_others_are_not() {
        assert_eq!(escape("naïve 名"), "naïve 名");
        assert_eq!(escape("a\nb\tc"), "a\\nb\\tc");
        assert_eq!(escape("\u{1b}[2J\u{9b}\u{202e}\0"), "\\u{1b}[2J\\u{9b}\\u{202e}\\u{0}");
    }
}
