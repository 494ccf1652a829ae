//! `--watch`: the same answer again and again, in place on a terminal, one after the other elsewhere.
//!
//! A terminal gets each frame over the one before, cut to its height, so that the top of an answer stays where it is. The
//! daemon may go away and come back meanwhile; only the first answer must succeed, since an address that was never
//! right will not become so. SIGINT and SIGTERM end it with the exit code of the last answer.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use terminal_size::{Height, terminal_size};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::sleep,
};

use super::exit::{self, Error};
use crate::terminal::{
    args::parse_duration,
    cursor::has_cursor,
    output::{self, Format},
};

/// How often, unless it is said.
const DEFAULT_INTERVAL: &str = "2s";
/// No reader follows more often.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);
/// Rows of a terminal that does not tell.
const DEFAULT_ROWS: u16 = 24;

/// The flag `--watch`.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct RepeatArgs {
    /// Show it again and again, every 2s or INTERVAL: in place on a terminal, one after the other elsewhere
    #[arg(short = 'w', long = "watch", value_name = "INTERVAL", num_args = 0..=1, require_equals = true,
          default_missing_value = DEFAULT_INTERVAL, value_parser = parse_interval)]
    every: Option<Duration>,
}

impl RepeatArgs {
    /// Whether the answer is wanted more than once.
    pub(crate) fn is_wanted(&self) -> bool {
        self.every.is_some()
    }
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        interval if interval < SHORTEST_INTERVAL => Err("must be at least 100ms".to_owned()),
        interval => Ok(interval),
    }
}

/// One answer.
#[derive(Debug, Default)]
pub(crate) struct Frame {
    /// For standard output.
    pub(crate) text: String,
    /// What there is to say about it, a line each.
    pub(crate) notes: Vec<String>,
    /// The exit code that goes with it.
    pub(crate) code: u8,
}

/// Shows answers, one or many; returns the exit code of the last one.
///
/// # Errors
///
/// Those of the first answer, and of standard output.
pub(crate) async fn show(
    args: RepeatArgs,
    format: Format,
    mut answer: impl AsyncFnMut() -> Result<Frame, Error>,
) -> Result<u8, Error> {
    let Some(every) = args.every else {
        let frame = answer().await?;
        output::print_text(&frame.text)?;
        frame.notes.iter().for_each(|note| output::note(note));
        return Ok(frame.code);
    };
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let in_place = io::stdout().is_terminal() && format.is_table() && has_cursor();
    let mut first = true;
    let mut code = exit::OK;
    loop {
        let next = async {
            if !first {
                sleep(every).await;
            }
            answer().await
        };
        let frame = tokio::select! {
            _ = interrupt.recv() => return Ok(code),
            _ = terminate.recv() => return Ok(code),
            frame = next => frame,
        };
        let frame = match frame {
            Err(error) if first => return Err(error),
            Err(error) => Frame { text: String::new(), code: error.exit_code(), notes: error.lines() },
            Ok(frame) => frame,
        };
        code = frame.code;
        if in_place {
            output::print_text(&placed(&frame, rows()))?;
        } else {
            let gap = if !first && format.is_table() && !frame.text.is_empty() { "\n" } else { "" };
            output::print_text(&format!("{gap}{}", frame.text))?;
            frame.notes.iter().for_each(|note| output::note(note));
        }
        first = false;
    }
}

fn rows() -> usize {
    usize::from(terminal_size().map_or(DEFAULT_ROWS, |(_, Height(rows))| rows)).max(2)
}

/// A frame that covers the one before: from the top, each line to its end, and nothing below. Lines are not wrapped
/// while it is drawn, so that each takes one row.
fn placed(frame: &Frame, rows: usize) -> String {
    let notes = frame.notes.iter().map(|note| format!("musterd: {note}"));
    let lines: Vec<String> = frame.text.lines().map(str::to_owned).chain(notes).collect();
    let mut text = String::from("\u{1b}[?7l\u{1b}[H");
    let room = if lines.len() < rows { lines.len() } else { rows - 2 };
    for line in &lines[..room] {
        text.push_str(line);
        text.push_str("\u{1b}[K\n");
    }
    if room < lines.len() {
        text.push_str(&format!("... and {} lines more\u{1b}[K\n", lines.len() - room));
    }
    text.push_str("\u{1b}[J\u{1b}[?7h");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::args::parse;

    fn every(words: &[&str]) -> Result<Option<Duration>, clap::Error> {
        parse::<RepeatArgs>([&["x"], words].concat()).map(|args| args.every)
    }

    #[test]
    fn an_interval_may_be_left_out() {
        assert_eq!(every(&[]).expect("no flag"), None);
        assert_eq!(every(&["--watch"]).expect("the flag"), Some(Duration::from_secs(2)));
        assert_eq!(every(&["-w=500ms"]).expect("a value"), Some(Duration::from_millis(500)));
        for bad in ["--watch=1ms", "--watch=soon", "--watch="] {
            assert!(every(&[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_frame_covers_the_one_before_and_fits_the_terminal() {
        let frame = Frame { text: "a\nb\n".into(), notes: vec!["c".into()], code: 0 };
        let text = placed(&frame, 24);
        assert_eq!(text, "\u{1b}[?7l\u{1b}[Ha\u{1b}[K\nb\u{1b}[K\nmusterd: c\u{1b}[K\n\u{1b}[J\u{1b}[?7h");
        let long = Frame { text: "x\n".repeat(100), ..Frame::default() };
        let text = placed(&long, 24);
        assert_eq!(text.lines().filter(|line| line.contains('x')).count(), 22);
        assert!(text.contains("... and 78 lines more"), "{text}");
        assert_eq!(text.matches('\n').count(), 23, "the last row stays free, or the terminal would scroll");
    }
}
