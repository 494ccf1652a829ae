//! Whether the terminal can draw over what it shows.

use std::ffi::OsStr;

/// Whether terminals of this process know cursor sequences.
pub(crate) fn has_cursor() -> bool {
    !is_dumb(std::env::var_os("TERM").as_deref())
}

/// Whether the terminal knows no cursor sequences, by the value of `TERM`.
fn is_dumb(term: Option<&OsStr>) -> bool {
    term.is_none_or(|term| term.is_empty() || term == "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_without_a_known_type_is_dumb() {
        let dumb = |term: Option<&str>| is_dumb(term.map(OsStr::new));
        assert!(dumb(None) && dumb(Some("")) && dumb(Some("dumb")));
        assert!(!dumb(Some("xterm-256color")) && !dumb(Some("linux")));
    }
}
