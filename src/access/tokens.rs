//! Static tokens, and the file that holds their digests.
//!
//! A token is `mstd_NAME_SECRET` with a secret of 256 random bits, so its SHA-256 tells nothing: functions that are made slow
//! for passwords would cost milliseconds in every call and protect no better. The name is public; the digest of the whole
//! token is found by it, and compared in constant time.
//!
//! The file has a line for each token, `NAME sha256:HEX [expires=TIME]`; `#` begins a comment. A name may have several
//! lines: a token is rotated by adding a line, handing the new token out, and removing the old line.

use std::{collections::BTreeMap, fmt};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, SecondsFormat, Utc};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};
use thiserror::Error;

use crate::rights::Identity;

/// What every token begins with, for people and for scanners of leaked secrets.
const PREFIX: &str = "mstd_";
/// Characters of the secret: 32 bytes in Base64.
const SECRET_CHARS: usize = 43;
/// The longest tokens file, in bytes.
pub const FILE_MAX_BYTES: u64 = 16 << 20;

/// The SHA-256 of a token. Not comparable but in constant time.
#[derive(Clone, Copy)]
pub struct Digest([u8; 32]);

impl Digest {
    /// That of a token.
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    fn same(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }

    fn parse(hex: &str) -> Option<Self> {
        if hex.len() != 64 || !hex.is_ascii() {
            return None;
        }
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(hex.get(at * 2..at * 2 + 2)?, 16).ok()?;
        }
        hex.bytes().all(|it| it.is_ascii_hexdigit()).then_some(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(***)")
    }
}

/// A line of the file.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Where it stands, counted from 1.
    pub line: usize,
    /// The name of the token.
    pub name: String,
    /// Of the whole token.
    pub digest: Digest,
    /// When it ends; `None`: it does not.
    pub expires: Option<DateTime<Utc>>,
}

impl Entry {
    /// The line, as the file has it.
    #[must_use]
    pub fn text(&self) -> String {
        let expires = self.expires.map(|at| format!(" expires={}", at.to_rfc3339_opts(SecondsFormat::Secs, true)));
        format!("{} {}{}", self.name, self.digest, expires.unwrap_or_default())
    }
}

/// The tokens in use.
#[derive(Clone, Debug, Default)]
pub struct Tokens(BTreeMap<String, Vec<Entry>>);

/// Why a tokens file is refused: one line, which names the line of the file.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{line}: {what}")]
pub struct TokenError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong with it, and the fix.
    pub what: String,
}

impl Tokens {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// [`TokenError`] for the first line that cannot be used.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let mut tokens: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (at, line) in text.lines().enumerate() {
            let line_number = at + 1;
            let Some(entry) = entry(line_number, line).map_err(|what| TokenError { line: line_number, what })? else {
                continue;
            };
            let same_name = tokens.entry(entry.name.clone()).or_default();
            if let Some(first) = same_name.iter().find(|other| bool::from(other.digest.same(&entry.digest))) {
                let what = format!("the same token as line {}; remove one of the lines", first.line);
                return Err(TokenError { line: line_number, what });
            }
            same_name.push(entry);
        }
        Ok(Self(tokens))
    }

    /// The entries, by name and then in the order of the file.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.0.values().flatten()
    }

    /// The entry of a token, and its identity.
    pub(super) fn find(&self, name: &str, digest: &Digest) -> Option<&Entry> {
        // All entries of the name are looked at, so that the time does not tell which of them was nearly right.
        self.0.get(name)?.iter().fold(
            None,
            |found, entry| {
                if bool::from(entry.digest.same(digest)) { Some(entry) } else { found }
            },
        )
    }
}

fn entry(line_number: usize, line: &str) -> Result<Option<Entry>, String> {
    let line = line.split_once('#').map_or(line, |(before, _)| before).trim();
    if line.is_empty() {
        return Ok(None);
    }
    let form = "write NAME sha256:HEX, and expires=TIME if it ends";
    let mut words = line.split_ascii_whitespace();
    let name = words.next().unwrap_or_default();
    Identity::of_token(name).map_err(|error| error.to_string())?;
    let digest = words.next().and_then(|word| word.strip_prefix("sha256:")).and_then(Digest::parse);
    let digest =
        digest.ok_or_else(|| format!("{name} is not followed by sha256: and 64 hexadecimal digits; {form}"))?;
    let expires = match words.next() {
        None => None,
        Some(word) => {
            let time = word.strip_prefix("expires=").and_then(|time| DateTime::parse_from_rfc3339(time).ok());
            let time = time
                .ok_or_else(|| format!("{word:?} is not expires= and a time such as 2027-01-31T00:00:00Z; {form}"))?;
            Some(time.with_timezone(&Utc))
        }
    };
    match words.next() {
        Some(word) => Err(format!("{word:?} is too much; {form}")),
        None => Ok(Some(Entry { line: line_number, name: name.to_owned(), digest, expires })),
    }
}

/// The name in a token; `None` if it is not of the form of one.
pub(super) fn name_of(token: &str) -> Option<&str> {
    let rest = token.strip_prefix(PREFIX)?;
    let (name, secret) = rest.split_at_checked(rest.len().checked_sub(SECRET_CHARS + 1)?)?;
    let is_secret = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    secret.strip_prefix('_').filter(|secret| secret.bytes().all(is_secret))?;
    Identity::of_token(name).is_ok().then_some(name)
}

/// A token of this name with this secret.
#[must_use]
pub fn token(name: &str, secret: &[u8; 32]) -> String {
    format!("{PREFIX}{name}_{}", BASE64_URL_SAFE_NO_PAD.encode(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_found_by_name_and_digest_alone() {
        let (a, b) = (token("alice", &[1; 32]), token("alice", &[2; 32]));
        let text = format!(
            "# operators\nalice {}\n\nalice {} expires=2030-01-01T00:00:00Z # new\n",
            Digest::of(&a),
            Digest::of(&b)
        );
        let tokens = Tokens::parse(&text).unwrap();
        let found = |token: &str| {
            let name = name_of(token)?;
            tokens.find(name, &Digest::of(token)).map(|entry| (entry.line, entry.expires.is_some()))
        };
        assert_eq!((found(&a), found(&b)), (Some((2, false)), Some((4, true))));
        assert_eq!(found(&token("alice", &[3; 32])), None);
        assert_eq!(found(&token("bob", &[1; 32])), None);
        let written: Vec<String> = tokens.entries().map(Entry::text).collect();
        assert_eq!(Tokens::parse(&written.join("\n")).unwrap().entries().count(), 2);
    }

    #[test]
    fn name_with_separators_is_read_from_a_token() {
        for name in ["a", "a_b", "a-b.c", "mstd_x"] {
            for byte in [0, 0xff, 0x5a] {
                assert_eq!(name_of(&token(name, &[byte; 32])), Some(name));
            }
        }
        let good = token("a", &[7; 32]);
        for bad in ["", "mstd_", "mstd_a", &good[1..], &format!("{good}x"), &good.replace('_', "-"), "mstd_ä"] {
            assert_eq!(name_of(bad).filter(|name| *name == "a"), None, "{bad}");
        }
    }

    #[test]
    fn line_that_cannot_be_used_is_refused_by_its_number() {
        let hex = "0".repeat(64);
        for (line, part) in [
            ("a".to_owned(), "not followed by sha256:"),
            (format!("a {hex}"), "not followed by sha256:"),
            (format!("a sha256:{}", &hex[1..]), "64 hexadecimal"),
            (format!("a sha256:+{}", &hex[1..]), "64 hexadecimal"),
            (format!("a/b sha256:{hex}"), "the name of a token"),
            (format!("a sha256:{hex} expires=tomorrow"), "expires="),
            (format!("a sha256:{hex} expires=2030-01-01T00:00:00Z more"), "too much"),
        ] {
            let error = Tokens::parse(&format!("\n{line}\n")).unwrap_err();
            assert!(error.line == 2 && error.what.contains(part), "{line}: {error}");
        }
        let twice = Tokens::parse(&format!("a sha256:{hex}\na sha256:{hex}\n")).unwrap_err();
        assert!(twice.to_string().starts_with("2: the same token as line 1"), "{twice}");
    }

    #[test]
    fn digest_shows_nothing_when_debugged() {
        assert_eq!(format!("{:?}", Digest::of("secret")), "Digest(***)");
    }
}
