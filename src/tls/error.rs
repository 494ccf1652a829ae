//! What may be wrong with a file for TLS, in one line each: the setting, the file, the problem, the fix.

use std::{
    io,
    path::{Path, PathBuf},
};

use chrono::{DateTime, SecondsFormat, Utc};
use rustls::pki_types::pem;
use thiserror::Error;

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The certificate of the daemon, and those between it and the CA.
    Certificate,
    /// Its key.
    Key,
    /// The CAs of client certificates.
    ClientCa,
    /// The client certificates that were revoked.
    ClientCrl,
}

impl Part {
    /// The flag that names the file.
    #[must_use]
    pub const fn flag(self) -> &'static str {
        match self {
            Self::Certificate => "--tls-cert",
            Self::Key => "--tls-key",
            Self::ClientCa => "--tls-client-ca",
            Self::ClientCrl => "--tls-client-crl",
        }
    }

    const fn noun(self) -> &'static str {
        match self {
            Self::Certificate | Self::ClientCa => "certificate",
            Self::Key => "private key",
            Self::ClientCrl => "certificate revocation list",
        }
    }

    const fn label(self) -> &'static str {
        match self {
            Self::Certificate | Self::ClientCa => "CERTIFICATE",
            Self::Key => "PRIVATE KEY",
            Self::ClientCrl => "X509 CRL",
        }
    }
}

/// What is wrong with the files for TLS.
#[derive(Debug, Error)]
pub enum Error {
    /// A file cannot be read.
    #[error(
        "{}: cannot read {}: {cause}; correct the path, or let the user of the daemon (uid {uid}) read the file",
        part.flag(), path.display()
    )]
    Unreadable {
        /// What it is for.
        part: Part,
        /// Where it is.
        path: PathBuf,
        /// The user that the daemon runs as.
        uid: u32,
        /// What the operating system says.
        cause: io::Error,
    },
    /// A file has no part of the kind that is needed.
    #[error(
        "{}: {} holds no {} in PEM form; give a file with a line -----BEGIN {}-----",
        part.flag(), path.display(), part.noun(), part.label()
    )]
    NotPem {
        /// What it is for.
        part: Part,
        /// Where it is.
        path: PathBuf,
    },
    /// The key has a password.
    #[error("--tls-key: {} is encrypted; decrypt it (openssl pkey -in OLD -out NEW) and protect the file with its mode instead", .0.display())]
    EncryptedKey(PathBuf),
    /// A file is in PEM form, and its contents cannot be used.
    #[error("{}: {} cannot be used: {cause}; replace the file", part.flag(), path.display())]
    Unusable {
        /// What it is for.
        part: Part,
        /// Where it is.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// Certificate and key do not belong together.
    #[error(
        "--tls-key: {} is not the key of the certificate {}; give the two that belong together, and replace both when you \
         renew them",
        key.display(), certificate.display()
    )]
    Mismatch {
        /// The key.
        key: PathBuf,
        /// The certificate.
        certificate: PathBuf,
    },
    /// The certificate is valid no more.
    #[error("--tls-cert: {} has expired at {}; renew it (musterd cert server, or its issuer)", path.display(), moment(*at))]
    Expired {
        /// Where it is.
        path: PathBuf,
        /// Until when it was valid.
        at: DateTime<Utc>,
    },
    /// The certificate is not valid yet.
    #[error("--tls-cert: {} is not valid before {}; check the clock of this machine", path.display(), moment(*from))]
    NotYetValid {
        /// Where it is.
        path: PathBuf,
        /// From when it is valid.
        from: DateTime<Utc>,
    },
    /// The TLS library refuses its settings.
    #[error("TLS cannot be set up: {0}; report this as a fault of musterd")]
    Setup(#[from] rustls::Error),
}

impl Error {
    pub(super) fn pem(part: Part, path: &Path, text: &[u8], cause: &pem::Error) -> Self {
        match cause {
            pem::Error::NoItemsFound if part == Part::Key && is_encrypted(text) => Self::EncryptedKey(path.into()),
            pem::Error::NoItemsFound => Self::NotPem { part, path: path.into() },
            other => Self::unusable(part, path, other),
        }
    }

    pub(super) fn unusable(part: Part, path: &Path, cause: &impl ToString) -> Self {
        Self::Unusable { part, path: path.into(), cause: cause.to_string().replace('\n', " ") }
    }
}

fn is_encrypted(text: &[u8]) -> bool {
    text.windows(b"ENCRYPTED".len()).any(|window| window == b"ENCRYPTED")
}

fn moment(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}
