//! The directory of the files, and how one of them is written.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::{
    access::{InvalidIdentity, TokenError},
    tls::{Authority, IssueError, Issued},
};

/// Why a file was not made.
#[derive(Debug, Error)]
pub enum Error {
    /// A file is there, and must not be replaced.
    #[error("{} exists, and is not replaced; choose another directory, or renew a certificate with musterd cert", .0.display())]
    Exists(PathBuf),
    /// The operating system refuses.
    #[error("cannot {what} {}: {cause}; correct the path, or the rights of the directory", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// A certificate cannot be made.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// A token cannot have this name.
    #[error("{0}")]
    Name(#[from] InvalidIdentity),
    /// The tokens file cannot be read.
    #[error("{}:{cause}", path.display())]
    Tokens {
        /// Where it is.
        path: PathBuf,
        /// The line, and what is wrong with it.
        cause: TokenError,
    },
    /// No token has this name.
    #[error("{} has no token {name:?}; musterd token list shows those that there are", path.display())]
    NoToken {
        /// The tokens file.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// The operating system has no random numbers.
    #[error("cannot make a token: {0}")]
    Random(String),
}

/// A directory of such files.
#[derive(Clone, Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// At this path.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Makes the directory, for its owner alone, unless it is there.
    pub(super) fn make(&self) -> Result<(), Error> {
        let mut builder = fs::DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(&self.0);
        made.map_err(|cause| Error::Io { what: "make", path: self.0.clone(), cause })
    }

    fn file(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }

    /// The certificate of a name.
    #[must_use]
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.file(format!("{name}.pem"))
    }

    /// The key of a name.
    #[must_use]
    pub fn key(&self, name: &str) -> PathBuf {
        self.file(format!("{name}.key"))
    }

    /// The token of a name, for its owner.
    #[must_use]
    pub fn token(&self, name: &str) -> PathBuf {
        self.file(format!("{name}.token"))
    }

    /// The digests of all tokens, for the daemon.
    #[must_use]
    pub fn tokens(&self) -> PathBuf {
        self.file("tokens")
    }

    /// The policy, for the daemon.
    #[must_use]
    pub fn policy(&self) -> PathBuf {
        self.file("policy.toml")
    }

    /// The CA in the directory.
    pub(super) fn authority(&self) -> Result<Authority, Error> {
        let (certificate, key) = (read(&self.certificate("ca"))?, read(&self.key("ca"))?);
        Ok(Authority::from_pem(&certificate, &key)?)
    }

    /// Writes a certificate and its key.
    pub(super) fn write_issued(&self, name: &str, issued: &Issued) -> Result<(), Error> {
        replace(&self.key(name), &issued.key, 0o600)?;
        replace(&self.certificate(name), &issued.certificate, 0o644)
    }
}

/// Reads a name that files of a directory can have.
///
/// # Errors
/// It is in use, or has other characters than letters, digits, `-`, `_` and `.`.
pub fn file_name(text: &str) -> Result<String, String> {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match text {
        "ca" | "server" => Err("is the name of a file that is in use; choose another one".to_owned()),
        text if text.is_empty() || text.starts_with('.') || !text.chars().all(is_safe) => {
            Err("expected letters, digits, -, _ and . only".to_owned())
        }
        text => Ok(text.to_owned()),
    }
}

pub(super) fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|cause| Error::Io { what: "read", path: path.into(), cause })
}

/// Writes a file whole or not at all.
pub(super) fn replace(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let written = || -> io::Result<()> {
        let _ = fs::remove_file(&beside);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    written().map_err(|cause| Error::Io { what: "write", path: path.into(), cause })
}
