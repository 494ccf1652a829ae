//! Module `daemon`.

use crate::config::ServeConfig;

/// Why the daemon ended.
#[derive(Debug, thiserror::Error)]
#[error("the daemon is not part of this build")]
pub struct Error;

impl Error {
    /// The exit code of the process.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        1
    }
}

/// Runs the daemon until it is told to stop.
///
/// # Errors
///
/// Always.
pub async fn run(_config: ServeConfig) -> Result<(), Error> {
    Err(Error)
}
