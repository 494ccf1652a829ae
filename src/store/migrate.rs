//! Module `migrate`.

use std::time::Duration;

use chrono::{DateTime, Utc};

/// Stub.
#[derive(Debug, thiserror::Error)]
#[error("migrations are not part of this build")]
pub struct Error;

impl Error {
    /// The exit code of the process.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        1
    }
}

/// Stub.
#[derive(Debug)]
pub struct Applied {
    /// Number.
    pub version: i32,
    /// Name.
    pub name: String,
    /// Time it took.
    pub duration: Duration,
}

/// Stub.
#[derive(Debug)]
pub struct Report {
    /// What was applied.
    pub applied: Vec<Applied>,
    /// Version now.
    pub current: i32,
}

/// Stub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Applied.
    Applied,
    /// Pending.
    Pending,
    /// Changed.
    Changed,
    /// Unknown.
    Unknown,
}

/// Stub.
#[derive(Debug)]
pub struct Status {
    /// Number.
    pub version: i32,
    /// Name.
    pub name: String,
    /// State.
    pub state: State,
    /// When.
    pub applied_at: Option<DateTime<Utc>>,
    /// By whom.
    pub applied_by: Option<String>,
    /// Time it took.
    pub duration: Option<Duration>,
}

/// Stub.
///
/// # Errors
///
/// Always.
pub async fn up(_url: &str, _applied_by: &str) -> Result<Report, Error> {
    Err(Error)
}

/// Stub.
///
/// # Errors
///
/// Always.
pub async fn status(_url: &str) -> Result<Vec<Status>, Error> {
    Err(Error)
}

/// Stub.
///
/// # Errors
///
/// Always.
pub async fn verify(_url: &str) -> Result<Vec<String>, Error> {
    Err(Error)
}
