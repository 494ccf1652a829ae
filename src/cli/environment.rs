//! Environment variables as people and orchestrators write them: with a newline from `echo`, a byte order mark from an
//! editor, or empty because a template had nothing to fill in.
//!
//! One rule for every variable of every command: blanks around a value do not count, and an empty variable is unset. A
//! process cannot change its own environment safely, so a process that finds such variables starts its own program
//! again in its place, with the environment put right. Nothing is started beside it: pid and descriptors stay.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::{ffi::OsStrExt as _, process::CommandExt as _},
    process::Command,
};

const PREFIX: &[u8] = b"MUSTERD_";
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Puts the environment right and runs the program again, if there is something to put right. Returns only if not.
///
/// # Errors
///
/// The program cannot be run again.
pub fn clean() -> io::Result<()> {
    let changes: Vec<(OsString, Option<OsString>)> = std::env::vars_os().filter_map(change).collect();
    if changes.is_empty() {
        return Ok(());
    }
    let mut words = std::env::args_os();
    let mut command = Command::new(std::env::current_exe()?);
    if let Some(name) = words.next() {
        command.arg0(name);
    }
    command.args(words);
    for (name, value) in changes {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    Err(command.exec())
}

/// What a variable should be instead; `None` if it is right as it is.
fn change((name, value): (OsString, OsString)) -> Option<(OsString, Option<OsString>)> {
    if !name.as_bytes().starts_with(PREFIX) {
        return None;
    }
    let text = value.as_bytes();
    let clean = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text).trim_ascii();
    if clean.is_empty() {
        return Some((name, None));
    }
    (clean != text).then(|| (name, Some(OsStr::from_bytes(clean).to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_around_a_value_go_and_an_empty_variable_is_unset() {
        let changed = |name: &str, value: &str| {
            let change = change((OsString::from(name), OsString::from(value)));
            change.map(|(_, value)| value.map(|value| value.into_string().unwrap()))
        };
        assert_eq!(changed("MUSTERD_ADDR", "h:1"), None);
        assert_eq!(changed("MUSTERD_LABELS", "a b"), None);
        for unclean in ["h:1\n", "h:1\r\n", " h:1 ", "\u{feff}h:1"] {
            assert_eq!(changed("MUSTERD_ADDR", unclean), Some(Some("h:1".to_owned())), "{unclean:?}");
        }
        for empty in ["", " ", "\r\n", "\u{feff}"] {
            assert_eq!(changed("MUSTERD_ADDR", empty), Some(None), "{empty:?}");
        }
        assert_eq!(changed("PATH", "/bin\n"), None, "variables of others stay");
    }
}
