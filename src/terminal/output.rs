//! How commands print: data on standard output, words on standard error.
//!
//! Forms of data: `table` and `wide` are for eyes and may change with any version; `json` (one indented document),
//! `jsonl` (one object per line) and `yaml` (the same document) are for programs and stay as they are, see
//! `json`; `name` is one name or id per line, for the next command of a script. A command makes each of them
//! only when it is asked for ([`print_answer`]).
//!
//! What a registry holds was written by any client, so every form shows characters that cannot be seen as escapes
//! ([`super::visible`]): tables and notes in the way of Rust, JSON by its own rules.
//!
//! Writing goes through a locked, buffered handle instead of `println!`, which panics when a reader such as `head` has
//! closed the pipe.

use std::{
    io::{self, BufWriter, Write},
    os::fd::AsFd as _,
};

use anstyle::Style;
use clap::{
    ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser},
};
use serde_json::Value;

pub(crate) use super::visible::escape;
use super::{
    paint,
    visible::{self, escape_json, escape_yaml},
};
use crate::telemetry;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Form of the data on standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns for people; may change with any version.
    #[default]
    Table,
    /// More columns.
    Wide,
    /// One JSON document, in the protocol's JSON form; stable.
    Json,
    /// One JSON object per line; stable.
    Jsonl,
    /// The JSON document as YAML; stable.
    Yaml,
    /// One name or id per line; stable.
    Name,
}

impl Format {
    /// Whether people read it.
    #[must_use]
    pub(crate) fn is_table(self) -> bool {
        matches!(self, Self::Table | Self::Wide)
    }
}

/// The flag `-o`, shared by all commands that print data.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct OutputArgs {
    /// How to print: a table for people; JSON, YAML or bare names for programs (stable)
    #[arg(
        short = 'o',
        long = "output",
        value_name = "FORMAT",
        value_enum,
        default_value_t,
        hide_possible_values = false
    )]
    pub(crate) output: Format,
}

/// The flag `-o` of commands whose answer has no names or ids to list.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct DocumentArgs {
    /// How to print: a table for people; JSON or YAML for programs (stable)
    #[arg(short = 'o', long = "output", value_name = "FORMAT", default_value = "table", value_parser = documents())]
    pub(crate) output: Format,
}

fn documents() -> impl TypedValueParser<Value = Format> {
    let all = Format::value_variants().iter().filter(|format| **format != Format::Name);
    PossibleValuesParser::new(all.filter_map(ValueEnum::to_possible_value))
        .map(|word| Format::from_str(&word, false).unwrap_or_default())
}

/// The style of a cell, by what it says.
pub(crate) type Painter = fn(&str) -> Style;

/// Rows under a header, as aligned columns without borders.
#[derive(Debug)]
pub(crate) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
    painted: Option<(usize, Painter)>,
}

impl<const N: usize> Table<N> {
    /// A table with these column names.
    #[must_use]
    pub(crate) fn new(header: [&str; N]) -> Self {
        Self { rows: vec![header.map(str::to_owned)], painted: None }
    }

    /// Shows the cells of a column in the colour of what they say, where there are colours.
    #[must_use]
    pub(crate) fn painted(mut self, column: usize, style: Painter) -> Self {
        self.painted = Some((column, style));
        self
    }

    /// Adds a row. Empty cells are shown as `-`, so that columns can be counted.
    pub(crate) fn row(&mut self, cells: [String; N]) {
        let shown = |cell: String| if cell.is_empty() { "-".to_owned() } else { escape(&cell).into_owned() };
        self.rows.push(cells.map(shown));
    }

    /// Writes header and rows, two blanks between columns, none at the end of a line.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let mut widths = [0; N];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(visible::width(cell));
            }
        }
        let style = self.painted.filter(|_| paint::is_on());
        for (at, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
                match style {
                    Some((painted, style)) if painted == column && at > 0 => {
                        line.push_str(&paint::paint(cell, style(cell)));
                    }
                    _ => line.push_str(cell),
                }
                line.extend(std::iter::repeat_n(' ', width - visible::width(cell) + 2));
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }

    /// The same as text.
    #[must_use]
    pub(crate) fn text(&self) -> String {
        let mut out = Vec::new();
        // A vector takes everything, and all that is written to it is text.
        let _ = self.write(&mut out);
        String::from_utf8(out).unwrap_or_default()
    }
}

/// An answer in the form that is asked for: the document of the protocol, the names of what it is about, or a table.
///
/// # Errors
///
/// A document that YAML has no form for; there is none.
pub(crate) fn answer(
    format: Format,
    document: impl FnOnce() -> Value,
    names: impl FnOnce() -> Vec<String>,
    table: impl FnOnce() -> String,
) -> io::Result<String> {
    Ok(match format {
        Format::Table | Format::Wide => table(),
        Format::Json => escape_json(format!("{:#}\n", document())),
        Format::Jsonl => json_line(&document()),
        Format::Yaml => yaml(&document())?,
        Format::Name => names().iter().map(|name| format!("{}\n", escape(name))).collect(),
    })
}

/// Prints an answer in the form that is asked for.
///
/// # Errors
///
/// As [`answer`] and [`print()`].
pub(crate) fn print_answer(
    format: Format,
    document: impl FnOnce() -> Value,
    names: impl FnOnce() -> Vec<String>,
    table: impl FnOnce() -> String,
) -> io::Result<()> {
    print_text(&answer(format, document, names, table)?)
}

/// As [`answer`], for an answer that is a list: `jsonl` has a line for each item.
///
/// # Errors
///
/// As [`answer`].
pub(crate) fn answer_list(
    format: Format,
    document: impl FnOnce() -> Value,
    items: impl FnOnce() -> Vec<Value>,
    names: impl FnOnce() -> Vec<String>,
    table: impl FnOnce() -> String,
) -> io::Result<String> {
    match format {
        Format::Jsonl => Ok(items().iter().map(json_line).collect()),
        _ => answer(format, document, names, table),
    }
}

/// A value on a line of its own.
pub(crate) fn json_line(value: &Value) -> String {
    escape_json(format!("{value}\n"))
}

/// Writes text to standard output.
///
/// # Errors
///
/// As [`print()`].
pub(crate) fn print_text(text: &str) -> io::Result<()> {
    print(|out| out.write_all(text.as_bytes()))
}

/// One document of YAML, which says at its beginning that it is one.
fn yaml(document: &Value) -> io::Result<String> {
    // Strings on one line and in quotes where they need them: a block would show control characters as they are.
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    let text = serde_saphyr::to_string_with_options(document, options).map_err(io::Error::other)?;
    // Plain strings of YAML have no escapes. JSON is YAML too, and has.
    let text = if visible::hides(&text) { escape_yaml(format!("{document:#}\n")) } else { text };
    Ok(format!("---\n{text}"))
}

/// Writes to standard output and flushes it.
///
/// # Errors
///
/// Those of `write` and of standard output; a closed pipe is `BrokenPipe`, which `command::exit` takes for success.
pub(crate) fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    write(&mut out)?;
    out.flush()
}

/// Prints one value in a form for programs; as `json` where it is no such form.
///
/// # Errors
///
/// As [`print_answer`].
pub(crate) fn print_json(value: &Value, format: Format) -> io::Result<()> {
    let format = if format.is_table() { Format::Json } else { format };
    print_answer(format, || value.clone(), Vec::new, String::new)
}

/// Prints a table.
///
/// # Errors
///
/// As [`print()`].
pub(crate) fn print_table<const N: usize>(table: &Table<N>) -> io::Result<()> {
    print(|mut out| table.write(&mut out))
}

/// Says something to a person, on standard error, with the program's name before it. There is nowhere left to report
/// a failure to, so it is dropped.
pub(crate) fn note(text: &str) {
    telemetry::say(&format!("musterd: {text}"));
}

/// A further line of a note, without the program's name.
pub(crate) fn note_continued(text: &str) {
    telemetry::say(text);
}

/// Returns once whatever reads standard output has gone: the other end of a pipe or a socket is closed, or the terminal
/// is hung up. Never, for a file. A command that follows changes would otherwise notice only when it next writes.
pub(crate) async fn reader_gone() {
    let (tell, told) = tokio::sync::oneshot::channel();
    // Not a task that blocks: such a one would have to be waited for at the end.
    let watcher = std::thread::Builder::new().name("stdout-reader".to_owned()).spawn(move || {
        let stdout = io::stdout();
        loop {
            // No event is asked for: errors and hang-ups are always reported.
            let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
            match poll(&mut fds, PollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => {}
                Ok(_) => {
                    let _ = tell.send(());
                    break;
                }
                Err(_) => break,
            }
        }
    });
    if watcher.is_err() || told.await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_display_width_and_lines_have_no_trailing_blanks() {
        let mut table = Table::new(["NAME", "NODE", "LEASE"]);
        table.row(["推荐".into(), "n1".into(), "7".into()]);
        table.row(["e\u{301}t".into(), String::new(), "123456".into()]);
        let mut out = Vec::new();
        table.write(&mut out).expect("a vector takes everything");
        let expected = "NAME  NODE  LEASE\n推荐  n1    7\ne\u{301}t    -     123456\n";
        assert_eq!(String::from_utf8(out).expect("text"), expected);
    }

    #[test]
    fn each_form_shows_the_same_answer() {
        let document = || serde_json::json!({ "leaseId": "7", "labels": { "zone": "a: b" }, "death": null });
        let shown = |format| {
            answer(format, document, || vec!["organ\u{1b}".into()], || "TABLE\n".into()).expect("a form of its own")
        };
        assert_eq!(shown(Format::Table), "TABLE\n");
        assert_eq!(shown(Format::Jsonl), "{\"death\":null,\"labels\":{\"zone\":\"a: b\"},\"leaseId\":\"7\"}\n");
        assert_eq!(shown(Format::Yaml), "---\ndeath: null\nlabels:\n  zone: \"a: b\"\nleaseId: \"7\"\n");
        assert_eq!(shown(Format::Name), "organ\\u{1b}\n");
    }

    #[test]
    fn yaml_cannot_drive_the_terminal_either() {
        let text = yaml(&serde_json::json!({ "route": "a\n\u{1b}[2J\0" })).expect("a document");
        assert!(!text.contains('\u{1b}') && text.lines().count() == 2, "{text:?}");
        let value = serde_json::json!({ "route": "a\u{202e}\u{e0041}b", "n": null });
        let text = yaml(&value).expect("a document");
        assert!(text.contains("a\\U0000202e\\U000e0041b"), "{text}");
        assert_eq!(serde_saphyr::from_str::<Value>(&text).expect("YAML"), value);
    }
}
