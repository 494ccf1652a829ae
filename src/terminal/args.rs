//! How values of flags are read that several commands have.

#[cfg(test)]
use std::ffi::OsString;
use std::time::Duration;

/// Reads the arguments of one command, for its unit tests. The first word is its name.
#[cfg(test)]
pub(crate) fn parse<A: clap::Args>(
    words: impl IntoIterator<Item = impl Into<OsString> + Clone>,
) -> Result<A, clap::Error> {
    #[derive(clap::Parser)]
    struct Only<A: clap::Args> {
        #[command(flatten)]
        args: A,
    }
    <Only<A> as clap::Parser>::try_parse_from(words).map(|only| only.args)
}

/// Reads a duration such as `500ms` or `1m 30s`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write for example 500ms, 5s or 2m"))
}
