//! Why a benchmark could not be run, in the terms of the command line's exit codes.

use std::io;

/// Why a benchmark could not be run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The registry serves others.
    #[error("{0}")]
    Precondition(String),
    /// Arguments that do not fit each other or what is registered.
    #[error("{0}")]
    Usage(String),
    /// A daemon answered with an error, or none could be reached.
    #[error(transparent)]
    Registry(Box<musterd_client::Error>),
    /// Standard output or a histogram failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<musterd_client::Error> for Error {
    fn from(error: musterd_client::Error) -> Self {
        Self::Registry(Box::new(error))
    }
}
