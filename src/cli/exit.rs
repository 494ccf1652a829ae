//! How a command ends: one error type, one exit code each, one way to say it.
//!
//! Scripts depend on these codes, so there is one table and it is here. A code tells what to do next: 2 and 78 need a
//! person, 3 is worth a retry, 4 and 5 are answers, 1 is everything else.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | ok |
//! | 1 | a negative answer, or an error of the server |
//! | 2 | usage: a flag or argument is wrong, found here or by the server |
//! | 3 | the registry cannot be reached |
//! | 4 | not found |
//! | 5 | a precondition does not hold, for example a stale epoch |
//! | 78 | the configuration of the daemon is wrong |
//!
//! `run` passes on the exit code of its command instead, with the shell's 126, 127 and 128 + signal.
//!
//! Messages go to standard error, the whole chain of causes on one line, and after it one line per bad field. What a
//! server sent is escaped: a message must not be able to drive the terminal.

use std::{error, io, process::ExitCode, time::Duration};

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{flags, output};
use crate::{config::ConfigError, daemon, migrate, postgres::connect::ConnectError, telemetry};

/// Everything went well.
pub const OK: u8 = 0;
/// A negative answer, or an error of the server.
pub const NEGATIVE: u8 = 1;
/// A flag or argument is wrong.
pub const USAGE: u8 = 2;
/// The registry cannot be reached.
pub const UNREACHABLE: u8 = 3;
/// What was asked for does not exist.
pub const NOT_FOUND: u8 = 4;
/// A precondition does not hold.
pub const PRECONDITION: u8 = 5;
/// The configuration is wrong (`EX_CONFIG`).
pub const CONFIG: u8 = 78;

/// The domain of `google.rpc.ErrorInfo` in errors that a daemon, not a proxy or the transport, has made.
pub(super) const ERROR_DOMAIN: &str = "musterd";

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was asked for would do harm as things are.
    #[error("{0}")]
    Precondition(String),
    /// Arguments that each make sense, but not together or not to the server.
    #[error("{0}")]
    Usage(String),
    /// The daemon's configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The database cannot be used as its URL says.
    #[error(transparent)]
    Database(#[from] ConnectError),
    /// No connection to a daemon.
    #[error("cannot reach the registry at {addr}")]
    Connect {
        /// The address that was tried.
        addr: String,
        /// What the transport said.
        #[source]
        cause: tonic::transport::Error,
    },
    /// A daemon did not answer in time. Whether it did what it was asked is unknown.
    #[error("the registry at {addr} did not answer within {}", humantime::format_duration(*.after))]
    Timeout {
        /// The address that was asked.
        addr: String,
        /// How long was waited.
        after: Duration,
    },
    /// A daemon answered with an error, or the connection broke.
    #[error("{}", status_text(.0))]
    Rpc(Box<Status>),
    /// A daemon broke the protocol.
    #[error("the answer of the registry lacks {0}; does it run another version?")]
    Incomplete(&'static str),
    /// The daemon ended.
    #[error(transparent)]
    Daemon(#[from] daemon::Error),
    /// The database could not be migrated or examined.
    #[error(transparent)]
    Migrate(#[from] migrate::Error),
    /// Standard output or a signal handler failed.
    #[error("input or output failed")]
    Io(#[from] io::Error),
    /// Another error, and what may help.
    #[error("{error}; {hint}")]
    Hinted {
        /// The error.
        error: Box<Error>,
        /// What may help.
        hint: String,
    },
    /// The asynchronous runtime could not be built.
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::Rpc(Box::new(status))
    }
}

impl Error {
    /// The exit code by the table above.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => USAGE,
            Self::Precondition(_) => PRECONDITION,
            Self::Config(_) => CONFIG,
            Self::Connect { .. } | Self::Timeout { .. } => UNREACHABLE,
            Self::Rpc(status) => status_code(status),
            Self::Database(error) => error.exit_code(),
            Self::Daemon(error) => error.exit_code(),
            Self::Migrate(error) => error.exit_code(),
            Self::Hinted { error, .. } => error.exit_code(),
            // The reader of a pipe has seen enough: not a failure of ours.
            Self::Io(error) if error.kind() == io::ErrorKind::BrokenPipe => OK,
            Self::Incomplete(_) | Self::Io(_) | Self::Runtime(_) => NEGATIVE,
        }
    }

    /// The reason of the daemon's closed list (`error.proto`), for example `LEASE_EXPIRED`. `None` if the error was not
    /// made by a daemon.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Rpc(status) => reason(status),
            Self::Hinted { error, .. } => error.reason(),
            _ => None,
        }
    }

    /// The same error, with what may help.
    #[must_use]
    pub(super) fn hinted(self, hint: impl Into<String>) -> Self {
        Self::Hinted { error: Box::new(self), hint: hint.into() }
    }

    /// What to do about a daemon that cannot be reached.
    fn fix(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "; is a daemon running there? See musterd check, or give another --addr",
            Self::Timeout { .. } => "; see musterd check, or give it more with --timeout",
            _ => "",
        }
    }

    /// The same error, naming the flag or argument instead of the field of the protocol; `of_run` for those of `run`.
    #[must_use]
    pub(super) fn in_flags(self, of_run: bool) -> Self {
        match self {
            Self::Rpc(status) => Self::Rpc(Box::new(flags::in_flags(*status, of_run))),
            other => other,
        }
    }

    /// The lines that tell a person what happened, without a prefix and escaped.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = vec![output::escape(&format!("{}{}", chain(self), self.fix())).into_owned()];
        if let Self::Rpc(status) = self
            && let Some(bad) = status.get_details_bad_request()
            // A message that lists the fields itself is not repeated.
            && !["", ":"].iter().any(|colon| status.message() == flags::joined(&bad, colon))
        {
            lines.extend(bad.field_violations.iter().map(|violation| {
                let (field, description) = (output::escape(&violation.field), output::escape(&violation.description));
                format!("  {field}: {description}")
            }));
        }
        lines
    }
}

fn reason(status: &Status) -> Option<String> {
    status.get_details_error_info().filter(|info| info.domain == ERROR_DOMAIN).map(|info| info.reason)
}

fn status_code(status: &Status) -> u8 {
    match status.code() {
        Code::NotFound => NOT_FOUND,
        Code::FailedPrecondition => PRECONDITION,
        Code::InvalidArgument => USAGE,
        // A daemon that says it cannot was reached; without its signature it is the transport that speaks.
        Code::Unavailable | Code::Unknown | Code::Internal if is_transport(status) => UNREACHABLE,
        Code::DeadlineExceeded | Code::Unauthenticated => UNREACHABLE,
        _ => NEGATIVE,
    }
}

/// Whether nothing listens at the address. The cause is deep in what the transport reports.
pub(super) fn is_refused(error: &Error) -> bool {
    let mut cause = Some(error as &dyn error::Error);
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Whether the status was made on this side of the wire, from a connection that failed.
pub(super) fn is_transport(status: &Status) -> bool {
    let failed_here = error::Error::source(status).is_some() || status.code() == Code::Unavailable;
    failed_here && reason(status).is_none()
}

fn status_text(status: &Status) -> String {
    let message = if status.message().is_empty() { status.code().description() } else { status.message() };
    match reason(status) {
        Some(reason) => format!("{message} ({reason})"),
        None if is_transport(status) => format!("cannot reach the registry: {message}"),
        None => format!("{message} ({:?})", status.code()),
    }
}

/// The error and its causes on one line, each said once.
fn chain(error: &dyn error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Many libraries repeat their cause in their own text.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

/// Says why the command failed, if it did, and returns its exit code.
#[must_use]
pub fn finish(outcome: Result<u8, Error>) -> ExitCode {
    let code = outcome.unwrap_or_else(|error| {
        report(&error);
        error.exit_code()
    });
    telemetry::flush();
    ExitCode::from(code)
}

/// Writes the error to standard error. A closed pipe on standard output is not worth a word.
pub(super) fn report(error: &Error) {
    if matches!(error, Error::Io(cause) if cause.kind() == io::ErrorKind::BrokenPipe) {
        return;
    }
    for (i, line) in error.lines().iter().enumerate() {
        if i == 0 { output::note(line) } else { output::note_continued(line) }
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::{ErrorDetails, FieldViolation};

    use super::*;

    fn from_daemon(code: Code, reason: &str) -> Error {
        let details = ErrorDetails::with_error_info(reason, ERROR_DOMAIN, []);
        Status::with_error_details(code, "text", details).into()
    }

    #[test]
    fn each_status_has_the_exit_code_of_the_table() {
        for (code, reason, expected) in [
            (Code::NotFound, "UNKNOWN_LOGICAL_ID", NOT_FOUND),
            (Code::FailedPrecondition, "EPOCH_MISMATCH", PRECONDITION),
            (Code::InvalidArgument, "INVALID_FIELD", USAGE),
            (Code::AlreadyExists, "INSTANCE_ID_TAKEN", NEGATIVE),
            (Code::Unavailable, "DATABASE_UNAVAILABLE", NEGATIVE),
            (Code::Internal, "INTERNAL", NEGATIVE),
        ] {
            let error = from_daemon(code, reason);
            assert_eq!(error.exit_code(), expected, "{reason}");
            assert_eq!(error.reason().as_deref(), Some(reason));
        }
        assert_eq!(Error::from(Status::unavailable("tcp connect error")).exit_code(), UNREACHABLE);
        assert_eq!(Error::from(Status::deadline_exceeded("")).exit_code(), UNREACHABLE);
        assert_eq!(Error::from(Status::unimplemented("")).exit_code(), NEGATIVE);
    }

    #[test]
    fn a_hint_changes_nothing_but_the_words() {
        let error = from_daemon(Code::NotFound, "UNKNOWN_LOGICAL_ID").hinted("did you mean `organ`?");
        assert_eq!((error.exit_code(), error.reason().as_deref()), (NOT_FOUND, Some("UNKNOWN_LOGICAL_ID")));
        assert_eq!(error.lines(), ["text (UNKNOWN_LOGICAL_ID); did you mean `organ`?"]);
    }

    #[test]
    fn a_closed_pipe_is_a_quiet_success() {
        assert_eq!(Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).exit_code(), OK);
        assert_eq!(Error::from(io::Error::from(io::ErrorKind::StorageFull)).exit_code(), NEGATIVE);
    }

    #[test]
    fn a_bad_field_gets_a_line_of_its_own_and_cannot_drive_the_terminal() {
        let details = ErrorDetails::with_bad_request(vec![
            FieldViolation::new("logical_id", "is empty"),
            FieldViolation::new("ttl", "\u{1b}[2J is over 300 s"),
        ]);
        let error = Error::from(Status::with_error_details(Code::InvalidArgument, "bad\ninput", details));
        assert_eq!(
            error.lines(),
            ["bad\\ninput (InvalidArgument)", "  logical_id: is empty", "  ttl: \\u{1b}[2J is over 300 s"]
        );
    }

    #[test]
    fn the_chain_of_causes_is_one_line_without_repetition() {
        let error = Error::Runtime(io::Error::other("no threads"));
        assert_eq!(chain(&error), "cannot start the runtime: no threads");
    }
}
