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
    fs::OpenOptions,
    io::{self, IsTerminal, Write},
    os::unix::fs::OpenOptionsExt as _,
    panic::PanicHookInfo,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{Directive, LevelFilter, ParseError, Targets},
    fmt::{self, format::FmtSpan},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use self::queue::Queue;
pub use self::{
    repeat::{Repeated, Trouble},
    throttle::Throttle,
};

/// How long the end of the process may wait for its last lines to be written.
const FLUSH_BOUND: Duration = Duration::from_millis(500);

/// The target of the events of the audit log.
pub const AUDIT_TARGET: &str = "musterd::audit";

/// The queue to the file of the audit log, if it has one.
static AUDIT: OnceLock<Queue> = OnceLock::new();

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
    /// The file of the audit log cannot be written to.
    #[error("--audit-file: cannot open {}; give a file that the user of the daemon may write to", path.display())]
    AuditFile {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// Logging was set up before in this process.
    #[error("logging is set up already")]
    AlreadySet(#[source] tracing_subscriber::util::TryInitError),
    /// The thread that writes could not be started.
    #[error("cannot start the thread that writes the log; raise the limit of processes")]
    Thread(#[from] io::Error),
}

/// Sends the logs of this process to stderr, in the given form, as far as `filter` lets them pass; the events of the audit log
/// to `audit_file` instead, if there is one.
///
/// `filter` is a comma-separated list of `level` and `target=level`, with the levels `off`, `error`, `warn`, `info`,
/// `debug` and `trace`; it is taken as given, `RUST_LOG` is not consulted. Without a word of its own, the audit log passes.
///
/// # Errors
///
/// [`Error::Filter`] if the filter cannot be parsed, [`Error::AlreadySet`] if called twice, [`Error::Thread`] if the
/// operating system refuses a thread, [`Error::AuditFile`].
pub fn init(format: LogFormat, filter: &str, audit_file: Option<&Path>) -> Result<(), Error> {
    let layers = layers(format, filter, audit_file)?;
    tracing_subscriber::registry().with(layers).try_init().map_err(Error::AlreadySet)?;
    std::panic::set_hook(Box::new(tell_panic));
    Ok(())
}

type Layers = Vec<Box<dyn Layer<Registry> + Send + Sync>>;

/// That of standard error, and that of the file of the audit log.
fn layers(format: LogFormat, filter: &str, audit_file: Option<&Path>) -> Result<Layers, Error> {
    let mut parsed = parse_filter(filter)?;
    // Where they go to a file, they do not go here.
    match audit_file {
        Some(_) => parsed = parsed.add_directive(of_audit("off")?),
        None if !filter.contains(AUDIT_TARGET) => parsed = parsed.add_directive(of_audit("info")?),
        None => {}
    }
    let terminal = io::stderr().is_terminal();
    let queue = start()?.clone();
    // A line that cannot be formatted is not reported on standard error, which would bypass the queue.
    let lines = fmt::layer()
        .with_writer(move || queue.clone())
        .with_ansi(terminal)
        // One line for each query and each run in the background, with its duration; all of these spans are at `debug`.
        .with_span_events(FmtSpan::CLOSE)
        .log_internal_errors(false);
    let lines = match format.resolved(terminal) {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Auto | LogFormat::Text => lines.boxed(),
    };
    // Both filters are decided once for each place in the program. One that is asked for each event has no greatest level, and
    // then every span of the libraries is kept, in every call.
    let mut layers = vec![lines.with_filter(parsed).boxed()];
    if let Some(path) = audit_file {
        let queue = open_audit(path)?;
        let lines = fmt::layer().with_writer(move || queue.clone()).with_ansi(false).log_internal_errors(false);
        let lines = lines.json().flatten_event(true).with_current_span(false).with_span_list(false);
        layers.push(lines.with_filter(Targets::new().with_target(AUDIT_TARGET, LevelFilter::INFO)).boxed());
    }
    Ok(layers)
}

fn of_audit(level: &str) -> Result<Directive, Error> {
    let filter = format!("{AUDIT_TARGET}={level}");
    filter.parse().map_err(|source| Error::Filter { filter, source })
}

/// Opens the file of the audit log for appending. It may be one that rotates by being copied and emptied.
fn open_audit(path: &Path) -> Result<Queue, Error> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    let file = file.map_err(|source| Error::AuditFile { path: path.into(), source })?;
    let queue = Queue::new();
    queue.start(file, tell_lost_audit)?;
    Ok(AUDIT.get_or_init(|| queue).clone())
}

/// How many events of the audit log were not written to its file.
#[must_use]
pub fn audit_dropped() -> u64 {
    AUDIT.get().map_or(0, Queue::dropped)
}

fn tell_lost_audit(events: u64) {
    tracing::warn!(events, "audit events were dropped because their file could not be written");
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
    for queue in [QUEUE.get(), AUDIT.get()].into_iter().flatten() {
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
    fn line_below_the_level_of_every_log_is_not_formatted() {
        let folder = std::env::temp_dir().join(format!("musterd-audit-{}", std::process::id()));
        for file in [None, Some(folder.as_path())] {
            let layers = layers(LogFormat::Json, "info", file).unwrap();
            let hint = tracing::Subscriber::max_level_hint(&tracing_subscriber::registry().with(layers));
            assert_eq!(hint, Some(LevelFilter::INFO), "{file:?}");
        }
        std::fs::remove_file(folder).unwrap();
    }

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
