//! The token of this client, which tells a daemon what it is.
//!
//! A token in a file is read again at most once a second while there are calls, so that one that was rotated on disk is used
//! without a restart, also on connections that are open. It is sent with every call, and only where it cannot be read on its
//! way: with TLS, or to this machine.

use std::{
    env, fmt, fs,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::Interceptor,
};

/// How old a token that was read from a file may be.
const FRESH: Duration = Duration::from_secs(1);

/// A token, from a file or as it is; none by default. Cheap to clone.
#[derive(Clone, Default)]
pub struct Token(Option<Arc<Inner>>);

struct Inner {
    source: Source,
    /// What was read last, and when. A std mutex: never held across an await.
    read: Mutex<Option<(Instant, MetadataValue<Ascii>)>>,
}

/// A token that was shown, to be compared alone.
pub(crate) struct Shown(MetadataValue<Ascii>);

enum Source {
    File(PathBuf),
    Text(String),
}

impl Token {
    /// The token in a file. Blanks and newlines around it do not count.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::of(Source::File(path.into()))
    }

    /// This token. A file is better: the environment and the memory of a process are easier to read than a file is.
    #[must_use]
    pub fn text(token: impl Into<String>) -> Self {
        Self::of(Source::Text(token.into()))
    }

    /// What `MUSTERD_TOKEN_FILE` names, or else `MUSTERD_TOKEN` holds.
    #[must_use]
    pub fn from_env() -> Self {
        let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
        match (variable("MUSTERD_TOKEN_FILE"), variable("MUSTERD_TOKEN")) {
            (Some(path), _) => Self::file(path),
            (None, Some(token)) => Self::text(token.to_string_lossy()),
            (None, None) => Self::default(),
        }
    }

    fn of(source: Source) -> Self {
        Self(Some(Arc::new(Inner { source, read: Mutex::default() })))
    }

    /// Whether there is one.
    #[must_use]
    pub const fn is_given(&self) -> bool {
        self.0.is_some()
    }

    /// The value of a header `authorization`; `None` without a token.
    ///
    /// # Errors
    /// The file cannot be read, or holds no token: one line with the cause and the fix, without a part of the token.
    pub fn authorization(&self) -> Result<Option<String>, String> {
        let value = self.value()?;
        Ok(value.and_then(|value| value.to_str().ok().map(str::to_owned)))
    }

    /// What was shown last.
    pub(crate) fn shown(&self) -> Option<Shown> {
        let read = self.0.as_ref()?.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.as_ref().map(|(_, value)| Shown(value.clone()))
    }

    /// Whether there is another token now than the one that was shown. The file is read again, however fresh it is.
    pub(crate) fn is_renewed_since(&self, shown: Option<&Shown>) -> bool {
        let (Some(inner), Some(Shown(shown))) = (&self.0, shown) else { return false };
        {
            let mut read = inner.read.lock().unwrap_or_else(PoisonError::into_inner);
            if read.as_ref().is_some_and(|(_, value)| value == shown) {
                *read = None;
            }
        }
        self.value().is_ok_and(|now| now.is_some_and(|now| now != *shown))
    }

    fn value(&self) -> Result<Option<MetadataValue<Ascii>>, String> {
        let Some(inner) = &self.0 else { return Ok(None) };
        let mut read = inner.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, value)) = &*read
            && (at.elapsed() < FRESH || matches!(inner.source, Source::Text(_)))
        {
            return Ok(Some(value.clone()));
        }
        let value = inner.source.read()?;
        *read = Some((Instant::now(), value.clone()));
        Ok(Some(value))
    }
}

impl Source {
    fn read(&self) -> Result<MetadataValue<Ascii>, String> {
        let (text, of) = match self {
            Self::Text(text) => (text.clone(), "the token".to_owned()),
            Self::File(path) => {
                let read = fs::read_to_string(path);
                let of = format!("the token file {}", path.display());
                (read.map_err(|cause| format!("cannot read {of}: {cause}; correct the path, or its rights"))?, of)
            }
        };
        let token = text.trim_start_matches('\u{feff}').trim();
        if token.is_empty() || token.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(format!("{of} does not hold one token alone; write the token into it, and nothing else"));
        }
        let value = format!("Bearer {token}").parse::<MetadataValue<Ascii>>();
        let mut value = value.map_err(|_| format!("{of} has characters that no token has; replace it"))?;
        // Never indexed by the compression of headers, and never shown by a log of them.
        value.set_sensitive(true);
        Ok(value)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_deref() {
            None => f.write_str("Token(none)"),
            Some(Inner { source: Source::File(path), .. }) => write!(f, "Token(file {})", path.display()),
            Some(Inner { source: Source::Text(_), .. }) => f.write_str("Token(***)"),
        }
    }
}

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = self.value().map_err(Status::unauthenticated)? {
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_in_a_file_is_read_again_and_never_shown() {
        let path = env::temp_dir().join(format!("musterd-token-{}", uuid::Uuid::new_v4()));
        let token = Token::file(&path);
        assert!(token.authorization().unwrap_err().contains("cannot read the token file"));
        for (content, expected) in [("s3cret \n", Some("Bearer s3cret")), ("a b", None), (" \n", None)] {
            fs::write(&path, content).unwrap();
            // A new one, since a token is fresh for a second.
            let read = Token::file(&path).authorization();
            assert_eq!(read.clone().ok().flatten().as_deref(), expected, "{content:?}");
            assert!(read.is_ok() || !read.unwrap_err().contains("s3cret"));
        }
        fs::write(&path, "other").unwrap();
        if let Some(inner) = &token.0 {
            let old = Instant::now().checked_sub(FRESH * 2).unwrap();
            *inner.read.lock().unwrap() = Some((old, "Bearer s3cret".parse().unwrap()));
        }
        assert_eq!(token.authorization().unwrap().as_deref(), Some("Bearer other"));
        let shown = token.shown();
        assert!(shown.is_some() && !token.is_renewed_since(shown.as_ref()));
        fs::write(&path, "third").unwrap();
        for _ in 0..2 {
            assert!(token.is_renewed_since(shown.as_ref()), "one that was refused is compared with the file at once");
        }
        assert_eq!(token.authorization().unwrap().as_deref(), Some("Bearer third"));
        fs::remove_file(&path).unwrap();
        assert!(!format!("{:?} {:?}", Token::text("s3cret"), token).contains("s3cret"));
        assert_eq!(Token::default().authorization(), Ok(None));
    }
}
