//! TLS to daemons: which CA is trusted, and the certificate of this client.
//!
//! The files are read for each connection, so one that was renewed on disk is used by the next connection without a restart.
//! A failure is explained in one line, with what to do: a certificate that does not match is the usual reason why a new
//! setup does not connect, and the words of the TLS library tell a developer, not an operator.

use std::{env, path::PathBuf};

#[cfg(not(feature = "tls-ring"))]
pub(crate) use without::open;

#[cfg(feature = "tls-ring")]
mod explain;
#[cfg(feature = "tls-ring")]
mod with;

#[cfg(feature = "tls-ring")]
pub(crate) use with::open;

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// What a client trusts, and what it shows of itself. Without settings: the CAs that the system trusts, no certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    ca: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
}

/// Why a connection with TLS was not made: one line with the cause and the fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TlsFailure(String);

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

    /// Makes the handshake on a connection to `host` for a protocol (`h2`, `http/1.1`): for the HTTP port of a daemon, which
    /// has the same certificate.
    ///
    /// # Errors
    /// [`TlsFailure`]: a file cannot be used, or one side refuses the other.
    pub async fn connect(
        &self,
        stream: TcpStream,
        host: &str,
        protocol: &str,
    ) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + use<>, TlsFailure> {
        open(self, stream, host, protocol).await
    }
}

#[cfg(not(feature = "tls-ring"))]
mod without {
    use tokio::net::TcpStream;

    use super::{Tls, TlsFailure};

    /// A client without TLS can be built, and says so.
    pub(crate) async fn open(_: &Tls, _: TcpStream, host: &str, _: &str) -> Result<TcpStream, TlsFailure> {
        Err(TlsFailure(format!(
            "cannot connect to {host} with TLS: this client is built without it; enable the feature tls-ring"
        )))
    }
}
