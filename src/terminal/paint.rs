//! Colour on terminals, unless `NO_COLOR` or `--color` says otherwise.
//!
//! Colour only repeats what the words say. Whether there is any is decided once for the process, by `anstream`, which
//! knows `NO_COLOR`, `CLICOLOR`, `CLICOLOR_FORCE` and `TERM=dumb`; the flag wins over all of them.

use std::io;

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Color {
    /// On terminals, unless NO_COLOR is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// What is as it should be.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// What deserves a look.
pub(crate) const DOUBTFUL: Style = AnsiColor::Yellow.on_default();
/// What is broken, or over.
pub(crate) const BAD: Style = AnsiColor::Red.on_default();
/// What is neither.
pub(crate) const PLAIN: Style = Style::new();

/// Takes over what the command line says.
pub(crate) fn set(color: Color) {
    match color {
        Color::Auto => ColorChoice::Auto,
        Color::Always => ColorChoice::Always,
        Color::Never => ColorChoice::Never,
    }
    .write_global();
}

/// Whether standard output shows colour.
pub(crate) fn is_on() -> bool {
    AutoStream::choice(&io::stdout()) != ColorChoice::Never
}

/// The text in a style.
pub(crate) fn paint(text: &str, style: Style) -> String {
    if style.is_plain() { text.to_owned() } else { format!("{style}{text}{style:#}") }
}

/// The style of a status as `command::instances::status` words it.
pub(crate) fn status(text: &str) -> Style {
    match text {
        "alive" => GOOD,
        "draining" | "starting" => PLAIN,
        _ if text.ends_with("(suspect)") => DOUBTFUL,
        _ if text.starts_with("dead") => BAD,
        _ => PLAIN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_is_never_the_only_sign_of_a_state() {
        for (text, style) in
            [("alive", GOOD), ("alive(suspect)", DOUBTFUL), ("dead(stale)", BAD), ("draining", PLAIN), ("-", PLAIN)]
        {
            assert_eq!(status(text), style, "{text}");
        }
        assert_eq!(paint("alive", GOOD), "\u{1b}[32malive\u{1b}[0m");
        assert_eq!(paint("draining", PLAIN), "draining");
    }
}
