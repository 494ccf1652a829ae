//! What can go wrong between a daemon and PostgreSQL, sorted by what it means for the change that was asked for.
//!
//! This is the one place that knows SQLSTATEs. The distinction that matters is *honesty* (promise 2): a change was
//! definitely not applied, or unknown.

use thiserror::Error;
use tokio_postgres::error::SqlState;

use super::connect::ConnectError;

/// A call that PostgreSQL did not answer with a result.
#[derive(Debug, Error)]
pub enum Error {
    /// No connection could be had in time. Nothing was applied.
    #[error("the database cannot be reached")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The connection broke, or no answer came in time. It may have been applied.
    #[error("the database did not answer")]
    Unanswered(#[source] Option<tokio_postgres::Error>),
    /// Contention: a deadlock, a lock not had in time, a plan that went stale. Nothing was applied; try again.
    #[error("the database was busy")]
    Busy(#[source] tokio_postgres::Error),
    /// PostgreSQL refused. Nothing was applied, and trying again does not help.
    #[error("the database refused")]
    Refused(#[source] tokio_postgres::Error),
    /// The role lacks a right, or a policy would hide rows from it. Nothing was applied, and trying again does not help.
    #[error("the database denied access: {message}; {fix}")]
    Denied {
        /// What PostgreSQL said, with the object.
        message: String,
        /// What gives access.
        fix: &'static str,
    },
    /// An answer that does not look as it must.
    #[error("the database answered with an unexpected {0}")]
    Malformed(&'static str),
}

impl Error {
    /// Whether the change asked for may have been applied.
    #[must_use]
    pub fn may_be_applied(&self) -> bool {
        match self {
            Self::Unanswered(_) | Self::Malformed(_) => true,
            Self::Unreachable(_) | Self::Busy(_) | Self::Refused(_) | Self::Denied { .. } => false,
        }
    }

    /// Whether the same call may succeed a moment later.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Unanswered(_) | Self::Busy(_) => true,
            Self::Refused(_) | Self::Denied { .. } | Self::Malformed(_) => false,
        }
    }
}

impl From<ConnectError> for Error {
    fn from(error: ConnectError) -> Self {
        Self::Unreachable(Box::new(error))
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(code) = error.code() else {
            // No SQLSTATE: the connection broke, or a value could not be converted.
            let broken = error.is_closed()
                || std::error::Error::source(&error).is_some_and(|cause| cause.is::<std::io::Error>());
            return if broken { Self::Unanswered(Some(error)) } else { Self::Refused(error) };
        };
        match *code {
            SqlState::T_R_SERIALIZATION_FAILURE
            | SqlState::T_R_DEADLOCK_DETECTED
            | SqlState::LOCK_NOT_AVAILABLE
            | SqlState::QUERY_CANCELED
            // A migration went by: the plan, or the prepared statement, is of the schema before it.
            | SqlState::FEATURE_NOT_SUPPORTED
            | SqlState::INVALID_SQL_STATEMENT_NAME => Self::Busy(error),
            // The session was ended from outside, and that may have been during its commit.
            SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN => Self::Unanswered(Some(error)),
            SqlState::CANNOT_CONNECT_NOW
            | SqlState::TOO_MANY_CONNECTIONS
            | SqlState::READ_ONLY_SQL_TRANSACTION => Self::Unreachable(Box::new(error)),
            SqlState::INSUFFICIENT_PRIVILEGE => {
                let message = error.as_db_error().map(|refusal| refusal.message().replace('\n', " "));
                let message = message.unwrap_or_default();
                let fix = denied_fix(&message);
                Self::Denied { message, fix }
            }
            _ => Self::Refused(error),
        }
    }
}

/// What helps. That a policy would hide rows has the SQLSTATE of a missing right, and no field names the cause; the
/// words are in English unless `lc_messages` says otherwise, and then the message alone has to do.
fn denied_fix(message: &str) -> &'static str {
    if message.contains("row-level security") {
        "disable it with ALTER TABLE ... DISABLE ROW LEVEL SECURITY, or give the role BYPASSRLS"
    } else {
        "grant the role of the daemon its rights on the registry (deploy/roles.sql)"
    }
}
