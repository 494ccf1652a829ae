//! Tokens: made, listed, revoked. A token is written once, to a file that its owner alone can read; the tokens file keeps its
//! digest.

use std::{fs, io, path::PathBuf};

use chrono::{DateTime, Utc};

use super::directory::{Directory, Error, read, replace};
use crate::access::{
    Identity, Tokens,
    tokens::{Digest, Entry, token},
};

/// What a tokens file begins with.
const HEADER: &str = "# NAME sha256:DIGEST [expires=TIME], a line for each token; musterd token create adds one\n";

/// A token of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// The line that it stands in.
    pub line: usize,
    /// The beginning of its digest, to tell tokens of one name apart.
    pub digest: String,
    /// When it ends.
    pub expires: Option<DateTime<Utc>>,
}

/// Makes a token of a name, besides those that the name has. Returns the file that holds it.
///
/// # Errors
/// [`Error`]: the name cannot be that of a token, or a file cannot be written.
pub fn create(directory: &Directory, name: &str, expires: Option<DateTime<Utc>>) -> Result<PathBuf, Error> {
    Identity::of_token(name)?;
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|error| Error::Random(error.to_string()))?;
    let token = token(name, &secret);
    let (path, mut text) = (directory.tokens(), present(directory)?);
    let entry = Entry { line: 0, name: name.to_owned(), digest: Digest::of(&token), expires };
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&entry.text());
    text.push('\n');
    // The owner's file first: a token that is in force and that no file holds is of no use.
    let file = directory.token(name);
    replace(&file, &format!("{token}\n"), 0o600)?;
    replace(&path, &text, 0o600)?;
    Ok(file)
}

/// The tokens of a directory, by name.
///
/// # Errors
/// [`Error`]: the tokens file cannot be used.
pub fn list(directory: &Directory) -> Result<Vec<Listed>, Error> {
    let path = directory.tokens();
    let tokens = Tokens::parse(&read(&path)?).map_err(|cause| Error::Tokens { path, cause })?;
    let listed = |entry: &Entry| {
        let digest = entry.digest.to_string();
        Listed {
            name: entry.name.clone(),
            line: entry.line,
            digest: digest.get(..19).unwrap_or(&digest).to_owned(),
            expires: entry.expires,
        }
    };
    Ok(tokens.entries().map(listed).collect())
}

/// Removes the tokens of a name from the tokens file, or all of them but the newest. Returns those that were removed.
///
/// # Errors
/// [`Error`]: there is none, or the tokens file cannot be used.
pub fn revoke(directory: &Directory, name: &str, keep_newest: bool) -> Result<Vec<Listed>, Error> {
    let path = directory.tokens();
    let mut removed: Vec<Listed> = list(directory)?.into_iter().filter(|token| token.name == name).collect();
    if removed.is_empty() {
        return Err(Error::NoToken { path, name: name.to_owned() });
    }
    // Lines are added at the end.
    removed.sort_by_key(|token| token.line);
    if keep_newest {
        removed.pop();
    }
    let text = read(&path)?;
    let is_kept = |line: usize| removed.iter().all(|token| token.line != line);
    let kept = text.lines().enumerate().filter(|(at, _)| is_kept(at + 1)).map(|(_, line)| format!("{line}\n"));
    replace(&path, &kept.collect::<String>(), 0o600)?;
    if !keep_newest {
        match fs::remove_file(directory.token(name)) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                return Err(Error::Io { what: "remove", path: directory.token(name), cause });
            }
            _ => {}
        }
    }
    Ok(removed)
}

/// The text of the tokens file, checked; its first lines if it is not there.
fn present(directory: &Directory) -> Result<String, Error> {
    let path = directory.tokens();
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => HEADER.to_owned(),
        Err(cause) => return Err(Error::Io { what: "read", path, cause }),
    };
    Tokens::parse(&text).map_err(|cause| Error::Tokens { path, cause })?;
    Ok(text)
}
