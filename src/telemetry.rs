//! Logs: where they go, in which form, and how much of them.
//!
//! Logs go to stderr, because stdout belongs to the data that commands print. On a terminal they are text for
//! people; anywhere else they are one JSON object a line, because what collects them there is a machine. Messages are
//! constant and lower case, what varies is in fields, so that both forms can be searched by message.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, filter::ParseError, util::SubscriberInitExt};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text if stderr is a terminal, JSON otherwise.
    #[default]
    Auto,
    /// Text, coloured if stderr is a terminal.
    Text,
    /// One JSON object a line, fields at the top level.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter is not a list of `level` or `target=level`.
    #[error("invalid log filter `{filter}`: expected levels such as `info` or `warn,musterd::registry=debug`")]
    Filter {
        /// The filter as it was given.
        filter: String,
        /// What the parser objects to.
        source: ParseError,
    },
    /// Logging was set up before in this process.
    #[error("logging is set up already")]
    AlreadySet(#[source] tracing_subscriber::util::TryInitError),
}

/// Sends the logs of this process to stderr, in the given form, as far as `filter` lets them pass.
///
/// `filter` is a comma-separated list of `level` and `target=level`, with the levels `off`, `error`, `warn`, `info`,
/// `debug` and `trace`; it is taken as given, `RUST_LOG` is not consulted.
///
/// # Errors
///
/// [`Error::Filter`] if the filter cannot be parsed, [`Error::AlreadySet`] if called twice.
pub fn init(format: LogFormat, filter: &str) -> Result<(), Error> {
    let filter = parse_filter(filter)?;
    let terminal = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(terminal);
    match format.resolved(terminal) {
        LogFormat::Json => lines.json().flatten_event(true).finish().try_init(),
        LogFormat::Auto | LogFormat::Text => lines.finish().try_init(),
    }
    .map_err(Error::AlreadySet)
}

impl LogFormat {
    /// Replaces `Auto` by what it means for this stderr.
    fn resolved(self, terminal: bool) -> Self {
        match self {
            Self::Auto if terminal => Self::Text,
            Self::Auto => Self::Json,
            chosen => chosen,
        }
    }
}

/// An error with all its causes on one line, for a log field or a terminal.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn parse_filter(filter: &str) -> Result<EnvFilter, Error> {
    EnvFilter::try_new(filter).map_err(|source| Error::Filter { filter: filter.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_cannot_be_parsed_is_named_in_the_error() {
        let error = parse_filter("musterd=loud").unwrap_err();
        assert!(error.to_string().contains("`musterd=loud`"), "{error}");
        assert!(parse_filter("warn,musterd::registry=debug").is_ok());
    }

    #[test]
    fn auto_is_text_for_people_and_json_for_machines() {
        assert_eq!(LogFormat::Auto.resolved(true), LogFormat::Text);
        assert_eq!(LogFormat::Auto.resolved(false), LogFormat::Json);
        assert_eq!(LogFormat::Text.resolved(false), LogFormat::Text);
    }
}
