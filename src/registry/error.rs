//! Why a change could not be made, in the terms a caller needs: was it applied, and does trying again help.

use thiserror::Error;

use crate::{admission::Refusal, model::budget::Full, store, telemetry::chain};

/// A change without a decision by PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// Too many changes are queued. Not applied.
    #[error("too many changes are queued")]
    Overloaded,
    /// The registry has as many records, or as many bytes of them, as it may have. Not applied.
    #[error("the registry is full")]
    Full(Full),
    /// The identity that registers owns as many records as it may. Not applied.
    #[error("the identity owns the {0} records that it may own")]
    OwnerFull(u64),
    /// PostgreSQL cannot be reached. Not applied.
    #[error("the database cannot be reached; nothing was changed")]
    Unavailable,
    /// A newer musterd has migrated the database, and this daemon must not change it any more. Not applied.
    #[error("the database needs a newer musterd than this daemon; nothing was changed; use another daemon")]
    SchemaTooNew,
    /// No answer in time. Repeating it is safe.
    #[error("the database did not answer in time; the change may have been applied, and repeating it is safe")]
    MaybeApplied,
    /// The daemon is shutting down. Not applied.
    #[error("the daemon is shutting down; nothing was changed")]
    ShuttingDown,
    /// A fault of the daemon or the database. Not applied.
    #[error("the database refused the change; the daemon's log has the cause")]
    Internal,
}

impl From<&store::Error> for Error {
    fn from(error: &store::Error) -> Self {
        match error {
            store::Error::Unreachable(_) | store::Error::Busy(_) => Self::Unavailable,
            store::Error::Unanswered(_) | store::Error::Malformed(_) => Self::MaybeApplied,
            store::Error::Refused(_) | store::Error::Denied { .. } => Self::Internal,
        }
    }
}

impl Error {
    /// Of a question, which changes nothing; `what` could not be read.
    pub(super) fn of_question(error: &store::Error, what: &'static str) -> Self {
        tracing::warn!(error = %chain(error), "{what}");
        if error.is_passing() { Self::Unavailable } else { Self::Internal }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Overloaded => Self::Overloaded,
            Refusal::Full(full) => Self::Full(full),
            Refusal::OwnerFull(limit) => Self::OwnerFull(limit),
            Refusal::ShuttingDown => Self::ShuttingDown,
        }
    }
}
