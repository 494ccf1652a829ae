//! The files that a client uses for TLS.

use std::{env, path::PathBuf};

/// What a client trusts, and what it shows of itself. Without settings: the CAs that the system trusts, no certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    pub(super) ca: Option<PathBuf>,
    pub(super) identity: Option<(PathBuf, PathBuf)>,
}

impl Tls {
    /// Without settings.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What `MUSTERD_CA`, `MUSTERD_CERT` and `MUSTERD_CERT_KEY` name.
    #[must_use]
    pub fn from_env() -> Self {
        let file = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let mut tls = Self { ca: file("MUSTERD_CA"), identity: None };
        if let Some(certificate) = file("MUSTERD_CERT") {
            let key = file("MUSTERD_CERT_KEY").unwrap_or_else(|| certificate.clone());
            tls.identity = Some((certificate, key));
        }
        tls
    }

    /// Trusts the CAs of this PEM file, instead of those that the system trusts.
    #[must_use]
    pub fn ca(mut self, file: impl Into<PathBuf>) -> Self {
        self.ca = Some(file.into());
        self
    }

    /// Shows the certificate of a PEM file to daemons that ask for one; the second file has its key, and may be the same.
    #[must_use]
    pub fn identity(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.identity = Some((certificate.into(), key.into()));
        self
    }
}
