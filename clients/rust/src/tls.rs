//! TLS to daemons: which CA is trusted, and the certificate of this client.
//!
//! The files are read for each connection, so one that was renewed on disk is used by the next connection without a restart.
//! A failure is explained in one line, with what to do: a certificate that does not match is the usual reason why a new
//! setup does not connect, and the words of the TLS library tell a developer, not an operator.

#[cfg(feature = "tls-ring")]
mod explain;
mod failure;
mod settings;
#[cfg(feature = "tls-ring")]
mod with;

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

pub use self::{failure::TlsFailure, settings::Tls};

#[cfg(feature = "tls-ring")]
pub(crate) use self::with::open;
#[cfg(not(feature = "tls-ring"))]
pub(crate) use self::without::open;

impl Tls {
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

    use super::{failure::TlsFailure, settings::Tls};

    /// A client without TLS can be built, and says so.
    pub(crate) async fn open(_: &Tls, _: TcpStream, host: &str, _: &str) -> Result<TcpStream, TlsFailure> {
        Err(TlsFailure(format!(
            "cannot connect to {host} with TLS: this client is built without it; enable the feature tls-ring"
        )))
    }
}
