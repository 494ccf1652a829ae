//! Why the daemon leaves: the last line of its log, and its exit code.

use std::fmt;

/// Why the daemon shuts down. The first reason wins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// This signal arrived.
    Signal(&'static str),
    /// The daemon's own code asked for it, for this reason.
    Requested(&'static str),
    /// An essential task ended by itself, with this error if it had one.
    Ended {
        /// Name of the task.
        task: &'static str,
        /// The error and its causes.
        error: Option<String>,
    },
    /// An essential task panicked.
    Panicked {
        /// Name of the task.
        task: &'static str,
        /// What it panicked with.
        message: String,
    },
}

impl Reason {
    /// Returns the exit code for this reason: 0 if the end was asked for, 1 if something broke.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Signal(_) | Self::Requested(_) => 0,
            Self::Ended { .. } | Self::Panicked { .. } => 1,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(name) => write!(f, "received {name}"),
            Self::Requested(why) => f.write_str(why),
            Self::Ended { task, error: Some(error) } => write!(f, "{task} failed: {error}"),
            Self::Ended { task, error: None } => write!(f, "{task} ended by itself"),
            Self::Panicked { task, message } => write!(f, "{task} panicked: {message}"),
        }
    }
}
