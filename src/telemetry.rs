//! Logs: where they go, in which form, and how much of them.
//!
//! Logs go to stderr, because stdout belongs to the data that commands print. On a terminal they are text for
//! people; anywhere else they are one JSON object a line, because what collects them there is a machine. Messages are
//! constant and lower case, what varies is in fields, so that both forms can be searched by message.
//!
//! No caller waits for the log, and no failure to write it ends the process: lines go through a bounded [`queue`], and a
//! panic becomes a line as well, because the default hook writes to standard error in the thread that panicked.

mod queue;
mod repeat;
mod throttle;

use std::{
    io::{self, IsTerminal, Write},
    panic::PanicHookInfo,
    sync::OnceLock,
    time::Duration,
};

use tracing_subscriber::{EnvFilter, filter::ParseError, fmt::format::FmtSpan, util::SubscriberInitExt};

use self::queue::Queue;
pub use self::{
    repeat::{Repeated, Trouble},
    throttle::Throttle,
};

/// How long the end of the process may wait for its last lines to be written.
const FLUSH_BOUND: Duration = Duration::from_millis(500);

/// The queue to standard error, once it was started. One per process, as standard error is.
static QUEUE: OnceLock<Queue> = OnceLock::new();

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
    /// The thread that writes could not be started.
    #[error("cannot start the thread that writes the log; raise the limit of processes")]
    Thread(#[from] io::Error),
}

/// Sends the logs of this process to stderr, in the given form, as far as `filter` lets them pass.
///
/// `filter` is a comma-separated list of `level` and `target=level`, with the levels `off`, `error`, `warn`, `info`,
/// `debug` and `trace`; it is taken as given, `RUST_LOG` is not consulted.
///
/// # Errors
///
/// [`Error::Filter`] if the filter cannot be parsed, [`Error::AlreadySet`] if called twice, [`Error::Thread`] if the
/// operating system refuses a thread.
pub fn init(format: LogFormat, filter: &str) -> Result<(), Error> {
    let filter = parse_filter(filter)?;
    let terminal = io::stderr().is_terminal();
    let queue = start()?.clone();
    // A line that cannot be formatted is not reported on standard error, which would bypass the queue.
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || queue.clone())
        .with_ansi(terminal)
        // One line for each query and each run in the background, with its duration; all of these spans are at `debug`.
        .with_span_events(FmtSpan::CLOSE)
        .log_internal_errors(false);
    match format.resolved(terminal) {
        LogFormat::Json => lines.json().flatten_event(true).finish().try_init(),
        LogFormat::Auto | LogFormat::Text => lines.finish().try_init(),
    }
    .map_err(Error::AlreadySet)?;
    std::panic::set_hook(Box::new(tell_panic));
    Ok(())
}

/// From now on, what this process says on standard error goes through the queue. [`init`] does it too.
///
/// # Errors
///
/// The operating system refused the thread that writes.
pub fn decouple() -> io::Result<()> {
    start().map(drop)
}

fn start() -> io::Result<&'static Queue> {
    if let Some(queue) = QUEUE.get() {
        return Ok(queue);
    }
    let queue = Queue::new();
    queue.start(io::stderr(), tell_lost)?;
    // Two first callers at once would each have a thread, and one of them would never get a line.
    Ok(QUEUE.get_or_init(|| queue))
}

/// Writes a line to standard error that is no event of the log: what a command says to a person. Waits for the reader
/// only in a process that has not called [`decouple`] or [`init`]. There is nowhere to report a failure to.
pub fn say(line: &str) {
    let line = format!("{line}\n");
    match QUEUE.get() {
        Some(queue) => queue.push(line.as_bytes()),
        None => drop(io::stderr().lock().write_all(line.as_bytes())),
    }
}

/// How many lines were dropped because they could not be written, or not soon enough.
#[must_use]
pub fn dropped() -> u64 {
    QUEUE.get().map_or(0, Queue::dropped)
}

/// Waits until the last lines are written, for at most half a second. For the end of the process.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        // Without an effect on the exit: what a stalled reader does not take is lost.
        let _ = queue.flush(FLUSH_BOUND);
    }
}

fn tell_lost(lines: u64) {
    tracing::warn!(lines, "log lines were dropped because they could not be written");
}

fn tell_panic(panic: &PanicHookInfo<'_>) {
    let payload = panic.payload();
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    // Captured only if the environment asks for it (RUST_BACKTRACE), as by default.
    let backtrace = std::backtrace::Backtrace::capture();
    let backtrace = matches!(backtrace.status(), std::backtrace::BacktraceStatus::Captured).then_some(backtrace);
    let backtrace = backtrace.as_ref().map(tracing::field::display);
    tracing::error!(panic = text, place, backtrace, "a thread panicked");
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
