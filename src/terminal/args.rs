//! How values of flags are read that several commands have.

use std::time::Duration;

/// Reads a duration such as `500ms` or `1m 30s`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write for example 500ms, 5s or 2m"))
}
