//! How a command ends: one error type, one exit code each, one way to say it.
//!
//! Scripts depend on these codes, so there is one table and it is here. A code tells what to do next: 2 and 78 need a
//! person, 3 is worth a retry, 4, 5 and 6 are answers, 1 is everything else.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | ok |
//! | 1 | a negative answer, or an error of the server |
//! | 2 | usage: a flag or argument is wrong, found here or by the server |
//! | 3 | the registry cannot be reached |
//! | 4 | not found |
//! | 5 | a precondition does not hold, for example a stale epoch |
//! | 6 | the daemon does not know the caller, or the caller may not do this |
//! | 10 | `migrate plan`: there is something to do |
//! | 78 | the configuration of the daemon is wrong |
//!
//! `migrate status --detect --exit-code` answers 2 where what was applied has changed since.
//!
//! `run` passes on the exit code of its command instead, with the shell's 126, 127 and 128 + signal.
//!
//! Messages go to standard error, the whole chain of causes on one line, and after it one line per bad field. What a
//! server sent is escaped: a message must not be able to drive the terminal.

use std::{error, io, process::ExitCode, time::Duration};

use musterd_client::{Kind, Reason};

use super::flags;
use crate::{
    access, config::ConfigError, daemon, migrate, postgres::connect::ConnectError, provision, telemetry,
    terminal::output, tls, upgrade,
};

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
/// The daemon does not know the caller, or the caller may not do this.
pub const REFUSED: u8 = 6;
/// `migrate status --detect --exit-code`: what was applied is not there as it was made.
pub const DRIFT: u8 = 2;
/// `migrate plan`: there is something to do.
pub const PLANNED: u8 = 10;
/// The configuration is wrong (`EX_CONFIG`).
pub const CONFIG: u8 = 78;

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
    /// A file for TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// The policy or the tokens cannot be used.
    #[error(transparent)]
    Access(#[from] access::FileError),
    /// A file for security cannot be made.
    #[error(transparent)]
    Provision(#[from] provision::Error),
    /// The database cannot be used as its URL says.
    #[error(transparent)]
    Database(#[from] ConnectError),
    /// No daemon could be reached within a time limit that is for all of a command.
    #[error("the registry at {addr} did not answer within {}", humantime::format_duration(*.after))]
    Timeout {
        /// The address that was asked.
        addr: String,
        /// How long was waited.
        after: Duration,
    },
    /// A daemon answered with an error, or none could be reached.
    #[error("{}", registry_text(.0))]
    Registry(Box<musterd_client::Error>),
    /// A daemon broke the protocol.
    #[error("the answer of the registry lacks {0}; does it run another version?")]
    Incomplete(&'static str),
    /// The daemon ended.
    #[error(transparent)]
    Daemon(#[from] daemon::Error),
    /// The database could not be migrated or examined.
    #[error(transparent)]
    Migrate(#[from] migrate::Error),
    /// The private PostgreSQL could not be upgraded.
    #[error(transparent)]
    Upgrade(#[from] upgrade::Error),
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

impl From<musterd_client::Error> for Error {
    fn from(error: musterd_client::Error) -> Self {
        Self::Registry(Box::new(error))
    }
}

impl Error {
    /// The exit code by the table above.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Provision(_) => USAGE,
            Self::Precondition(_) => PRECONDITION,
            Self::Config(_) | Self::Tls(_) | Self::Access(_) => CONFIG,
            Self::Timeout { .. } => UNREACHABLE,
            Self::Registry(error) => registry_code(error.kind()),
            Self::Database(error) => error.exit_code(),
            Self::Daemon(error) => error.exit_code(),
            Self::Migrate(error) => error.exit_code(),
            Self::Upgrade(error) => error.exit_code(),
            Self::Hinted { error, .. } => error.exit_code(),
            // The reader of a pipe has seen enough: not a failure of ours.
            Self::Io(error) if error.kind() == io::ErrorKind::BrokenPipe => OK,
            Self::Incomplete(_) | Self::Io(_) | Self::Runtime(_) => NEGATIVE,
        }
    }

    /// The reason of the daemon's closed list (`error.proto`), for example `LEASE_EXPIRED`. `None` if the error was not
    /// made by a daemon.
    #[must_use]
    pub fn reason(&self) -> Option<&'static str> {
        match self.registry()?.reason() {
            Reason::Unavailable | Reason::Other => None,
            reason => Some(reason.name()),
        }
    }

    /// What the client of the registry has returned, if it was that.
    fn registry(&self) -> Option<&musterd_client::Error> {
        match self {
            Self::Registry(error) => Some(error),
            Self::Hinted { error, .. } => error.registry(),
            _ => None,
        }
    }

    /// The same error, with what may help.
    #[must_use]
    pub(crate) fn hinted(self, hint: impl Into<String>) -> Self {
        Self::Hinted { error: Box::new(self), hint: hint.into() }
    }

    /// What to do about a daemon that cannot be reached.
    fn fix(&self) -> &'static str {
        match (self, self.registry().map(musterd_client::Error::kind)) {
            (_, Some(Kind::Unreachable)) => "; is a daemon running there? See musterd check, or give another --addr",
            (Self::Timeout { .. }, _) | (_, Some(Kind::Silent)) => {
                "; see musterd check, or give it more with --timeout"
            }
            _ => "",
        }
    }

    /// The same error, naming the flag or argument instead of the field of the protocol; `of_run` for those of `run`.
    #[must_use]
    pub(crate) fn in_flags(self, of_run: bool) -> Self {
        match self {
            Self::Registry(error) => Self::Registry(Box::new(flags::in_flags(*error, of_run))),
            other => other,
        }
    }

    /// The lines that tell a person what happened, without a prefix and escaped.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = vec![output::escape(&format!("{}{}", chain(self), self.fix())).into_owned()];
        if let Self::Registry(error) = self
            // A message that lists the fields itself is not repeated.
            && !["", ":"].iter().any(|colon| error.message() == flags::joined(error.violations(), colon))
        {
            lines.extend(error.violations().iter().map(|violation| {
                let (field, description) = (output::escape(violation.field()), output::escape(violation.description()));
                format!("  {field}: {description}")
            }));
        }
        lines
    }
}

fn registry_code(kind: Kind) -> u8 {
    match kind {
        Kind::NotFound => NOT_FOUND,
        Kind::Precondition => PRECONDITION,
        Kind::Invalid => USAGE,
        Kind::Unreachable | Kind::Silent | Kind::Broken => UNREACHABLE,
        Kind::Unauthenticated | Kind::Denied => REFUSED,
        // A daemon that says that it cannot take the call was reached.
        _ => NEGATIVE,
    }
}

fn registry_text(error: &musterd_client::Error) -> String {
    let daemon = error.daemon().map_or_else(String::new, |daemon| format!(" at {daemon}"));
    match (error.kind(), error.reason()) {
        (Kind::Unreachable | Kind::Broken, _) => format!("cannot reach the registry{daemon}: {}", error.message()),
        (Kind::Silent, Reason::Unavailable) => format!("{} from the registry{daemon}", error.message()),
        _ => error.text(),
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
pub(crate) fn report(error: &Error) {
    if matches!(error, Error::Io(cause) if cause.kind() == io::ErrorKind::BrokenPipe) {
        return;
    }
    for (i, line) in error.lines().iter().enumerate() {
        if i == 0 { output::note(line) } else { output::note_continued(line) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_failure_has_the_exit_code_of_the_table() {
        for (kind, reason, expected) in [
            (Kind::NotFound, Reason::UnknownLogicalId, NOT_FOUND),
            (Kind::Precondition, Reason::EpochMismatch, PRECONDITION),
            (Kind::Invalid, Reason::InvalidField, USAGE),
            (Kind::Failed, Reason::InstanceIdTaken, NEGATIVE),
            (Kind::Unavailable, Reason::DatabaseUnavailable, NEGATIVE),
            (Kind::Failed, Reason::Internal, NEGATIVE),
            (Kind::Unauthenticated, Reason::Internal, REFUSED),
            (Kind::Denied, Reason::Internal, REFUSED),
        ] {
            let error = Error::from(musterd_client::Error::new(kind, reason, "text"));
            assert_eq!((error.exit_code(), error.reason()), (expected, Some(reason.name())));
        }
        for kind in [Kind::Unreachable, Kind::Silent, Kind::Broken] {
            let error = Error::from(musterd_client::Error::new(kind, Reason::Unavailable, "text"));
            assert_eq!((error.exit_code(), error.reason()), (UNREACHABLE, None), "{kind:?}");
        }
    }

    #[test]
    fn a_hint_changes_nothing_but_the_words() {
        let error = musterd_client::Error::new(Kind::NotFound, Reason::UnknownLogicalId, "text");
        let error = Error::from(error).hinted("did you mean `organ`?");
        assert_eq!((error.exit_code(), error.reason()), (NOT_FOUND, Some("UNKNOWN_LOGICAL_ID")));
        assert_eq!(error.lines(), ["text (UNKNOWN_LOGICAL_ID); did you mean `organ`?"]);
    }

    #[test]
    fn a_closed_pipe_is_a_quiet_success() {
        assert_eq!(Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).exit_code(), OK);
        assert_eq!(Error::from(io::Error::from(io::ErrorKind::StorageFull)).exit_code(), NEGATIVE);
    }

    #[test]
    fn a_bad_field_gets_a_line_of_its_own_and_cannot_drive_the_terminal() {
        let error = musterd_client::Error::new(Kind::Invalid, Reason::InvalidField, "bad\ninput")
            .with_violation("logical_id", "is empty")
            .with_violation("ttl", "\u{1b}[2J is over 300 s");
        assert_eq!(
            Error::from(error).lines(),
            ["bad\\ninput (INVALID_FIELD)", "  logical_id: is empty", "  ttl: \\u{1b}[2J is over 300 s"]
        );
    }

    #[test]
    fn the_chain_of_causes_is_one_line_without_repetition() {
        let error = Error::Runtime(io::Error::other("no threads"));
        assert_eq!(chain(&error), "cannot start the runtime: no threads");
    }
}
